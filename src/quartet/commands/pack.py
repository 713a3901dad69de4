"""`quartet pack`: make a data set of the user's own from pictures that are sorted into folders by class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quartet.base import errors, files, process
from quartet.base.errors import InputError
from quartet.data import catalogue, idx, own, photo

PARTS = {"train": "train", "test": "t10k"}  # the folder of a part, and how its files are called


def folders(folder: Path) -> tuple[str, ...]:
    """Return the names of the ten classes: of the folders in `train`, digits or words. InputError if `test` has others."""
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such directory; expected one that has train/ and test/, with a folder for each class"
        )
    found = {part: sorted(path.name for path in (folder / part).glob("[!.]*") if path.is_dir()) for part in PARTS}
    if len(found["train"]) != len(catalogue.DIGITS):
        raise InputError(
            f"{folder / 'train'}: expected ten folders of pictures, one for each class, found {len(found['train'])}"
            + (f": {', '.join(found['train'])}" if found["train"] else "")
        )
    if found["test"] != found["train"]:
        lacking, more = sorted({*found["train"]} - {*found["test"]}), sorted({*found["test"]} - {*found["train"]})
        told = [f"{what}: {', '.join(names)}" for what, names in (("without", lacking), ("besides", more)) if names]
        raise InputError(f"{folder / 'test'}: expected the same folders as in train, found it {'; '.join(told)}")
    return own.checked(found["train"], folder / "train")


def pictures(folder: Path, classes: Sequence[str]) -> Iterator[tuple[Path, int]]:
    """Yield each file below the folders of a part, in the order of classes and names, with its label."""
    for label, name in enumerate(classes):
        for path in sorted((folder / name).glob("[!.]*")):
            yield path, label


def read(folder: Path, classes: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[InputError]]:
    """Return the images uint8 [n, 28, 28] of a part, their labels uint8 [n], and what is wrong with the others."""
    from tqdm import tqdm

    images, labels, refused = [], [], []
    for path, label in tqdm(list(pictures(folder, classes)), desc=folder.name, unit="picture", disable=None):
        try:
            images.append(photo.normalise(photo.read(path), str(path)))
            labels.append(label)
        except InputError as error:
            refused.append(error)
    shape = (len(images), idx.SIDE, idx.SIDE)
    return np.array(images, dtype=np.uint8).reshape(shape), np.array(labels, dtype=np.uint8), refused


def main(arguments: Sequence[str]) -> None:
    """Make the four IDX files of data/own/ from pictures: train/3/*.png, test/3/*.png and so on, read as `predict` does."""
    parser = process.Parser(prog="quartet pack", description=main.__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, metavar="FOLDER", help="has `train` and `test`, and they a folder a class"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", default=own.FOLDER, help=f"(default: {own.FOLDER})")
    parser.add_argument("--skip", action="store_true", help="leave out the pictures that are refused")
    options = parser.parse_args(arguments)
    if not options.folder:
        raise InputError("quartet pack: expected a folder that has `train` and `test`, found none")
    classes = folders(options.folder)
    written: dict[str, bytes] = {}
    refused: list[InputError] = []
    counts, empty = {}, []
    for part, called in PARTS.items():
        images, labels, wrong = read(options.folder / part, classes)
        counts[part] = len(images)
        refused += wrong
        empty += [f"{options.folder / part / name}" for label, name in enumerate(classes) if label not in labels]
        written[f"{called}-images-idx3-ubyte"] = idx.encode(images)
        written[f"{called}-labels-idx1-ubyte"] = idx.encode(labels)
    for error in refused:
        errors.say(f"error: {error}")
    if refused and not options.skip:
        told = "1 picture was" if len(refused) == 1 else f"{len(refused)} pictures were"
        raise InputError(f"{told} refused, so nothing was written; `--skip` leaves out what is refused")
    if empty:
        raise InputError(f"expected pictures that can be read in each folder, found none in {', '.join(empty)}")
    own.check_free(options.out, written)
    for name, content in written.items():
        files.write_bytes(options.out / name, content)
    names = options.out / own.CLASSES
    if classes == catalogue.DIGITS:
        names.unlink(missing_ok=True)
    else:
        files.write_bytes(names, "".join(f"{name}\n" for name in classes).encode())
    skipped = f", {len(refused)} left out" if refused else ""
    print(f"pack: {options.out}/: {counts['train']:,} images for training, {counts['test']:,} for testing{skipped}")
    where = "" if options.out == own.FOLDER else f"{catalogue.OWN.variable}={options.out} "
    print(f"pack: with `data.source: own` in params.yaml, `{where}make` trains on it")
