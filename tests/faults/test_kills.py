"""Processes that are killed, stopped, or run beside each other, under the real DVC."""

from __future__ import annotations

import os
import re
import shutil
import signal

import mlflow
import pytest

from project import clone, lock, read_until, runs, started, train_once, training_of, trainings_of
from quartet.commands import sync

# One worker runs all that shares the project.
pytestmark = pytest.mark.xdist_group("kills")

REPRO = ("dvc", "repro", "--single-item", "train@ten")
EPOCHS = 20  # enough that a training met in its third is still far from its end when a busy machine comes to stop it


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A project that has trained `ten`, and its dvc.lock from before and from after."""
    return train_once(clone(tmp_path_factory.mktemp("it's killed"), EPOCHS), REPRO)


@pytest.fixture
def trained(undisturbed):
    """The project after `ten` was trained; afterwards it must be as after a training that nothing disturbed."""
    project, _, expected = undisturbed
    yield project
    assert lock(project) == expected
    run = the_run(project)
    assert run["status"] == "FINISHED"
    assert [sorted(steps) for steps in run["steps"].values()] == [list(range(1, EPOCHS + 1))] * 3
    assert checkpoints(project) == []
    assert [path for path in project.root.glob("*/**/*") if path.name.endswith(".part")] == []


@pytest.fixture
def project(undisturbed, trained):
    """The project before `ten` is trained."""
    _, before, _ = undisturbed
    (trained.root / "dvc.lock").write_text(before, encoding="utf-8")
    mlflow.MlflowClient(f"sqlite:///{trained.root}/mlflow.db").delete_run(the_run(trained)["id"])
    for folder in (".dvc/cache/runs", "stages/train/ten", ".checkpoints"):
        shutil.rmtree(trained.root / folder, ignore_errors=True)
    return trained


def the_run(project):
    """The one run in MLflow."""
    (run,) = runs(project)
    return run


def checkpoints(project) -> list[str]:
    return sorted(path.name for path in (project.root / ".checkpoints").glob("*.pt"))


def resumed(output: str) -> int:
    """After which epoch a training went on."""
    found = re.search(r"ten: resumed after epoch (\d+)", output)
    assert found, output
    return int(found[1])


def assert_unfinished(project, output: str) -> None:
    """Its checkpoint is there, and none of its outputs."""
    assert "Traceback" not in output
    assert checkpoints(project) == ["ten.pt"]
    assert list((project.root / "stages/train/ten").glob("*")) == []


def assert_others_are_refused(project, process) -> None:
    """Another run says that this one runs."""
    for command in (REPRO, ("make",)):
        other = project.run(*command, check=False)
        assert other.returncode != 0
        assert "busy" in other.stdout
        assert str(process.pid) in other.stdout
        assert "Traceback" not in other.stdout


def test_a_training_that_is_ended_goes_on_where_it_was(project, within, capfd):
    """Its DVC is killed, before it begins and later, it is killed itself, and stopped by Ctrl-C as a terminal sends it.

    All is in one run of MLflow's, which sync closes meanwhile. A second DVC beside it says that the other one runs.
    """
    # Here with a shell that replaces itself with the command, as dash does not.
    with started(project, *REPRO, SHELL="/bin/bash") as process:
        read_until(process, "Running stage")
        while not trainings_of(process):
            assert process.poll() is None
        process.kill()
        process.wait()
        output = process.stdout.read()  # complete when the training has ended
    assert "quartet: stopped by SIGTERM" in output
    assert f"epoch {EPOCHS}/" not in output

    with started(project, *REPRO) as process:
        read_until(process, "epoch  3/")
        training_of(process).kill()
        output = process.communicate()[0]
    assert process.returncode != 0
    assert_unfinished(project, output)
    killed = the_run(project)
    assert killed["status"] == "RUNNING"
    within(project, sync.main, [])
    assert "was interrupted: closed as KILLED" in capfd.readouterr().out
    assert the_run(project)["status"] == "KILLED"

    with started(project, *REPRO) as process:
        output = read_until(process, "epoch  6/")
        os.killpg(process.pid, signal.SIGINT)
        output += process.communicate()[0]
    assert process.returncode != 0
    assert resumed(output) >= 3
    assert "quartet: stopped by Ctrl-C" in output
    assert_unfinished(project, output)
    assert the_run(project)["status"] == "KILLED", output

    with started(project, *REPRO, SHELL="/bin/sh") as process:
        output = read_until(process, "epoch  9/")
        assert resumed(output) >= 6
        orphan = training_of(process)
        orphan.suspend()
        process.kill()
        process.wait()
        with started(project, *REPRO) as after:
            read_until(after, "ten: another process trains it here")
            assert_others_are_refused(project, after)
            orphan.resume()
            output = after.communicate()[0]
        assert after.returncode == 0, output
        stopped = process.stdout.read()
    assert "quartet: stopped by SIGTERM" in stopped, stopped
    assert resumed(output) >= 9
    assert the_run(project)["id"] == killed["id"]


def test_lock_files_that_a_kill_cut_short_are_made_again(trained):
    """DVC names them; an empty file of its own is removed by make. What was trained comes from DVC's cache."""
    project = trained
    rwlock = project.root / ".dvc/tmp/rwlock"
    rwlock.write_bytes(b"")
    done = project.run(*REPRO, check=False)
    assert done.returncode != 0
    assert "Unable to read RWLock-file '.dvc/tmp/rwlock'" in done.stdout
    recipe = project.run("make", "-n", "all").stdout
    (line,) = [line for line in recipe.splitlines() if "rwlock" in line]
    project.run("sh", "-c", line)
    assert not rwlock.exists()
    for content in ("schema: '2.0'\nstages:\n  fetch:\n", ""):
        (project.root / "dvc.lock").write_text(content, encoding="utf-8")
        for command in (REPRO, ("make",)):
            done = project.run(*command, check=False)
            assert done.returncode != 0
            assert "dvc.lock' validation failed" in done.stdout
            assert "Traceback" not in done.stdout
    (project.root / "dvc.lock").unlink()
    assert "epoch" not in project.run("dvc", "repro", "train@ten").stdout
