"""`quartet predict`: read the digit in each of a user's own pictures."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quartet.base import errors, files, params, process
from quartet.base.errors import InputError
from quartet.data import idx, photo

IDX = bytes([0, 0, idx.UNSIGNED_BYTE])  # how an IDX file of bytes begins

Named = tuple[str, NDArray[np.uint8]]


def images(file: Path) -> Iterator[Named]:
    """Yield each image uint8 [28, 28] of a file, with its name.

    The images of an IDX file are taken as they are if they have this size, and treated as pictures if not. InputError names
    what cannot be read.
    """
    try:
        with file.open("rb") as opened:
            packed = opened.read(len(idx.GZIP)) == idx.GZIP
            opened.seek(0)
            with gzip.GzipFile(fileobj=opened) if packed else nullcontext(opened) as content:
                beginning = content.read(len(IDX))
                rest = content.read() if beginning == IDX else b""
    except (OSError, EOFError, zlib.error):
        beginning = b""  # photo.read says what is wrong
    if beginning != IDX:
        yield str(file), photo.normalise(photo.read(file), str(file))
        return
    try:
        pictures = idx.parse(beginning + rest, 3)
    except ValueError as error:
        raise InputError(f"{file}: {error}; expected an IDX file of images") from None
    for number, picture in enumerate(pictures):
        name = f"{file}#{number}"
        yield name, picture if picture.shape == (idx.SIDE, idx.SIDE) else photo.normalise(picture, name)


def readable(names: Sequence[str]) -> tuple[list[Named], list[InputError]]:
    """Return the images of the files that can be read, and what is wrong with the others."""
    found: list[Named] = []
    wrong: list[InputError] = []
    for name in names:
        try:
            found.extend(images(Path(name)))
        except InputError as error:
            wrong.append(error)
    return found, wrong


def line(answer: dict[str, Any], names: Sequence[str]) -> str:
    """Write an answer for people; `names` has what each digit, or label of another data set, is called."""
    second = answer["runner_up"]
    others = ", ".join(f"{name} {said['class']}" for name, said in answer["variants"].items())
    return (
        f"{answer['file']}: {names[answer['digit']]}  (score {answer['score']:.2f}; next {names[second['digit']]} with"
        f" {second['score']:.2f}; {others})"
    )


def save(folder: Path, found: Sequence[Named]) -> None:
    """Write what the models saw as PNG, below the folder, by the names of the files."""
    import io

    from PIL import Image

    for name, image in found:
        content = io.BytesIO()
        Image.fromarray(image).save(content, "PNG")
        files.write_bytes(folder / f"{Path(name).name}.png", content.getvalue())


def main(arguments: Sequence[str]) -> None:
    """Print the digit that each picture shows, one line a picture: PNG, JPEG or an IDX file, a digit in each picture."""
    parser = process.Parser(prog="quartet predict", description=main.__doc__)
    parser.add_argument("files", nargs="*", metavar="FILE", help="PNG, JPEG or an IDX file of images")
    parser.add_argument("--model", metavar="NAME", help="the training that names the digit (default: best on validation)")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each picture, a line each")
    parser.add_argument("--save", metavar="DIR", type=Path, help="keep the images of 28x28 pixels that the models saw")
    options = parser.parse_args(arguments)
    if not options.files:
        raise InputError("quartet predict: expected files, found none; `quartet predict three.png` reads one")
    found, wrong = readable(options.files)
    if len(options.files) == 1 and wrong:
        raise wrong[0]
    from quartet.evaluation import recognition

    models = recognition.load(params.load().trainings)
    chosen = recognition.chosen(models, options.model)
    labels = models[chosen].training.class_names
    if options.save:
        save(options.save, found)
    if found and not options.json:
        data = models[chosen].training.source.title
        print(f"predict: the digit is what {chosen} says, trained on {data}")
    stack = np.stack([image for _, image in found]) if found else np.empty((0, idx.SIDE, idx.SIDE), np.uint8)
    for (name, _), answer in zip(found, recognition.answers(recognition.readers(models), chosen, stack), strict=True):
        described = {"file": name, **answer}
        errors.tell(json.dumps(described) if options.json else line(described, labels))
    for error in wrong:
        errors.say(f"error: {error}")
    if wrong:
        raise InputError(f"{len(wrong)} of {len(options.files)} files were not read")
