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


def describe(fingerprint: str, data: str = "a") -> dict:
    return {
        "variant": "ten",
        "hyperparameters": {"classes": 10, "bn": False, "lr": 0.001},
        "groups": [[digit] for digit in range(10)],
        "data": "sample",
        "splits": {"train": f"{data}: train", "validation": f"{data}: validation"},
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
    ends = []
    for _ in range(2):
        with tracking.live(describe("again")) as log:
            log_all(log)
        (run,) = runs("again")
        ends.append(run.info.end_time)
    assert [steps(run, key) for key in KEYS] == [[1, 2, 3, 4]] * 3
    assert run.info.status == "FINISHED"
    assert ends[0] == ends[1] is not None


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
tracking._client()
print("imported", flush=True)
sys.stdin.readline()
with tracking.live(describe(sys.argv[1], sys.argv[2])) as log:
    log_all(log)
    print("logged", flush=True)
    sys.stdin.readline()
"""


@contextlib.contextmanager
def trainings(store, data, *fingerprints):
    """Processes that each log a training, all started at the same moment, and have logged it when the block begins."""
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "DVC_ROOT": str(store), "PYTHONWARNINGS": "ignore"}
    code = SCRIPT.format(tests=str(ROOT / "tests"))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, fingerprint, data],
            cwd=store,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for fingerprint in fingerprints
    ]
    try:
        for word in ("imported\n", "logged\n"):
            assert [process.stdout.readline() for process in processes] == [word] * len(processes)
            if word == "imported\n":
                for process in processes:
                    process.stdin.write("go\n")
                    process.stdin.flush()
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_eight_trainings_at_once_lose_nothing_and_no_word_is_said(store):
    names = [f"one of eight {number}" for number in range(8)]
    with trainings(store, "first logged by one of them", *names) as processes:
        assert [process.communicate("end\n") for process in processes] == [("", None)] * 8
        assert [process.returncode for process in processes] == [0] * 8
    for name in names:
        (run,) = runs(name)
        assert run.info.status == "FINISHED"
        assert [steps(run, key) for key in KEYS] == [[1, 2, 3, 4]] * 3
        assert len(run.data.params) == 5
        assert len(run.inputs.dataset_inputs) == 2


def test_a_run_that_was_begun_and_not_described_is_described(store):
    client = tracking._client()
    run = tracking._create(client, describe("begun"))
    client.log_param(run.info.run_id, "classes", "10")
    tracking.complete(describe("begun"), HISTORY, None)
    (run,) = runs("begun")
    assert run.data.params == {
        "classes": "10",
        "bn": "False",
        "lr": "0.001",
        "groups": "0 1 2 3 4 5 6 7 8 9",
        "data": "sample",
    }
    assert len(run.inputs.dataset_inputs) == 2


def test_a_killed_training_is_closed_as_killed_and_a_live_one_is_left_alone(store):
    with trainings(store, "a", "killed", "alive") as (killed, _):
        killed.kill()
        killed.wait()
        tracking.close_interrupted()
        assert [run.info.status for run in runs("killed") + runs("alive")] == ["KILLED", "RUNNING"]


def test_a_server_that_is_down_costs_one_warning_and_nothing_else(monkeypatch, capfd, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:secret@127.0.0.1:9")
    with tracking.live(describe("down")) as log:
        log_all(log)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "make sync" in lines[0]
    assert "MLflow (http://127.0.0.1:9) failed" in lines[0]
    assert "secret" not in lines[0]


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


def test_what_stops_a_command_waits_until_mlflow_has_finished(store):
    def interrupted():
        os.kill(os.getpid(), signal.SIGINT)
        tracking.complete(describe("stopped"), HISTORY, None)

    with pytest.raises(KeyboardInterrupt):
        tracking.attempt(interrupted)
    (run,) = runs("stopped")
    assert run.info.status == "FINISHED"
