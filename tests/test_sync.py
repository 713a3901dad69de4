"""`make sync`, on the project whose pipeline has run."""

from __future__ import annotations

import signal

import mlflow
import pytest

from test_pipeline import TRAININGS, runs

# One worker runs all that shares the finished project.
pytestmark = pytest.mark.xdist_group("finished")


def test_a_second_sync_changes_nothing(finished):
    before = runs(finished)
    done = finished.stage("sync")
    assert done.returncode == 0, done.stdout
    assert "agrees with stages/" in done.stdout
    assert runs(finished) == before


def test_a_lost_store_is_made_again_from_what_dvc_has(finished, tmp_path):
    uri = f"sqlite:///{tmp_path}/other.db"
    for _ in range(2):
        done = finished.stage("sync", MLFLOW_TRACKING_URI=uri)
        assert done.returncode == 0, done.stdout
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
    done = finished.stage("sync", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert done.returncode == 1
    assert done.stdout.count("quartet: warning:") == done.stdout.count("quartet: error:") == 1
    assert "Traceback" not in done.stdout


NAMED = """
import sys
from quartet import sync
with sync.beside() as ready:
    ready("four")
    {last}
"""


@pytest.mark.parametrize(
    ("last", "status", "named"),
    [
        ("ready('ten')", 0, ["four", "ten"]),
        ("sys.exit(7)", 7, ["four"]),
        ("import os; os.kill(os.getpid(), 9)", -9, ["four"]),
    ],
)
def test_the_process_beside_an_evaluation_takes_what_it_names_and_ends_with_it(finished, tmp_path, last, status, named):
    uri = f"sqlite:///{tmp_path}/other.db"
    # The output is complete when the last process that could write to it has ended.
    done = finished.run("python", "-c", NAMED.format(last=last), check=False, PYTHONPATH="src", MLFLOW_TRACKING_URI=uri)
    assert done.returncode == status, done.stdout
    assert "Traceback" not in done.stdout
    assert sorted(run["name"] for run in runs(finished, uri=uri)) == named


def test_where_the_process_beside_is_killed_the_evaluation_goes_on(finished, tmp_path):
    kill = "import psutil, time; psutil.Process().children()[0].kill(); time.sleep(1); ready('ten'); print('evaluated')"
    code = NAMED.format(last=kill)
    done = finished.run("python", "-c", code, PYTHONPATH="src", MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/other.db")
    assert "MLflow's process ended with status -9" in done.stdout
    assert done.stdout.count("quartet: warning:") == 1
    assert "evaluated" in done.stdout


KILLED = """
import os, signal
import mlflow.pytorch
from quartet import sync
mlflow.pytorch.save_model = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
sync.bring_up_to_date(["four"])
"""


def test_a_model_that_a_kill_left_half_logged_is_logged_whole_by_the_next_sync(finished, tmp_path):
    uri = f"sqlite:///{tmp_path}/other.db"
    done = finished.run("python", "-c", KILLED, check=False, PYTHONPATH="src", MLFLOW_TRACKING_URI=uri)
    assert done.returncode == -signal.SIGKILL, done.stdout

    def models() -> list[str]:
        client = mlflow.MlflowClient(uri)
        experiment = client.get_experiment_by_name("mnist-quartet")
        return [str(model.status) for model in client.search_logged_models([experiment.experiment_id], "name = 'model'")]

    assert models() == ["PENDING"]
    code = "from quartet import sync; sync.bring_up_to_date(['four'])"
    for _ in range(2):
        finished.run("python", "-c", code, PYTHONPATH="src", MLFLOW_TRACKING_URI=uri)
        assert models() == ["READY"]


def test_where_mlflow_fails_the_evaluation_beside_it_goes_on(finished):
    code = NAMED.format(last="time.sleep(12); ready('ten'); ready('trial'); print('evaluated')")
    done = finished.run("python", "-c", f"import time{code}", PYTHONPATH="src", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert done.stdout.count("quartet: warning:") == 1
    assert "evaluated" in done.stdout
