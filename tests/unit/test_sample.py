from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from quartet.data import sample


def test_the_sample_has_mnists_files_and_form():
    arrays = sample.digits()
    assert {name: array.shape for name, array in arrays.items()} == {
        "train-images-idx3-ubyte": (1500, 28, 28),
        "train-labels-idx1-ubyte": (1500,),
        "t10k-images-idx3-ubyte": (297, 28, 28),
        "t10k-labels-idx1-ubyte": (297,),
    }
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.uint8)}
    for name in ("train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"):
        assert set(arrays[name].tolist()) == set(range(10))


def test_no_digit_is_lost_or_moved_and_each_is_framed():
    arrays, source = sample.digits(), load_digits()
    images = np.concatenate([arrays["train-images-idx3-ubyte"], arrays["t10k-images-idx3-ubyte"]])
    labels = np.concatenate([arrays["train-labels-idx1-ubyte"], arrays["t10k-labels-idx1-ubyte"]])
    np.testing.assert_array_equal(labels, source.target)
    inner = images[:, 4:24, 4:24].astype(float)
    assert images.sum() == inner.sum()
    # Plain doubling to 40x40 and averaging to 20x20 is another interpolation of the same image.
    rough = np.kron(source.images, np.ones((5, 5))).reshape(-1, 20, 2, 20, 2).mean(axis=(2, 4))
    similarity = [np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] for ours, theirs in zip(inner, rough, strict=True)]
    assert min(similarity) > 0.9


def test_strokes_reach_white_on_a_black_ground():
    images = sample.digits()["train-images-idx3-ubyte"]
    assert np.median(images) == 0
    assert np.median(images.max(axis=(1, 2))) > 240


def test_the_sample_is_the_same_each_time():
    first, second = sample.digits(), sample.digits()
    assert all(np.array_equal(first[name], second[name]) for name in first)
