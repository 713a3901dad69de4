from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys

import pytest

from project import ROOT
from quartet import errors, tracking
from quartet.history import Epoch

HISTORY = [Epoch(number, 1 / number, 2 / number, 1 - 1 / (1 + number)) for number in range(1, 5)]
KEYS = ("train_loss", "val_loss", "val_accuracy")


def describe(fingerprint: str) -> dict:
    return {
        "variant": "ten",
        "hyperparameters": {"classes": 10, "bn": False, "lr": 0.001},
        "groups": [[digit] for digit in range(10)],
        "data": "sample",
        "splits": {"train": "a" * 64, "validation": "b" * 64},
        "fingerprint": fingerprint,
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("odd % # näme")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("DVC_ROOT", str(root))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        tracking.initialise()
        yield root


def log_all(log):
    """Log as a training does: after each epoch the history so far."""
    for epoch in HISTORY:
        log(HISTORY[: epoch.epoch])


def runs(fingerprint: str) -> list:
    return tracking._find(tracking._client(), fingerprint)


def steps(run, key: str = "train_loss") -> list[int]:
    return [metric.step for metric in tracking._client().get_metric_history(run.info.run_id, key)]


def test_the_store_is_the_roots_own_unless_another_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking.uri() == "http://127.0.0.1:5000"
    assert tracking.artifacts() is None


def test_each_epoch_is_in_the_store_before_the_next_one(store):
    with tracking.live(describe("live")) as log:
        (run,) = runs("live")
        assert run.info.status == "RUNNING"
        for epoch in HISTORY:
            log(HISTORY[: epoch.epoch])
            assert steps(run) == list(range(1, epoch.epoch + 1))
    (run,) = runs("live")
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "ten"
    assert [metric.value for metric in tracking._client().get_metric_history(run.info.run_id, "val_loss")] == [
        epoch.val_loss for epoch in HISTORY
    ]
    assert run.data.params["groups"] == "0 1 2 3 4 5 6 7 8 9"
    assert [entry.dataset.name for entry in run.inputs.dataset_inputs] == [
        "UCI digits sample, not MNIST: train",
        "UCI digits sample, not MNIST: validation",
    ]


def test_a_training_done_again_is_the_same_run_and_stores_no_step_twice(store):
    for _ in range(2):
        with tracking.live(describe("again")) as log:
            log_all(log)
    (run,) = runs("again")
    assert [steps(run, key) for key in KEYS] == [[1, 2, 3, 4]] * 3
    assert run.info.status == "FINISHED"


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt, "KILLED"), (errors.Terminated, "KILLED"), (errors.WorkError, "FAILED")]
)
def test_a_training_that_ends_early_says_how_and_goes_on_in_its_own_run(store, error, status):
    name = error.__name__
    with contextlib.suppress(error), tracking.live(describe(name)) as log:
        log(HISTORY[:1])
        raise error
    (run,) = runs(name)
    assert run.info.status == status
    with tracking.live(describe(name)) as log:
        log(HISTORY)
    (run,) = runs(name)
    assert (run.info.status, steps(run)) == ("FINISHED", [1, 2, 3, 4])


def test_a_training_that_never_ran_here_gets_one_run_marked_as_restored(store):
    for _ in range(2):
        tracking.complete(describe("restored"), HISTORY, None)
    (run,) = runs("restored")
    assert run.data.tags["restored"] == "true"
    assert (run.info.status, steps(run)) == ("FINISHED", [1, 2, 3, 4])


def test_completing_adds_only_what_is_missing_and_drops_a_double(store):
    client = tracking._client()
    first = tracking._create(client, describe("double"))
    tracking._log_epochs(tracking._Session(client, first.info.run_id), HISTORY[:2])
    tracking._create(client, describe("double"))
    tracking.complete(describe("double"), HISTORY, None)
    (run,) = runs("double")
    assert run.info.run_id == first.info.run_id
    assert steps(run) == [1, 2, 3, 4]


SCRIPT = """
import sys, time
sys.path[:0] = [{tests!r}]
from quartet import tracking
from test_tracking import describe, log_all
with tracking.live(describe(sys.argv[1])) as log:
    log_all(log)
    print("logged", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def training(store, fingerprint: str, seconds: float = 0) -> subprocess.Popen[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "DVC_ROOT": str(store), "PYTHONWARNINGS": "ignore"}
    code = SCRIPT.format(tests=str(ROOT / "tests"))
    command = [sys.executable, "-c", code, fingerprint, str(seconds)]
    return subprocess.Popen(command, cwd=store, env=env, stdout=subprocess.PIPE, text=True)


def test_eight_trainings_at_once_lose_nothing(store):
    processes = [training(store, f"one of eight {number}") for number in range(8)]
    assert [process.communicate()[0] and process.returncode for process in processes] == [0] * 8
    for number in range(8):
        (run,) = runs(f"one of eight {number}")
        assert run.info.status == "FINISHED"
        assert [steps(run, key) for key in KEYS] == [[1, 2, 3, 4]] * 3


def test_a_killed_training_is_closed_as_killed_and_a_live_one_is_left_alone(store):
    killed, alive = training(store, "killed", 600), training(store, "alive", 600)
    try:
        for process in (killed, alive):
            assert process.stdout is not None
            assert process.stdout.readline() == "logged\n"
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        tracking.close_interrupted()
        assert [run.info.status for run in runs("killed") + runs("alive")] == ["KILLED", "RUNNING"]
    finally:
        for process in (killed, alive):
            process.kill()
            process.communicate()


def test_a_server_that_is_down_costs_one_warning_and_nothing_else(monkeypatch, capfd, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with tracking.live(describe("down")) as log:
        log_all(log)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "make sync" in lines[0]
    assert "http://127.0.0.1:9" in lines[0]


def test_a_moved_project_is_said_and_mended(store, tmp_path, monkeypatch, capfd):
    tracking.complete(describe("moved"), HISTORY, None)
    there = tmp_path / "there"
    there.mkdir()
    shutil.copy(store / "mlflow.db", there)
    monkeypatch.setenv("DVC_ROOT", str(there))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.attempt(lambda: tracking.complete(describe("moved"), HISTORY, None)) is tracking.FAILED
    assert "the project moved" in capfd.readouterr().err
    tracking.mend_moved()
    tracking.complete(describe("moved"), HISTORY, None)
    (run,) = runs("moved")
    assert run.info.artifact_uri.startswith(str(there / "mlruns")) or run.info.artifact_uri.startswith(there.as_uri())
