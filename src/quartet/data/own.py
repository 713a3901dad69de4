"""The user's own data set: four IDX files in a folder, by any names that can be told apart."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quartet.base.errors import InputError
from quartet.data import catalogue, idx
from quartet.data.splits import Source

FOLDER = Path("data/own")
CLASSES = "classes.txt"  # the names of the ten classes, a line each
OTHERS = ("README.md", ".gitignore", CLASSES)
TEST = re.compile("t10k|test|valid", re.IGNORECASE)
ADVICE = "`quartet pack` makes the four files from pictures"


def read(folder: Path) -> tuple[dict[str, NDArray[np.uint8]], Source]:
    """Return the arrays of the four files as MNIST's files have them, by their names in data/raw/, and what they are.

    The header of each file tells images from labels; a name with `test`, `t10k` or `valid`, or else the smaller number of
    images, tells the test set. Images that are smaller than 28x28 get a frame of zeros. InputError says what is missing.
    """
    arrays = {path: _array(path) for path in _files(folder)}
    images = {path: array for path, array in arrays.items() if array.ndim == 3}
    labels = {path: array for path, array in arrays.items() if array.ndim == 1}
    if len(images) != 2 or len(labels) != 2:
        raise InputError(
            f"{folder}: expected two IDX files of images and two of labels, found {len(images)} and {len(labels)}; {ADVICE}"
        )
    found = {}
    for kind, end, pair in (("images", "idx3-ubyte", images), ("labels", "idx1-ubyte", labels)):
        train, test = _told_apart(folder, kind, pair)
        found[f"train-{kind}-{end}"], found[f"t10k-{kind}-{end}"] = pair[train], pair[test]
        if kind == "images":
            for path in (train, test):
                if max(pair[path].shape[1:]) > idx.SIDE:
                    height, width = pair[path].shape[1:]
                    raise InputError(f"{path}: expected images of 28x28 at most, found {height}x{width}; scale them down")
    for part in ("train", "t10k"):
        name = f"{part}-images-idx3-ubyte"
        found[name] = _framed(found[name])
        count, labelled = len(found[name]), found[f"{part}-labels-idx1-ubyte"]
        if len(labelled) != count or not count:
            raise InputError(f"{folder}: expected a label for each of {count} images ({part}), found {len(labelled)}")
        if labelled.max() > 9:
            raise InputError(
                f"{folder}: expected labels 0 to 9 ({part}), found {labelled.max()} at item {labelled.argmax()}"
            )
    return found, Source(catalogue.OWN.name, catalogue.OWN.title, classes(folder / CLASSES))


def classes(path: Path) -> tuple[str, ...]:
    """Read the names of the ten classes; they are the digits if there is no such file."""
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except FileNotFoundError:
        return catalogue.DIGITS
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}; expected a name for each class, a line each") from None
    return checked(names, path)


def checked(names: Sequence[str], where: Path) -> tuple[str, ...]:
    """Return the names of the classes; InputError, which begins with `where`, unless they are ten that tables can hold."""
    if len(names) != 10 or len(set(names)) != 10:
        raise InputError(f"{where}: expected ten names of classes, all different, found {', '.join(names) or 'none'}")
    if odd := [name for name in names if any(mark in name for mark in "·|,") or not name.isprintable()]:
        raise InputError(f"{where}: expected names of classes without · | and commas, found '{odd[0]}'")
    return tuple(names)


def check_free(folder: Path, written: Collection[str]) -> None:
    """Raise InputError if a folder has files besides those to be written, which `read` would take for others of the four."""
    there = [path.name for path in _files(folder) if path.name not in written]
    if there:
        raise InputError(f"{folder}: has other files: {', '.join(there)}; move them away, or name another folder with --out")


def _files(folder: Path) -> list[Path]:
    """Return the files that are, or would be, the four. Hidden ones are the system's, such as .DS_Store."""
    return sorted(path for path in folder.glob("[!.]*") if path.is_file() and path.name not in OTHERS)


def _array(path: Path) -> NDArray[Any]:
    """Read an IDX file, packed or not."""
    try:
        content = path.read_bytes()
        if content.startswith(idx.GZIP):
            content = gzip.decompress(content)
        return idx.parse(content, content[3] if len(content) > 3 and content[3] in (1, 3) else 3)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}; expected an IDX file of images or of labels; {ADVICE}") from None


def _told_apart(folder: Path, kind: str, pair: Mapping[Path, NDArray[Any]]) -> tuple[Path, Path]:
    """Return the training file and the test file of two."""
    one, other = pair
    of_test = [bool(TEST.search(path.name)) for path in (one, other)]
    if of_test[0] != of_test[1]:
        return (other, one) if of_test[0] else (one, other)
    if len(pair[one]) != len(pair[other]):
        return (one, other) if len(pair[one]) > len(pair[other]) else (other, one)
    raise InputError(
        f"{folder}: {one.name} and {other.name} have as many {kind}, so nothing tells which is for testing; expected `test`"
        " in the name of one"
    )


def _framed(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Put images uint8 [n, height, width] into the middle of [n, 28, 28]."""
    height, width = images.shape[1:]
    top, left = (idx.SIDE - height) // 2, (idx.SIDE - width) // 2
    framed = np.zeros((len(images), idx.SIDE, idx.SIDE), dtype=np.uint8)
    framed[:, top : top + height, left : left + width] = images
    return framed
