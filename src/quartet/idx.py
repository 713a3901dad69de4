"""IDX, the format of MNIST's files: checked against its header before idx2numpy parses it."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import idx2numpy
import numpy as np
from numpy.typing import NDArray

from quartet.errors import InputError

UNSIGNED_BYTE = 0x08


def read(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Parse an IDX file of unsigned bytes into an array of that many dimensions.

    The header is two zero bytes, a type code, the number of dimensions and each dimension as a big-endian 32-bit integer
    (http://yann.lecun.com/exdb/mnist/). InputError names the file where the header is another one or promises more or
    fewer items than the file holds; nothing is allocated before that is known.
    """
    try:
        with path.open("rb") as file:
            header = file.read(4 + 4 * dimensions)
    except FileNotFoundError:
        raise InputError(f"{path}: missing; `dvc repro` fetches it") from None
    expected = bytes([0, 0, UNSIGNED_BYTE, dimensions])
    if header[:4] != expected:
        found = header[:4].hex() or "nothing"
        raise _bad(path, f"expected the IDX magic {expected.hex()} ({dimensions}-dimensional bytes), found {found}")
    if len(header) < 4 + 4 * dimensions:
        raise _bad(path, f"the header ends after {len(header)} bytes of {4 + 4 * dimensions}")
    shape = struct.unpack(f">{dimensions}I", header[4:])
    payload = path.stat().st_size - len(header)
    if math.prod(shape) != payload:
        raise _bad(path, f"the header promises {' x '.join(map(str, shape))} items of a byte, the file holds {payload}")
    return np.asarray(idx2numpy.convert_from_file(str(path)), dtype=np.uint8)


def encode(array: NDArray[np.uint8]) -> bytes:
    """An array of unsigned bytes as the content of an IDX file."""
    return bytes(idx2numpy.convert_to_string(array))


def _bad(path: Path, problem: str) -> InputError:
    return InputError(f"{path}: {problem}; delete it and run `dvc repro`")
