"""`quartet sweep` on the sample, with real Ray tasks: kills change nothing, and the test set is read last."""

from __future__ import annotations

import csv
import shutil

import mlflow
import pytest
import yaml

from project import Project, clone, copy_of, read_until, started
from quartet.base import files, paths

pytestmark = pytest.mark.cluster

SWEEP = {
    "seed": 0,
    "trials": 6,
    "at_once": 2,
    "seeds": 2,
    "epochs": 2,  # the trial's own number is 1
    "finalists": 2,
    "final_epochs": 3,
    "fresh_seeds": 2,
    "base": {"bn": True, "augment": True},
    "before": {"augment": False},
    "space": {"lr": {"low": 0.001, "high": 0.1, "log": True}, "ema_decay": [0.0, 0.9]},
}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A project that is to search."""
    project = clone(tmp_path_factory.mktemp("fresh"), epochs=1)
    project.env["RAY_worker_niceness"] = "0"  # else a busy machine leaves it waiting
    path = project.root / paths.STUDY_PARAMS
    content = yaml.safe_load(path.read_text(encoding="utf-8")) | {"sweep": SWEEP}
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    project.run("dvc", "repro", "preprocess")
    project.run("git", "add", "-A")
    project.run("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", "Search")
    return project


def copied(project: Project, folder) -> Project:
    copy = copy_of(project, folder)
    copy.env["RAY_worker_niceness"] = "0"
    return copy


@pytest.fixture(scope="module")
def searched(fresh, tmp_path_factory):
    project = copied(fresh, tmp_path_factory.mktemp("searched"))
    done = project.quartet("sweep")
    assert done.returncode == 0, done.stdout
    project.said = done.stdout
    return project


def results(project: Project) -> dict[str, object]:
    """What a search came to, but for the time that its trainings took."""
    rows = {path.name: files.read_csv(path) for path in (project.root / paths.SWEEP).glob("*.csv")}
    return {name: [{**row, "seconds": ""} for row in table] for name, table in rows.items()}


def test_a_search_says_what_each_trial_came_to(searched):
    lines = searched.said.splitlines()
    assert lines[0] == "sweep: 6 trials, 0 of them done before"
    for row in files.read_csv(searched.root / paths.SWEEP_TRIALS):
        (line,) = [line for line in lines if line.startswith(f"sweep: trial {row['trial']}: ")]
        assert line.startswith(
            f"sweep: trial {row['trial']}: {float(row['mean']):.2f} % (2 seeds) lr={row['lr']} ema_decay="
        )
    page = (searched.root / paths.RECIPE).read_text(encoding="utf-8")
    assert page.startswith("# The recipe that the search found (UCI digits sample, not MNIST)\n")
    assert "6 trials of 2 epochs, 0 of them stopped" in page


def test_it_is_in_mlflow_as_a_run_with_its_trials_below(searched):
    client = mlflow.MlflowClient(f"sqlite:///{searched.root}/mlflow.db")
    experiment = client.get_experiment_by_name("mnist-quartet-study").experiment_id
    found = client.search_runs([experiment])
    (parent,) = [run for run in found if run.info.run_name == "sweep"]
    trials = {run.info.run_name: run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id}
    assert {run.info.status for run in found} == {"FINISHED"}
    assert {artifact.path for artifact in client.list_artifacts(parent.info.run_id)} == {
        "history.png",
        "importance.png",
        "recipe.md",
    }
    rows = files.read_csv(searched.root / paths.SWEEP_TRIALS)
    assert sorted(trials) == sorted(f"trial {row['trial']}" for row in rows)
    for row in rows:
        run = trials[f"trial {row['trial']}"]
        assert run.data.params == {"lr": row["lr"], "ema_decay": row["ema_decay"]}
        assert f"{100 * run.data.metrics['val_accuracy_mean']:.4f}" == row["mean"]
        assert len(client.get_metric_history(run.info.run_id, "val_accuracy")) == 2


def test_what_was_found_is_an_experiment_of_dvcs(searched):
    assert "sweep: `dvc exp apply recipe` makes it the trial" in searched.said
    assert searched.run("git", "status", "--porcelain", "params.yaml").stdout == ""
    best = max(files.read_csv(searched.root / paths.SWEEP_TRIALS), key=lambda row: float(row["mean"]))
    shown = csv.DictReader(searched.run("dvc", "exp", "show", "--csv").stdout.splitlines())
    (row,) = [row for row in shown if row["Experiment"] == "recipe"]
    assert {name: float(row[name]) for name in ("lr", "ema_decay")} == {
        name: float(best[name]) for name in ("lr", "ema_decay")
    }
    report = yaml.safe_load((searched.root / "params.yaml").read_text(encoding="utf-8"))["report"]
    assert (row["bn"], row["augment"], row["epochs"]) == ("True", "True", "2")
    assert (row["batch_size"], row["schedule"]) == (str(report["batch_size"]), report["schedule"])


def test_a_killed_search_ends_as_one_that_was_not(fresh, searched, tmp_path):
    project = copied(fresh, tmp_path)
    with started(project, "quartet", "sweep", PYTHONPATH=str(project.root / "src")) as process:
        read_until(process, "sweep: trial 1:")
        process.kill()
        process.wait()
    done = project.quartet("sweep")
    assert done.returncode == 0, done.stdout
    assert "sweep: 6 trials, 2 of them done before" in done.stdout
    assert results(project) == results(searched)


def test_the_test_set_is_read_when_all_is_chosen(fresh, searched, tmp_path):
    project = copied(fresh, tmp_path)
    shutil.copytree(searched.root / paths.TRAININGS, project.root / paths.TRAININGS)
    for path in (project.root / paths.RAW).glob("t10k-*"):
        path.unlink()
    done = project.quartet("sweep")
    assert done.returncode == 2
    assert "3 epochs: " in done.stdout
    assert done.stdout.splitlines()[-1].startswith("quartet: error: data/raw/t10k-")
    assert not (project.root / paths.SWEEP).exists()


def test_a_failure_of_dvcs_is_told_and_repaired(searched, tmp_path):
    """What was found stays; doing it again trains nothing, and logs nothing twice."""
    project = copied(searched, tmp_path)
    before, pipeline = results(project), project.root / "dvc.yaml"
    whole = pipeline.read_bytes()
    pipeline.write_bytes(whole + b"stages: 1\n")
    done = project.quartet("sweep")
    assert done.returncode == 1
    assert "sweep: 6 trials, 6 of them done before" in done.stdout
    last = done.stdout.splitlines()[-1]
    assert last.startswith("quartet: error: dvc exp ")
    assert last.endswith("then `make sweep` again: it trains nothing twice")
    pipeline.write_bytes(whole)
    done = project.quartet("sweep")
    assert done.returncode == 0, done.stdout
    assert results(project) == before
    client = mlflow.MlflowClient(f"sqlite:///{project.root}/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("mnist-quartet-study").experiment_id])
    assert len(found) == 1 + SWEEP["trials"]
    (parent,) = [run for run in found if run.info.run_name == "sweep"]
    assert all(len(client.get_metric_history(parent.info.run_id, name)) == 1 for name in parent.data.metrics)
