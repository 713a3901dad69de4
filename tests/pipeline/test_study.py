"""The study on the sample, with real Ray tasks: what is done is not done again, and no failure changes a byte."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest
import yaml

from project import Project, clone, read_until, small_disk, started
from quartet.base import files, paths
from quartet.model import weights
from quartet.training.record import Epoch

pytestmark = pytest.mark.cluster

OUTPUTS = paths.STUDY.as_posix()
KEPT = paths.TRAININGS.as_posix()
VARIANTS = ("ten", "four-bn")  # which the pipeline trains too


def set_study(project: Project, **changes) -> None:
    """Set the study's settings to those of a small one, with changes."""
    path = project.root / paths.STUDY_PARAMS
    content = {
        "seeds": 2,
        "margin": 0.1,
        "arms": {name: name for name in ("ten", "ten-bn", "four", "four-bn")},
        "contrasts": {},
        "rates": {"arms": ["ten", "ten-bn"], "values": [0.003, 0.1], "epochs": 1, "seeds": 2},
        "sources": {"arm": "ten", "seeds": 2},
    }
    path.write_text(yaml.safe_dump(content | changes, sort_keys=False), encoding="utf-8")


def outputs(project: Project) -> dict[str, str]:
    return {path.name: files.sha256(path) for path in (project.root / OUTPUTS).glob("*.*")}


def kept(project: Project) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (project.root / KEPT).glob("*")}


def train(project: Project, **env: str) -> str:
    done = project.stage("study", "trainings", **env)
    assert done.returncode == 0, done.stdout
    return done.stdout


def of_ray(project: Project) -> list[psutil.Process]:
    """The processes of Ray that this project's study started."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(project.root) and "ray" in " ".join(process.cmdline()):
                found.append(process)
    return found


def gone(project: Project) -> bool:
    """Whether they end within a while."""
    deadline = time.monotonic() + 30
    while of_ray(project) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not of_ray(project)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project whose study has trained, and the outputs that came of it."""
    project = clone(tmp_path_factory.mktemp("study"), epochs=1)
    project.run("dvc", "repro", *(f"train@{name}" for name in VARIANTS))
    set_study(project)
    project.env["RAY_worker_niceness"] = "0"  # else a busy machine leaves it waiting
    train(project)
    project.expected = outputs(project)
    return project


def test_a_seed_of_the_study_is_the_pipelines_training(project):
    """To the bit, whatever process of Ray's it ran in."""
    rows = files.read_csv(project.root / paths.STUDY_TRAININGS)
    for name in VARIANTS:
        (row,) = [row for row in rows if (row["question"], row["arm"], row["seed"]) == ("arms", name, "0")]
        tensors, described = weights.unpack((project.root / KEPT / f"{row['fingerprint']}.safetensors").read_bytes())
        theirs, _ = weights.unpack((project.root / paths.model(name)).read_bytes())
        assert all(tensors[key].equal(value) for key, value in theirs.items())
        assert [Epoch(*epoch) for epoch in described["epochs"]] == history(project, name)


def history(project: Project, name: str) -> list[Epoch]:
    rows = files.read_csv(project.root / paths.history(name))
    return [Epoch(int(row["epoch"]), *(float(row[key]) for key in Epoch._fields[1:])) for row in rows]


def test_a_study_that_is_there_trains_nothing(project):
    before = kept(project)
    assert len(before) == 8 + 8 + 3 * 1  # the sources with seed 0 are seed 0 of the arm
    again = train(project)
    assert "study: 19 trainings, 19 of them done before" in again
    assert "s each" not in again
    assert (kept(project), outputs(project)) == (before, project.expected)


def test_one_more_seed_trains_the_new_ones_alone(project):
    before = kept(project)
    set_study(project, seeds=3)
    said = train(project)
    assert "study: 23 trainings, 19 of them done before" in said
    assert {name: kept(project)[name] for name in before} == before
    assert len(kept(project)) == 23
    assert outputs(project) != project.expected
    set_study(project)
    train(project)
    assert outputs(project) == project.expected


def test_lost_and_damaged_files_are_made_again(project):
    lost, damaged, *others = sorted((project.root / KEPT).glob("*"))
    lost.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-9])
    before = {path: path.stat().st_mtime_ns for path in others}
    said = train(project)
    assert said.count("quartet: warning:") == 1
    assert f"{damaged}: not a safetensors file of this project's weights; it is trained again" in said
    assert {path: path.stat().st_mtime_ns for path in others} == before
    assert outputs(project) == project.expected


def listening(process) -> set[str]:
    """The addresses on which a study and all that it started listen; an IPv4 address is told from its IPv6 form."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    assert len(family) > 5
    sockets = [connection for member in family for connection in member.net_connections("inet")]
    return {connection.laddr.ip.removeprefix("::ffff:") for connection in sockets if connection.status == psutil.CONN_LISTEN}


def test_kills_and_ctrl_c_lose_nothing_that_was_done(project):
    """First a process of Ray's is killed, whose training is done again; then the study itself; then Ctrl-C.

    Meanwhile nothing can be reached from other machines.
    """
    shutil.rmtree(project.root / KEPT)
    shutil.rmtree(project.root / OUTPUTS)
    with started(project, "python", "src/study.py", "trainings") as process:
        read_until(process, "study: 2/19")
        assert listening(process) == {"127.0.0.1"}
        next(worker for worker in of_ray(project) if worker.cmdline()[0].startswith("ray::_work")).kill()
        output = read_until(process, "study: 6/19")
        process.kill()
        process.wait()
    assert "quartet:" not in output  # Ray itself tells of the lost process
    assert gone(project)
    assert not Path(project.env["HOME"], ".ray").exists()  # where Ray keeps a token
    before = kept(project)
    assert len(before) >= 6
    with started(project, "python", "src/study.py", "trainings") as process:
        read_until(process, "s each")
        os.killpg(process.pid, signal.SIGINT)
        output = process.communicate()[0]
    assert process.returncode == 130
    assert [line for line in output.splitlines() if "quartet:" in line] == ["quartet: stopped by Ctrl-C"]
    assert "Traceback" not in output
    assert gone(project)
    assert {name: kept(project)[name] for name in before} == before
    train(project)
    assert outputs(project) == project.expected
    assert [path for path in (project.root / KEPT).iterdir() if path.name.endswith(".part")] == []


def test_a_full_disk_costs_the_trainings_that_did_not_fit(project):
    aside = project.root / "study/aside"
    (project.root / KEPT).rename(aside)
    try:
        with small_disk(project.root / KEPT, "100k"):
            done = project.stage("study", "trainings")
            assert done.returncode == 1
            assert re.search(r"quartet: error: .*No space left on device", done.stdout.splitlines()[-1])
            whole = kept(project)
            assert 0 < len(whole) < 19
            assert all(weights.unpack((project.root / KEPT / name).read_bytes()) for name in whole)
        (project.root / KEPT).rmdir()
    finally:
        if aside.exists():
            aside.rename(project.root / KEPT)
    assert outputs(project) == project.expected


def test_dvc_runs_the_study_and_an_experiment_on_it(project):
    """It is no part of the pipeline: `dvc repro` does not run it."""
    assert "study.py" not in project.run("dvc", "repro", "--dry", check=False).stdout
    shutil.rmtree(project.root / OUTPUTS)
    assert "stages/study" not in project.run("dvc", "checkout", check=False).stdout
    first = project.run("dvc", "repro", "study/dvc.yaml").stdout
    assert "Running stage 'study/dvc.yaml:claims'" in first
    page = (project.root / paths.CLAIMS).read_text(encoding="utf-8")
    assert page.startswith("# What 2 seeds say")
    project.run("git", "add", "-A")
    project.run("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", "Study")
    before = kept(project)
    output = project.run("dvc", "exp", "run", "study/dvc.yaml", "-S", "study/params.yaml:seeds=3").stdout
    assert "study: 23 trainings" in output
    assert {name: kept(project)[name] for name in before} == before
    assert (project.root / paths.CLAIMS).read_text(encoding="utf-8").startswith("# What 3 seeds say")


def test_mlflow_has_the_study_and_its_trainings_once(project):
    """After `quartet sync` too, and in a store that was lost."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{project.root}/mlflow.db")
    (experiment,) = [it for it in client.search_experiments() if it.name == "mnist-quartet-study"]

    def found(query):
        return client.search_runs([experiment.experiment_id], query, max_results=1000)

    rows = files.read_csv(project.root / paths.STUDY_TRAININGS)
    digest = files.sha256(project.root / paths.STUDY_TRAININGS)
    for _ in range(2):
        (parent,) = found(f"tags.study = '{digest}'")
        nested = found(f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
        assert sorted(run.data.tags["fingerprint"] for run in nested) == sorted(row["fingerprint"] for row in rows)
        assert {run.info.status for run in (parent, *nested)} == {"FINISHED"}
        numbers = files.read_json(project.root / paths.FINDINGS)["arms"]
        for row in numbers:
            for part in ("mean", "low", "high"):
                assert parent.data.metrics[f"{row['arm']}_{row['measure']}_{part}"] == row[part]
        artifacts = {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
        assert {"claims.md", "seeds.png", "paired.png"} <= artifacts
        (one,) = [run for run in nested if run.info.run_name == "arms: ten, seed 0"]
        assert len(client.get_metric_history(one.info.run_id, "val_loss")) == 1
        client.delete_run(one.info.run_id)
        assert project.quartet("sync").returncode == 0
