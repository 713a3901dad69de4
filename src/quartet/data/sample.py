"""The embedded sample: real handwritten digits that scikit-learn carries, in MNIST's form."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TRAIN_COUNT = 1_500


def digits() -> dict[str, NDArray[np.uint8]]:
    """Return the four arrays of MNIST's files, uint8, from the 1,797 images of the UCI optical recognition test set.

    Each 8x8 image (0 to 16) is scaled to 20x20 and framed in 28x28, as MNIST's are. The first 1,500 are for training and
    the rest for testing. Source: https://archive.ics.uci.edu/dataset/80, by way of `sklearn.datasets.load_digits`.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    framed = np.zeros((len(small), 28, 28), dtype=np.uint8)
    for frame, image in zip(framed, small, strict=True):
        frame[4:24, 4:24] = np.asarray(Image.fromarray(image).resize((20, 20), Image.Resampling.BICUBIC))
    labels = bunch.target.astype(np.uint8)
    return {
        "train-images-idx3-ubyte": framed[:TRAIN_COUNT],
        "train-labels-idx1-ubyte": labels[:TRAIN_COUNT],
        "t10k-images-idx3-ubyte": framed[TRAIN_COUNT:],
        "t10k-labels-idx1-ubyte": labels[TRAIN_COUNT:],
    }
