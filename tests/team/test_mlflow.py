"""The pipeline against a team's MLflow: sign-in, PostgreSQL, proxied artifacts."""

from __future__ import annotations

import json
import re

import pytest
import requests
from servers import wait_until

from pictures import encoded, written
from project import TRAININGS, Project, clone, copy_of, free_port, read_until, started, training_of

pytestmark = [pytest.mark.team, pytest.mark.xdist_group("mlflow")]

UNKNOWN = "it does not know this user or password (401): set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
READER = "this user may not write there (403): ask the person who keeps the server for the right to"


def ask(team, member: str, path: str, **asked) -> dict:
    """Ask MLflow's server as a member."""
    with requests.Session() as session:
        session.trust_env = False
        session.auth = (member, team.variables(member)["MLFLOW_TRACKING_PASSWORD"])
        answer = session.post(f"{team.url}/api/2.0/mlflow/{path}", json=asked, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


def tracked(team) -> list[dict]:
    """The runs, as a reader sees them."""
    with requests.Session() as session:
        session.trust_env = False
        session.auth = ("eve", team.variables("eve")["MLFLOW_TRACKING_PASSWORD"])
        asked = {"experiment_name": "mnist-quartet"}
        answer = session.get(f"{team.url}/api/2.0/mlflow/experiments/get-by-name", params=asked, timeout=30)
    if answer.status_code == 404:
        return []
    (number,) = [answer.json()["experiment"]["experiment_id"]]
    return ask(team, "eve", "runs/search", experiment_ids=[number], max_results=1000).get("runs", [])


def names(team) -> list[str]:
    return sorted(run["info"]["run_name"] for run in tracked(team))


def warnings_of(output: str) -> list[str]:
    return [line for line in output.splitlines() if "quartet: warning:" in line]


def train(project: Project, team, member: str = "ada", *, seed: int, **env: str):
    """Train the trial with another seed, and without DVC."""
    path = project.root / "params.yaml"
    path.write_text(re.sub(r"(?m)^seed: \d+", f"seed: {seed}", path.read_text(encoding="utf-8")), encoding="utf-8")
    return project.stage("train", "trial", **team.variables(member) | env)


@pytest.fixture(scope="module")
def project(finished, team, tmp_path_factory):
    """The finished project with its results in the team's MLflow, models registered."""
    project = copy_of(finished, tmp_path_factory.mktemp("ada"))
    done = project.quartet("sync", **team.variables("ada"))
    assert (done.returncode, warnings_of(done.stdout)) == (0, []), done.stdout
    project.registered = project.quartet("register", **team.variables("ada"))
    return project


def test_sync_and_register_fill_it(project, team):
    """Other tests may have put runs there before."""
    before = names(team)
    assert {*TRAININGS} <= {*before}
    assert project.registered.returncode == 0, project.registered.stdout
    assert "sample-ten: version" in project.registered.stdout
    for run in tracked(team):
        assert run["info"]["status"] == "FINISHED"
        assert run["info"]["artifact_uri"].startswith("mlflow-artifacts:")
    stored = list((team.folder / "mlartifacts").rglob("*.pt2"))
    assert len(stored) == len(before)
    again = project.quartet("sync", **team.variables("ada"))
    assert (again.returncode, names(team)) == (0, before)


def test_the_champion_is_served_to_a_reader(project, team, tmp_path):
    port = free_port()
    source = {"PYTHONPATH": str(project.root / "src")}
    command = ("quartet", "serve", "--model", "models:/sample-ten@champion", "--port", str(port))
    with started(project, *command, **team.variables("eve"), **source) as process, requests.Session() as session:
        session.trust_env = False
        said = read_until(process, "serve: http://")
        url = f"http://127.0.0.1:{port}/predict"
        answer = session.post(url, data=encoded(written("3")), headers={"Content-Type": "image/png"}, timeout=60)
    assert said.count("\n") == 1
    assert answer.status_code == 200
    assert list(answer.json()["variants"]) == ["sample-ten@champion"]


def test_a_reader_reads_and_writes_nothing(project, team):
    before = names(team)
    done = train(project, team, "eve", seed=11)
    assert done.returncode == 0, done.stdout
    (warning,) = warnings_of(done.stdout)
    assert READER in warning
    done = project.quartet("register", "--force", "trial", **team.variables("eve"))
    assert done.returncode == 1
    assert [READER in line for line in warnings_of(done.stdout)] == [True]
    assert "Traceback" not in done.stdout
    assert names(team) == before


def test_a_wrong_password_costs_one_line_and_no_training(project, team):
    for variables in (team.variables("ada", "wrong-password"), {"MLFLOW_TRACKING_URI": team.url}):
        done = project.quartet("sync", **variables)
        assert done.returncode == 1
        assert [UNKNOWN in line for line in warnings_of(done.stdout)] == [True], done.stdout
        assert done.stdout.count("quartet: ") == 2
    done = train(project, team, seed=12, MLFLOW_TRACKING_PASSWORD="wrong-password")
    assert done.returncode == 0
    assert [UNKNOWN in line for line in warnings_of(done.stdout)] == [True]


def test_a_changed_password_is_asked_for_from_then_on(project, team):
    assert team.members("add", "grace", "the first password").returncode == 0
    first, second = (team.variables("grace", f"the {which} password") for which in ("first", "second"))
    assert project.quartet("sync", **first).returncode == 0
    assert team.members("password", "grace", "the second password").returncode == 0
    team.kill()  # a server that runs may know the old one for a minute
    team.start()
    done = project.quartet("sync", **first)
    assert [UNKNOWN in line for line in warnings_of(done.stdout)] == [True]
    assert project.quartet("sync", **second).returncode == 0
    assert team.members("remove", "grace").returncode == 0
    done = team.members("add", "ada", "another password")
    assert done.returncode == 1
    assert done.stdout.startswith("team/members.py: error: "), done.stdout
    assert done.stdout.count("\n") == 1


def test_another_host_and_nobody_are_refused(team):
    with requests.Session() as session:
        session.trust_env = False
        assert session.get(f"{team.url}/", headers={"Host": "example.org"}, timeout=30).status_code == 403
        assert session.post(f"{team.url}/api/2.0/mlflow/runs/search", json={}, timeout=30).status_code == 401


def test_eight_trainings_at_once_lose_nothing(project, team):
    before = len(tracked(team))
    path = project.root / "params.yaml"
    text = path.read_text(encoding="utf-8")
    more = "".join(f"  s{seed}: {{seed: {seed}}}\n" for seed in range(20, 28))
    path.write_text(re.sub(r"(?m)^variants:.*\n", lambda found: found[0] + more, text), encoding="utf-8")
    processes = [project.start("python", "src/train.py", f"s{seed}", **team.variables("ada")) for seed in range(20, 28)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, outputs
    path.write_text(text, encoding="utf-8")
    runs = {run["info"]["run_name"]: run for run in tracked(team)}
    assert len(tracked(team)) == before + 8
    for seed, output in zip(range(20, 28), outputs, strict=True):
        assert warnings_of(output) == []
        run = runs[f"s{seed}"]
        assert run["info"]["status"] == "FINISHED"
        logged = {metric["key"]: metric["step"] for metric in run["data"]["metrics"]}
        assert (logged["train_loss"], logged["val_loss"], logged["val_accuracy"]) == (3, 3, 3)


@pytest.mark.parametrize("what", ["server", "database"])
def test_one_that_is_killed_in_the_middle_loses_nothing(team, tmp_path_factory, what):
    """It is back before the training ends, or after it: then sync brings MLflow up to date."""
    project = clone(tmp_path_factory.mktemp(what), epochs=6)
    project.run("dvc", "repro", "preprocess")
    part = team if what == "server" else team.database
    path = project.root / "params.yaml"
    base = 30 if what == "server" else 40
    for seed, back in ((base, "before"), (base + 1, "after")):
        path.write_text(re.sub(r"(?m)^seed: \d+", f"seed: {seed}", path.read_text(encoding="utf-8")), encoding="utf-8")
        with started(project, "dvc", "repro", "--single-item", "trial", **team.variables("ada")) as process:
            output = read_until(process, "epoch 2/6")
            training = training_of(process)
            training.suspend()
            part.kill()
            if back == "before":
                part.start()
            training.resume()
            output += process.communicate(timeout=300)[0]
        if back == "after":
            part.start()
        assert process.returncode == 0, output
        assert "Traceback" not in output
        assert len(warnings_of(output)) <= 1
        wait_until_up(team)
        done = project.quartet("sync", **team.variables("ada"))
        assert (done.returncode, warnings_of(done.stdout)) == (0, []), done.stdout
        (run,) = [run for run in tracked(team) if parameter(run, "seed") == str(seed)]
        assert run["info"]["status"] == "FINISHED"
        history = history_of(team, run)
        assert [step for step, _ in history] == list(range(1, 7))
        expected = (project.root / "stages/train/trial/history.csv").read_text(encoding="utf-8").splitlines()[1:]
        assert [value for _, value in history] == [float(row.split(",")[1]) for row in expected]


def parameter(run: dict, key: str) -> str:
    return {entry["key"]: entry["value"] for entry in run["data"]["params"]}[key]


def history_of(team, run: dict) -> list[tuple[int, float]]:
    with requests.Session() as session:
        session.trust_env = False
        session.auth = ("eve", team.variables("eve")["MLFLOW_TRACKING_PASSWORD"])
        asked = {"run_id": run["info"]["run_id"], "metric_key": "train_loss"}
        answer = session.get(f"{team.url}/api/2.0/mlflow/metrics/get-history", params=asked, timeout=30)
    return sorted((int(entry["step"]), float(entry["value"])) for entry in json.loads(answer.text)["metrics"])


def wait_until_up(team) -> None:
    """A connection of the pool that the kill broke fails once."""
    wait_until(lambda: tracked(team), team.process, team.log, AssertionError)
