"""Processes that are killed, stopped, or run beside each other, under the real DVC."""

from __future__ import annotations

import os
import re
import shutil
import signal

import mlflow
import pytest

from project import clone, lock, read_until, runs, started, train_once, training_of, trainings_of

# One worker runs all that shares the project.
pytestmark = pytest.mark.xdist_group("kills")

REPRO = ("dvc", "repro", "--single-item", "train@ten")
EPOCHS = 20  # enough that a training met in its third is still far from its end when a busy machine comes to stop it


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A project that has trained `ten`, and its dvc.lock from before and from after."""
    return train_once(clone(tmp_path_factory.mktemp("kills"), EPOCHS), REPRO)


@pytest.fixture
def project(undisturbed):
    """The project before `ten` is trained; afterwards it must be as after a training that nothing disturbed."""
    project, before, expected = undisturbed
    (project.root / "dvc.lock").write_text(before, encoding="utf-8")
    mlflow.MlflowClient(f"sqlite:///{project.root}/mlflow.db").delete_run(the_run(project)["id"])
    for folder in (".dvc/cache/runs", "stages/train/ten", ".checkpoints"):
        shutil.rmtree(project.root / folder, ignore_errors=True)
    yield project
    assert lock(project) == expected
    run = the_run(project)
    assert run["status"] == "FINISHED"
    assert [sorted(steps) for steps in run["steps"].values()] == [list(range(1, EPOCHS + 1))] * 3
    assert checkpoints(project) == []
    assert [path for path in project.root.glob("*/**/*") if path.name.endswith(".part")] == []


def the_run(project):
    """The one run in MLflow."""
    (run,) = runs(project)
    return run


def checkpoints(project) -> list[str]:
    return sorted(path.name for path in (project.root / ".checkpoints").glob("*.pt"))


def resume(project) -> int:
    """Train to the end; after which epoch that went on."""
    resumed = re.search(r"ten: resumed after epoch (\d+)", project.run(*REPRO).stdout)
    assert resumed
    return int(resumed[1])


def test_a_killed_training_goes_on_where_it_was(project):
    """In its own run of MLflow's, which sync closes meanwhile."""
    with started(project, *REPRO) as process:
        read_until(process, "epoch  3/")
        training_of(process).kill()
        output = process.communicate()[0]
    assert process.returncode != 0
    assert "Traceback" not in output
    assert checkpoints(project) == ["ten.pt"]
    assert list((project.root / "stages/train/ten").glob("*")) == []
    killed = the_run(project)
    assert killed["status"] == "RUNNING"
    done = project.quartet("sync")
    assert done.returncode == 0, done.stdout
    assert "was interrupted: closed as KILLED" in done.stdout
    assert the_run(project)["status"] == "KILLED"
    assert resume(project) >= 3
    assert the_run(project)["id"] == killed["id"]


def test_a_stopped_training_goes_on_where_it_was(project):
    """By Ctrl-C as a terminal sends it, to DVC too."""
    with started(project, *REPRO) as process:
        read_until(process, "epoch  3/")
        os.killpg(process.pid, signal.SIGINT)
        output = process.communicate()[0]
    assert process.returncode != 0
    assert "quartet: stopped by Ctrl-C" in output
    assert "Traceback" not in output
    assert checkpoints(project) == ["ten.pt"]
    stopped = the_run(project)
    assert stopped["status"] == "KILLED", output
    assert list((project.root / "stages/train/ten").glob("*")) == []
    assert resume(project) >= 3
    assert the_run(project)["id"] == stopped["id"]


def test_a_training_stops_if_its_dvc_is_killed(project):
    """The next one waits for it and goes on from it."""
    with started(project, *REPRO, SHELL="/bin/sh") as process:
        read_until(process, "epoch  3/")
        orphan = training_of(process)
        orphan.suspend()
        process.kill()
        process.wait()
        with started(project, *REPRO) as after:
            read_until(after, "ten: another process trains it here")
            orphan.resume()
            output = after.communicate()[0]
        assert after.returncode == 0, output
        stopped = process.stdout.read()
        assert "quartet: stopped by SIGTERM" in stopped, stopped
        assert "resumed after epoch" in output, stopped + output


def test_a_training_stops_if_its_dvc_is_killed_before_it_begins(project):
    """Here with a shell that replaces itself with the command, as dash does not."""
    with started(project, *REPRO, SHELL="/bin/bash") as process:
        read_until(process, "Running stage")
        while not trainings_of(process):
            assert process.poll() is None
        process.kill()
        process.wait()
        output = process.stdout.read()  # complete when the training has ended
    assert "quartet: stopped by SIGTERM" in output
    assert f"epoch {EPOCHS}/" not in output
    project.run(*REPRO)


def test_lock_files_that_a_kill_cut_short_are_made_again(project):
    """DVC names them; an empty file of its own is removed by make."""
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
    project.run("dvc", "repro", "train@ten")


def test_a_second_repro_beside_a_running_one_does_no_harm(project):
    """It says that the other one runs."""
    with started(project, *REPRO) as first:
        read_until(first, "epoch  3/")
        training = training_of(first)
        training.suspend()
        others = [project.run(*command, check=False) for command in (REPRO, ("make",))]
        training.resume()
        output = first.communicate()[0]
    for other in others:
        assert other.returncode != 0
        assert "busy" in other.stdout
        assert str(first.pid) in other.stdout
        assert "Traceback" not in other.stdout
    assert first.returncode == 0, output
