from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from quartet.base.numerics import rounded
from quartet.data import catalogue, splits
from quartet.evaluation import metrics
from rounding import U
from trained import SHIPPED

pytestmark = pytest.mark.computes

# Of four images of class 0, three of class 1 and one of class 2, none is taken for class 2.
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2])
GUESSES = np.array([0, 0, 0, 1, 1, 1, 0, 0])


def certain(guesses, classes):
    """Logits of which softmax gives the guessed class of three 3/5 and each other 1/5."""
    return torch.log(torch.tensor(3.0)) * torch.nn.functional.one_hot(torch.from_numpy(guesses), classes).float()


def test_a_score_is_counted_by_hand():
    found = metrics.overall(certain(GUESSES, 3), LABELS)
    # Five guesses are right.
    assert found["loss"] == pytest.approx(
        -(5 * math.log(3 / 5) + 3 * math.log(1 / 5)) / 8,
        rel=32 * U + 5e-6,  # float32's steps, then six significant digits
    )
    assert found["accuracy"] == 5 / 8
    # F1 is 2·right / (guessed + true): 6/9, 4/6 and 0/1.
    assert found["macro_f1"] == rounded((6 / 9 + 4 / 6 + 0) / 3)


def test_each_class_is_counted_by_hand():
    assert metrics.per_class(LABELS, GUESSES, ["a", "b", "c", "d"]) == [
        {
            "class": "a",
            "precision": rounded(3 / 5),
            "recall": rounded(3 / 4),
            "f1": rounded(6 / 9),
            "images": 4,
        },
        {
            "class": "b",
            "precision": rounded(2 / 3),
            "recall": rounded(2 / 3),
            "f1": rounded(4 / 6),
            "images": 3,
        },
        {"class": "c", "precision": 0, "recall": 0, "f1": 0, "images": 1},
        {"class": "d", "precision": 0, "recall": 0, "f1": 0, "images": 0},
    ]


@pytest.fixture(params=[10, 4], ids=["ten classes", "four classes"])
def groups(request):
    return SHIPPED.class_groups(request.param)


@pytest.mark.parametrize("known", [10, 7], ids=["all digits", "no 7, 8 or 9"])
def test_the_confusion_matrix_is_counted_by_hand(groups, known):
    random = np.random.default_rng(0)
    digits = random.integers(known, size=500).astype(np.uint8)
    guesses = random.integers(len(groups) - 1, size=500)  # never the last class
    found = metrics.score(certain(guesses, len(groups)), digits, groups, catalogue.MNIST.source.class_names(groups))
    counts = [[0] * len(groups) for _ in groups]
    for digit, guess in zip(digits.tolist(), guesses.tolist(), strict=True):
        true = next(place for place, group in enumerate(groups) if digit in group)
        counts[true][guess] += 1
    assert found.metrics["confusion"] == counts


def test_the_parts_of_a_score_are_of_the_same_answers(groups):
    random = np.random.default_rng(1)
    digits = random.integers(10, size=500).astype(np.uint8)
    logits = torch.from_numpy(random.normal(size=(500, len(groups))).astype(np.float32))
    found = metrics.score(logits, digits, groups, catalogue.MNIST.source.class_names(groups))
    np.testing.assert_array_equal(found.labels, splits.merge(digits, groups))
    np.testing.assert_array_equal(found.predicted, np.argmax(logits.numpy(), axis=1))
    matrix = np.array(found.metrics["confusion"])
    right, true, guessed = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    assert found.metrics["accuracy"] == rounded(right.sum() / 500)
    assert found.metrics["macro_f1"] == rounded((2 * right / (true + guessed)).mean())
    classes = found.metrics["classes"]
    assert [row["class"] for row in classes] == catalogue.MNIST.source.class_names(groups)
    assert [row["images"] for row in classes] == true.tolist()
    assert [row["recall"] for row in classes] == [rounded(value) for value in right / true]
    assert [row["precision"] for row in classes] == [rounded(value) for value in right / guessed]


def test_the_metrics_come_back_from_json_as_they_were(groups):
    digits = np.arange(10, dtype=np.uint8)
    found = metrics.score(
        certain(splits.merge(digits, groups), len(groups)), digits, groups, catalogue.MNIST.source.class_names(groups)
    ).metrics
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {"accuracy", "loss", "macro_f1", "classes", "confusion"}
    # MLflow gets the floats: all right is 1.0, not 1.
    assert [key for key, value in found.items() if isinstance(value, float)] == ["accuracy", "loss", "macro_f1"]
