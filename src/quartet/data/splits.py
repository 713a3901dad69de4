"""The training, validation and test images and labels, one file for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from quartet.base import files, paths
from quartet.base.errors import InputError

SPLITS = ("train", "validation", "test")
IN_WORDS = {10: "ten", 4: "four"}  # the numbers of classes


class Source(NamedTuple):
    """Which data it is: its name in params.yaml, its title, and what each of its ten labels stands for."""

    data: str
    title: str
    classes: tuple[str, ...]

    @classmethod
    def of(cls, recorded: Mapping[str, Any]) -> Source:
        """Return what `record` made; KeyError or TypeError if that is not in it."""
        return cls(recorded["data"], recorded["title"], tuple(recorded["classes"]))

    @property
    def record(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {**self._asdict(), "classes": list(self.classes)}

    def class_names(self, groups: Sequence[Sequence[int]]) -> list[str]:
        """Name each class by its labels' names, as `3` or `2·3·5·8`."""
        return ["·".join(self.classes[label] for label in group) for group in groups]


@dataclass(frozen=True)
class Split:
    """Images uint8 [n, 28, 28] (0 is background) and their digits uint8 [n]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def split_indices(count: int, fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the places of the training and of the validation images, ascending int64: a seeded permutation of `count`, cut.

    round(count * fraction) images are for validation; InputError if that leaves either side empty.
    """
    held_out = round(count * fraction)
    if not 0 < held_out < count:
        raise InputError(f"data.validation_fraction: {fraction} of {count} images leaves a split empty; choose another")
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def digit_counts(labels: NDArray[np.uint8]) -> list[int]:
    """Count how many times each digit 0 to 9 occurs."""
    return np.bincount(labels, minlength=10).tolist()


def merge(digits: NDArray[np.uint8], groups: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Return the class, int64, of each digit: the place of the group that holds it."""
    table = np.empty(10, dtype=np.int64)
    for place, group in enumerate(groups):
        table[list(group)] = place
    return table[digits]


def divide(pool: Split, test: Split | None, fraction: float, seed: int) -> dict[str, Split]:
    """Divide `pool` into training and validation images; the test set, if there is one, stays as it is.

    InputError if one of them lacks a digit.
    """
    kept, held_out = split_indices(len(pool.images), fraction, seed)
    divided = {
        "train": Split(pool.images[kept], pool.labels[kept]),
        "validation": Split(pool.images[held_out], pool.labels[held_out]),
    }
    if test is not None:
        divided["test"] = test
    for name, split in divided.items():
        counts = digit_counts(split.labels)
        if 0 in counts:
            raise InputError(
                f"split {name}: no image of digit {counts.index(0)}; change data.validation_fraction or data.seed"
            )
    return divided


def pack(split: Split) -> bytes:
    """Return a split as safetensors: equal arrays are equal bytes, whatever the version of Python or NumPy."""
    return save({"images": split.images, "labels": split.labels})


def save_split(name: str, split: Split) -> None:
    """Write a split as safetensors."""
    files.write_bytes(paths.split(name), pack(split))


def save_all(divided: Mapping[str, Split], source: Source) -> None:
    """Write each split, and the manifest that describes them and their source."""
    described = {}
    for name, split in divided.items():
        save_split(name, split)
        described[name] = {
            "images": len(split.images),
            "digit_counts": digit_counts(split.labels),
            "sha256": files.sha256(paths.split(name)),
        }
    files.write_record(paths.MANIFEST, {**source.record, "splits": described})


def load_manifest() -> dict[str, Any]:
    """Read what preprocess recorded: which data it is, and of each split its images, digit counts and SHA-256.

    InputError if it is missing or damaged.
    """
    return files.read_record(paths.MANIFEST, "preprocess")


def load_source() -> Source:
    """Read which data preprocess had; InputError if that is missing or damaged."""
    return Source.of(load_manifest())


def checked(split: Split) -> Split:
    """Return the split itself; ValueError if its arrays are not what `Split` says, or a label is not a digit."""
    images, labels = split.images, split.labels
    if not (images.dtype == labels.dtype == np.uint8 and images.shape == (len(images), 28, 28) and len(images)):
        raise ValueError("not uint8 images of 28x28")
    if labels.shape != (len(images),) or labels.max() > 9:
        raise ValueError("not a digit for each image")
    return split


def load_split(name: str) -> Split:
    """Read a split and compare it with the manifest: DVC checks out a damaged cache object without a word."""
    path = paths.split(name)
    advice = files.remake("preprocess")
    try:
        found = files.sha256(path)
        if found != load_manifest()["splits"][name]["sha256"]:
            raise InputError(f"{path}: its SHA-256 is not the one in {paths.MANIFEST}: damaged; {advice}")
        arrays = load(path.read_bytes())
        return checked(Split(arrays["images"], arrays["labels"]))
    except FileNotFoundError:
        raise InputError(f"{path}: missing; `dvc repro` makes it") from None
    except (KeyError, TypeError, ValueError, SafetensorError):
        raise InputError(f"{path}: not what preprocess writes: damaged; {advice}") from None
