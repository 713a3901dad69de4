"""What stage evaluate finds out about one trained model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support
from torch import Tensor
from torch.nn import functional

from quartet import data, figures, files, history, model, paths, training
from quartet.numerics import rounded


def score(logits: Tensor, labels: NDArray[np.int64]) -> dict[str, float]:
    """Mean cross-entropy, accuracy and macro F1 (both 0 to 1) of logits [n, classes] against classes [n]."""
    predicted = logits.argmax(dim=1).numpy()
    return {
        "loss": rounded(functional.cross_entropy(logits, torch.from_numpy(labels)).item()),
        "accuracy": rounded(accuracy_score(labels, predicted)),
        "macro_f1": rounded(f1_score(labels, predicted, average="macro", labels=range(logits.shape[1]), zero_division=0)),
    }


def per_class(labels: NDArray[np.int64], predicted: NDArray[np.int64], names: list[str]) -> list[dict[str, Any]]:
    """Precision, recall, F1 (0 to 1; 0 where there is nothing to divide by) and number of test images of each class."""
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


def evaluate_one(name: str, test: data.Split, data_title: str) -> None:
    """Score one trained model; write stages/evaluate/<name>.json and stages/evaluate/<name>/."""
    network, description = model.load_weights(paths.model(name), name)
    names = data.class_names(description["groups"])
    labels = data.merge(test.labels, description["groups"])
    logits = training.predict(network, torch.from_numpy(test.images))
    predicted = logits.argmax(dim=1).numpy()
    matrix = confusion_matrix(labels, predicted, labels=range(len(names)))
    metrics = score(logits, labels)
    folder = paths.EVALUATE / name
    files.write_json(paths.metrics(name), metrics)
    files.write_csv(folder / "per_class.csv", per_class(labels, predicted, names))
    files.write_csv(
        folder / "predictions.csv",
        [
            {"image": place, "digit": digit, "actual": names[actual], "predicted": names[guess]}
            for place, (digit, actual, guess) in enumerate(zip(test.labels.tolist(), labels, predicted, strict=True))
        ],
    )
    files.write_bytes(folder / "loss.png", figures.losses(f"Loss: {name}", data_title, {name: history.read(name)}))
    files.write_bytes(
        folder / "confusion.png",
        figures.confusions(f"Confusion on the test set: {name}", data_title, names, {"": matrix}),
    )
    written = [folder / file for file in ("per_class.csv", "predictions.csv", "loss.png", "confusion.png")]
    files.write_digests(paths.digests(name), [paths.metrics(name), *written])
    print(
        f"evaluate: {name:<8} test accuracy {metrics['accuracy']:.2%}  loss {metrics['loss']:.4f}  ({data_title})",
        flush=True,
    )
