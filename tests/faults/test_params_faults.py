"""Bad parameters through the real commands: one line, exit status 2, and neither outputs nor MLflow are touched."""

from __future__ import annotations

import contextlib
import csv
import math
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from project import PARAMS, clone, shipped
from quartet.base import process
from quartet.commands import prepare
from quartet.data import catalogue, splits

# The first line of the settings with that text.
LINE = {text: number for number, text in reversed([*enumerate(PARAMS.read_text(encoding="utf-8").splitlines(), 1)])}
GROUPS = "groups: expected four non-empty lists that use each digit 0 to 9 exactly once, found "
HYPERPARAMETERS = (
    "known: classes, bn, epochs, batch_size, lr, schedule, augment, seed, weights_seed, order_seed, weight_decay,"
    " label_smoothing, ema_decay, rotation, scaling, shift, elastic"
)
KNOWN = f"{HYPERPARAMETERS}, data, groups, report, variants"
NAME = "expected a name of a-z, 0-9 and -, other than trial, found "
SCHEDULES = "schedule: expected 'constant' or 'onecycle', found "
NO_MAPPING = "expected a mapping of keys, found "
BACK = "; `git checkout params.yaml` brings it back"
# Ten lines of YAML that hold 9 to the power of 10 numbers.
MANY = "m0: &m0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"m{level}: &m{level} [{', '.join([f'*m{level - 1}'] * 9)}]\n" for level in range(1, 10)
)

LR, BATCH, AUGMENT = (shipped(name) for name in ("lr", "batch_size", "augment"))
# What is replaced in the shipped file, by what, and what is said: all of it, or how it begins.
VALUES = [
    ("bn: false", "bn: yes", 'bn: expected true or false, found "yes"'),
    ("bn: false", "bn: 1", "bn: expected true or false, found 1"),
    ("bn: false", "bn: null", "bn: expected true or false, found nothing"),
    ("bn: false", "bn: 'true'", 'bn: expected true or false, found "true"'),
    (AUGMENT, "augment: off", 'augment: expected true or false, found "off"'),
    (LR, "lr: 0", "lr: expected more than 0.0, found 0"),
    (LR, "lr: -1", "lr: expected more than 0.0, found -1"),
    (LR, "lr: 1.0001", "lr: expected at most 1.0, found 1.0001"),
    (LR, "lr: .nan", "lr: expected a finite number, found NaN"),
    (LR, "lr: nan", 'lr: expected a number, found "nan"'),
    (LR, "lr: .inf", "lr: expected a finite number, found Infinity"),
    (LR, "lr: 1e999", "lr: expected a finite number, found Infinity"),
    (LR, "lr: 0,01", 'lr: expected a number, found "0,01"'),
    (LR, "lr: '0.01'", 'lr: expected a number, found "0.01"'),
    ("epochs: 10", "epochs: 0", "epochs: expected at least 1, found 0"),
    ("epochs: 10", "epochs: 1001", "epochs: expected at most 1000, found 1001"),
    ("epochs: 10", "epochs: 1.5", "epochs: expected a whole number, found 1.5"),
    ("epochs: 10", "epochs: 1e1", "epochs: expected a whole number, found 10.0"),
    ("epochs: 10", "epochs: true", "epochs: expected a whole number, found true"),
    ("epochs: 10", "epochs: 10 20", 'epochs: expected a whole number, found "10 20"'),
    ("epochs: 10", f"epochs: {10**30}", f"epochs: expected at most 1000, found {10**30}"),
    (BATCH, "batch_size: 0", "batch_size: expected at least 1, found 0"),
    (BATCH, "batch_size: 60001", "batch_size: expected at most 60000, found 60001"),
    (BATCH, "batch_size: 0x40", 'batch_size: expected a whole number, found "0x40"'),
    ("seed: 0", "seed: -1", "seed: expected at least 0, found -1"),
    ("seed: 0", "seed: 4294967296", "seed: expected less than 4294967296, found 4294967296"),
    ("classes: 10", "classes: 3", "classes: expected 10 or 4, found 3"),
    ("classes: 10", "classes: ten", 'classes: expected 10 or 4, found "ten"'),
    ("schedule: onecycle", "schedule: cosine", f'{SCHEDULES}"cosine"'),
    ("schedule: onecycle", "schedule: OneCycle", f'{SCHEDULES}"OneCycle"'),
    ("schedule: onecycle", "schedule: [constant, onecycle]", f'{SCHEDULES}["constant", "onecycle"]'),
    ("source: sample", "source: CIFAR", 'data.source: expected a name of a-z, 0-9 and -, found "CIFAR"'),
    ("fraction: 0.1", "fraction: 0", "data.validation_fraction: expected more than 0.0, found 0"),
    ("fraction: 0.1", "fraction: 1", "data.validation_fraction: expected less than 1.0, found 1"),
    ("fraction: 0.1", "fraction: 10%", 'data.validation_fraction: expected a number, found "10%"'),
    ("  batch_size: 20", "  batch_size: -20", "report.batch_size: expected at least 1, found -20"),
    ("ten: {}", "ten: {classes: 5}", "variants.ten.classes: expected 10 or 4, found 5"),
    ("[1, 7]", "[1, 7, 0]", f"{GROUPS}[[0, 6], [1, 7, 0], [2, 3, 5, 8], [4, 9]]"),
    ("[1, 7]", "[1]", f"{GROUPS}[[0, 6], [1], [2, 3, 5, 8], [4, 9]]"),
    ("[0, 6]\n  - [1, 7]", "[0, 6, 1, 7]", f"{GROUPS}[[0, 6, 1, 7], [2, 3, 5, 8], [4, 9]]"),
    ("[1, 7]", "[1, true]", "groups.1.1: expected a whole number, found true"),
    ("[1, 7]", "17", "groups.1: expected a list, found 17"),
    # Keys.
    ("epochs: 10", "epoch: 10", "epochs: missing; add it; epoch: unknown key; did you mean 'epochs'?"),
    ("bn: false", "bn: false\nbatchsize: 32", "batchsize: unknown key; did you mean 'batch_size'?"),
    ("bn: false", "bn: false\nxyzzy: 1", f"xyzzy: unknown key; {KNOWN}"),
    ("  lr: 0.001", "  lr: 0.001\n  xyzzy: 1", f"report.xyzzy: unknown key; {HYPERPARAMETERS}"),
    ("ten: {}", "ten: {xyzzy: 1}", f"variants.ten.xyzzy: unknown key; {HYPERPARAMETERS}"),
    ("  ten-bn:", "  ten_bn:", f'variants.ten_bn: {NAME}"ten_bn"'),
    ("  ten-bn:", "  Ten:", f'variants.Ten: {NAME}"Ten"'),
    ("  ten-bn:", "  ten.bn:", f'variants.ten.bn: {NAME}"ten.bn"'),
    ("  ten-bn:", "  trial:", f'variants.trial: {NAME}"trial"'),
    ("  ten-bn:", '  "ten\\n":', f'variants.ten : {NAME}"ten\\n"'),
    ("  ten-bn:", "  10:", "variants.10: expected a name of a-z, 0-9 and -, other than trial, found 10"),
    ("ten: {}", "1.5: {bn: 3}", "variants.1.5: expected a name of a-z, 0-9 and -, other than trial, found 1.5"),
    ("ten: {}", "ten:", f"variants.ten: {NO_MAPPING}nothing"),
    (
        "ten: {}",
        "ten: {}\n  ten: {bn: true}",
        f"line {LINE['  ten: {}'] + 1}: not valid YAML: key 'ten' is there twice; correct",
    ),
    ("data:\n", "data: mnist\ndate:\n", f"data: {NO_MAPPING}\"mnist\"; date: unknown key; did you mean 'data'?"),
    ("bn: false", "bn: false\n1: 2", "1: expected the name of a parameter, found 1"),
    ("bn: false", "bn: false\n<<: { lr: 1 }", f"<<: unknown key; {KNOWN}"),
    # YAML.
    ("bn: false", "bn: false\nbn: true", "line 6: not valid YAML: key 'bn' is there twice; correct that line"),
    (
        "  epochs: 10",
        "  epochs: 10\n  epochs: 9",
        f"line {LINE['  epochs: 10'] + 1}: not valid YAML: key 'epochs' is there twice; correct that line",
    ),
    ("bn: false", "<<<<<<< HEAD\nbn: false\n=======\nbn: true\n>>>>>>> other", "line 6: not valid YAML: "),
    (
        "  seed: 0",
        "\tseed: 0",
        f"line {LINE['  seed: 0']}: not valid YAML: found character '\\t' that cannot start any token",
    ),
    ("bn: false", "bn: [false", "line 6: not valid YAML: "),
    ("bn: false", "bn:false", "line 6: not valid YAML: "),
    ("bn: false", "bn: *other", "line 5: not valid YAML: found undefined alias 'other'"),
    ("bn: false", "bn: &bn [*bn]", "bn: expected true or false, found a value that holds itself"),
    ("bn: false", "bn: !!python/name:os.system", "line 5: not valid YAML: could not determine a constructor for the tag"),
    (
        "bn: false",
        "bn: { !!timestamp 2020-01-01: 1 }",
        "bn: expected true or false, found a mapping whose keys are not names",
    ),
    ("bn: false", f"bn: [{'0, ' * 2_000}]", f"bn: expected true or false, found [{'0, ' * 33}"),
    ("bn: false", f"{MANY}bn: *m9", f"bn: expected true or false, found {'[' * 10}1, 1, "),
    ("seed: 0", f"seed: {'9' * 5000}", "not valid YAML: "),
    ("bn: false", "bn: false\n---\nbn: true", "line 6: not valid YAML: but found another document"),
    (None, b"", f"{NO_MAPPING}nothing{BACK}"),
    (None, b"# only a comment\n", f"{NO_MAPPING}nothing{BACK}"),
    (None, b"- bn\n", f'{NO_MAPPING}["bn"]{BACK}'),
    (None, b"\xef\xbb\xbf", f"{NO_MAPPING}nothing{BACK}"),
    (None, b"bn: \xff\n", f"not UTF-8 text{BACK}"),
    (None, "bn: false\n".encode("utf-16"), f"not UTF-8 text{BACK}"),
    (None, b"bn: \x00\n", "not valid YAML: unacceptable character #x0000"),
    (None, b"[" * 1_000, "not valid YAML: maximum recursion depth exceeded"),
]


def everything(project):
    """All files besides params.yaml, git's and Python's own: what they hold and when they were written."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else None
        for path in project.root.rglob("*")
        if path.name != "params.yaml" and not {".git", "__pycache__"} & set(path.relative_to(project.root).parts)
    }


def save_splits(root, divided):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        splits.save_all(divided, catalogue.SAMPLE.source)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with outputs that nothing in this file may touch, and nothing in MLflow."""
    project = clone(tmp_path_factory.mktemp("faults"), epochs=10)
    project.run("make", "setup")
    images = np.zeros((210, 28, 28), dtype=np.uint8)
    split = splits.Split(images, (np.arange(210) % 10).astype(np.uint8))
    save_splits(project.root, dict.fromkeys(splits.SPLITS, split))
    for name in ("data/raw/source.json", "stages/train/trial/model.safetensors", "stages/plot/results.md", "dvc.lock"):
        (project.root / name).parent.mkdir(parents=True, exist_ok=True)
        (project.root / name).write_text(f"what lies in {name}", encoding="utf-8")
    project.before = everything(project)
    return project


@contextlib.contextmanager
def bad(project, put):
    """Have params.yaml as `put` makes it for the block, in which nothing else may change."""
    path = project.root / "params.yaml"
    shipped = path.read_bytes()
    path.unlink()
    put(path)
    try:
        yield
    finally:
        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        path.write_bytes(shipped)
    assert everything(project) == project.before
    assert not (project.root / "mlflow.db").exists()
    assert [path.name for path in (project.root / "mlruns").iterdir()] == [".gitignore"]


def edited(project, old, new):
    """A function that writes the shipped params.yaml with one replacement, or whole other bytes."""
    if old is None:
        return lambda path: path.write_bytes(new)
    text = (project.root / "params.yaml").read_text(encoding="utf-8")
    assert old in text
    return lambda path: path.write_text(text.replace(old, new, 1), encoding="utf-8")


def make(project, put):
    """The one line of ours with which `make` ends at a bad params.yaml."""
    with bad(project, put):
        done = project.run("make", check=False, MAKEFLAGS="", MAKELEVEL="")
    line, last = done.stdout.splitlines()
    assert re.fullmatch(r"make: \*\*\* \[.+\] Error 2", last)
    assert done.returncode == 2
    return line


@pytest.mark.parametrize("letters", ["\\e[2J\\a", "\\u009b2J", "\u202e\u2066", "\\rquartet: all is well"])
def test_a_value_cannot_steer_the_terminal(project, letters):
    line = make(project, edited(project, f"\n{LR}", f'\nlr: "{letters}"'))
    assert line.startswith("quartet: error: params.yaml: lr: expected a number, found")
    assert line.isprintable()


@pytest.mark.parametrize(("old", "new", "problem"), VALUES, ids=[problem[:50] for _, _, problem in VALUES])
def test_a_bad_value_is_refused_before_anything_is_done(project, monkeypatch, capfd, old, new, problem):
    """In one line, by what `make` calls first: here in this process."""
    monkeypatch.chdir(project.root)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the handlers are pytest's
    with bad(project, edited(project, old, new)), pytest.raises(SystemExit) as left:
        process.run(lambda: prepare.main([]))
    said = capfd.readouterr()
    assert (left.value.code, said.out) == (2, "")
    (line,) = said.err.splitlines()
    assert line.startswith(f"quartet: error: params.yaml: {problem}")
    assert len(line) < 1500


# One of each kind: a value, a list, a key, a name, YAML, a depth, a length, and bytes.
KINDS = ("bn: yes", "17", "epoch: 10", "  Ten:", "bn:false", f"{MANY}bn: *m9", f"seed: {'9' * 5000}", b"bn: \xff\n")


@pytest.mark.parametrize("kind", KINDS, ids=[repr(kind)[:20] for kind in KINDS])
def test_make_stops_at_a_bad_value(project, kind):
    """In one line, and touches nothing."""
    ((old, new, problem),) = [value for value in VALUES if value[1] == kind]
    line = make(project, edited(project, old, new))
    assert line.startswith(f"quartet: error: params.yaml: {problem}")
    assert len(line) < 1500


@pytest.mark.parametrize(
    ("put", "problem"),
    [
        (lambda path: None, "missing; run in the project's root, or `git checkout params.yaml`"),
        (lambda path: path.symlink_to("nowhere.yaml"), "missing; run in the project's root, or `git checkout params.yaml`"),
        (lambda path: path.symlink_to(path), "cannot be read: Too many levels of symbolic links; expected a file of YAML"),
        (Path.mkdir, "cannot be read: Is a directory; expected a file of YAML"),
        pytest.param(
            lambda path: path.touch(mode=0),
            "cannot be read: Permission denied; expected a file of YAML",
            marks=pytest.mark.skipif(os.getuid() == 0, reason="root may read everything"),
        ),
    ],
    ids=["missing", "dangling link", "link to itself", "directory", "unreadable"],
)
def test_make_stops_if_there_is_no_file_to_read(project, put, problem):
    assert make(project, put) == f"quartet: error: params.yaml: {problem}"


def test_make_names_all_bad_values_in_the_one_line(project):
    put = edited(project, "bn: false  # batch normalisation after each convolution\nepochs: 10", "bn: 0\nepoch: 0")
    assert make(project, put) == (
        "quartet: error: params.yaml: bn: expected true or false, found 0; epochs: missing; add it;"
        " epoch: unknown key; did you mean 'epochs'?"
    )


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("  lr: 0.001", "  lr: -1", "report.lr: expected more than 0.0, found -1"),
        ("  lr: 0.001\n", "", "report.lr: missing; add it"),
        ("ten: {}", "Ten: {lr: -1}", f'variants.Ten: {NAME}"Ten"; variants.Ten.lr: expected more than 0.0, found -1'),
        (
            "  ten: {}\n  ten-bn: {bn: true}\n  four: {classes: 4}\n  four-bn: {classes: 4, bn: true}\n",
            "  {}\n",
            "variants: expected at least one variant, found {}",
        ),
    ],
)
def test_make_tells_each_problem_once_whatever_the_variants(project, old, new, problem):
    assert make(project, edited(project, old, new)) == f"quartet: error: params.yaml: {problem}"


@pytest.mark.parametrize("stage", ["fetch", "preprocess", "train ten", "train trial", "evaluate", "plot", "page"])
def test_a_stages_script_stops_at_a_bad_value(project, stage):
    """With status 2, in one line, and touches nothing."""
    with bad(project, edited(project, LR, "lr: -1")):
        done = project.stage(*stage.split())
    assert done.stdout == "quartet: error: params.yaml: lr: expected more than 0.0, found -1\n"
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("training", "old", "new", "key"),
    [
        ("trial", BATCH, "batch_size: 211", "batch_size"),
        ("ten", "  batch_size: 20", "  batch_size: 211", "report.batch_size"),
        ("ten", "ten: {}", "ten: {batch_size: 211}", "variants.ten.batch_size"),
    ],
)
def test_a_batch_larger_than_the_training_set_is_refused(project, training, old, new, key):
    """Nothing is touched."""
    with bad(project, edited(project, old, new)):
        done = project.stage("train", training)
    assert done.stdout == f"quartet: error: params.yaml: {key}: expected at most the 210 training images, found 211\n"
    assert done.returncode == 2


def test_a_training_that_params_yaml_does_not_have_is_refused(project):
    with bad(project, edited(project, "  ten-bn: {bn: true}\n", "  other: {}\n")):
        done = project.stage("train", "ten-bn")
    assert done.stdout == "quartet: error: train: expected one of ten, other, four, four-bn, trial, found 'ten-bn'\n"
    assert done.returncode == 2


def test_a_last_batch_of_one_image_trains(tmp_path, tiny):
    """With batch norm, to the same bytes each time."""
    project = clone(tmp_path, epochs=10)
    train, validation = splits.Split(tiny.images[:41], tiny.labels[:41]), splits.Split(tiny.images[41:], tiny.labels[41:])
    save_splits(project.root, {"train": train, "validation": validation})
    settings = project.root / "params.yaml"
    edited(project, f"epochs: 10\n{BATCH}", "epochs: 2\nbatch_size: 20")(settings)
    edited(project, "bn: false", "bn: true")(settings)
    folder, written = project.root / "stages/train/trial", []
    for number in "12":
        # No store of MLflow, which would take longer to make than all the rest.
        env = {"MLFLOW_TRACKING_URI": "none://", "PYTHONHASHSEED": number, "OMP_NUM_THREADS": number}
        done = project.stage("train", "trial", **env)
        assert done.returncode == 0, done.stdout
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
        shutil.rmtree(folder)
    assert written[0] == written[1]
    assert sorted(written[0]) == ["history.csv", "model.safetensors", "provenance.json", "summary.json"]
    rows = list(csv.DictReader(written[0]["history.csv"].decode().splitlines()))
    assert len(rows) == 2
    assert all(math.isfinite(float(value)) for row in rows for value in row.values())


def outputs(project):
    """The bytes of all that DVC made, and of its lock."""
    found = [path for folder in ("data", "stages") for path in (project.root / folder).rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in [*found, project.root / "dvc.lock"]}


def mlflow(project):
    """The bytes of MLflow's database and artifacts."""
    found = [project.root / "mlflow.db", *(project.root / "mlruns").rglob("*")]
    return {path: path.read_bytes() for path in found if path.is_file()}


@pytest.fixture
def experiment(finished):
    """`dvc exp run -S …`, which must fail and leave MLflow as it was.

    DVC removes a stage's outputs before it runs the stage's command; afterwards Git and DVC bring all of them back.
    """

    def run(*changes):
        options = [word for change in changes for word in ("-S", change)]
        done = finished.run("dvc", "exp", "run", *options, check=False)
        assert done.returncode == 255
        assert mlflow(finished) == tracked
        assert "Traceback" not in done.stdout
        return done.stdout.splitlines()

    made, tracked = outputs(finished), mlflow(finished)
    yield run
    finished.run("git", "checkout", "-q", "params.yaml", "dvc.lock")
    finished.run("dvc", "checkout", "-q")
    assert outputs(finished) == made
    assert finished.run("git", "status", "--porcelain").stdout == ""


# One worker runs all that shares the finished project.
@pytest.mark.xdist_group("finished")
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            ["classes=3", "epochs=1.5", "lr=-1"],
            "classes: expected 10 or 4, found 3; epochs: expected a whole number, found 1.5;"
            " lr: expected more than 0.0, found -1",
        ),
        (["seed=1", "+epoch=5"], "epoch: unknown key; did you mean 'epochs'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_experiment_with_a_bad_value_can_be_undone(experiment, changes, problem):
    """It stops in one line, with status 2."""
    lines = experiment(*changes)
    assert [line for line in lines if "quartet: " in line] == [f"quartet: error: params.yaml: {problem}"]
    assert lines[-1].startswith("ERROR: failed to reproduce ")
    assert lines[-1].endswith(", exited with 2")


@pytest.mark.xdist_group("finished")
def test_an_experiment_on_an_unknown_key_is_refused_by_dvc(finished, experiment):
    """Before any stage."""
    made = outputs(finished)
    lines = experiment("nosuch=1")
    assert lines[0].startswith("ERROR: Invalid `--set-param` value: Could not override 'nosuch'.")
    assert outputs(finished) == made
