"""Experiments that are shared through a Git remote, and queued ones in a team's MLflow."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import mlflow
import pytest
import yaml

from project import VARIANTS, Project, colleagues, copy_of, ran
from quartet.base import files

pytestmark = pytest.mark.team


@pytest.fixture
def project(finished, tmp_path):
    return copy_of(finished, tmp_path / "ada")


@pytest.mark.xdist_group("remotes")
def test_an_experiment_is_pushed_pulled_and_applied(project, folder_remote, tmp_path):
    """Its files come through the DVC remote; nothing is trained again."""
    shared = tmp_path / "origin.git"
    subprocess.run(["git", "init", "-q", "--bare", shared], check=True)
    project.run("git", "remote", "add", "origin", str(shared))
    folder_remote.add(project)
    project.run("git", "commit", "-qam", "Name the remote")
    project.run("git", "push", "-q", "origin", "HEAD:main")
    subprocess.run(["git", "-C", shared, "symbolic-ref", "HEAD", "refs/heads/main"], check=True)
    project.run("dvc", "push", "-q")
    project.run("dvc", "exp", "run", "evaluate", "-S", "bn=true", "-S", "epochs=1", "-n", "with-bn")
    model = files.sha256(project.root / "stages/train/trial/model.safetensors")
    project.run("dvc", "exp", "push", "origin", "with-bn")
    home = tmp_path / "bob"
    colleague = colleagues(Project(shared, home), home)
    colleague.run("dvc", "pull")
    assert files.sha256(colleague.root / "stages/train/trial/model.safetensors") != model
    assert "with-bn" in colleague.run("dvc", "exp", "list", "--all-commits", "origin").stdout
    colleague.run("dvc", "exp", "pull", "origin", "with-bn")
    colleague.run("dvc", "exp", "apply", "with-bn")
    settings = yaml.safe_load((colleague.root / "params.yaml").read_text(encoding="utf-8"))
    assert (settings["bn"], settings["epochs"]) == (True, 1)
    assert files.sha256(colleague.root / "stages/train/trial/model.safetensors") == model
    assert ran(colleague.run("dvc", "repro", "evaluate").stdout) == []


def run_queue(project: Project, **env: str) -> str:
    """Run the queued experiments, and return their states."""
    project.run("dvc", "queue", "start", **env)
    for _ in range(100):
        time.sleep(3)
        status = project.run("dvc", "queue", "status").stdout
        if "Queued" not in status and "Running" not in status:
            break
    return status


@pytest.mark.xdist_group("mlflow")
def test_a_queued_experiment_runs_its_own_code_into_mlflow(project, team, monkeypatch):
    """Not the code of the workspace, which may change meanwhile."""
    code = project.root / "src/quartet/model/network.py"
    code.write_text(code.read_text(encoding="utf-8") + "print('code:', __file__)\n", encoding="utf-8")
    settings = ["-S", "bn=true", "-S", "lr=0.0051", "-S", "epochs=1"]
    for name in VARIANTS[1:]:  # one is enough: the others are trained again too, as their code has changed
        settings += ["-S", f"~variants.{name}"]
    project.run("dvc", "exp", "run", "--queue", "evaluate", *settings, "-n", "queued")
    project.run("git", "checkout", "-q", "src")
    status = run_queue(project, **team.variables("ada"))
    assert re.search("queued .*Success", status), status
    used = re.findall("code: (.*)", project.run("dvc", "queue", "logs", "queued").stdout)
    assert len(used) >= 3  # the trial, evaluate, and the process beside it
    assert all(Path(path).is_relative_to(project.root / ".dvc/tmp/exps") for path in used)
    for name, value in team.variables("eve").items():
        monkeypatch.setenv(name, value)
    client = mlflow.MlflowClient(team.url)
    experiment = client.get_experiment_by_name("mnist-quartet")
    (run,) = client.search_runs([experiment.experiment_id], "params.lr = '0.0051'")
    assert (run.data.params["bn"], run.data.params["epochs"], run.data.params["seed"]) == ("True", "1", "0")
    assert (run.data.tags["stage"], run.data.tags["dvc.exp.name"]) == ("trial", "queued")
    assert run.data.tags["dvc.exp.baseline"]
    assert "test_accuracy" in run.data.metrics
    assert "confusion.png" in [artifact.path for artifact in client.list_artifacts(run.info.run_id)]
