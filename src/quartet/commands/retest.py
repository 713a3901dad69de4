"""`quartet retest`: the models that were trained on MNIST, on the 50,000 digits that QMNIST found again."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
import requests
from numpy.typing import NDArray
from tabulate import tabulate

from quartet.base import errors, params, process
from quartet.base.errors import InputError, WorkError
from quartet.data import catalogue, download, idx, sources, splits
from quartet.data.catalogue import DataSet
from quartet.evaluation import comparison, predictions

FURTHER = 10_000  # the images before are MNIST's own test images, made again


def obtain(data_set: DataSet, locations: Sequence[str]) -> dict[str, bytes]:
    """Return the content of each file of a data set, from the first location that has it; WorkError says why none has."""
    found: dict[str, bytes] = {}
    for name in data_set.files:
        problem = "no location"
        for location in locations:
            errors.tell(f"retest: {name} from {location}")
            try:
                found.update(sources.obtain(data_set, [name], location))
                break
            except (ValueError, RuntimeError, WorkError, requests.RequestException) as error:
                problem = f"{location}: {name}: {download.reason(error)}"
        if name not in found:
            names = " and ".join(f"{it}.gz" for it in data_set.files)
            raise WorkError(
                f"{data_set.title} cannot be had: {problem.rstrip('.')}. Set {data_set.variable} to the directory or URL"
                f" that has {names}"
            )
    return found


def further(contents: Mapping[str, bytes]) -> splits.Split:
    """Return the images that MNIST's test set lacks, and their digits: the first of the eight numbers of each label."""
    labels, images = (contents[name] for name in catalogue.QMNIST.files)
    digits = idx.parse(labels, 2, idx.INT)[:, 0].astype(np.uint8)
    return splits.checked(splits.Split(idx.parse(images, 3)[FURTHER:], digits[FURTHER:]))


def row(name: str, on_mnist: float, right: NDArray[np.bool_]) -> list[str]:
    """Write a model's accuracy on MNIST's test set and the further images, in percent; `right` tells which it had right."""
    low, high = comparison.interval(right)
    return [name, f"{100 * on_mnist:.2f}", f"{100 * right.mean():.2f}", f"{low:.2f} to {high:.2f}"]


def main(arguments: Sequence[str]) -> None:
    """Test the models of MNIST on the 50,000 digits that QMNIST found again, and print the accuracies."""
    parser = process.Parser(prog="quartet retest", description=main.__doc__)
    parser.parse_args(arguments)
    from quartet.evaluation import recognition

    models, scores = recognition.load(params.load().trainings), predictions.read_metrics()
    if other := [name for name, model in models.items() if model.training.source != catalogue.MNIST.source]:
        title = models[other[0]].training.source.title
        raise InputError(f"{other[0]}: expected a model of MNIST, found one of {title}; QUARTET_MNIST=… make trains them")
    qmnist = catalogue.QMNIST
    named = os.environ.get(qmnist.variable)
    images, digits = vars(further(obtain(qmnist, (named,) if named else qmnist.mirrors))).values()
    rows = []
    for name, model in models.items():
        answers = recognition.scores(model, images).argmax(axis=1)
        right = np.asarray(answers == splits.merge(digits, model.training.groups))
        rows.append(row(name, scores[name]["accuracy"], right))
    headers = ["model", "MNIST, %", f"{qmnist.title}, %", "95% Wilson"]
    errors.tell(f"retest: {len(images):,} digits of {qmnist.title} that MNIST's test set lacks\n")
    for line in tabulate(rows, headers, tablefmt="github", disable_numparse=True).splitlines():
        errors.tell(line)
