"""IDX, the format of MNIST's files: each is checked against its header before idx2numpy parses it."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import idx2numpy
import numpy as np
from numpy.typing import NDArray

from quartet.base import files, paths
from quartet.base.errors import InputError
from quartet.data.splits import Source

UNSIGNED_BYTE, INT = 0x08, 0x0C
SIZES = {UNSIGNED_BYTE: 1, INT: 4}  # bytes of an item
KINDS = {UNSIGNED_BYTE: "bytes", INT: "integers"}
SIDE = 28
GZIP = b"\x1f\x8b"  # how a gzip file begins (RFC 1952)
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def read(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Parse an IDX file of unsigned bytes into an array of that many dimensions.

    The header is two zero bytes, a type code, the number of dimensions and each dimension as a big-endian 32-bit integer
    (http://yann.lecun.com/exdb/mnist/). InputError names the file if the header is another one or promises more or
    fewer items than the file holds; nothing is allocated before that is known.
    """
    try:
        with path.open("rb") as file:
            header = file.read(4 + 4 * dimensions)
    except FileNotFoundError:
        raise InputError(f"{path}: missing; `dvc repro` fetches it") from None
    if problem := _problem(header, path.stat().st_size, dimensions, UNSIGNED_BYTE):
        raise InputError(f"{path}: {problem}; delete it and run `dvc repro`")
    return np.asarray(idx2numpy.convert_from_file(str(path)), dtype=np.uint8)


def parse(content: bytes, dimensions: int, kind: int = UNSIGNED_BYTE) -> NDArray[Any]:
    """Parse the content of an IDX file, of unsigned bytes or of 32-bit integers; ValueError says what is wrong with it."""
    if problem := _problem(content[: 4 + 4 * dimensions], len(content), dimensions, kind):
        raise ValueError(problem)
    return np.asarray(idx2numpy.convert_from_string(content))


def _problem(header: bytes, size: int, dimensions: int, kind: int) -> str:
    """Say what is wrong with the beginning of an IDX file of this size in bytes; nothing if all is well."""
    expected = bytes([0, 0, kind, dimensions])
    if header[:4] != expected:
        found = header[:4].hex() or "nothing"
        return f"expected the IDX magic {expected.hex()} ({dimensions}-dimensional {KINDS[kind]}), found {found}"
    if len(header) < 4 + 4 * dimensions:
        return f"the header ends after {len(header)} bytes of {4 + 4 * dimensions}"
    shape = struct.unpack(f">{dimensions}I", header[4:])
    payload = size - len(header)
    if math.prod(shape) * SIZES[kind] != payload:
        items = "items of a byte" if kind == UNSIGNED_BYTE else f"items of {SIZES[kind]} bytes"
        return f"the header promises {' x '.join(map(str, shape))} {items}, the file holds {payload}"
    return ""


def read_pair(images_path: Path, labels_path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read the two IDX files of a set: images uint8 [n, 28, 28] and labels uint8 [n].

    InputError if they are not n images of 28x28 with n labels of 0 to 9.
    """
    images, labels = read(images_path, 3), read(labels_path, 1)
    if images.shape[1:] != (SIDE, SIDE):
        raise InputError(f"{images_path}: expected images of {SIDE}x{SIDE}, found {images.shape[1]}x{images.shape[2]}")
    if len(images) != len(labels):
        raise InputError(f"{labels_path}: expected a label for each of {len(images)} images, found {len(labels)}")
    if len(labels) and labels.max() > 9:
        raise InputError(f"{labels_path}: expected labels 0 to 9, found {labels.max()} at item {labels.argmax()}")
    return images, labels


def read_sets(folder: Path) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Read the training and the test set of a folder that holds FILES, each as `read_pair` does."""
    return [read_pair(folder / images, folder / labels) for images, labels in (FILES[:2], FILES[2:])]


def encode(array: NDArray[np.uint8]) -> bytes:
    """Encode an array of unsigned bytes as the content of an IDX file."""
    return bytes(idx2numpy.convert_to_string(array))


def record(source: Source, root: Path = Path()) -> None:
    """Write which data data/raw/ below `root` holds, and the SHA-256 of each file."""
    digests = {name: files.sha256(root / paths.RAW / name) for name in FILES}
    files.write_record(root / paths.SOURCE, {**source.record, "sha256": digests})


def check() -> Source:
    """Compare data/raw/ with the record of it, and return which data it is; InputError for a file that is damaged."""
    recorded = files.read_record(paths.SOURCE, "fetch")
    for name, expected in recorded["sha256"].items():
        if not (paths.RAW / name).is_file():
            raise InputError(f"{paths.RAW / name}: missing; `dvc repro` fetches it")
        if files.sha256(paths.RAW / name) != expected:
            raise InputError(f"{paths.RAW / name}: not the file that fetch recorded: damaged; {files.remake('fetch')}")
    return Source.of(recorded)


def source() -> Source:
    """Read which data data/raw/ holds, without a look at its files; InputError if that is missing or damaged."""
    return Source.of(files.read_record(paths.SOURCE, "fetch"))
