"""`quartet ui`: MLflow's pages on the store that the pipeline writes to."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from contextlib import suppress

from quartet.base import errors, paths, process
from quartet.base.errors import InputError, WorkError
from quartet.data import idx
from quartet.tracking import attempts, store

HOST = "127.0.0.1"
PORTS = 20  # ports to try, from the requested one on
# MLflow's charts show ten runs. In this order the variants are among them, however many trials there are.
VIEW = "workflowType=machine_learning&orderByKey=tags.%60variant%60&orderByAsc=true&compareRunsMode=CHART"
PATIENCE = 120  # seconds for the server's first answer


def view() -> str:
    """Return the part of the link that chooses what is shown: the charts of the runs on the data that is here."""
    if not paths.SOURCE.exists():
        return VIEW
    title = idx.source().title
    return f"{VIEW}&searchFilter=" + urllib.parse.quote(f'tags.data = "{title}"')


def check_port(port: int) -> None:
    """Raise InputError unless this is the number of a port."""
    if not 1 <= port <= 65_535:
        raise InputError(f"--port: expected 1 to 65535, found {port}")


def free_port(first: int) -> int:
    """Return the first port from `first` on that is free. WorkError if PORTS of them are taken."""
    for port in range(first, min(first + PORTS, 65_536)):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return port
    raise WorkError(f"the ports from {first} to {first + PORTS - 1} are all in use; name another: quartet ui --port 8000")


def serve(port: int) -> None:
    """Serve MLflow's pages until Ctrl-C, and print the link once they answer.

    WorkError, after what the server said, if it ends or does not answer.
    """
    found = attempts.attempt(lambda: store.experiment_id(store.client()))
    if found is attempts.FAILED:
        raise WorkError("MLflow's store cannot be opened; see the warning above")
    # The address may have a password, which a command line would show to every user of this machine. MLflow's jobs are
    # for language models; without them the server has 2 processes instead of 10.
    variables = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": store.uri(),
    }
    command = [sys.executable, "-m", "mlflow", "ui", "--host", HOST, "--port", str(port), "--workers", "1"]
    print("ui: starting MLflow's server", flush=True)
    with tempfile.TemporaryFile() as said, subprocess.Popen(command, env=variables, stdout=said, stderr=said) as server:
        try:
            if not _answers(server, port):
                said.seek(0)
                for line in said.read().decode(errors="replace").splitlines()[-20:]:
                    errors.say(line)
                raise WorkError("MLflow's server does not answer; see above what it said")
            print(f"ui: http://{HOST}:{port}/#/experiments/{found}/runs?{view()} (Ctrl-C ends it)", flush=True)
            server.wait()
        except KeyboardInterrupt:
            return  # as the line above says
        finally:
            server.terminate()


def _answers(server: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until the server answers; False if it ends or takes too long."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy: the server is on this machine
    deadline = time.monotonic() + PATIENCE
    while server.poll() is None and time.monotonic() < deadline:
        with suppress(urllib.error.URLError, OSError), opener.open(f"http://{HOST}:{port}/health", timeout=5):
            return True
        time.sleep(0.2)
    return False


def main(arguments: Sequence[str]) -> None:
    """Serve MLflow's pages on the store in use. One that a server keeps has its pages there: the link is printed."""
    parser = process.Parser(prog="quartet ui", description=main.__doc__)
    parser.add_argument("--port", type=int, default=5000, help="the first port to try (default: 5000)")
    port = parser.parse_args(arguments).port
    check_port(port)
    if store.uri().lower().startswith(("http://", "https://")):
        errors.tell(f"ui: MLFLOW_TRACKING_URI names a server, which has its own pages: {store.uri()}")
    else:
        serve(free_port(port))
