"""Images and labels: checked, split by a seeded permutation, kept as one file a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from quartet import files, idx, paths
from quartet.errors import InputError

SPLITS = ("train", "validation", "test")
SIDE = 28
TITLES = {"mnist": "MNIST", "sample": "UCI digits sample, not MNIST"}


@dataclass(frozen=True)
class Split:
    """Images uint8 [n, 28, 28] (0 is background) and their digits uint8 [n]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def read_pair(images_path: Path, labels_path: Path) -> Split:
    """Read the two IDX files of a set; InputError where they are not n images of 28x28 with n labels of 0 to 9."""
    images, labels = idx.read(images_path, 3), idx.read(labels_path, 1)
    if images.shape[1:] != (SIDE, SIDE):
        raise InputError(f"{images_path}: expected images of {SIDE}x{SIDE}, found {images.shape[1]}x{images.shape[2]}")
    if len(images) != len(labels):
        raise InputError(f"{labels_path}: expected a label for each of {len(images)} images, found {len(labels)}")
    if len(labels) and labels.max() > 9:
        raise InputError(f"{labels_path}: expected labels 0 to 9, found {labels.max()} at item {labels.argmax()}")
    return Split(images, labels)


def split_indices(count: int, fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places of the training and of the validation images, ascending int64: a seeded permutation of `count`, cut.

    round(count * fraction) images are for validation; InputError where that leaves either side empty.
    """
    held_out = round(count * fraction)
    if not 0 < held_out < count:
        raise InputError(f"data.validation_fraction: {fraction} of {count} images leaves a split empty; choose another")
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def digit_counts(labels: NDArray[np.uint8]) -> list[int]:
    """How many times each digit 0 to 9 occurs."""
    return np.bincount(labels, minlength=10).tolist()


def merge(digits: NDArray[np.uint8], groups: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """The class, int64, of each digit: the place of the group that holds it."""
    table = np.empty(10, dtype=np.int64)
    for place, group in enumerate(groups):
        table[list(group)] = place
    return table[digits]


def class_names(groups: Sequence[Sequence[int]]) -> list[str]:
    """What a class is called: its digits, as `3` or `2·3·5·8`."""
    return ["·".join(map(str, group)) for group in groups]


def split_path(name: str) -> Path:
    """The file of one of SPLITS."""
    return paths.SPLIT / f"{name}.safetensors"


def save_split(name: str, split: Split) -> None:
    """Write a split as safetensors: equal arrays are equal bytes, whatever the version of Python or NumPy."""
    files.write_bytes(split_path(name), save({"images": split.images, "labels": split.labels}))


def load_manifest() -> dict[str, Any]:
    """What preprocess recorded: which data it is, and of each split its images, digit counts and SHA-256.

    InputError where it is missing or damaged.
    """
    return files.read_record(paths.MANIFEST, "preprocess")


def load_split(name: str) -> Split:
    """Read a split and hold it against the manifest: DVC checks out a damaged cache object without a word."""
    path = split_path(name)
    advice = files.remake("preprocess")
    try:
        found = files.sha256(path)
        if found != load_manifest()["splits"][name]["sha256"]:
            raise InputError(f"{path}: its SHA-256 is not the one in {paths.MANIFEST}: damaged; {advice}")
        arrays = load(path.read_bytes())
        return Split(arrays["images"], arrays["labels"])
    except FileNotFoundError:
        raise InputError(f"{path}: missing; `dvc repro` makes it") from None
    except (KeyError, TypeError, ValueError, SafetensorError):
        raise InputError(f"{path}: not what preprocess writes: damaged; {advice}") from None
