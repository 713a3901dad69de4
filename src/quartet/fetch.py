"""Stage fetch: MNIST's four IDX files, each verified, or the embedded sample; data/raw/ and a record of which."""

from __future__ import annotations

import gzip
import hashlib
import os
import signal
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pooch
import requests

from quartet import data, errors, files, idx, params, paths, sample
from quartet.errors import InputError, WorkError

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
CONNECT_SECONDS, READ_SECONDS = 4, 6
# A file may take this long, the second try included, and one more second for each so many bytes.
FILE_SECONDS, BYTES_PER_SECOND = 15, 16_000
RETRIES = 1
VARIABLE = "QUARTET_MNIST"


class Known(NamedTuple):
    """What one of MNIST's files is: sizes in bytes and SHA-256, unpacked and as the mirrors' .gz."""

    size: int
    sha256: str
    gz_size: int
    gz_sha256: str


# The smallest first, so that a mirror that does not serve is known early.
MNIST = {
    "t10k-labels-idx1-ubyte": Known(
        10_008,
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        4_542,
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
    "train-labels-idx1-ubyte": Known(
        60_008,
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        28_881,
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    "t10k-images-idx3-ubyte": Known(
        7_840_016,
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        1_648_877,
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    "train-images-idx3-ubyte": Known(
        47_040_016,
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        9_912_422,
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
}


def unpack(file: BinaryIO, known: Known) -> bytes:
    """Decompress a .gz of MNIST, reading no more than a byte past the known size; ValueError where it is another file."""
    try:
        with gzip.GzipFile(fileobj=file) as packed:
            content = packed.read(known.size + 1)
            packed.read(1)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"not a whole gzip file ({error})") from None
    return verified(content, known)


def verified(content: bytes, known: Known) -> bytes:
    """The content itself; ValueError where it is not the known file."""
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
    response.raw.headers.pop("Content-Encoding", None)  # some servers call a .gz file's own packing that
    if response.is_redirect:
        response.close()


def download(base: str, name: str) -> bytes:
    """One of MNIST's files from below a URL; pooch retries and verifies.

    Raises ValueError, RequestException, or WorkError where it takes too long.
    """
    known = MNIST[name]

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
            base_url=base,
            registry={f"{name}.gz": f"sha256:{known.gz_sha256}"},
            retry_if_failed=RETRIES,
        )
        with Path(mirror.fetch(f"{name}.gz", downloader=bounded)).open("rb") as file:
            return unpack(file, known)


def read_local(folder: Path, name: str) -> bytes:
    """One of MNIST's files from a directory, packed or not; ValueError where it is not there or another one."""
    plain, packed = folder / name, folder / f"{name}.gz"
    if plain.is_file():
        with plain.open("rb") as file:
            return verified(file.read(MNIST[name].size + 1), MNIST[name])
    if packed.is_file():
        with packed.open("rb") as file:
            return unpack(file, MNIST[name])
    raise ValueError(f"neither {plain} nor {packed.name} is there")


def obtain(name: str, location: str) -> bytes:
    """One of MNIST's files from a directory, a `file:` URL or an `http(s):` URL."""
    scheme = urlsplit(location).scheme.lower()
    if scheme in ("http", "https"):
        return download(location, name)
    if "://" in location and scheme != "file":
        raise ValueError("expected a directory, a file: URL or an http(s): URL")
    folder = Path(url2pathname(urlsplit(location).path)) if scheme == "file" else Path(location).expanduser()
    return read_local(paths.project_root() / folder, name)


def take_mnist(locations: tuple[str, ...]) -> None:
    """Complete data/raw/ with MNIST's files, from the first location that serves each; a file already right is kept.

    Raises WorkError, saying what went wrong where, if a file can be had from none.
    """
    missing = [name for name in MNIST if not _at_hand(name)]
    if not missing:
        print(f"fetch: MNIST's files are in {paths.RAW}/ already: {' and '.join(locations)} not asked", flush=True)
    problems = []
    for location in locations:
        try:
            while missing:
                print(f"fetch: {missing[0]} from {location}", flush=True)
                files.write_bytes(paths.RAW / missing[0], obtain(missing[0], location))
                del missing[0]
        except (ValueError, RuntimeError, WorkError, requests.RequestException) as error:
            problems.append(f"{location}: {missing[0]}: {_reason(error)}")
            errors.warn(problems[-1])
    if missing:
        raise WorkError(
            "MNIST cannot be had (" + "; ".join(problems) + f"). Put {', '.join(f'{name}.gz' for name in MNIST)} into a"
            f" directory and set {VARIABLE} to it, or unpack them into {paths.RAW}/; then run the same again"
        )


def take_sample() -> None:
    """Fill data/raw/ with the embedded sample."""
    for name, array in sample.digits().items():
        files.write_bytes(paths.RAW / name, idx.encode(array))


def record(source: str) -> None:
    """Write which data data/raw/ holds, and the SHA-256 of each file; whatever else lies there goes."""
    for path in paths.RAW.iterdir():
        if path.name not in MNIST:
            path.unlink()  # what a killed fetch left half-written
    digests = {name: files.sha256(paths.RAW / name) for name in MNIST}
    files.write_record(paths.SOURCE, {"data": source, "sha256": digests})
    print(f"fetch: {data.TITLES[source]} in {paths.RAW}/, verified" if source == "mnist" else SAMPLE_NOTICE, flush=True)


SAMPLE_NOTICE = f"""\
****************************************************************************
  SAMPLE DATA: 1,797 digits that scikit-learn carries, NOT MNIST.
  No figure below compares with the report. For MNIST:
      {VARIABLE}=<directory or URL of its four files> make
****************************************************************************"""


def main() -> None:
    """Fetch what `data.source` and QUARTET_MNIST ask for."""
    wanted = params.load().data.source
    named = os.environ.get(VARIABLE)
    if wanted == "sample" and named:
        raise InputError(f"data.source is sample, yet {VARIABLE} names MNIST ({named}): change one of them")
    paths.RAW.mkdir(parents=True, exist_ok=True)
    paths.SOURCE.unlink(missing_ok=True)  # it is made anew once the files are whole
    if wanted == "sample":
        take_sample()
        return record("sample")
    try:
        take_mnist((named,) if named else MIRRORS)
    except WorkError:
        if wanted == "mnist" or named:
            raise
        take_sample()
        return record("sample")
    return record("mnist")


def _at_hand(name: str) -> bool:
    path = paths.RAW / name
    return path.is_file() and path.stat().st_size == MNIST[name].size and files.sha256(path) == MNIST[name].sha256


def _reason(error: Exception) -> str:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP status {error.response.status_code}"
    if isinstance(error, requests.RequestException):
        cause: BaseException = error
        while cause.__context__:  # the first of the chain says it in the operating system's words
            cause = cause.__context__
        if isinstance(cause, TimeoutError):
            return "no answer in time"
        return (isinstance(cause, OSError) and cause.strerror) or str(cause)
    if "hash of downloaded file" in str(error):
        return "its SHA-256 is not that of MNIST's file"
    return str(error)


if __name__ == "__main__":
    errors.run(main)
