"""data/raw/: the four IDX files of a data set from wherever they can be had, each verified, or the embedded sample."""

from __future__ import annotations

import contextlib
import difflib
import gzip
import hashlib
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import requests
from numpy.typing import NDArray

from quartet.base import errors, files, numerics, paths
from quartet.base.errors import InputError, WorkError
from quartet.data import catalogue, download, idx, own, sample
from quartet.data.catalogue import DataSet, Known
from quartet.data.splits import Source

WITHIN = ("*", "*/*", "*/raw/*")  # searched for files in a directory; the last is torchvision's layout
LISTED = 9  # files that a message lists at most


def warn_of_unread(asked: str, variable: str) -> None:
    """Warn of variables that name the files of another data set than data.source, `asked`, or that nothing reads.

    `variable` is the one that names those of `asked`.
    """
    others = {data_set.variable: name for name, data_set in catalogue.DATA_SETS.items()}
    own = {variable, numerics.SWITCH, catalogue.QMNIST.variable}
    for name in sorted(name for name in os.environ if name.startswith("QUARTET_") and name not in own):
        if name in others:
            errors.warn(f"{name} is not read, since data.source is {asked}; set data.source: {others[name]} in params.yaml")
        elif close := difflib.get_close_matches(name, others, n=1, cutoff=0.8):
            errors.warn(f"{name}: nothing reads a variable of this name; is {close[0]} meant?")


def read_local(folder: Path, name: str, data_set: DataSet) -> bytes:
    """Find a file of a data set in a directory or a folder in it, packed or not, under any name: its SHA-256 identifies it.

    ValueError if it is not there, which says what is wrong with a file of that very name.
    """
    if not folder.is_dir():
        raise ValueError("a file; expected the directory that has it" if folder.exists() else "no such directory")
    found = _files(folder)
    if not found:
        raise ValueError("no files in that directory")
    known = data_set.files[name]
    if archive := data_set.archive:
        for path in found:
            if path.stat().st_size == archive.size and files.sha256(path) == archive.sha256:
                with path.open("rb") as opened:
                    return download.members(opened, archive, {name: known})[name]
    named = [folder / f"{called}{end}" for called in dict.fromkeys((name, known.name or name)) for end in ("", ".gz")]
    problem = f"no file there, packed or not, has SHA-256 {(known.sha256 or known.gz_sha256)[:12]}…"
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
    """Describe each file of a directory in a few words: for those who expected others there."""
    found = _files(folder)
    told = [f"{path.relative_to(folder)} ({describe(path)})" for path in found[:LISTED]]
    return ", ".join(told + [f"and {len(found) - LISTED} more"] * (len(found) > LISTED))


def describe(path: Path) -> str:
    """Describe a file in a few words, by its content, whatever its name."""
    try:
        with path.open("rb") as file:
            if path.stat().st_size <= max(known.size for it in catalogue.DATA_SETS.values() for known in it.files.values()):
                digest = hashlib.sha256(file.read()).hexdigest()
                for data_set in catalogue.DATA_SETS.values():
                    for name, known in data_set.files.items():
                        if digest in (known.sha256, known.gz_sha256):
                            return f"{data_set.title}'s {name}"
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
    if not known.sha256:
        raise ValueError("unpacked, but the SHA-256 of the .gz alone is known; expected that")
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
    return begins == idx.GZIP


def obtain(data_set: DataSet, wanted: Sequence[str], location: str) -> dict[str, bytes]:
    """Read the first wanted file of a data set, and others that come with it, from a directory or a URL.

    Images are as MNIST has them, whatever the data set has.
    """
    scheme = urlsplit(location).scheme.lower()
    if scheme in ("http", "https"):
        if data_set.archive:
            found = download.fetch_archive(location, data_set.archive, {name: data_set.files[name] for name in wanted})
        else:
            found = {wanted[0]: download.fetch(location, wanted[0], data_set.files[wanted[0]])}
    elif "://" in location and scheme != "file":
        raise ValueError("expected a directory, a file: URL or an http(s): URL")
    else:
        found = {wanted[0]: _obtain_local(data_set, wanted[0], directory(location))}
    return {name: _upright(content) for name, content in found.items()} if data_set.transposed else found


def directory(location: str) -> Path:
    """Return the directory that a path or a `file:` URL names."""
    is_url = urlsplit(location).scheme.lower() == "file"
    folder = Path(url2pathname(urlsplit(location).path)) if is_url else Path(location).expanduser()
    return paths.project_root() / folder


def _obtain_local(data_set: DataSet, name: str, folder: Path) -> bytes:
    try:
        return read_local(folder, name, data_set)
    except ValueError as error:
        raise ValueError(f"{error}; it has {listing(folder)}" if _files(folder) else str(error)) from None


def _upright(content: bytes) -> bytes:
    """Exchange rows and columns of each image of an IDX file; labels stay as they are."""
    dimensions = content[3]
    if dimensions < 3:
        return content
    return idx.encode(idx.parse(content, dimensions).swapaxes(1, 2))


def take(data_set: DataSet, locations: Sequence[str], *, all_or_none: bool = False) -> None:
    """Complete data/raw/ with a data set's files, from what the user put there or the first location that serves each.

    A file that is right already is kept. If a file can be had from none, a warning says why for each location but the
    last, and WorkError for the last. With `all_or_none` a location that lacks one changes nothing.
    """
    recorded = _recorded(data_set)
    missing = [name for name in data_set.files if not _at_hand(data_set, name, recorded)]
    ready = {name: content for name in missing if (content := _at_hand_elsewhere(data_set, name)) is not None}
    problem = ""

    def write() -> None:
        for name in [*ready]:
            put(name, ready.pop(name))
            missing.remove(name)

    if len(ready) == len(missing):
        errors.tell(f"fetch: {data_set.title}'s files are in {paths.RAW}/ already: {' and '.join(locations)} not asked")
    for location in locations:
        if problem:
            errors.warn(problem)
        try:
            while wanted := [name for name in missing if name not in ready]:
                errors.tell(f"fetch: {wanted[0]} from {location}")
                ready.update(obtain(data_set, wanted, location))
                if not all_or_none:
                    write()
        except (ValueError, RuntimeError, WorkError, requests.RequestException) as error:
            problem = f"{location}: {wanted[0]}: {download.reason(error)}"
    if not all_or_none or len(ready) == len(missing):
        write()
    if missing:
        packed = "packed or not" if all(known.sha256 for known in data_set.files.values()) else "as .gz"
        names = ", ".join(known.name or name for name, known in data_set.files.items())
        raise WorkError(
            f"{data_set.title} cannot be had: {problem.rstrip('.')}. Put {names}, {packed}, into {paths.RAW}/, or set"
            f" {data_set.variable} to the directory or URL that has them, and run the same again; without"
            f" {data_set.variable}, the mirrors are tried"
        )


def check_place(variable: str) -> None:
    """Refuse to write to data/raw/ what would go elsewhere, or replace what is not ours.

    InputError names it, and `variable`, which may name where the data is.
    """
    for folder in (paths.RAW.parent, paths.RAW):
        if folder.is_symlink():
            target = paths.RAW.resolve()
            raise InputError(
                f"{folder}: a link to {folder.resolve()}; outputs are written in the project itself. Remove the link, and"
                f" run with {variable}={target}"
            )
    for place in (paths.SOURCE, *(paths.RAW / name for name in idx.FILES)):
        if place.is_dir():
            raise InputError(
                f"{place}: a folder is in the place of a file; move it elsewhere, and {variable} may name that place"
            )


def put(name: str, content: bytes) -> None:
    """Write a file of data/raw/. The record of what was there goes first: it is written again when all files are whole."""
    paths.SOURCE.unlink(missing_ok=True)
    files.write_bytes(paths.RAW / name, content)


def take_sample() -> Source:
    """Fill data/raw/ with the embedded sample."""
    _put_all(sample.digits())
    return catalogue.SAMPLE.source


def take_own(location: str) -> Source:
    """Fill data/raw/ with the user's own files from a directory; InputError says what is wrong with them."""
    arrays, source = own.read(directory(location))
    _put_all(arrays)
    return source


def _put_all(arrays: Mapping[str, NDArray[np.uint8]]) -> None:
    for name, array in arrays.items():
        put(name, idx.encode(array))


def _at_hand_elsewhere(data_set: DataSet, name: str) -> bytes | None:
    """Find a file that the user put into data/raw/ under another name or packed; None if it is not there."""
    try:
        content = read_local(paths.RAW, name, data_set)
    except ValueError:
        return None
    return _upright(content) if data_set.transposed else content


def _recorded(data_set: DataSet) -> Mapping[str, str]:
    """Return the SHA-256 of each file of data/raw/ that fetch recorded for this data set: nothing if it is of another."""
    with contextlib.suppress(InputError):
        recorded = files.read_record(paths.SOURCE, "fetch")
        if recorded.get("data") == data_set.name:
            return dict(recorded["sha256"])
    return {}


def _at_hand(data_set: DataSet, name: str, recorded: Mapping[str, str]) -> bool:
    """Tell whether a file of data/raw/ is that of the data set: by its hash, or by the record if its hash is not known."""
    path, known = paths.RAW / name, data_set.files[name]
    expected = recorded.get(name) if data_set.transposed or not known.sha256 else known.sha256
    return path.is_file() and path.stat().st_size == known.size and files.sha256(path) == expected
