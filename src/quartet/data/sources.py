"""data/raw/: MNIST's four IDX files from wherever they can be had, each verified, or the embedded sample."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import struct
import zlib
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
WITHIN = ("*", "*/*", "MNIST/raw/*")  # searched for files in a directory; the last is torchvision's layout
LISTED = 9  # files that a message lists at most
# Data sets whose files have the same names as MNIST's, by MD5 (from torchvision.datasets.mnist).
OTHERS = {
    "8d4fb7e6c68d591d4c3dfef9ec88bf0d": "Fashion-MNIST",
    "25c81989df183df01b3e8a0aad5dffbe": "Fashion-MNIST",
    "bef4ecab320f06d8554ea6380940ec79": "Fashion-MNIST",
    "bb300cfdad3c16e7a12a480ee83cd310": "Fashion-MNIST",
    "bdb82020997e1d708af4cf47b453dcf7": "KMNIST",
    "e144d726b3acfaa3e44228e80efcd344": "KMNIST",
    "5c965bf0a639b31b8f53240b1b52f4d7": "KMNIST",
    "7320c461ea6c1c855c0b718fb2a4b134": "KMNIST",
}
VARIABLE = "QUARTET_MNIST"
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
# The smallest file first, so that a mirror that fails is found out early.
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
    """Find one of MNIST's files in a directory or a folder in it, packed or not, under any name: its SHA-256 identifies it.

    ValueError if it is not there, which says what is wrong with a file of that very name.
    """
    if not folder.is_dir():
        raise ValueError("a file; expected the directory that has it" if folder.exists() else "no such directory")
    found = _files(folder)
    if not found:
        raise ValueError("no files in that directory")
    known, named = MNIST[name], [folder / name, folder / f"{name}.gz"]
    problem = f"no file there, packed or not, has SHA-256 {known.sha256[:12]}…"
    for path in [*named, *(path for path in found if path not in named)]:
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


def _files(folder: Path) -> list[Path]:
    return sorted({path for pattern in WITHIN for path in folder.glob(pattern) if path.is_file()})


def listing(folder: Path) -> str:
    """Describe each file of a directory in a few words: for those who expected MNIST there."""
    found = _files(folder)
    told = [f"{path.relative_to(folder)} ({describe(path)})" for path in found[:LISTED]]
    return ", ".join(told + [f"and {len(found) - LISTED} more"] * (len(found) > LISTED))


def describe(path: Path) -> str:
    """Describe a file in a few words, by its content, whatever its name."""
    try:
        with path.open("rb") as file:
            if path.stat().st_size <= max(known.size for known in MNIST.values()):
                whole = file.read()
                digest = hashlib.sha256(whole).hexdigest()
                for name, known in MNIST.items():
                    if digest in (known.sha256, known.gz_sha256):
                        return f"MNIST's {name}"
                if other := OTHERS.get(hashlib.md5(whole, usedforsecurity=False).hexdigest()):
                    return f"of {other}"
            packed = _is_packed(file)
            try:
                with gzip.GzipFile(fileobj=file) if packed else contextlib.nullcontext(file) as content:
                    begins = content.read(64)
            except (EOFError, OSError, zlib.error):
                return "a damaged gzip file"
    except OSError as error:
        return str(error.strerror)
    return f"a gzip of {_kind(begins)}" if packed else _kind(begins)


def _kind(begins: bytes) -> str:
    if begins[:3] == b"\0\0\x08" and 1 <= begins[3] <= 8 and len(begins) >= 4 + 4 * begins[3]:
        shape = struct.unpack(f">{begins[3]}I", begins[4 : 4 + 4 * begins[3]])
        return f"an IDX file of {' × '.join(f'{size:,}' for size in shape)}"
    if begins.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if begins.startswith(b"PK"):
        return "a zip archive: unpack it"
    return "no IDX file" if begins else "an empty file"


def _unpacked(file: BinaryIO, known: Known, *, named_packed: bool) -> bytes:
    """Return the known file's content from one that is it or has it packed; ValueError if it is another."""
    if _is_packed(file) or (named_packed and not _may_be(file, known)):  # some browsers unpack a file but keep its name
        return download.unpack(file, known)
    return download.verified(file.read(known.size + 1), known)


def _may_be(file: BinaryIO, known: Known) -> bool:
    """Tell whether a file has the size of the known one, as it is or by the last four bytes of a gzip file (RFC 1952)."""
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
    """Read one of MNIST's files from a directory, a `file:` URL or an `http(s):` URL."""
    scheme = urlsplit(location).scheme.lower()
    if scheme in ("http", "https"):
        return download.fetch(location, name, MNIST[name])
    if "://" in location and scheme != "file":
        raise ValueError("expected a directory, a file: URL or an http(s): URL")
    folder = Path(url2pathname(urlsplit(location).path)) if scheme == "file" else Path(location).expanduser()
    folder = paths.project_root() / folder
    try:
        return read_local(folder, name)
    except ValueError as error:
        raise ValueError(f"{error}; it has {listing(folder)}" if _files(folder) else str(error)) from None


def take_mnist(locations: tuple[str, ...], *, all_or_none: bool = False) -> None:
    """Complete data/raw/ with MNIST's files: from what the user put there, else from the first location that serves each.

    A file that is right already is kept. If a file can be had from none, a warning says why for each location but the
    last, and WorkError for the last. With `all_or_none` a location that lacks one changes nothing.
    """
    missing = [name for name in MNIST if not _at_hand(name)]
    ready = {name: content for name in missing if (content := _at_hand_elsewhere(name)) is not None}
    problem = ""

    def write() -> None:
        for name in [*ready]:
            put(name, ready.pop(name))
            missing.remove(name)

    if len(ready) == len(missing):
        errors.tell(f"fetch: MNIST's files are in {paths.RAW}/ already: {' and '.join(locations)} not asked")
    for location in locations:
        if problem:
            errors.warn(problem)
        try:
            while wanted := [name for name in missing if name not in ready]:
                errors.tell(f"fetch: {wanted[0]} from {location}")
                ready[wanted[0]] = obtain(wanted[0], location)
                if not all_or_none:
                    write()
        except (ValueError, RuntimeError, WorkError, requests.RequestException) as error:
            problem = f"{location}: {wanted[0]}: {download.reason(error)}"
    if not all_or_none or len(ready) == len(missing):
        write()
    if missing:
        raise WorkError(
            f"MNIST cannot be had: {problem.rstrip('.')}. Put {', '.join(MNIST)}, packed or not, into {paths.RAW}/, or set"
            f" {VARIABLE} to the directory or URL that has them, and run the same again; without {VARIABLE}, the mirrors are"
            " tried"
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
                f"{place}: a folder is in the place of a file; move it elsewhere, and {VARIABLE} may name that place"
            )


def put(name: str, content: bytes) -> None:
    """Write a file of data/raw/. The record of what was there goes first: it is written again when all files are whole."""
    paths.SOURCE.unlink(missing_ok=True)
    files.write_bytes(paths.RAW / name, content)


def take_sample() -> None:
    """Fill data/raw/ with the embedded sample."""
    for name, array in sample.digits().items():
        put(name, idx.encode(array))


def _at_hand_elsewhere(name: str) -> bytes | None:
    """Find a file that the user put into data/raw/ under another name or packed; None if it is not there."""
    try:
        return read_local(paths.RAW, name)
    except ValueError:
        return None


def _at_hand(name: str) -> bool:
    path = paths.RAW / name
    return path.is_file() and path.stat().st_size == MNIST[name].size and files.sha256(path) == MNIST[name].sha256
