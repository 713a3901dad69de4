"""`quartet serve` and `quartet predict` as a user starts them, with the models of a finished run."""

from __future__ import annotations

import json
import signal
import threading
import time

import psutil
import pytest
import requests

from pictures import encoded, written
from project import free_port, read_until, started

# One worker runs all that shares this copy of the finished project.
pytestmark = pytest.mark.xdist_group("finished copy")

CLIENTS, SECONDS = 8, 3
PICTURE = encoded(written("3"))


@pytest.fixture
def session():
    with requests.Session() as found:
        found.trust_env = False  # no proxy
        yield found


def serving(finished, port: int):
    return started(finished, "quartet", "serve", "--port", str(port), PYTHONPATH=str(finished.root / "src"))


def ask(session, port: int) -> dict:
    address = f"http://127.0.0.1:{port}/predict"
    answer = session.post(address, data=PICTURE, headers={"Content-Type": "image/png"}, timeout=60)
    answer.raise_for_status()
    return answer.json()


@pytest.fixture
def port() -> int:
    return free_port()


def test_the_server_says_what_the_command_says(finished, session, port, tmp_path):
    """On this machine alone, until Ctrl-C; what it serves at / is the page."""
    picture = tmp_path / "three.png"
    picture.write_bytes(PICTURE)
    (line,) = finished.quartet("predict", "--json", str(picture)).stdout.splitlines()
    with serving(finished, port) as process:
        read_until(process, "serve: http://127.0.0.1:")
        assert {"file": str(picture), **ask(session, port)} == json.loads(line)
        page = session.get(f"http://127.0.0.1:{port}/", timeout=60).content
        assert page == (finished.root / "stages/page/index.html").read_bytes()
        sockets = psutil.Process(process.pid).net_connections("inet")
        assert {found.laddr.ip for found in sockets if found.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=60)[0]
    assert "Traceback" not in output


def test_a_second_server_at_the_same_port_is_told(finished, port):
    with serving(finished, port) as process:
        read_until(process, "serve: http://127.0.0.1:")
        done = finished.quartet("serve", "--port", str(port))
        assert done.returncode == 2
        assert done.stdout.splitlines()[-1].startswith(f"quartet: error: 127.0.0.1:{port}: Address already in use; choose")
        process.kill()


def test_clients_at_once_are_answered_and_a_kill_is_survived(finished, port):
    """Eight clients: no error while the server is there, and the same answers after it was killed and started again."""
    answers, errors, stop, down = [], [], threading.Event(), threading.Event()

    def client() -> None:
        with requests.Session() as session:
            session.trust_env = False
            while not stop.is_set():
                try:
                    answers.append(ask(session, port))
                except requests.RequestException as error:
                    if not down.is_set():
                        errors.append(error)
                    time.sleep(0.1)

    clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
    with serving(finished, port) as process:
        read_until(process, "serve: http://127.0.0.1:")
        for thread in clients:
            thread.start()
        time.sleep(SECONDS)
        before = len(answers)
        down.set()
        process.kill()
        process.wait()
    with serving(finished, port) as process:
        read_until(process, "serve: http://127.0.0.1:")
        time.sleep(1)
        down.clear()
        time.sleep(SECONDS)
        stop.set()
        for thread in clients:
            thread.join()
        process.kill()
    assert errors == []
    assert 0 < before < len(answers)
    assert all(answer == answers[0] for answer in answers)
