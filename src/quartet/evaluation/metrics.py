"""What a trained model is worth on a set of images: loss, accuracy, F1, and its confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support
from torch import Tensor
from torch.nn import functional

from quartet.base.numerics import rounded
from quartet.data import splits


@dataclass(frozen=True)
class Score:
    """The numbers of a model as scores.json has them, and the true and predicted class int64 [n] of each image."""

    metrics: dict[str, Any]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]


def score(logits: Tensor, digits: NDArray[np.uint8], groups: Sequence[Sequence[int]], names: Sequence[str]) -> Score:
    """Compare logits [n, classes] with the classes, of these names, that the digits uint8 [n] have in `groups`.

    The metrics are those of `overall`, those of `per_class` as `classes`, and the confusion matrix as `confusion`: a row for
    each true class, a column for each predicted one.
    """
    labels = splits.merge(digits, groups)
    predicted = logits.argmax(dim=1).numpy()
    matrix = confusion_matrix(labels, predicted, labels=range(len(groups)))
    metrics = {
        **overall(logits, labels),
        "classes": per_class(labels, predicted, names),
        "confusion": matrix.tolist(),
    }
    return Score(metrics, labels, predicted)


def overall(logits: Tensor, labels: NDArray[np.int64]) -> dict[str, float]:
    """Accuracy, mean cross-entropy and macro F1 (accuracy and F1 from 0 to 1) of logits [n, classes] against classes [n]."""
    predicted = logits.argmax(dim=1).numpy()
    return {
        "accuracy": rounded(accuracy_score(labels, predicted)),
        "loss": rounded(functional.cross_entropy(logits, torch.from_numpy(labels)).item()),
        "macro_f1": rounded(f1_score(labels, predicted, average="macro", labels=range(logits.shape[1]), zero_division=0)),
    }


def per_class(labels: NDArray[np.int64], predicted: NDArray[np.int64], names: Sequence[str]) -> list[dict[str, Any]]:
    """Precision, recall, F1 (0 to 1; 0 if there is nothing to divide by) and number of images of each class."""
    columns = precision_recall_fscore_support(labels, predicted, labels=range(len(names)), zero_division=0)
    return [
        {
            "class": name,
            "precision": rounded(precision),
            "recall": rounded(recall),
            "f1": rounded(f1),
            "images": int(support),
        }
        for name, precision, recall, f1, support in zip(names, *columns, strict=True)
    ]
