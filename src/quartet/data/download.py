"""Downloads of a data set's files: bounded in bytes and in time, and verified."""

from __future__ import annotations

import gzip
import hashlib
import signal
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit, urlunsplit

import pooch
import requests

from quartet.base.errors import WorkError
from quartet.data.catalogue import Archive, Known

CONNECT_SECONDS, READ_SECONDS = 4, 6
# The time limit for a file, retry included, plus one second for each so many bytes.
FILE_SECONDS, BYTES_PER_SECOND = 15, 16_000
RETRIES = 1


def unpack(file: BinaryIO, known: Known, *, trusted: bool = False) -> bytes:
    """Decompress the .gz of a known file, reading no more than a byte past its size; ValueError if it is another file.

    A `trusted` one has been verified by its own hash.
    """
    if not known.sha256 and not trusted:
        if hashlib.sha256(file.read()).hexdigest() != known.gz_sha256:
            raise ValueError(f"another file: expected a .gz of SHA-256 {known.gz_sha256[:12]}…")
        file.seek(0)
    try:
        with gzip.GzipFile(fileobj=file) as packed:
            content = packed.read(known.size + 1)
            packed.read(1)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"not a whole gzip file ({error})") from None
    return verified(content, known)


def verified(content: bytes, known: Known) -> bytes:
    """Return the content itself; ValueError if it is not the known file. If no SHA-256 of it is known, its size counts."""
    if len(content) != known.size or (known.sha256 and hashlib.sha256(content).hexdigest() != known.sha256):
        digest = f" of SHA-256 {known.sha256[:12]}…" if known.sha256 else ""
        raise ValueError(f"another file: expected {known.size:,} bytes{digest}")
    return content


class _Bounded:
    """A file for a download to write to that refuses more bytes than are due."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.left = file, size

    def write(self, block: bytes) -> None:
        self.left -= len(block)
        if self.left < 0:
            raise ValueError("more bytes than the file has")
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
    """Download a file, packed as .gz below a URL, and unpack it.

    Raises ValueError if it is another file, RequestException, or WorkError if it takes too long.
    """
    with fetched(base, f"{known.name or name}.gz", known.gz_size, known.gz_sha256) as file:
        return unpack(file, known, trusted=True)


def fetch_archive(base: str, archive: Archive, wanted: Mapping[str, Known]) -> dict[str, bytes]:
    """Download a zip archive below a URL, and return the content of these files of it; raises what `fetch` does."""
    with fetched(base, archive.name, archive.size, archive.sha256) as file:
        return members(file, archive, wanted)


def members(file: BinaryIO, archive: Archive, wanted: Mapping[str, Known]) -> dict[str, bytes]:
    """Return the content of these files of a zip archive that was verified; ValueError if one is not in it."""
    found = {}
    try:
        with zipfile.ZipFile(file) as opened:
            for name, known in wanted.items():
                with opened.open(f"{archive.folder}{known.name or name}.gz") as packed:
                    found[name] = unpack(packed, known, trusted=True)  # type: ignore[arg-type] # as gzip takes it
    except (KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{archive.name}: {error}") from None
    return found


@contextmanager
def fetched(base: str, name: str, size: int, sha256: str) -> Iterator[BinaryIO]:
    """Download a file below a URL for the block; pooch retries and verifies."""

    def bounded(url: str, output_file: str, manager: Any) -> None:
        http = pooch.HTTPDownloader(
            progressbar=sys.stderr.isatty(),
            chunk_size=1 << 16,
            timeout=(CONNECT_SECONDS, READ_SECONDS),
            hooks={"response": _as_sent},
        )
        with Path(output_file).open("wb") as file:
            http(url, _Bounded(file, size), manager)

    pooch.get_logger().setLevel("WARNING")
    seconds = FILE_SECONDS + size / BYTES_PER_SECOND
    with tempfile.TemporaryDirectory() as folder, deadline(seconds):
        mirror = pooch.create(
            path=folder,
            base_url="",
            registry={name: f"sha256:{sha256}"},
            urls={name: address(base, name)},
            retry_if_failed=RETRIES,
        )
        with Path(mirror.fetch(name, downloader=bounded)).open("rb") as file:
            yield file


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
        return "its SHA-256 is another"
    return str(error)
