"""data/raw/: MNIST's four IDX files from wherever they can be had, each verified, or the embedded sample."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

import requests

from quartet.base import errors, files, paths
from quartet.base.errors import InputError, WorkError
from quartet.data import download, idx, sample
from quartet.data.download import Known

GZIP = b"\x1f\x8b"  # how a gzip file begins (RFC 1952)
VARIABLE = "QUARTET_MNIST"
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
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


def read_local(folder: Path, name: str) -> bytes:
    """One of MNIST's files from a directory or a folder in it, packed or not, under any name: it is known by its SHA-256.

    ValueError if it is not there, which says what is wrong with a file of that very name.
    """
    if not folder.is_dir():
        raise ValueError("not a directory")
    known, named = MNIST[name], [folder / name, folder / f"{name}.gz"]
    problem = f"no file of SHA-256 {known.sha256[:12]}…, packed or not, is there or one folder below"
    others = sorted(path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path not in named)
    for path in [*named, *others]:
        if not path.is_file():
            continue
        try:
            with path.open("rb") as file:
                if path in named or _may_be(file, known):
                    return _unpacked(file, known, named_packed=path.suffix == ".gz")
        except (ValueError, OSError) as error:
            if path in named:
                problem = str(error)
    raise ValueError(problem)


def _unpacked(file: BinaryIO, known: Known, *, named_packed: bool) -> bytes:
    """The known file from one that is it or has it packed; ValueError if it is another."""
    if _is_packed(file) or (named_packed and not _may_be(file, known)):  # some browsers unpack and keep the name
        return download.unpack(file, known)
    return download.verified(file.read(known.size + 1), known)


def _may_be(file: BinaryIO, known: Known) -> bool:
    """Whether a file has the size of the known one, as it is or by the last four bytes of a gzip file (RFC 1952)."""
    size = file.seek(0, os.SEEK_END)
    if size > 4 and _is_packed(file):
        file.seek(-4, os.SEEK_END)
        size = int.from_bytes(file.read(4), "little")
    file.seek(0)
    return size == known.size


def _is_packed(file: BinaryIO) -> bool:
    file.seek(0)
    begins = file.read(2)
    file.seek(0)
    return begins == GZIP


def obtain(name: str, location: str) -> bytes:
    """One of MNIST's files from a directory, a `file:` URL or an `http(s):` URL."""
    scheme = urlsplit(location).scheme.lower()
    if scheme in ("http", "https"):
        return download.fetch(location, name, MNIST[name])
    if "://" in location and scheme != "file":
        raise ValueError("expected a directory, a file: URL or an http(s): URL")
    folder = Path(url2pathname(urlsplit(location).path)) if scheme == "file" else Path(location).expanduser()
    return read_local(paths.project_root() / folder, name)


def take_mnist(locations: tuple[str, ...]) -> None:
    """Complete data/raw/ with MNIST's files: from what the user put there, else from the first location that serves each.

    A file that is right already is kept. WorkError says what went wrong where if a file can be had from none.
    """
    missing = [name for name in MNIST if not (_at_hand(name) or _unpack_at_hand(name))]
    if not missing:
        errors.tell(f"fetch: MNIST's files are in {paths.RAW}/ already: {' and '.join(locations)} not asked")
    problems = []
    for location in locations:
        try:
            while missing:
                errors.tell(f"fetch: {missing[0]} from {location}")
                files.write_bytes(paths.RAW / missing[0], obtain(missing[0], location))
                del missing[0]
        except (ValueError, RuntimeError, WorkError, requests.RequestException) as error:
            problems.append(f"{location}: {missing[0]}: {download.reason(error)}")
            errors.warn(problems[-1])
    if missing:
        raise WorkError(
            "MNIST cannot be had (" + "; ".join(problems) + f"). Put {', '.join(f'{name}.gz' for name in MNIST)} into"
            f" {paths.RAW}/, packed or not, or into a directory and set {VARIABLE} to it; then run the same again"
        )


def check_place() -> None:
    """Refuse to write to data/raw/ what would go elsewhere, or replace what is not ours; InputError names it."""
    for folder in (paths.RAW.parent, paths.RAW):
        if folder.is_symlink():
            target = paths.RAW.resolve()
            raise InputError(
                f"{folder}: a link to {folder.resolve()}; outputs are written in the project itself. Remove the link, and"
                f" run with {VARIABLE}={target}"
            )
    for place in (paths.SOURCE, *(paths.RAW / name for name in idx.FILES)):
        if place.is_dir():
            raise InputError(
                f"{place}: a folder is where a file is to be written; move it elsewhere, and {VARIABLE} may name that place"
            )


def take_sample() -> None:
    """Fill data/raw/ with the embedded sample."""
    for name, array in sample.digits().items():
        files.write_bytes(paths.RAW / name, idx.encode(array))


def _unpack_at_hand(name: str) -> bool:
    """Take a file from what the user put into data/raw/ under another name or packed; what is there stays as it is."""
    try:
        files.write_bytes(paths.RAW / name, read_local(paths.RAW, name))
    except ValueError:
        return False
    return True


def _at_hand(name: str) -> bool:
    path = paths.RAW / name
    return path.is_file() and path.stat().st_size == MNIST[name].size and files.sha256(path) == MNIST[name].sha256
