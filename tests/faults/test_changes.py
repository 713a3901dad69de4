"""Edits while the pipeline runs, under the real DVC: what DVC records is what happened."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time

import pytest
import yaml

from project import Project, clone, lock, read_until, replace, runs, shipped, started, train_once, training_of
from quartet.base import files

# One worker runs all that shares the project.
pytestmark = pytest.mark.xdist_group("changes")

REPRO = ("dvc", "repro", "--single-item", "trial")
OUTPUTS = ("history.csv", "model.safetensors", "provenance.json", "summary.json")
SPLITS = [f"data/split/{name}" for name in ("manifest.json", "train.safetensors", "validation.safetensors")]
LR = yaml.safe_load(shipped("lr"))["lr"]
LOOP = "src/quartet/training/loop.py"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A project with short trainings that has trained the trial, and its dvc.lock from before.

    After all tests it must come to what it came to undisturbed.
    """
    project = clone(tmp_path_factory.mktemp("changes"), epochs=3)
    project.env |= {f"GIT_{role}_{part}": "test@localhost" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
    project, before, expected = train_once(project, REPRO)
    yield project, before
    reset(project, before)
    project.run(*REPRO)
    assert recorded(project) == yaml.safe_load(expected)["stages"]["trial"]
    assert project.quartet("audit").returncode == 0
    whole = [run for run in runs(project) if run["tags"].get("weights") == digest(project)]
    assert {(run["status"], run["params"]["lr"]) for run in whole} == {("FINISHED", str(LR))}
    fingerprints = [run["tags"]["fingerprint"] for run in whole]  # other code has another, though it comes to the same
    assert len(fingerprints) == len(set(fingerprints))
    assert list((project.root / ".checkpoints").glob("*.pt")) == []


def reset(project: Project, before: str) -> None:
    project.run("git", "checkout", "-q", "params.yaml", "src")
    (project.root / "dvc.lock").write_text(before, encoding="utf-8")
    shutil.rmtree(project.root / ".dvc/cache/runs", ignore_errors=True)


@pytest.fixture
def project(undisturbed):
    """The project before the trial is trained."""
    project, before = undisturbed
    reset(project, before)
    return project


def digest(project: Project) -> str:
    return files.sha256(project.root / "stages/train/trial/model.safetensors")


def set_lr(project: Project, lr: str) -> None:
    replace(project.root / "params.yaml", f"\n{shipped('lr')}", f"\nlr: {lr}")


def recorded(project: Project) -> dict:
    """What dvc.lock says of the trial; empty if it says nothing."""
    return yaml.safe_load(lock(project))["stages"].get("trial", {})


@contextlib.contextmanager
def in_the_first_epoch(project: Project, *command: str):
    """A pipeline whose training waits after its first epoch until the block ends."""
    with started(project, *command) as process:
        read_until(process, "epoch 1/3")
        training = training_of(process)
        training.suspend()
        try:
            yield process
        finally:
            training.resume()
        process.output = process.communicate()[0]


def edit_a_source(project):
    replace(project.root / LOOP, '"""The training loop', '"""A training loop')


def test_a_change_during_a_training_fails_it(project):
    """Each is named: here a source by `git stash`, a parameter, and a split that is made again with another seed."""
    edit_a_source(project)
    with in_the_first_epoch(project, *REPRO) as process:
        project.run("git", "stash")
        set_lr(project, "0.002")
        replace(project.root / "params.yaml", "\n  seed: 0", "\n  seed: 1")
        assert project.stage("preprocess").returncode == 0
    assert process.returncode != 0
    named = ", ".join(["params.yaml: lr", *SPLITS, "src/quartet/training"])
    assert f"quartet: error: {named} changed while trial was training; run again" in process.output
    assert "Traceback" not in process.output
    assert list((project.root / "stages/train/trial").glob("*")) == []
    assert recorded(project) == {}
    project.run("git", "checkout", "-q", "params.yaml")
    project.run("git", "stash", "pop")
    project.run("dvc", "checkout", "--force", "preprocess")
    assert "trial: resumed after epoch 3" in project.run(*REPRO).stdout
    assert sorted(path.name for path in (project.root / "stages/train/trial").glob("[a-z]*")) == [*OUTPUTS]


def test_a_change_that_concerns_others_fails_nothing(project):
    with in_the_first_epoch(project, *REPRO) as process:
        replace(project.root / "params.yaml", "ten: {}", "ten: {seed: 5}")
        replace(project.root / "src/evaluate.py", '"""Stage', '"""The stage')
    assert process.returncode == 0, process.output
    assert recorded(project)["params"]["params.yaml"]["lr"] == LR


def test_an_experiment_refused_as_busy_is_not_trained(project):
    """It has changed params.yaml all the same."""
    with in_the_first_epoch(project, "quartet", "repro", "--jobs", "1", "trial", "train@ten") as process:
        first = training_of(process).cmdline()[-1]
        key, other = ("lr", "trial") if first == "ten" else ("report.lr", "train@ten")
        refused = project.run("dvc", "exp", "run", "-S", f"{key}=0.002", check=False)
        assert refused.returncode != 0
        assert "busy" in refused.stdout
    assert process.returncode == 1
    last = process.output.splitlines()[-1]
    assert last == f"quartet: error: params.yaml: {key.split('.')[0]} changed before {other} began; run again"
    assert len({"train@ten", "trial"} - yaml.safe_load(lock(project))["stages"].keys()) == 1


def edit_in_the_gap(project: Project) -> str:
    """Train, and change the learning rate after the stage's last look and before DVC's."""
    last = project.root / "stages/train/trial/provenance.json"

    def edit() -> None:
        deadline = time.monotonic() + 60
        while not last.exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        set_lr(project, "0.002")

    for path in last.parent.glob("*.*"):
        path.unlink()
    editor = threading.Thread(target=edit)
    editor.start()
    output = project.run(*REPRO).stdout
    editor.join()
    assert recorded(project)["params"]["params.yaml"]["lr"] == 0.002, "the edit came too late for DVC"
    return output


FALSE = f"trial: DVC recorded params.yaml: lr as 0.002, but it was trained with {LR:g}; taken out of dvc.lock"


def entries(project: Project) -> list[dict]:
    """The entries of the trial in DVC's run cache."""
    found = [yaml.safe_load(path.read_bytes()) for path in (project.root / ".dvc/cache/runs").glob("??/*/*")]
    return [entry for entry in found if entry["cmd"] == "python src/train.py trial"]


def test_an_edit_at_the_very_end_is_found_out(project):
    edit_in_the_gap(project)
    assert [entry["params"]["params.yaml"]["lr"] for entry in entries(project)] == [0.002]
    done = project.quartet("audit")
    assert done.returncode == 1, done.stdout
    assert done.stdout.count(FALSE) == 1
    assert "quartet: error: something was edited just as trial ended; run `make` again" in done.stdout
    assert recorded(project) == {}
    assert entries(project) == []
    again = project.quartet("audit")
    assert (again.returncode, again.stdout) == (0, "")
    # With the settings that were recorded: it is trained, not restored.
    assert "epoch 3/3" in project.run(*REPRO).stdout
    assert recorded(project)["params"]["params.yaml"]["lr"] == 0.002


def test_a_false_pair_is_found_in_the_run_cache_too(project):
    """By sync here; the lock file has other settings by then, and DVC would restore the pair one day."""
    edit_in_the_gap(project)
    replace(project.root / "params.yaml", "\nlr: 0.002", "\nlr: 0.003")
    project.run(*REPRO)
    after = lock(project)
    done = project.quartet("sync")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(FALSE) == 1
    assert "agrees with stages/" in done.stdout
    assert lock(project) == after
    assert [entry["params"]["params.yaml"]["lr"] for entry in entries(project)] == [0.003]
