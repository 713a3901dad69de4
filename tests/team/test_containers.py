"""The files for containers: by linters, and each container's command and health check run outside one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest
import requests
import servers
import yaml
from servers import SECRETS, wait_until

from project import ROOT, copy_of, free_port

pytestmark = [pytest.mark.team, pytest.mark.xdist_group("remotes")]  # the other group is longer

COMPOSE = ROOT / "team/compose.yaml"
SERVICES = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
DOCKERFILE = (ROOT / "team/Dockerfile").read_text(encoding="utf-8")


def test_the_files_pass_their_linters():
    subprocess.run(["hadolint", ROOT / "team/Dockerfile"], check=True)
    subprocess.run(["check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE], check=True)


def test_every_image_is_pinned_and_runs_as_another_than_root():
    for image in [*re.findall(r"(?m)^FROM (\S+)", DOCKERFILE), SERVICES["postgres"]["image"]]:
        assert re.search(r":\d+(\.\d+)+", image), image
    *_, user = re.findall(r"(?m)^USER (\S+)", DOCKERFILE)
    assert user not in ("root", "0")
    assert not re.search(r"(?m)^(COPY|RUN|ENV)[^\n]*(\.env|PASSWORD|SECRET)", DOCKERFILE)


def test_ports_are_of_this_machine_alone():
    for service in SERVICES.values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


def test_no_password_has_a_default():
    """Each is a variable that must be set, or that a service can do without until there is a champion."""
    for service in SERVICES.values():
        for name, value in service["environment"].items():
            if re.search("PASSWORD|SECRET", name):
                assert re.fullmatch(r"\$\{\w+(:\?[\w ./]+|:-)\}", value), name


def test_the_health_checks_and_dependencies_are_complete():
    for name, service in SERVICES.items():
        assert service["healthcheck"]["test"][0] == "CMD"
        if name != "postgres":
            (needed,) = service["depends_on"].values()
            assert needed == {"condition": "service_healthy"}


def image(folder: Path) -> Path:
    """Make a folder of what the Dockerfile copies, less what its .dockerignore leaves out."""
    folder.mkdir()
    ignored = (ROOT / "team/Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    kept = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    for sources in re.findall(r"(?m)^COPY (.+) \S+$", DOCKERFILE):
        for name in sources.split():
            assert name in kept
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".env"))
            else:
                shutil.copy(ROOT / name, folder)
    (folder / "mlartifacts").mkdir()
    return folder


def filled(value: str, variables: dict[str, str]) -> str:
    """Fill in a value's variables as Compose does."""

    def one(found: re.Match) -> str:
        name, kind = found[1], found[2]
        assert name in variables or kind == "-", name
        return variables.get(name, "")

    return re.sub(r"\$\{(\w+):([?-])[^}]*\}", one, value)


def check_health(command: list[str], port: int, number: int) -> None:
    """Run a service's health check against another port; CalledProcessError if it is not well."""
    assert command[0] == "CMD"
    replaced = [part.replace(f"127.0.0.1:{number}", f"127.0.0.1:{port}") for part in command[1:]]
    subprocess.run(replaced, capture_output=True, check=True)


def start(service: str, folder: Path, port: int, variables: dict[str, str], **changed: str) -> subprocess.Popen:
    """Start a service's command in a copy of its image's files, on another port of this machine."""
    definition = SERVICES[service]
    environment = {name: filled(str(value), variables) for name, value in definition["environment"].items()}
    here = {"5000": str(port), "8000": str(port), "0.0.0.0": "127.0.0.1"}
    command = [here.get(part, part) for part in definition["command"]]
    with (folder / "log").open("w") as log:
        return subprocess.Popen(
            command,
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(folder / "src")} | environment | changed,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait_until_healthy(service: str, process: subprocess.Popen, port: int, folder: Path) -> None:
    definition = SERVICES[service]
    number = int(definition["ports"][0].rpartition(":")[2])
    check = partial(check_health, definition["healthcheck"]["test"], port, number)
    wait_until(check, process, folder / "log", subprocess.CalledProcessError)


def test_the_services_work_together(finished, tmp_path_factory, tmp_path):
    """MLflow's starts, is filled by a member, and then the champion is served to a reader."""
    ports = {"mlflow": free_port(), "serve": free_port()}
    folders = {name: image(tmp_path / name) for name in ports}
    variables = {
        "PGPASSWORD": SECRETS["database"],
        "MLFLOW_AUTH_ADMIN_PASSWORD": SECRETS["admin"],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": SECRETS["session"],
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{ports['mlflow']}",
        "SERVE_USERNAME": "admin",
        "SERVE_PASSWORD": SECRETS["admin"],
    }
    url = f"http://127.0.0.1:{ports['mlflow']}"
    processes = []
    database = servers.Database(tmp_path_factory.mktemp("db"))
    try:
        processes.append(start("mlflow", folders["mlflow"], ports["mlflow"], variables, PGHOST=str(database.folder)))
        wait_until_healthy("mlflow", processes[0], ports["mlflow"], folders["mlflow"])
        project = copy_of(finished, tmp_path / "ada")
        signed_in = {
            "MLFLOW_TRACKING_URI": url,
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": SECRETS["admin"],
        }
        for command in ("sync", "register"):
            done = project.quartet(command, **signed_in)
            assert done.returncode == 0, done.stdout
        command = [part.replace("mnist-", "sample-") for part in SERVICES["serve"]["command"]]
        assert command != SERVICES["serve"]["command"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(SERVICES["serve"], "command", command)
            processes.append(start("serve", folders["serve"], ports["serve"], variables, MLFLOW_TRACKING_URI=url))
        wait_until_healthy("serve", processes[1], ports["serve"], folders["serve"])
        assert list((folders["mlflow"] / "mlartifacts").rglob("*.pt2"))
        with requests.Session() as session:
            session.trust_env = False
            assert "swagger" in session.get(f"http://127.0.0.1:{ports['serve']}/", timeout=30).text  # there is no page
    finally:
        for process in processes:
            servers.end(process)
        database.stop()


@pytest.mark.parametrize("name", ["PGPASSWORD", "MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY"])
def test_the_server_does_not_start_without_a_secret(name):
    given = dict.fromkeys(SERVICES["mlflow"]["environment"], "given")
    assert name in given
    done = subprocess.run(
        [ROOT / "team/mlflow.sh"],
        env={"PATH": os.environ["PATH"]} | {key: value for key, value in given.items() if key != name},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == f"team/mlflow.sh: error: {name} is not set; docs/team.md says what for\n"
