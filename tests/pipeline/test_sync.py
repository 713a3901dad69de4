"""`make sync`, on the project whose pipeline has run."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import re
import shutil
import signal
import sqlite3

import mlflow
import pytest
import safetensors.torch
import torch

from project import EPOCHS, TRAININGS, Project, keep_ten_alone, runs
from quartet.commands import pipeline_runs, sync
from quartet.reporting import figures

# One worker runs all that shares this copy of the finished project.
pytestmark = pytest.mark.xdist_group("finished copy")


@pytest.fixture
def bring_up(finished, within):
    """Bring the run of `four`, or of others, up to date in a store, with the files of the finished project."""

    def bring(uri: str, *names: str) -> bool:
        return within(finished, pipeline_runs.bring_up_to_date, names or ["four"], uri=uri)

    return bring


@pytest.fixture
def other(template, tmp_path):
    """The address of a new store that is not the project's."""
    shutil.copy(template, tmp_path / "other.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as database, database:
        database.execute("UPDATE experiments SET artifact_location = ?", ((tmp_path / "artifacts").as_uri(),))
    return f"sqlite:///{tmp_path}/other.db"


FILES = ["confusion.png", "loss.png", "per_class.csv", "summary.json"]
ONE = "from quartet.commands import pipeline_runs; pipeline_runs.bring_up_to_date(['four'])"


def test_a_second_sync_changes_nothing(finished, within, capfd):
    before = runs(finished)
    within(finished, sync.main, [])
    assert "agrees with stages/" in capfd.readouterr().out
    assert runs(finished) == before


def test_a_lost_store_is_made_again_from_what_dvc_has(finished, within, capfd, tmp_path):
    """As `make` does at its end."""
    uri = f"sqlite:///{tmp_path}/other.db"
    within(finished, sync.main, ["--missing"], uri=uri)
    assert "agrees with stages/" in capfd.readouterr().out
    within(finished, sync.main, ["--missing"], uri=uri)
    assert capfd.readouterr() == ("", "")
    found = {run["name"]: run for run in runs(finished, uri=uri)}
    assert sorted(found) == sorted(TRAININGS)
    original = {run["tags"]["fingerprint"]: run for run in runs(finished)}
    for run in found.values():
        assert run["tags"]["restored"] == "true"
        same = original[run["tags"]["fingerprint"]]
        assert {key: sorted(steps) for key, steps in run["steps"].items()} == {
            key: sorted(steps) for key, steps in same["steps"].items()
        }
        assert (run["metrics"], run["params"], run["artifacts"]) == (same["metrics"], same["params"], same["artifacts"])


def test_a_store_that_cannot_be_reached_is_an_error_in_one_line(finished):
    done = finished.quartet("sync", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert done.returncode == 1
    assert done.stdout.count("quartet: warning:") == done.stdout.count("quartet: error:") == 1
    assert "Traceback" not in done.stdout


NAMED = """
import sys
from quartet.commands import pipeline_runs
with pipeline_runs.beside() as tell:
    tell("four")
    {last}
"""


@pytest.mark.parametrize(
    ("last", "status", "named", "evaluated"),
    [
        ("tell('ten'); tell(pipeline_runs.EVALUATED)", 0, ["four", "ten"], True),
        ("import os; os.kill(os.getpid(), 9)", -9, ["four"], False),
    ],
)
def test_the_process_beside_takes_what_it_is_told_and_ends(finished, other, last, status, named, evaluated):
    # The output is complete when the last process that could write to it has ended.
    done = finished.run("python", "-c", NAMED.format(last=last), check=False, PYTHONPATH="src", MLFLOW_TRACKING_URI=other)
    assert done.returncode == status, done.stdout
    assert "Traceback" not in done.stdout
    found = runs(finished, uri=other)
    assert sorted(run["name"] for run in found) == named
    metrics = json.loads((finished.root / "stages/evaluate/scores.json").read_bytes())
    for run in found:
        assert len(run["models"]) == 1
        assert sorted(run["artifacts"]) == (FILES if evaluated else [])
        logged = {key: value for key, value in run["metrics"].items() if key.startswith("test_")}
        expected = {f"test_{key}": value for key, value in metrics[run["name"]].items() if isinstance(value, float)}
        expected["test_error"] = round(100 - 100 * expected["test_accuracy"], 6)  # percent
        assert logged == (expected if evaluated else {})


def test_the_pictures_are_drawn_only_for_a_run_that_lacks_them(finished, bring_up, other, capfd):
    with pytest.MonkeyPatch.context() as unable_to_draw:
        unable_to_draw.setattr(figures, "losses", None)
        unable_to_draw.setattr(figures, "confusions", None)
        assert bring_up(f"sqlite:///{finished.root}/mlflow.db")
        assert not bring_up(other)
    assert "'NoneType' object is not callable" in capfd.readouterr().err
    assert bring_up(other)
    (run,) = runs(finished, uri=other)
    assert sorted(run["artifacts"]) == FILES


def test_the_evaluation_goes_on_if_the_process_beside_is_killed(finished, other):
    kill = "import psutil, time; psutil.Process().children()[0].kill(); time.sleep(1); tell('ten'); print('evaluated')"
    code = NAMED.format(last=kill)
    done = finished.run("python", "-c", code, PYTHONPATH="src", MLFLOW_TRACKING_URI=other)
    assert "MLflow's process ended with status -9" in done.stdout
    assert done.stdout.count("quartet: warning:") == 1
    assert "evaluated" in done.stdout


KILLED = """
import os, signal
import mlflow.pytorch
from quartet.commands import pipeline_runs
mlflow.pytorch.save_model = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
pipeline_runs.bring_up_to_date(["four"])
"""


def test_a_half_logged_model_is_logged_whole_by_the_next_sync(finished, bring_up, other):
    """A kill left it so."""
    done = finished.run("python", "-c", KILLED, check=False, PYTHONPATH="src", MLFLOW_TRACKING_URI=other)
    assert done.returncode == -signal.SIGKILL, done.stdout

    def models() -> list[str]:
        client = mlflow.MlflowClient(other)
        experiment = client.get_experiment_by_name("mnist-quartet")
        return [str(model.status) for model in client.search_logged_models([experiment.experiment_id], "name = 'four'")]

    assert models() == ["PENDING"]
    for _ in range(2):
        assert bring_up(other)
        assert models() == ["READY"]


def test_the_evaluation_goes_on_if_mlflow_fails_beside_it(finished):
    code = NAMED.format(last="time.sleep(6); tell('ten'); tell('trial'); tell(pipeline_runs.EVALUATED); print('evaluated')")
    done = finished.run("python", "-c", f"import time{code}", PYTHONPATH="src", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert done.stdout.count("quartet: warning:") == 1
    assert "evaluated" in done.stdout


def test_an_old_evaluation_is_not_logged_for_other_weights(finished, bring_up, other):
    """As after a trial that was trained with other settings and not yet evaluated."""
    settings = finished.root / "params.yaml"
    text = settings.read_text(encoding="utf-8")
    settings.write_text(re.sub(r"(?m)^seed: 0", "seed: 3", re.sub(r"(?m)^epochs: .*", "epochs: 1", text)), encoding="utf-8")
    try:
        assert finished.stage("train", "trial", MLFLOW_TRACKING_URI=other).returncode == 0
        assert bring_up(other, "four", "trial")
    finally:
        finished.run("git", "checkout", "-q", "params.yaml")
        finished.run("dvc", "checkout", "--force")
    found = {run["name"]: run for run in runs(finished, uri=other)}
    assert [name for name in ("four", "trial") if "test_accuracy" not in found[name]["metrics"]] == ["trial"]
    assert found["trial"]["params"]["seed"] == "3"


def test_artifacts_that_are_lost_are_logged_again(finished, bring_up, tmp_path):
    uri = f"sqlite:///{tmp_path}/other.db"
    (tmp_path / "store").mkdir()
    client = mlflow.MlflowClient(uri)
    client.create_experiment("mnist-quartet", artifact_location=(tmp_path / "store").as_uri())
    assert bring_up(uri)
    (before,) = runs(finished, uri=uri)
    shutil.rmtree(tmp_path / "store")
    assert bring_up(uri)
    (run,) = runs(finished, uri=uri)
    assert run["id"] == before["id"]
    assert sorted(run["artifacts"]) == FILES
    (logged,) = client.search_logged_models([client.get_experiment_by_name("mnist-quartet").experiment_id])
    assert client.list_logged_model_artifacts(logged.model_id)
    assert bring_up(uri)
    (again,) = client.search_logged_models([client.get_experiment_by_name("mnist-quartet").experiment_id])
    assert again.model_id == logged.model_id


def test_a_store_named_in_other_words_keeps_its_addresses(finished, within, tmp_path):
    """`MLFLOW_TRACKING_URI=sqlite:///mlflow.db` names the project's own store as well."""
    root = tmp_path / "project"
    shutil.copytree(finished.root / "stages", root / "stages")
    shutil.copy(finished.root / "params.yaml", root)
    copy = Project(root, tmp_path)
    for uri in ("sqlite:///mlflow.db", ""):
        assert within(copy, pipeline_runs.bring_up_to_date, ["four"], uri=uri)
        (run,) = runs(copy)
        assert sorted(run["artifacts"]) == FILES
        assert len(run["models"]) == 1


def test_two_at_once_make_one_run_with_one_model(finished, other):
    """As two queued experiments of equal parameters do."""
    client = mlflow.MlflowClient(other)
    experiment = client.get_experiment_by_name("mnist-quartet").experiment_id
    both = [
        finished.start("python", "-W", "ignore", "-c", ONE, PYTHONPATH="src", MLFLOW_TRACKING_URI=other) for _ in range(2)
    ]
    assert [process.communicate()[0] for process in both] == ["", ""]
    (run,) = client.search_runs([experiment], run_view_type=mlflow.entities.ViewType.ALL)
    assert run.info.status == "FINISHED"
    assert len(client.search_logged_models([experiment])) == 1
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "val_loss")] == list(range(1, EPOCHS + 1))
    assert len(client.get_metric_history(run.info.run_id, "test_accuracy")) == 1


# What makes the same settings, data and code come to other weights: a processor that rounds otherwise, as these say.
OTHERWISE = {"QUARTET_NUMERIC_CONTRACT": "off", "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}


def digests(state: dict[str, torch.Tensor]) -> list[str]:
    """The SHA-256 of each tensor, sorted."""
    return sorted(hashlib.sha256(value.detach().contiguous().numpy().tobytes()).hexdigest() for value in state.values())


def test_other_weights_of_the_same_training_have_their_own_run(finished, within, tmp_path):
    """Each run has the history, the model and the test metrics of the same weights."""
    root, home = tmp_path / "project", tmp_path / "home"
    home.mkdir()
    for name in ("src", "data/split", "stages/train/ten", "stages/train/trial", "stages/evaluate"):
        shutil.copytree(finished.root / name, root / name)
    shutil.copy(finished.root / "params.yaml", root)
    keep_ten_alone(root / "params.yaml")
    project = Project(root, home)

    def came_to() -> tuple[bytes, list[dict], dict]:
        model, history = ((root / "stages/train/ten" / name).read_bytes() for name in ("model.safetensors", "history.csv"))
        evaluated = json.loads((root / "stages/evaluate/scores.json").read_bytes())["ten"]
        return model, list(csv.DictReader(io.StringIO(history.decode()))), evaluated

    within(project, sync.main, [])
    before = {run["name"]: run for run in runs(project)}
    assert sorted(before) == ["ten", "trial"]
    outcomes = [came_to()]
    done = project.stage("train", "ten", **OTHERWISE)
    assert done.returncode == 0, done.stdout
    if (root / "stages/train/ten/model.safetensors").read_bytes() == outcomes[0][0]:
        pytest.skip("this processor trains to the same bytes with and without the numeric contract")
    done = project.stage("evaluate", **OTHERWISE)
    assert done.returncode == 0, done.stdout
    outcomes.append(came_to())
    evaluated = runs(project)
    within(project, sync.main, [])
    assert runs(project) == evaluated

    assert sorted(run["name"] for run in evaluated) == ["ten", "ten", "trial"]
    ten = {run["tags"]["weights"]: run for run in evaluated if run["name"] == "ten"}
    assert len({run["tags"]["fingerprint"] for run in ten.values()}) == 1
    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    for weights, history, metrics in outcomes:
        run = ten.pop(hashlib.sha256(weights).hexdigest())
        assert run["status"] == "FINISHED"
        (model,) = run["models"]
        (packed,) = (root / f"mlruns/models/{model}").rglob("*.pt2")
        assert digests(torch.export.load(packed).state_dict) == digests(safetensors.torch.load(weights))
        for key in ("train_loss", "val_loss", "val_accuracy"):
            logged = {metric.step: metric.value for metric in client.get_metric_history(run["id"], key)}
            assert logged == {int(row["epoch"]): float(row[key]) for row in history}
        for key in ("accuracy", "loss", "macro_f1"):
            (metric,) = client.get_metric_history(run["id"], f"test_{key}")
            assert metric.value == metrics[key]
        assert sorted(run["artifacts"]) == FILES
    assert before["ten"] in evaluated
