"""Read digits with the trained models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from quartet.base import paths
from quartet.base.errors import InputError
from quartet.base.numerics import rounded
from quartet.model import inference, weights
from quartet.training import record
from quartet.training.record import TrainingRecord


@dataclass(frozen=True)
class Model:
    """A trained network in evaluation mode, what it is, and its validation accuracy after the last epoch, 0 to 1."""

    training: TrainingRecord
    network: nn.Sequential
    val_accuracy: float


class Reader(NamedTuple):
    """What reads images: the names of its classes, and what computes scores float32 [n, classes] of uint8 [n, 28, 28]."""

    classes: Sequence[str]
    scores: Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def load(names: Sequence[str]) -> dict[str, Model]:
    """Load trainings from stages/train/, by name; InputError if one is missing or damaged."""
    found = {}
    for name in names:
        training = record.read(name)
        network = weights.load(paths.model(name), training.description)
        found[name] = Model(training, network, record.read_history(name)[-1].val_accuracy)
    return found


def of_ten_classes(models: Mapping[str, Model]) -> list[str]:
    """Return the names of the models that tell all digits apart."""
    return [name for name, model in models.items() if len(model.training.groups) == 10]


def best(models: Mapping[str, Model]) -> str:
    """Return the model of ten classes that is best on the validation images, the first of equals."""
    ten = of_ten_classes(models)
    if not ten:
        raise InputError(f"models: expected one of ten classes, found {', '.join(models) or 'none'}")
    return max(ten, key=lambda name: models[name].val_accuracy)


def chosen(models: Mapping[str, Model], asked: str | None) -> str:
    """Return the model that is asked for, or else the best; InputError if none of ten classes has that name."""
    if asked is None:
        return best(models)
    if asked not in of_ten_classes(models):
        known = ", ".join(of_ten_classes(models))
        raise InputError(f"--model: expected a training of ten classes ({known}), found '{asked}'")
    return asked


def scores(model: Model, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Compute the scores float32 [n, classes] of images uint8 [n, 28, 28]: the sigmoid that the report has at prediction."""
    writable = np.require(images, requirements="W")  # PyTorch warns of others
    return torch.sigmoid(inference.predict(model.network, torch.from_numpy(writable))).numpy()


def readers(models: Mapping[str, Model]) -> dict[str, Reader]:
    """Return what reads images, by the names of these models."""
    return {name: Reader(it.training.class_names, partial(scores, it)) for name, it in models.items()}


def answers(readers: Mapping[str, Reader], chosen: str, images: NDArray[np.uint8]) -> Iterator[dict[str, Any]]:
    """Yield what is said about images uint8 [n, 28, 28]: the digit, by the chosen reader of ten classes, and all classes."""
    found = {name: reader.scores(images) for name, reader in readers.items()}
    for number in range(len(images)):
        first, second = np.argsort(-found[chosen][number], kind="stable")[:2]
        yield {
            "digit": int(first),
            "score": _score(found[chosen][number][first]),
            "runner_up": {"digit": int(second), "score": _score(found[chosen][number][second])},
            "variants": {
                name: {"class": readers[name].classes[of_reader[number].argmax()], "score": _score(of_reader[number].max())}
                for name, of_reader in found.items()
            },
        }


def _score(value: np.float32) -> float:
    return rounded(float(value))
