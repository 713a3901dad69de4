"""Trainings that never ran: what describes them, what they answer, and the files that they would have left."""

from __future__ import annotations

# isort: off
import quartet  # noqa: F401 -- before NumPy and PyTorch: it sets the numeric contract that they read

# isort: on
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

from project import PARAMS
from quartet.base import files, params, paths
from quartet.base.params import Hyperparameters
from quartet.base.stage import Tracked
from quartet.data import catalogue
from quartet.evaluation import metrics
from quartet.evaluation.metrics import Score
from quartet.evaluation.predictions import Result
from quartet.evaluation.recognition import Model
from quartet.model import network
from quartet.training import record
from quartet.training.record import Epoch, TrainingRecord

SHIPPED = params.load(PARAMS)
EPOCHS = [Epoch(1, 0.9, 0.8, 0.9), Epoch(2, 0.0724, 0.0631, 0.98)]


def settings(**changes: Any) -> Hyperparameters:
    """The hyperparameters of a variant that changes these of the report's."""
    return Hyperparameters(**{**SHIPPED.report.model_dump(), **changes})


def described(name: str, hyperparameters: Hyperparameters, data: str = "sample") -> TrainingRecord:
    groups = SHIPPED.class_groups(hyperparameters.classes)
    return TrainingRecord(
        name,
        hyperparameters,
        groups,
        catalogue.DATA_SETS[data].source,
        {"train": "0" * 64, "validation": "1" * 64},
        "2" * 64,
    )


def write_manifest(data: str = "sample", **digests: str) -> None:
    """Write what preprocess does beside the splits, with the SHA-256 of each of these."""
    files.write_record(
        paths.MANIFEST,
        {**catalogue.DATA_SETS[data].source.record, "splits": {name: {"sha256": it} for name, it in digests.items()}},
    )


def place(digit: int, training: TrainingRecord) -> int:
    """The class of a digit, looked for in the groups."""
    return next(number for number, group in enumerate(training.groups) if digit in group)


def scored(training: TrainingRecord, digits: Sequence[int], predicted: Sequence[int]) -> Score:
    """The score of a training that answers these digits with these classes."""
    logits = torch.nn.functional.one_hot(torch.tensor(predicted), len(training.groups)).float()
    return metrics.score(logits, np.array(digits, dtype=np.uint8), training.groups, training.class_names)


@cache
def layer_table(classes: int, bn: bool) -> list[dict[str, Any]]:
    return network.layer_table(network.build(classes, bn))


def layers_of(training: TrainingRecord) -> list[dict[str, Any]]:
    return layer_table(training.hyperparameters.classes, training.hyperparameters.bn)


def result(training: TrainingRecord, digits: Sequence[int], predicted: Sequence[int]) -> Result:
    """The same with all that is read of it after it was evaluated."""
    score, layers = scored(training, digits, predicted), layers_of(training)
    return Result(
        record=training,
        parameters={key: sum(layer[key] for layer in layers) for key in ("trainable", "non_trainable")},
        layers=layers,
        epochs=EPOCHS,
        metrics=score.metrics,
        digits=np.array(digits),
        labels=score.labels,
        predicted=score.predicted,
    )


def results(variants: Mapping[str, Hyperparameters], digits: Sequence[int]) -> dict[str, Result]:
    """Trainings of which each takes the first image for another class and is right about the others."""
    found = {}
    for name, hyperparameters in variants.items():
        training = described(name, hyperparameters)
        right = [place(digit, training) for digit in digits]
        found[name] = result(training, digits, [right[0] - 1 if right[0] else 1, *right[1:]])
    return found


def leave(training: TrainingRecord, epochs: Sequence[Epoch] = EPOCHS) -> None:
    """Write what a training leaves in stages/train/, with a name in place of the weights."""
    files.write_bytes(paths.model(training.name), training.name.encode())
    record.write(training, epochs, layers_of(training), Tracked(paths.stage(training.name), {}, {}))


class Fixed(nn.Module):
    """Answers every image with these logits."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor([logits])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits.repeat(len(images), 1)


def answering(name: str, logits: Sequence[float], accuracy: float = 0.9) -> Model:
    """A model that answers every image with these logits."""
    training = described(name, settings(classes=len(logits)))
    return Model(training, nn.Sequential(Fixed(*logits)).eval(), accuracy)
