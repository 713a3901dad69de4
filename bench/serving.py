"""`make bench-serve`: how many digits a second `quartet serve` reads, beside MLflow's server with the same model.

Needs a finished run that `quartet register` has registered; takes two minutes. Prints a table and writes it to
docs/benchmarks.md.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import requests
from tabulate import tabulate

from quartet.base import paths
from quartet.base.errors import WorkError
from quartet.base.process import run
from quartet.commands import publish
from quartet.data import idx, splits
from quartet.tracking import store

# isort: off
import numpy as np

# isort: on

CLIENTS, SECONDS = 8, 30
PATIENCE = 120  # seconds for a server's first answer


def free_port() -> int:
    """Return a port that is free."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def server(command: Sequence[str], url: str, body: str) -> Iterator[None]:
    """Run a server during the block, which begins once it answers."""
    variables = {**os.environ, "MLFLOW_TRACKING_URI": store.uri(), "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    with subprocess.Popen(
        command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while True:
                try:
                    with requests.Session() as session:
                        ask(session, url, body)
                    break
                except requests.RequestException:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise WorkError(f"{command[0]}: does not answer; did `quartet register` run?") from None
                    time.sleep(0.2)
            yield
        finally:
            with suppress(ProcessLookupError):  # it has ended, as the error above says
                os.killpg(process.pid, signal.SIGTERM)


def ask(client: requests.Session, url: str, body: str) -> None:
    """Ask for a digit; RequestException if there is no answer."""
    headers = {"Content-Type": "application/json"}
    client.post(url, data=body, headers=headers, timeout=60).raise_for_status()


def measure(url: str, body: str) -> tuple[float, float, float]:
    """Return the requests per second of CLIENTS at once, and the median and the 99th percentile of their milliseconds."""
    taken: list[float] = []
    failed: list[Exception] = []
    end = time.monotonic() + SECONDS

    def client() -> None:
        with requests.Session() as session:
            while time.monotonic() < end and not failed:
                start = time.perf_counter()
                try:
                    ask(session, url, body)
                except requests.RequestException as error:
                    failed.append(error)
                taken.append(1000 * (time.perf_counter() - start))

    works: list[Callable[[], None]] = [client] * CLIENTS
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise WorkError(f"{url}: {failed[0]}")
    median, slowest = np.quantile(taken, [0.5, 0.99])
    return len(taken) / SECONDS, float(median), float(slowest)


def main() -> None:
    """Measure, print and write the table."""
    source = idx.check()
    image = splits.load_split("test").images[0]
    model = f"models:/{source.data}-ten@champion"
    rows = []
    for name, command, place, body in (
        (
            "`quartet serve`",
            [sys.executable, "-m", "quartet", "serve", "--model", model, "--port"],
            "predict",
            image.tolist(),
        ),
        (
            "`mlflow models serve`",
            [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local", "-m", model, "-p"],
            "invocations",
            {"inputs": (image[None, None] / 255).tolist()},
        ),
    ):
        port = free_port()
        url, content = f"http://127.0.0.1:{port}/{place}", json.dumps(body)
        with server([*command, str(port)], url, content):
            rate, median, slowest = measure(url, content)
        rows.append([name, f"{rate:.0f}", f"{median:.1f}", f"{slowest:.1f}"])
    table = tabulate(
        rows, headers=["server", "requests a second", "median, ms", "99 %, ms"], tablefmt="github", disable_numparse=True
    )
    text = (
        f"`make bench-serve` on {publish.machine()}: {CLIENTS} clients at once for {SECONDS} s, one image of"
        f" {source.title} a request, no error, by `{model.rpartition('/')[2]}`.\n\n{table}\n"
    )
    print(f"\n{text}")
    publish.quote("bench-serve", text, Path(__file__).parent.parent / "docs/benchmarks.md")


if __name__ == "__main__":
    if not paths.SOURCE.exists():
        raise SystemExit(f"{paths.SOURCE}: missing; `make` first")
    run(main)
