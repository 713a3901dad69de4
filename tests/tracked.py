"""Trainings that are logged in MLflow without being done, and MLflow's server in a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

from quartet.base import params
from quartet.data import catalogue
from quartet.tracking import runs, store
from quartet.training.record import Epoch, TrainingRecord

HISTORY = [Epoch(number, 1 / number, 2 / number, 1 - 1 / (1 + number)) for number in range(1, 5)]
WEIGHTS = "a" * 64
WHOLE = runs.Outcome(HISTORY, WEIGHTS)
KEYS = ("train_loss", "val_loss", "val_accuracy")


def describe(code: str, data: str = "a") -> TrainingRecord:
    """A training by code of that name on data of that name."""
    return TrainingRecord(
        name="ten",
        hyperparameters=params.Hyperparameters(
            classes=10, bn=False, epochs=4, batch_size=20, lr=0.001, schedule="constant", augment=False, seed=0
        ),
        groups=tuple((digit,) for digit in range(10)),
        source=catalogue.SAMPLE.source,
        splits={"train": f"{data}: train", "validation": f"{data}: validation"},
        code=code,
    )


def log_all(log, outcome: runs.Outcome = WHOLE) -> None:
    """Log as a training does: after each epoch the history so far, and the weights once there are any."""
    for epoch in outcome.epochs:
        log(runs.Outcome(outcome.epochs[: epoch.epoch]))
    log(outcome)


def found(code: str, data: str = "a") -> list:
    """The runs of a training in the store in use, whatever it came to, the oldest first."""
    return runs._find(store.client(), describe(code, data), runs.Outcome())


def steps(run, key: str = "train_loss") -> list[int]:
    return [metric.step for metric in store.client().get_metric_history(run.info.run_id, key)]


# MLflow's own server in a child, so that it can be killed and is back at once: `start PORT FAULT PATH` and `kill`. The first
# request whose path ends as PATH is done but not answered: at `die` the server is gone, at `lose` the connection is, and at
# `drip` an answer begins that has no end.
SERVER = """
import os, signal, socket, sys, time
from werkzeug.serving import make_server
from mlflow.server import app

def serve(port, fault, path):
    met = []
    def faulty(environ, start_response):
        content = list(app(environ, start_response))
        if fault != "none" and environ["PATH_INFO"].endswith(path) and not met:
            met.append(path)
            if fault == "die":
                os._exit(1)
            connection = environ["werkzeug.socket"]
            if fault == "drip":
                connection.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n")
                while True:
                    connection.sendall(b" ")
                    time.sleep(0.3)
            connection.shutdown(socket.SHUT_RDWR)
        return content
    server = make_server("127.0.0.1", port, faulty, threaded=True)
    print(server.server_port, flush=True)
    server.serve_forever()

child = 0
for line in sys.stdin:
    command, *arguments = line.split()
    if command == "start":
        child = os.fork()
        if not child:
            serve(int(arguments[0]), *arguments[1:])
    else:
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        child = 0
        print("killed", flush=True)
os.killpg(0, signal.SIGKILL)
"""


def forget() -> None:
    """What the next process starts without: MLflow keeps its stores and their connections."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from mlflow.tracking._tracking_service.utils import _tracking_store_registry

    for engine in SqlAlchemyStore._engine_map.values():
        engine.dispose()
    SqlAlchemyStore._engine_map.clear()
    _tracking_store_registry._get_store_with_resolved_uri.cache_clear()


class Companion:
    """Another process that does one thing a line and says when it is done."""

    def __init__(self, code: str, *arguments: str, **env: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            env=os.environ | env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def tell(self, line: str = "") -> str:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the other process has ended"
        return answer.strip()

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()
