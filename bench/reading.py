"""`make bench-predict`: how many of MNIST's test images are read right as photos, beside the images themselves.

Needs the trained models of a run on MNIST; takes a minute. Prints a table and writes it to docs/model.md.
"""

from __future__ import annotations

import io
from pathlib import Path

from quartet.base import params, paths
from quartet.base.errors import InputError
from quartet.base.process import run
from quartet.commands import publish
from quartet.data import idx, photo
from quartet.evaluation import recognition

# isort: off
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from tabulate import tabulate

from photos import photo as taken

# isort: on

IMAGES = 2_000
NOTHING = np.zeros((idx.SIDE, idx.SIDE), dtype=np.uint8)  # for a picture that is refused, which counts as wrong


def read(content: bytes) -> NDArray[np.uint8] | None:
    """Return the image that `quartet predict` makes of a photo; None if it refuses it."""
    try:
        return photo.normalise(photo.decode(content, "photo"), "photo")
    except InputError:
        return None


def resized(content: bytes) -> NDArray[np.uint8]:
    """Return the whole photo as an image, neither cut nor centred."""
    picture = ImageOps.invert(ImageOps.autocontrast(Image.open(io.BytesIO(content)).convert("L")))
    return np.asarray(picture.resize((idx.SIDE, idx.SIDE), Image.Resampling.BOX))


def main() -> None:
    """Measure, print and write the table."""
    if idx.check().data != "mnist":
        raise InputError(f"{paths.RAW}: expected MNIST; QUARTET_MNIST=<directory or URL of its four files> make")
    images, labels = (array[:IMAGES] for array in idx.read_sets(paths.RAW)[1])
    models = recognition.load(params.load().trainings)
    chosen = recognition.best(models)
    photos = [taken(image, number) for number, image in enumerate(images)]
    made = [read(content) for content in photos]
    accepted = np.array([image is not None for image in made])
    shown = np.stack([NOTHING if image is None else image for image in made])

    def correct(seen: NDArray[np.uint8]) -> NDArray[np.bool_]:
        return np.asarray(recognition.scores(models[chosen], seen).argmax(axis=1) == labels)

    answered = {
        "the images themselves": correct(images),
        "photos of them, by `quartet predict`": correct(shown) & accepted,
        "the same photos, only inverted and resized": correct(np.stack([resized(content) for content in photos])),
    }
    rows = [(what, f"{100 * right.mean():.2f} %") for what, right in answered.items()]
    table = tabulate(rows, headers=["what the model sees", "right"], tablefmt="github", disable_numparse=True)
    text = (
        f"`make bench-predict`: MNIST's first {IMAGES:,} test images, read by `{chosen}`."
        f" {(~accepted).sum()} photos were refused; they count as wrong.\n\n{table}\n"
    )
    print(f"\n{text}")
    publish.quote("bench-predict", text, Path("docs/model.md"))


if __name__ == "__main__":
    run(main)
