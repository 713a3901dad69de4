"""A tiny MNIST, and a real HTTP server that serves it well or badly: what the tests of stage fetch share."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import shutil
import struct
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from project import PARAMS
from quartet.base import paths
from quartet.data import catalogue, download

BOMB_SIZE = 64 << 20
# What endless bodies end at all the same, so that a client that does not bound them fails a test and not the machine.
ENDLESS_SIZE = 256 << 20
BLOCK = bytes(1 << 16)


class Server(ThreadingHTTPServer):
    """Serves each file below /<fault>/<which>/, with the fault named where the file is `which` or `which` is `all`."""

    daemon_threads = False  # so that server_close waits for the threads

    def __init__(self, served: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.served = served
        self.requests: list[str] = []
        self.keys: list[tuple[str | None, str]] = []  # how each request says who may ask
        self.sent = 0
        self.stalled = threading.Event()
        self.stopped = threading.Event()

    def url(self, fault: str = "none", which: str = "all", user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self.server_port}/{fault}/{which}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: the clients under test hang up in the middle, and that is meant."""


@contextmanager
def serving(served: dict[str, bytes]) -> Iterator[Server]:
    """A server of these files while the block runs."""
    server = Server(served)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = 60

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        fault, which, name = path.strip("/").split("/")
        self.server.requests.append(name)
        self.server.keys.append((self.headers.get("Authorization"), query))
        content = self.server.served[name]
        FAULTS[fault if name == f"{which}.gz" or which == "all" else "none"](self, content)

    def head(self, status: int = 200, **headers: object) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()

    def reply(self, content: bytes, **headers: object) -> None:
        self.head(Content_Length=len(content), **headers)
        self.wfile.write(content)

    def send_endlessly(self) -> None:
        while self.server.sent < ENDLESS_SIZE and not self.server.stopped.is_set():
            self.wfile.write(BLOCK)
            self.server.sent += len(BLOCK)

    def drip(self, content: bytes) -> None:
        for byte in content:
            if self.server.stopped.wait(0.05):
                return
            self.wfile.write(bytes([byte]))

    def stall(self) -> None:
        self.server.stalled.set()
        self.server.stopped.wait(60)

    def log_message(self, *_: object) -> None:
        """Keep standard error for what the stage says."""


def bomb() -> bytes:
    """A .gz of 64 MiB of zeros, a thousandth of their size, made without having them in memory."""
    packer = zlib.compressobj(wbits=31)
    return b"".join([*(packer.compress(BLOCK) for _ in range(BOMB_SIZE // len(BLOCK))), packer.flush()])


def flip_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def _status(code: int) -> Callable[[Handler, bytes], None]:
    return lambda handler, _: handler.send_error(code)


def _redirect_loop(handler: Handler, _: bytes) -> None:
    handler.head(302, Location=handler.path, Content_Length=0)


def _redirect_endless(handler: Handler, _: bytes) -> None:
    handler.head(302, Location=handler.path.replace("redirect-endless", "none"))
    handler.send_endlessly()


def _stall_headers(handler: Handler, _: bytes) -> None:
    handler.stall()


def _stall_body(handler: Handler, content: bytes) -> None:
    handler.head(Content_Length=len(content))
    handler.wfile.write(content[: len(content) // 2])
    handler.stall()


def _drip_headers(handler: Handler, _: bytes) -> None:
    handler.drip(b"HTTP/1.0 200 OK\r\nX-Slow: " + bytes(1000))


def _drip_body(handler: Handler, content: bytes) -> None:
    handler.head(Content_Length=len(content))
    handler.drip(content)


def _cut(handler: Handler, content: bytes) -> None:
    handler.head(Content_Length=len(content))
    handler.wfile.write(content[: len(content) // 2])


def _cut_unsaid(handler: Handler, content: bytes) -> None:
    handler.head()
    handler.wfile.write(content[: len(content) // 2])


def _hang_up(handler: Handler, _: bytes) -> None:
    """Close the connection without a word."""


def _not_http(handler: Handler, _: bytes) -> None:
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")


def _hostile(handler: Handler, _: bytes) -> None:
    """Clears the terminal, sets its title, and forges a line, where a client prints what it got."""
    handler.wfile.write(b"\x1b[2J\x1b]0;owned\x07\x9b2J\rquartet: all is well\r\n\r\n")
    handler.close_connection = True


def _once_bad(handler: Handler, content: bytes) -> None:
    (_cut if handler.server.requests.count(handler.path.split("/")[-1]) == 1 else FAULTS["none"])(handler, content)


def _endless(handler: Handler, content: bytes) -> None:
    handler.head()
    handler.wfile.write(content)
    handler.send_endlessly()


FAULTS: dict[str, Callable[[Handler, bytes], None]] = {
    "none": lambda handler, content: handler.reply(content),
    "403": _status(403),
    "404": _status(404),
    "500": _status(500),
    "redirect-loop": _redirect_loop,
    "redirect-endless": _redirect_endless,
    "stall-headers": _stall_headers,
    "stall-body": _stall_body,
    "drip-headers": _drip_headers,
    "drip-body": _drip_body,
    "cut": _cut,
    "cut-unsaid": _cut_unsaid,
    "once-bad": _once_bad,
    "hang-up": _hang_up,
    "not-http": _not_http,
    "hostile": _hostile,
    "web-page": lambda handler, _: handler.reply(b"<html>Log in to this network</html>", Content_Type="text/html"),
    "bit-flip": lambda handler, content: handler.reply(flip_bit(content)),
    "truncated": lambda handler, content: handler.reply(content[:-10]),
    "garbage": lambda handler, content: handler.reply(content + b"garbage"),
    "bomb": lambda handler, _: handler.reply(bomb()),
    "endless": _endless,
    # Apache says so of any .gz file where its default AddEncoding lines stand: the bytes are the file's all the same.
    "encoding": lambda handler, content: handler.reply(content, Content_Encoding="gzip"),
    "encoding-lie": lambda handler, content: handler.reply(content, Content_Encoding="br, deflate, nonsense"),
    "encoding-bomb": lambda handler, _: handler.reply(bomb(), Content_Encoding="gzip"),
}


class Fetching:
    """A workspace, the working directory, with a tiny MNIST that takes the real one's place in quartet.data.catalogue."""

    def __init__(self, workspace: Path, server: Server, contents: dict[str, bytes]) -> None:
        self.workspace, self.server, self.contents = workspace, server, contents
        self.packed = {name: server.served[f"{name}.gz"] for name in contents}

    def mirrors(self, *urls: str) -> None:
        """Have these mirrors in the real ones' place."""
        catalogue.DATA_SETS["mnist"] = dataclasses.replace(catalogue.DATA_SETS["mnist"], mirrors=urls)

    def source(self, source: str) -> None:
        """Set data.source in params.yaml."""
        text = PARAMS.read_text(encoding="utf-8")
        assert text.count("  source: auto") == 1
        Path("params.yaml").write_text(text.replace("  source: auto", f"  source: {source}"), encoding="utf-8")

    def put(self, folder: Path, plain: set[str] | None = None) -> Path:
        """Put the files into a new directory, packed but for those of `plain`."""
        folder.mkdir(parents=True)
        for name, content in self.contents.items():
            if name in (plain or ()):
                (folder / name).write_bytes(content)
            else:
                (folder / f"{name}.gz").write_bytes(self.packed[name])
        return folder

    def raw(self) -> dict[str, bytes]:
        """All that lies in data/raw/, the record aside."""
        return {path.name: path.read_bytes() for path in paths.RAW.iterdir() if path.name != "source.json"}


def idx_file(array: np.ndarray) -> bytes:
    """An IDX file, written by hand so that nothing under test makes what it is tested with."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def fetching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fetching]:
    """A tiny MNIST, a server of it, an empty workspace; at the end no temporary file may be left."""
    rng = np.random.default_rng(0)
    contents = {
        "t10k-labels-idx1-ubyte": idx_file(rng.integers(0, 10, 100, dtype=np.uint8)),
        "train-labels-idx1-ubyte": idx_file(rng.integers(0, 10, 120, dtype=np.uint8)),
        "t10k-images-idx3-ubyte": idx_file(rng.integers(0, 256, (100, 28, 28), dtype=np.uint8)),
        "train-images-idx3-ubyte": idx_file(rng.integers(0, 256, (120, 28, 28), dtype=np.uint8)),
    }
    packed = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in contents.items()}
    known = {
        name: catalogue.Known(
            len(content),
            hashlib.sha256(content).hexdigest(),
            len(packed[f"{name}.gz"]),
            hashlib.sha256(packed[f"{name}.gz"]).hexdigest(),
        )
        for name, content in contents.items()
    }
    assert list(known) == list(catalogue.MNIST.files)

    workspace, temporary = tmp_path / "workspace", tmp_path / "temporary"
    workspace.mkdir()
    temporary.mkdir()
    shutil.copy(PARAMS, workspace)
    monkeypatch.chdir(workspace)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    for name in ("QUARTET_MNIST", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("NO_PROXY", "no_proxy"):  # a proxy of the machine's would answer in the server's place
        monkeypatch.setenv(name, "127.0.0.1")

    with serving(packed) as server:
        there = dataclasses.replace(catalogue.MNIST, files=known, mirrors=(server.url(),))
        monkeypatch.setitem(catalogue.DATA_SETS, "mnist", there)
        monkeypatch.setattr(download, "CONNECT_SECONDS", 5)
        monkeypatch.setattr(download, "READ_SECONDS", 10)
        monkeypatch.setattr(download, "FILE_SECONDS", 30)
        monkeypatch.setattr(download, "BYTES_PER_SECOND", 10**9)
        monkeypatch.setattr(download, "RETRIES", 0)  # pooch waits a second before each
        yield Fetching(workspace, server, contents)
    assert not list(temporary.iterdir())
