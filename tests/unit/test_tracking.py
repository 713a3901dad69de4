from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from project import ROOT
from quartet.base import errors, process
from quartet.tracking import attempts, runs, store
from quartet.training.record import Epoch, TrainingRecord
from tracked import HISTORY, KEYS, WEIGHTS, WHOLE, describe, found, log_all, steps


@pytest.fixture(scope="module")
def own_store(tmp_path_factory):
    root = tmp_path_factory.mktemp("odd % # näme")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        attempts.initialise()
        yield root


def train(code: str, outcome: runs.Outcome = WHOLE) -> None:
    with runs.live(describe(code), None) as log:
        log_all(log, outcome)


def complete(code: str, colour: str | None = None, outcome: runs.Outcome = WHOLE) -> None:
    runs.complete(describe(code), colour, outcome)


def all_of(code: str) -> list[dict]:
    """All that MLflow holds of the runs of a training."""
    client = store.client()
    return [
        run.to_dictionary()
        | {
            "histories": [
                [(metric.step, metric.value, metric.timestamp) for metric in client.get_metric_history(run.info.run_id, key)]
                for key in run.data.metrics
            ],
            "files": [artifact.path for artifact in client.list_artifacts(run.info.run_id)],
        }
        for run in found(code)
    ]


def test_the_store_is_the_roots_own_unless_another_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert store.uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert store.uri() == "http://127.0.0.1:5000"
    assert store.artifacts() is None


def test_each_epoch_is_in_the_store_before_the_next_one(own_store):
    with runs.live(describe("live"), None) as log:
        (run,) = found("live")
        assert run.info.status == "RUNNING"
        for epoch in HISTORY:
            log(runs.Outcome(HISTORY[: epoch.epoch]))
            assert steps(run) == list(range(1, epoch.epoch + 1))
    (run,) = found("live")
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "ten"
    assert [metric.value for metric in store.client().get_metric_history(run.info.run_id, "val_loss")] == [
        epoch.val_loss for epoch in HISTORY
    ]
    assert run.data.params["groups"] == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert [entry.dataset.name for entry in run.inputs.dataset_inputs] == [
        "UCI digits sample, not MNIST: train",
        "UCI digits sample, not MNIST: validation",
    ]


def test_a_training_done_again_is_the_same_run(own_store):
    """No step is stored twice."""
    train("again")
    before = all_of("again")
    assert [run["info"]["status"] for run in before] == ["FINISHED"]
    with runs.live(describe("again"), None) as log:
        for epoch in HISTORY:
            log(runs.Outcome(HISTORY[: epoch.epoch]))
            assert all_of("again") == before  # it is whole: nothing is written, not even that it runs
        log(WHOLE)
    assert all_of("again") == before
    (run,) = found("again")
    assert [steps(run, key) for key in KEYS] == [[1, 2, 3, 4]] * 3


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt, "KILLED"), (process.Terminated, "KILLED"), (errors.WorkError, "FAILED")]
)
def test_a_training_that_ends_early_goes_on_in_its_own_run(own_store, error, status):
    """Its run says how it ended."""
    name = error.__name__
    with contextlib.suppress(error), runs.live(describe(name), None) as log:
        log(runs.Outcome(HISTORY[:1]))
        raise error
    (run,) = found(name)
    assert run.info.status == status
    with runs.live(describe(name), None) as log:
        log(WHOLE)
    (run,) = found(name)
    assert (run.info.status, steps(run)) == ("FINISHED", [1, 2, 3, 4])


def test_a_training_that_never_ran_here_is_marked_as_restored(own_store):
    """It has one run."""
    for _ in range(2):
        complete("restored")
    (run,) = found("restored")
    assert run.data.tags["restored"] == "true"
    assert (run.info.status, steps(run)) == ("FINISHED", [1, 2, 3, 4])


def test_completing_adds_only_what_is_missing_and_drops_a_double(own_store):
    client = store.client()
    first = runs._create(client, describe("double"), runs._tags(describe("double"), None))
    runs._log_outcome(client, first, {}, runs.Outcome(HISTORY[:2]))
    runs._create(client, describe("double"), runs._tags(describe("double"), None))
    complete("double")
    (run,) = found("double")
    assert run.info.run_id == first.info.run_id
    assert steps(run) == [1, 2, 3, 4]


SCRIPT = """
import sys, time
from quartet.tracking import runs, store
from tracked import describe, log_all
store.client()
print("imported", flush=True)
sys.stdin.readline()
with runs.live(describe(sys.argv[1], sys.argv[2]), None) as log:
    log_all(log)
    print("logged", flush=True)
    sys.stdin.readline()
"""


@contextlib.contextmanager
def trainings(folder, data, *codes):
    """Processes that each log a training, all started at the same moment, and have logged it when the block begins."""
    env = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}", "PYTHONWARNINGS": "ignore"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, code, data],
            cwd=folder,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for code in codes
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


def test_four_trainings_at_once_lose_nothing(own_store):
    """Nothing is printed."""
    names, data = [f"one of four {number}" for number in range(4)], "first logged by one of them"
    with trainings(own_store, data, *names) as processes:
        assert [process.communicate("end\n") for process in processes] == [("", None)] * 4
        assert [process.returncode for process in processes] == [0] * 4
    for name in names:
        (run,) = found(name, data)
        assert run.info.status == "FINISHED"
        assert [steps(run, key) for key in KEYS] == [[1, 2, 3, 4]] * 3
        assert len(run.data.params) == 17
        assert len(run.inputs.dataset_inputs) == 2


def test_a_run_that_was_begun_and_not_described_is_described(own_store):
    client = store.client()
    run = runs._create(client, describe("begun"), runs._tags(describe("begun"), None))
    client.log_param(run.info.run_id, "classes", "10")
    complete("begun")
    (run,) = found("begun")
    assert run.data.params == {
        "classes": "10",
        "bn": "False",
        "epochs": "4",
        "batch_size": "20",
        "lr": "0.001",
        "schedule": "constant",
        "augment": "False",
        "seed": "0",
        "weight_decay": "0.0",
        "label_smoothing": "0.0",
        "ema_decay": "0.0",
        "rotation": "10.0",
        "scaling": "0.1",
        "shift": "2.0",
        "elastic": "0.0",
        "groups": "0, 1, 2, 3, 4, 5, 6, 7, 8, 9",
        "data": "sample",
    }
    assert len(run.inputs.dataset_inputs) == 2


def test_a_killed_training_is_closed_as_killed(own_store):
    """A live one is left alone."""
    with trainings(own_store, "a", "killed", "alive") as (killed, _):
        killed.kill()
        killed.wait()
        runs.close_interrupted()
        assert [run.info.status for run in found("killed") + found("alive")] == ["KILLED", "RUNNING"]


def test_a_server_that_is_down_costs_one_warning_alone(monkeypatch, capfd, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:secret@127.0.0.1:9")
    with runs.live(describe("down"), None) as log:
        log_all(log)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "make sync" in lines[0]
    assert "MLflow (http://***@127.0.0.1:9) failed" in lines[0]
    assert "secret" not in lines[0]


def test_a_moved_project_is_said_and_mended(own_store, tmp_path, monkeypatch, capfd):
    complete("moved")
    there = tmp_path / "there"
    there.mkdir()
    shutil.copy(own_store / "mlflow.db", there)
    monkeypatch.chdir(there)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert attempts.attempt(lambda: complete("moved")) is attempts.FAILED
    assert "the project moved" in capfd.readouterr().err
    store.repair_moved()
    complete("moved")
    (run,) = found("moved")
    assert run.info.artifact_uri.startswith(str(there / "mlruns")) or run.info.artifact_uri.startswith(there.as_uri())


def test_the_projects_own_store_may_be_named_in_other_words(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    for named in ("mlflow.db", "./mlflow.db", f"{tmp_path}/link/mlflow.db", f"{tmp_path}/x/../mlflow.db"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{named}")
        assert store._is_own()
        assert store.uri() == f"sqlite:///{tmp_path}/mlflow.db"
    for named in ("sqlite:///other.db", "sqlite:////mlflow.db", "postgresql:///mlflow.db", "mlflow.db"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", named)
        assert not store._is_own()


@pytest.mark.parametrize(
    ("named", "meant"),
    [
        ("sqlite:///my.db", "sqlite:///{}/my.db"),
        ("sqlite:///kept/my.db?timeout=3", "sqlite:///{}/kept/my.db?timeout=3"),
        ("sqlite:////elsewhere/my.db", "sqlite:////elsewhere/my.db"),
        ("./store", "{}/store"),
        ("file:store", "file://{}/store"),
        ("file:///elsewhere/store", "file:///elsewhere/store"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("postgresql://h/db", "postgresql://h/db"),
        ("databricks", "databricks"),
    ],
)
def test_a_relative_store_is_the_projects_also_in_a_copy(tmp_path, monkeypatch, named, meant):
    copy = tmp_path / ".dvc/tmp/exps/copy"
    copy.mkdir(parents=True)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", named)
    for place in (tmp_path, copy):
        monkeypatch.chdir(place)
        assert store.uri() == meant.format(tmp_path)


def test_a_run_of_a_copy_stays_with_its_files_in_the_project(tmp_path, monkeypatch):
    copy = tmp_path / ".dvc/tmp/exps/copy"
    copy.mkdir(parents=True)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///my.db")
    monkeypatch.chdir(copy)
    drawn = Drawn("of a copy", test_accuracy=0.5)
    complete("a copy")
    runs.log_evaluation(describe("a copy"), WEIGHTS, drawn.evaluation)
    shutil.rmtree(copy)
    monkeypatch.chdir(tmp_path)
    (run,) = found("a copy")
    assert run.info.artifact_uri.startswith((tmp_path / "mlruns").as_uri())
    assert {artifact.path for artifact in store.client().list_artifacts(run.info.run_id)} == set(drawn.evaluation.names)


KEEP = """
import os, sys
from quartet.tracking import attempts, store
for place in sys.argv[2:]:
    os.chdir(place)
    attempts.initialise()
    client = store.client()
    run = client.create_run(store.experiment_id(client)).info.run_id
    client.log_artifact(run, sys.argv[1])
    assert [artifact.path for artifact in client.list_artifacts(run)] == [os.path.basename(sys.argv[1])]
    client = store.client()
    assert client.get_run(run).info.status == "RUNNING"
"""


@pytest.mark.parametrize("name", ['a?b"c', "a%20b", "ü [x] {y} #z'$`;&"])
def test_the_store_is_in_the_project_whatever_its_path(tmp_path, name):
    root = tmp_path / "outer" / name / "project"
    copy = root / ".dvc/tmp/exps/copy"
    copy.mkdir(parents=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    env = kept | {"DVC_ROOT": str(root), "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-W", "ignore", "-c", KEEP, __file__, root, copy]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.relative_to(tmp_path / "outer") for path in (tmp_path / "outer").rglob("*.db")] == [
        Path(name, "project/mlflow.db")
    ]
    assert [path.name for path in (tmp_path / "outer").iterdir()] == [name]


@pytest.fixture
def addresses(own_store, tmp_path, monkeypatch):
    """A store that was moved from `before`: has it mended, and returns the address of a run that had this one."""
    here = tmp_path / "here"
    (here / "mlruns").mkdir(parents=True)
    before = tmp_path / "before/mlruns"
    shutil.copy(own_store / "mlflow.db", here)
    monkeypatch.chdir(here)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def mended(address: str, experiment: str = "") -> str:
        with contextlib.closing(sqlite3.connect("mlflow.db")) as connection, connection:
            connection.execute("UPDATE experiments SET artifact_location = ?", (experiment or before.as_uri(),))
            connection.execute("DELETE FROM runs")
            connection.execute("INSERT INTO runs (run_uuid, artifact_uri) VALUES ('one', ?)", (address,))
        store.repair_moved()
        with contextlib.closing(sqlite3.connect("mlflow.db")) as connection:
            return connection.execute("SELECT artifact_uri FROM runs").fetchone()[0]

    return mended, before, here / "mlruns"


def test_an_address_is_changed_if_its_files_are_here(addresses):
    mended, before, here = addresses
    (here / "one/artifacts").mkdir(parents=True)
    moved = (here / "one/artifacts").as_uri()
    assert mended((before / "one/artifacts").as_uri()) == moved
    assert mended(str(before / "one/artifacts")) == moved
    (before / "one/artifacts").mkdir(parents=True)  # a copy uses its own
    assert mended((before / "one/artifacts").as_uri()) == moved


def test_an_address_of_nothing_is_changed(addresses):
    mended, before, here = addresses
    assert mended((before / "one/artifacts").as_uri()) == (here / "one/artifacts").as_uri()


def test_an_address_stays_if_its_files_are_there_alone(addresses):
    mended, before, _ = addresses
    (before / "one/artifacts").mkdir(parents=True)
    address = (before / "one/artifacts").as_uri()
    assert mended(address) == address


@pytest.mark.parametrize("other", ["-old/one/artifacts", "/../mlruns2/one/artifacts"])
def test_an_address_beside_the_old_place_stays(addresses, other):
    mended, before, here = addresses
    (here / "one/artifacts").mkdir(parents=True)
    address = f"{before.as_uri()}{other}"
    assert mended(address) == address


@pytest.mark.parametrize("foreign", ["s3://bucket/mlruns/1", "mlflow-artifacts:/1", "file://host/mlruns"])
def test_a_foreign_address_is_not_taken_for_moved(addresses, foreign):
    mended, _, _ = addresses
    assert mended(f"{foreign}/one/artifacts", experiment=foreign) == f"{foreign}/one/artifacts"
    client = store.client()
    assert store.experiment_id(client) == client.get_experiment_by_name(store.EXPERIMENT).experiment_id


def test_a_run_has_the_colour_of_its_training(own_store):
    with runs.live(describe("coloured"), "#2b6cb0") as log:
        log_all(log)
    complete("restored and coloured", "#dd6b20")
    complete("without")
    codes = ("coloured", "restored and coloured", "without")
    assert [run.data.tags.get("mlflow.runColor") for code in codes for run in found(code)] == ["#2b6cb0", "#dd6b20", None]


class Drawn:
    """An evaluation, and how many times its files were drawn."""

    def __init__(self, digest: str, **metrics: float) -> None:
        self.times = 0
        self.evaluation = runs.Evaluation(metrics, digest, ("confusion.png", "per_class.csv"), self.draw)

    def draw(self) -> dict[str, bytes]:
        self.times += 1
        return {"confusion.png": self.evaluation.digest.encode(), "per_class.csv": b"class"}


def values(run, key: str) -> list[float]:
    return [metric.value for metric in store.client().get_metric_history(run.info.run_id, key)]


def artifacts(run) -> list[str]:
    return [artifact.path for artifact in store.client().list_artifacts(run.info.run_id)]


def test_an_evaluation_is_logged_and_drawn_once(own_store):
    drawn = Drawn("first", test_accuracy=0.5, test_loss=1.5)
    for _ in range(3):
        complete("evaluated")
        runs.log_evaluation(describe("evaluated"), WEIGHTS, drawn.evaluation)
    assert drawn.times == 1
    (run,) = found("evaluated")
    assert (values(run, "test_accuracy"), values(run, "test_loss")) == ([0.5], [1.5])
    assert artifacts(run) == ["confusion.png", "per_class.csv"]
    assert run.info.status == "FINISHED"


def test_another_evaluation_of_the_same_model_takes_its_place(own_store, tmp_path):
    before, after = Drawn("before", test_accuracy=0.5, test_loss=1.5), Drawn("after", test_accuracy=0.75, test_loss=1.5)
    for drawn in (before, after, after):
        complete("again evaluated")
        runs.log_evaluation(describe("again evaluated"), WEIGHTS, drawn.evaluation)
    assert (before.times, after.times) == (1, 1)
    (run,) = found("again evaluated")
    assert (values(run, "test_accuracy"), values(run, "test_loss")) == ([0.5, 0.75], [1.5])
    picture = store.client().download_artifacts(run.info.run_id, "confusion.png", str(tmp_path))
    assert Path(picture).read_bytes() == b"after"


def test_an_evaluation_that_was_cut_off_is_logged_whole_later(own_store):
    def fail() -> dict[str, bytes]:
        raise OSError("no room for the picture")

    cut = runs.Evaluation({"test_accuracy": 0.5}, "cut", ("confusion.png", "per_class.csv"), fail)
    complete("cut off")
    with pytest.raises(OSError, match="no room"):
        runs.log_evaluation(describe("cut off"), WEIGHTS, cut)
    drawn = Drawn("cut", test_accuracy=0.5)
    runs.log_evaluation(describe("cut off"), WEIGHTS, drawn.evaluation)
    assert drawn.times == 1
    (run,) = found("cut off")
    assert values(run, "test_accuracy") == [0.5]
    assert artifacts(run) == ["confusion.png", "per_class.csv"]


def test_what_stops_a_command_waits_until_mlflow_has_finished(own_store):
    def interrupted():
        os.kill(os.getpid(), signal.SIGINT)
        complete("stopped")

    with pytest.raises(KeyboardInterrupt):
        attempts.attempt(interrupted)
    (run,) = found("stopped")
    assert run.info.status == "FINISHED"


def test_a_clock_that_is_set_back_makes_no_negative_duration(own_store, monkeypatch):
    now = time.time
    with runs.live(describe("clock"), None) as log:
        log_all(log)
        monkeypatch.setattr(runs.time, "time", lambda: now() - 3600)
    (run,) = found("clock")
    assert run.info.status == "FINISHED"
    assert run.info.end_time == run.info.start_time


def named(record_name: str, code: str) -> TrainingRecord:
    return dataclasses.replace(describe(code), name=record_name)


@pytest.mark.parametrize(
    ("training", "experiment", "name"),
    [("trial", "quick-fox", "quick-fox"), ("trial", "", "trial"), ("ten", "quick-fox", "ten"), ("ten", "", "ten")],
)
def test_the_runs_of_a_trial_are_called_after_their_experiments(own_store, monkeypatch, training, experiment, name):
    monkeypatch.setenv("DVC_EXP_NAME", experiment)
    record = named(training, f"{training} of {experiment}")
    with runs.live(record, None) as log:
        log_all(log)
    (run,) = runs._find(store.client(), record, runs.Outcome())
    assert run.info.run_name == name
    note = run.data.tags["mlflow.note.content"]
    assert note.startswith("A trial, trained on" if training == "trial" else "Variant ten of the report's model, trained on")
    assert "UCI digits sample, not MNIST" in note
    assert "lr 0.001" in note


def test_an_experiment_takes_no_run_of_another(own_store, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "first")
    train("used again")
    before = all_of("used again")
    monkeypatch.setenv("DVC_EXP_NAME", "second")
    train("used again")
    complete("used again")
    assert all_of("used again") == before
    assert before[0]["data"]["tags"]["dvc.exp.name"] == "first"


def test_the_experiment_keeps_what_a_user_writes(own_store):
    """It says what it has."""
    client = store.client()
    number = store.experiment_id(client)
    assert client.get_experiment(number).tags["mlflow.note.content"] == store.NOTES[store.EXPERIMENT]
    client.set_experiment_tag(number, "mlflow.note.content", "mine")
    assert store.experiment_id(client) == number
    assert client.get_experiment(number).tags["mlflow.note.content"] == "mine"


@pytest.mark.parametrize(
    ("changed", "is_dirty"),
    [("src/code.py", True), ("src/new.py", True), ("dvc.yaml", True), ("params.yaml", False), ("README.md", False)],
)
def test_code_that_is_not_the_commits_is_tagged_as_such(tmp_path, monkeypatch, changed, is_dirty):
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    (tmp_path / "src").mkdir()
    for name in ("src/code.py", "dvc.yaml", "params.yaml", "README.md"):
        (tmp_path / name).write_text("as committed", encoding="utf-8")
    subprocess.run(["git", "add", "-A"], check=True)
    author = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    subprocess.run(["git", *author, "commit", "-qm", "Start"], check=True)
    assert "mlflow.source.git.dirty" not in runs._tags(describe("clean"), None)
    (tmp_path / changed).write_text("changed", encoding="utf-8")
    assert (runs._tags(describe("changed"), None).get("mlflow.source.git.dirty") == "true") == is_dirty


# The same settings, data and code come to other weights where the processor rounds otherwise.

OTHER_HISTORY = [Epoch(number, 1.5 / number, 2.5 / number, 1 - 1 / (2 + number)) for number in range(1, 5)]
OTHER = runs.Outcome(OTHER_HISTORY, "b" * 64)


def outcomes(code: str) -> list[runs.Outcome]:
    """What the runs of a training say that it came to; each has ended well and has each step once."""
    told = []
    for run in found(code):
        assert run.info.status == "FINISHED"
        logged = [store.client().get_metric_history(run.info.run_id, key) for key in KEYS]
        assert [[metric.step for metric in history] for history in logged] == [[1, 2, 3, 4]] * 3
        columns = [[metric.value for metric in history] for history in logged]
        epochs = [Epoch(*row) for row in zip(range(1, 5), *columns, strict=True)]
        told.append(runs.Outcome(epochs, run.data.tags["weights"]))
    return told


SAME_HISTORY = WHOLE._replace(weights="c" * 64)  # it holds six digits
LATE = runs.Outcome([*HISTORY[:2], *OTHER_HISTORY[2:]], "d" * 64)


@pytest.mark.parametrize("other", [OTHER, SAME_HISTORY, LATE], ids=["all differs", "the weights alone", "from epoch 3 on"])
def test_each_outcome_of_a_training_has_its_own_run(own_store, other):
    code = f"came to {other.weights}"
    train(code)
    (first,) = all_of(code)
    train(code, other)
    assert outcomes(code) == [WHOLE, other]
    both = all_of(code)
    assert both[0] == first
    for again in (WHOLE, other, WHOLE):
        train(code, again)
        complete(code, outcome=again)
        assert all_of(code) == both
    drawn_of_one, drawn_of_other = Drawn("of one", test_accuracy=0.5), Drawn("of the other", test_accuracy=0.75)
    for outcome, drawn in [(WHOLE, drawn_of_one), (other, drawn_of_other)] * 2:
        runs.log_evaluation(describe(code), outcome.weights, drawn.evaluation)
        assert drawn.times == 1
    assert [values(run, "test_accuracy") for run in found(code)] == [[0.5], [0.75]]
    assert [run.data.tags["evaluation"] for run in found(code)] == ["of one", "of the other"]
    assert outcomes(code) == [WHOLE, other]


def test_a_restored_training_of_other_weights_has_its_own_run(own_store):
    code = "restored beside another"
    train(code)
    before = all_of(code)
    for _ in range(2):
        complete(code, outcome=OTHER)
    assert outcomes(code) == [WHOLE, OTHER]
    assert all_of(code)[:1] == before
    assert [run.data.tags.get("restored") for run in found(code)] == [None, "true"]


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt, "KILLED"), (process.Terminated, "KILLED"), (errors.WorkError, "FAILED")]
)
def test_epochs_of_other_values_stay_in_their_own_run(own_store, monkeypatch, error, status):
    code = f"other epochs, {error.__name__}"
    with contextlib.suppress(error), runs.live(describe(code), None) as log:
        log(runs.Outcome(OTHER_HISTORY[:2]))
        raise error
    (before,) = all_of(code)
    assert before["info"]["status"] == status
    monkeypatch.setenv("DVC_EXP_NAME", "another-one")
    train(code)
    monkeypatch.undo()
    assert all_of(code)[:1] == [before]
    new = found(code)[1]
    assert new.info.status == "FINISHED"
    assert [values(new, key) for key in KEYS] == [[epoch[place] for epoch in HISTORY] for place in (1, 2, 3)]
    assert new.data.tags["weights"] == WEIGHTS
    train(code, OTHER)  # where it goes on in its own run after all
    assert [(run.info.status, run.data.tags["weights"]) for run in found(code)] == [
        ("FINISHED", OTHER.weights),
        ("FINISHED", WEIGHTS),
    ]


def test_a_stop_of_the_same_training_leaves_a_whole_run_whole(own_store):
    code = "stopped again"
    train(code)
    before = all_of(code)
    for error in (KeyboardInterrupt, errors.WorkError):
        with contextlib.suppress(error), runs.live(describe(code), None) as log:
            log(runs.Outcome(HISTORY[:2]))
            raise error
        assert all_of(code) == before


@pytest.mark.parametrize("other", [OTHER, SAME_HISTORY], ids=["all differs", "the weights alone"])
def test_a_run_that_another_completes_meanwhile_stays(own_store, other):
    """As `make sync` does in another clone, on another processor, with the same server."""
    code = f"completed meanwhile: {other.weights}"
    with runs.live(describe(code), None) as log:
        complete(code, outcome=other)
        before = all_of(code)
        log_all(log)
    assert all_of(code)[:1] == before
    assert outcomes(code) == [other, WHOLE]


@pytest.mark.parametrize("other", [OTHER, SAME_HISTORY], ids=["all differs", "the weights alone"])
def test_two_at_once_that_differ_end_with_two_runs(own_store, other):
    code = f"at once: {other.weights}"
    with runs.live(describe(code), None) as log, runs.live(describe(code), None) as log_other:
        for number in range(1, 5):
            log(runs.Outcome(HISTORY[:number]))
            log_other(runs.Outcome(other.epochs[:number]))
        log(WHOLE)
        log_other(other)
    assert outcomes(code) == [WHOLE, other]
