"""Downloads of MNIST's files: bounded in bytes and in time, and verified."""

from __future__ import annotations

import gzip
import hashlib
import signal
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import pooch
import requests

from quartet.base.errors import WorkError

CONNECT_SECONDS, READ_SECONDS = 4, 6
# The time limit for a file, retry included, plus one second for each so many bytes.
FILE_SECONDS, BYTES_PER_SECOND = 15, 16_000
RETRIES = 1


class Known(NamedTuple):
    """What a file is: its size in bytes and its SHA-256, unpacked and as the mirrors' .gz."""

    size: int
    sha256: str
    gz_size: int
    gz_sha256: str


def unpack(file: BinaryIO, known: Known) -> bytes:
    """Decompress a .gz of MNIST, reading no more than a byte past the known size; ValueError if it is another file."""
    try:
        with gzip.GzipFile(fileobj=file) as packed:
            content = packed.read(known.size + 1)
            packed.read(1)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"not a whole gzip file ({error})") from None
    return verified(content, known)


def verified(content: bytes, known: Known) -> bytes:
    """Return the content itself; ValueError if it is not the known file."""
    if len(content) > known.size or hashlib.sha256(content).hexdigest() != known.sha256:
        raise ValueError(f"not MNIST's file: expected {known.size:,} bytes of SHA-256 {known.sha256[:12]}…")
    return content


class _Bounded:
    """A file for a download to write to that refuses more bytes than are due."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.left = file, size

    def write(self, block: bytes) -> None:
        self.left -= len(block)
        if self.left < 0:
            raise ValueError("more bytes than MNIST's file has")
        self.file.write(block)

    def flush(self) -> None:
        self.file.flush()


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise WorkError in a block that takes longer, in the main thread.

    requests bounds each wait, not their sum: a server that sends a byte now and then would hold it for ever.
    """

    def stop(*_: object) -> None:
        raise WorkError(f"not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _as_sent(response: requests.Response, **_: Any) -> None:
    """Have the body of a response as the server sends it, and none of a redirect's, which may be endless."""
    response.raw.headers.pop("Content-Encoding", None)  # some servers declare a .gz file itself as encoded content
    if response.is_redirect:
        response.close()


def address(base: str, file: str) -> str:
    """Return the URL of a file below another URL, whose query, as of a signed one, it keeps."""
    parts = urlsplit(base)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{file}"))


def fetch(base: str, name: str, known: Known) -> bytes:
    """Download a file, packed as .gz below a URL, and unpack it; pooch retries and verifies.

    Raises ValueError if it is another file, RequestException, or WorkError if it takes too long.
    """

    def bounded(url: str, output_file: str, manager: Any) -> None:
        http = pooch.HTTPDownloader(
            progressbar=sys.stderr.isatty(),
            chunk_size=1 << 16,
            timeout=(CONNECT_SECONDS, READ_SECONDS),
            hooks={"response": _as_sent},
        )
        with Path(output_file).open("wb") as file:
            http(url, _Bounded(file, known.gz_size), manager)

    pooch.get_logger().setLevel("WARNING")
    seconds = FILE_SECONDS + known.gz_size / BYTES_PER_SECOND
    with tempfile.TemporaryDirectory() as folder, deadline(seconds):
        mirror = pooch.create(
            path=folder,
            base_url="",
            registry={f"{name}.gz": f"sha256:{known.gz_sha256}"},
            urls={f"{name}.gz": address(base, f"{name}.gz")},
            retry_if_failed=RETRIES,
        )
        with Path(mirror.fetch(f"{name}.gz", downloader=bounded)).open("rb") as file:
            return unpack(file, known)


def reason(error: Exception) -> str:
    """Say what went wrong in a download, in the words of the server or of the operating system."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP status {error.response.status_code}"
    if isinstance(error, requests.RequestException):
        cause: BaseException = error
        while cause.__context__:  # the first error of the chain has the operating system's message
            cause = cause.__context__
        if isinstance(cause, TimeoutError):
            return "no answer in time"
        return (isinstance(cause, OSError) and cause.strerror) or str(cause)
    if "hash of downloaded file" in str(error):
        return "its SHA-256 is not that of MNIST's file"
    return str(error)
