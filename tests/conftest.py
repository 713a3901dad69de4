from __future__ import annotations

# isort: off
import quartet  # noqa: F401 -- before NumPy and PyTorch: it sets the numeric contract that they read

# isort: on
import fcntl
import shutil
import signal
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from project import PARAMS, Bomb, Project, clone, copy_of
from quartet.base import numerics
from quartet.data import splits

# Some tests use its fixture, as a plugin, and others its functions: whichever comes first imports it.
pytest.register_assert_rewrite("misbehaving_server")

ODD = 'a?b"c ;d$HOME'  # what URLs and shells would read otherwise
OUTPUT = ".git/output"  # of the pipeline, where nothing looks

collect_ignore = [] if sys.version_info >= (3, 11) else ["pipeline/test_api.py"]  # Schemathesis needs Python 3.11

# A shell that starts a command in the background lets it ignore Ctrl-C, and nohup the end of its terminal; what the tests
# start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items):
    """Skip what compares bytes between processors if the numeric contract is off or cannot be kept here."""
    reason = numerics.departure()
    for item in items:
        if reason and item.get_closest_marker("contract"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def one_thread(worker_id: str):
    """Workers beside each other compute with one thread each, as a training does: more would wait for each other."""
    if worker_id != "master":
        import torch

        torch.set_num_threads(1)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    shutil.copy(PARAMS, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def bomb(tmp_path):
    """What is executed if a pickle of it is read."""
    return Bomb(tmp_path / "executed")


@pytest.fixture
def tiny():
    """210 fake images that can be learned: a bright bar whose height is the digit, in noise; every digit 21 times."""
    random = np.random.default_rng(0)
    labels = random.permutation(np.arange(210) % 10).astype(np.uint8)
    images = random.integers(0, 100, (210, 28, 28), dtype=np.uint8)
    for image, digit in zip(images, labels, strict=True):
        image[4 + 2 * digit : 6 + 2 * digit, 4:24] += 150
    return splits.Split(images, labels)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Project:
    """A project whose pipeline has run once on the sample; tests leave it as they find it.

    Two workers have one each, by the groups `finished` and `finished copy`: the first to come makes both.
    """
    if worker_id == "master":
        return run_once(tmp_path_factory.mktemp("finished"))
    shared = tmp_path_factory.getbasetemp().parent
    with (shared / "finished.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        copy = shared / "copied"
        if not copy.exists():
            done = run_once(tmp_path_factory.mktemp("finished"))
            copy_of(done, copy / ODD)
            return done
    project = linked(copy)
    project.output = (project.root / OUTPUT).read_text(encoding="utf-8")
    moved = project.quartet("sync")  # MLflow's addresses of artifacts are those of the first
    assert moved.returncode == 0, moved.stdout
    return project


def linked(folder: Path) -> Project:
    """The project in a folder, by a link without the odd characters: tests name it in commands and in addresses."""
    (folder / "link").symlink_to(folder / ODD / "project")
    return Project(folder / "link", folder / ODD / "home")


def run_once(folder: Path) -> Project:
    clone(folder / ODD)
    project = linked(folder)
    project.run("make", "setup")
    project.output = project.run("dvc", "repro").stdout
    (project.root / OUTPUT).write_text(project.output, encoding="utf-8")
    project.run("git", "add", "dvc.lock")
    project.run("git", "commit", "-qm", "Run")
    return project


@pytest.fixture
def within(monkeypatch):
    """Call a function as if in the root of a project: in this process, which has imported what takes a command seconds.

    MLflow's store is the project's own, or that of `uri`.
    """

    def call(project, function, *arguments, uri: str = ""):
        monkeypatch.chdir(project.root)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow and PyTorch warn as they are imported
            return function(*arguments)

    from tracked import forget

    yield call
    forget()


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A new store: to copy it is a thousand times faster than to have MLflow make one."""
    root = tmp_path_factory.mktemp("template")
    from quartet.tracking import attempts
    from tracked import forget

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        attempts.initialise()
    forget()
    return root / "mlflow.db"


@pytest.fixture
def drawn(monkeypatch):
    """The figures that would be saved; none is rendered, which takes most of the time."""
    from matplotlib.figure import Figure

    kept = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: kept.append(figure))
    return kept
