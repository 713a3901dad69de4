from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PARAMS = ROOT / "tests/params.yaml"  # what is shipped, whatever the user has made of params.yaml
VARIANTS = ["ten", "ten-bn", "four", "four-bn"]
TRAININGS = [*VARIANTS, "trial"]
KINDS = ("loss", "accuracy", "confusion", "mistakes")  # of figures, one for each group of trainings, in their order
EPOCHS = 3  # enough to be right about most digits of the sample
STAGES = ["fetch", "preprocess", *(f"train@{name}" for name in VARIANTS), "trial", "evaluate", "plot", "page"]


class Project:
    """A copy of this checkout's files in a repository of its own, with commands run as a user would run them."""

    def __init__(self, root: Path, home: Path) -> None:
        self.root = root
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GIT_", "MLFLOW_", "QUARTET_"))
        }
        self.env = kept | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "GIT_CONFIG_NOSYSTEM": "1",
            "COLUMNS": "200",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def run(self, *command: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the project's root; its two outputs come back as one text."""
        done = subprocess.run(command, **self._surroundings(env), check=False)
        assert done.returncode == 0 or not check, done.stdout
        return done

    def start(self, *command: str, **env: str) -> subprocess.Popen[str]:
        """Start a command in the project's root, in a process group of its own; its two outputs come as one text."""
        return subprocess.Popen(command, **self._surroundings(env), start_new_session=True)

    def _surroundings(self, env: dict[str, str]) -> dict[str, Any]:
        return {
            "cwd": self.root,
            "env": self.env | env,
            "text": True,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
            "stdin": subprocess.DEVNULL,
        }

    def stage(self, script: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a stage's script as dvc.yaml does, without DVC."""
        return self.run("python", f"src/{script}.py", *arguments, check=False, **env)

    def quartet(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run the program `quartet` with this copy's code."""
        return self.run("quartet", *arguments, check=False, PYTHONPATH=str(self.root / "src"), **env)


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def replace(path: Path, old: str, new: str) -> None:
    """Replace the first `old` in a file, which must hold it."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def shipped(name: str) -> str:
    """The line of a setting of the trial in PARAMS, without its comment, such as `lr: 0.01`."""
    (line,) = re.findall(rf"(?m)^{name}: \S+", PARAMS.read_text(encoding="utf-8"))
    return str(line)


def keep_ten_alone(settings: Path) -> None:
    """Take the other variants out of params.yaml, where what all of them share is not needed four times."""
    text, without = re.subn(r"(?m)^  (ten-bn|four|four-bn): .*\n", "", settings.read_text(encoding="utf-8"))
    assert without == 3
    settings.write_text(text, encoding="utf-8")


def start_dvc(root: Path, stages: dict[str, Any]) -> None:
    """Make a folder the root of a DVC project with these stages, without git: what `dvc init` does, in no time."""
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n    no_scm = True\n", encoding="utf-8")
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False), encoding="utf-8")


def clone(folder: Path, epochs: int = EPOCHS) -> Project:
    """This checkout's files, tracked and new, committed to a new repository without a git identity.

    Its settings are those of PARAMS, on the sample, with so many epochs for all trainings.
    """
    home, root = folder / "home", folder / "project"
    home.mkdir(parents=True)
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and name != "dvc.lock":
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    shutil.copy(PARAMS, root)
    replace(root / "params.yaml", "source: auto", "source: sample")
    text = (root / "params.yaml").read_text(encoding="utf-8")
    (root / "params.yaml").write_text(text.replace("epochs: 10", f"epochs: {epochs}"), encoding="utf-8")
    (root / ".venv").symlink_to(sys.prefix)
    project = Project(root, home)
    project.run("git", "init", "-q")
    project.run("git", "add", "-A")
    project.run("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", "Start")
    return project


def copy_of(finished: Project, folder: Path) -> Project:
    """A project in another place, with all that its pipeline has made."""
    home = folder / "home"
    home.mkdir(parents=True)
    shutil.copytree(finished.root, folder / "project", symlinks=True)
    return Project(folder / "project", home)


def colleagues(project: Project, folder: Path) -> Project:
    """A colleague's clone of a project, which has no data and no results."""
    home = folder / "home"
    home.mkdir(parents=True)
    subprocess.run(["git", "clone", "-q", project.root, folder / "project"], check=True)
    (folder / "project/.venv").symlink_to(sys.prefix)
    return Project(folder / "project", home)


def ran(output: str) -> list[str]:
    return re.findall(r"Running stage '(.+?)'", output)


def lock(project) -> str:
    return (project.root / "dvc.lock").read_text(encoding="utf-8")


def outs(project) -> dict[str, str]:
    """The MD5 of each output, as dvc.lock has it."""
    stages = yaml.safe_load(lock(project))["stages"].values()
    return {out["path"]: out["md5"] for stage in stages for out in stage["outs"]}


def runs(project, query: str = "", uri: str = "") -> list[dict]:
    """What MLflow holds, by its own client."""
    import mlflow

    client = mlflow.MlflowClient(uri or f"sqlite:///{project.root}/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("mnist-quartet").experiment_id], query)

    def steps(run, key: str) -> list[int]:
        return [metric.step for metric in client.get_metric_history(run.info.run_id, key)]

    return [
        {
            "id": run.info.run_id,
            "name": run.info.run_name,
            "status": run.info.status,
            "steps": {key: steps(run, key) for key in ("train_loss", "val_loss", "val_accuracy")},
            "params": run.data.params,
            "metrics": run.data.metrics,
            "tags": run.data.tags,
            "artifacts": [artifact.path for artifact in client.list_artifacts(run.info.run_id)],
            "datasets": [(entry.dataset.name, entry.tags[0].value) for entry in run.inputs.dataset_inputs],
            "models": [output.model_id for output in run.outputs.model_outputs] if run.outputs else [],
        }
        for run in found
    ]


def answers(model: str) -> list[int]:
    """The classes of the first seven test images by a model for four of them, as logged in the store of this project."""
    import mlflow
    from safetensors.torch import load_file

    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    images = load_file("data/split/test.safetensors")["images"][:7]
    scores = mlflow.pytorch.load_model(f"models:/{model}")(images.unsqueeze(1).float() / 255)
    assert scores.shape == (7, 4)
    assert ((scores > 0) & (scores < 1)).all()
    assert mlflow.models.get_model_info(f"models:/{model}").signature.inputs.inputs[0].shape == (-1, 1, 28, 28)
    return scores.argmax(dim=1).tolist()


def vega(page: str) -> list[dict]:
    """The specifications of the plots on a page of DVC's."""
    found = [json.JSONDecoder().raw_decode(page, match.end())[0] for match in re.finditer(r"var spec = ", page)]
    assert len(found) == 4
    return found


def train_once(project: Project, repro: tuple[str, ...]) -> tuple[Project, str, str]:
    """Train as `repro` does; return the project, and its dvc.lock from before and from after."""
    project.run("dvc", "repro", "preprocess")
    before = lock(project)
    project.run(*repro)
    return project, before, lock(project)


@contextlib.contextmanager
def started(project: Project, *command: str, **env: str):
    """A command that runs beside the test, in a process group of its own; none of it outlives the block."""
    process = project.start(*command, **env)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def small_disk(folder: Path, size: str, mode: str = "rw"):
    """A file system of its own that is soon full, or cannot be written."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"{mode},size={size}", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small tmpfs needs the right to mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def read_until(process, words: str) -> str:
    """The output up to the first line that holds `words`."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if words in line:
            return "".join(lines)
    raise AssertionError(f"no '{words}' in:\n{''.join(lines)}")


def trainings_of(process) -> list[psutil.Process]:
    """The trainings that `dvc repro` runs: one, or none yet."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "src/train.py" in child.cmdline()]


def training_of(process) -> psutil.Process:
    (training,) = trainings_of(process)
    return training


class Bomb:
    """Makes a folder if a pickle of it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)

    @property
    def executed(self) -> bool:
        return self.folder.exists()
