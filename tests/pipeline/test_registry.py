"""`quartet register` on a finished run: versions, the champion, and what is served of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time

import pytest
import requests

from pictures import encoded, written
from project import VARIANTS, Project, free_port, read_until, started
from quartet.base.errors import InputError
from quartet.commands import register

# One worker runs all that shares this copy of the finished project.
pytestmark = pytest.mark.xdist_group("finished copy")

TEN = [name for name in [*VARIANTS, "trial"] if not name.startswith("four")]


def client(project: Project):
    import mlflow

    return mlflow.MlflowClient(f"sqlite:///{project.root}/mlflow.db")


def registered(project: Project) -> dict[str, list[tuple]]:
    """The versions by model: number, variant, description."""
    found: dict[str, list[tuple]] = {}
    for version in sorted(client(project).search_model_versions(), key=lambda it: int(it.version)):
        found.setdefault(version.name, []).append((version.version, version.tags["variant"], version.description))
    return found


def champion(project: Project) -> str:
    return client(project).get_model_version_by_alias("sample-ten", "champion").tags["variant"]


@pytest.fixture(scope="module")
def project(finished):
    """The finished project with its models registered."""
    done = finished.quartet("register")
    assert done.returncode == 0, done.stdout
    finished.said = done.stdout
    return finished


def test_each_model_is_a_version_with_its_card(project):
    found = registered(project)
    assert sorted(found) == ["sample-four", "sample-ten"]
    assert [variant for _, variant, _ in found["sample-ten"]] == TEN
    assert all("not MNIST" in card for versions in found.values() for _, _, card in versions)
    assert f"({champion(project)}) is the champion: there was none" in project.said


def test_twice_changes_nothing(project, within, capfd):
    before = registered(project)
    within(project, register.main, [])
    assert registered(project) == before
    assert "stays the champion" in capfd.readouterr().out


def test_a_champion_is_forced_and_rolled_back(project, within, capfd):
    before = champion(project)
    other = next(name for name in TEN if name != before)
    within(project, register.main, ["--force", other])
    assert "as you say" in capfd.readouterr().out
    assert champion(project) == other
    within(project, register.main, ["--rollback", "sample-ten"])
    assert champion(project) == before
    with pytest.raises(InputError, match="--rollback: sample-ten had no champion before this one"):
        within(project, register.main, ["--rollback", "sample-ten"])
    assert champion(project) == before
    done = project.quartet("register", "--rollback", "nothing")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("quartet: error: ")
    assert "Traceback" not in done.stdout


def test_two_at_once_and_a_kill_leave_whole_versions(project, within):
    """From nothing: the registry is emptied first."""
    for name in registered(project):
        client(project).delete_registered_model(name)
    command = ("quartet", "register")
    source = str(project.root / "src")
    with started(project, *command, PYTHONPATH=source) as one, started(project, *command, PYTHONPATH=source) as two:
        assert [it.wait(timeout=300) for it in (one, two)] == [0, 0]
    assert [variant for _, variant, _ in registered(project)["sample-ten"]] == TEN
    for name in registered(project):
        client(project).delete_registered_model(name)
    with started(project, *command, PYTHONPATH=source) as process:
        deadline = time.monotonic() + 300
        while not registered(project) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
    assert all(card for versions in registered(project).values() for _, _, card in versions)
    within(project, register.main, [])
    assert [variant for _, variant, _ in registered(project)["sample-ten"]] == TEN


def test_the_champion_is_served_by_name(project, tmp_path):
    """By `quartet serve` and by `mlflow models serve`: the same scores."""
    picture = tmp_path / "three.png"
    picture.write_bytes(encoded(written("3")))
    name = champion(project)
    done = project.quartet("predict", "--json", "--model", name, "--save", str(tmp_path), str(picture))
    expected = json.loads(done.stdout)
    port = free_port()
    source = str(project.root / "src")
    address = "models:/sample-ten@champion"
    with (
        started(project, "quartet", "serve", "--model", address, "--port", str(port), PYTHONPATH=source) as process,
        requests.Session() as session,
    ):
        session.trust_env = False
        read_until(process, "serve: http://")
        url = f"http://127.0.0.1:{port}/predict"
        answer = session.post(url, data=picture.read_bytes(), headers={"Content-Type": "image/png"}, timeout=60).json()
        process.kill()
    assert (answer["digit"], answer["score"]) == (expected["digit"], expected["score"])
    assert list(answer["variants"]) == ["sample-ten@champion"]
    code = (
        "import json, sys, numpy as np; from PIL import Image;"
        "print(json.dumps({'inputs': [[(np.asarray(Image.open(sys.argv[1])) / 255).tolist()]]}))"
    )
    body = project.run("python", "-c", code, str(tmp_path / "three.png.png")).stdout
    port = free_port()
    server = project.start(
        *("mlflow", "models", "serve", "--env-manager", "local", "-m", address, "-p", str(port)),
        MLFLOW_TRACKING_URI=f"sqlite:///{project.root}/mlflow.db",
        MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false",
    )
    try:
        with requests.Session() as session:
            session.trust_env = False
            deadline = time.monotonic() + 120
            while True:
                try:
                    url, headers = f"http://127.0.0.1:{port}/invocations", {"Content-Type": "application/json"}
                    scores = session.post(url, data=body, headers=headers, timeout=60).json()["predictions"][0]
                    break
                except requests.ConnectionError:
                    assert server.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.5)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.communicate()
    assert max(scores) == pytest.approx(expected["score"], rel=1e-4)
    assert scores.index(max(scores)) == expected["digit"]


def test_an_address_without_a_model_is_named(project):
    done = project.quartet("serve", "--model", "models:/nothing@champion")
    assert done.returncode == 2
    assert done.stdout.splitlines()[-1].endswith("has no model nothing@champion; `quartet register` makes them")


def test_a_store_that_is_down_moves_no_champion(project):
    before = champion(project)
    other = next(name for name in TEN if name != before)
    address = f"http://127.0.0.1:{free_port()}"
    done = project.quartet("register", "--force", other, MLFLOW_TRACKING_URI=address)
    assert done.returncode == 1
    warning, error = done.stdout.splitlines()[-2:]
    assert warning.startswith(f"quartet: warning: MLflow ({address})")
    assert error.startswith("quartet: error: MLflow is not up to date; see the warning above")
    assert champion(project) == before
