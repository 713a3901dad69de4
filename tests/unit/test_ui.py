"""`quartet ui`: which store it shows, where, and what it says."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from project import ROOT
from quartet.commands import ui
from quartet.tracking import store


def start(folder, *arguments, **variables):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DVC_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "quartet", "ui", *arguments],
        cwd=folder,
        env=kept | {"PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@contextlib.contextmanager
def taken():
    """A port that something listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.mark.parametrize("address", ["http://user:pa55word@127.0.0.1:9", "HTTPS://127.0.0.1:9"])
def test_of_a_server_the_link_is_printed_and_nothing_is_started(tmp_path, address):
    with start(tmp_path, MLFLOW_TRACKING_URI=address) as program:
        out, error = program.communicate(timeout=60)
    shown = address.replace("user:pa55word", "***")
    assert out == f"ui: MLFLOW_TRACKING_URI names a server, which has its own pages: {shown}\n"
    assert (program.returncode, error, list(tmp_path.iterdir())) == (0, "", [])


def test_the_pages_are_of_the_store_that_the_pipeline_writes_to(tmp_path, monkeypatch):
    """Its address is relative, the port that is asked for is taken, and a proxy that does not answer is in the settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    client = store.client()
    run = client.create_run(store.experiment_id(client), run_name="the one").info.run_id
    variables = {"MLFLOW_TRACKING_URI": "sqlite:///other.db", "http_proxy": "http://127.0.0.1:9"}
    with taken() as port, start(tmp_path, "--port", str(port), **variables) as program:
        try:
            assert program.stdout.readline() == "ui: starting MLflow's server\n"
            line = program.stdout.readline()
            assert line.startswith("ui: http://127.0.0.1:"), program.stderr.read()
            page, _, last = line.removeprefix("ui: ").partition(" ")
            assert last == "(Ctrl-C ends it)\n"
            base = page.partition("/#/")[0]
            assert base != f"http://127.0.0.1:{port}"
            asked = f"{base}/api/2.0/mlflow/runs/get?run_id={run}"
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=30) as answer:
                assert b'"the one"' in answer.read()
            assert "/#/experiments/1/runs" in page
            os.killpg(program.pid, signal.SIGINT)  # as a terminal does
            assert program.communicate(timeout=30) == ("", "")
            assert program.returncode == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
    assert not (tmp_path / "mlflow.db").exists()


def test_a_store_that_cannot_be_opened_starts_nothing(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"not a database, and long enough to tell" * 10)
    with start(tmp_path) as program:
        _, error = program.communicate(timeout=60)
    assert program.returncode == 1
    assert error.splitlines()[-1] == "quartet: error: MLflow's store cannot be opened; see the warning above"


def test_ports_that_are_all_taken_are_named(monkeypatch):
    monkeypatch.setattr(ui, "PORTS", 1)
    with taken() as port, pytest.raises(ui.WorkError, match=f"the ports from {port} to {port} are all in use"):
        ui.free_port(port)
