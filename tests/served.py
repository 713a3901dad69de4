"""`quartet serve`'s application in this process, with models whose answers are known."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests
import uvicorn

from quartet.commands import serve
from quartet.evaluation import recognition
from trained import answering

LOGITS = [0.0, 1.0, -3.0, 2.0, 0.5, -1.0, 0.0, 0.0, 0.0, 0.0]  # a 3, then a 1


class Client:
    """Asks a server in this process."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self.session = requests.Session()
        self.session.trust_env = False  # no proxy

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        return self.session.request(method, self.address + path, timeout=60, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.request("GET", path, **options)


@contextmanager
def running() -> Iterator[Client]:
    """A server with a model of ten classes and one of four, while the block runs."""
    models = {"ten": answering("ten", LOGITS), "four": answering("four", [0.0, -1.0, 2.0, 1.0])}
    app = serve.application(recognition.readers(models), "ten", "MNIST", b"<h1>a page</h1>")
    with serve.listener("127.0.0.1", 0) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        found = Client(listening.getsockname()[1])
        try:
            yield found
        finally:
            found.session.close()
            server.should_exit = True
            thread.join()
