"""What evaluate leaves in stages/evaluate/: every training's metrics, history and predictions, each kind in one file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quartet.base import files, paths
from quartet.base.errors import InputError
from quartet.training import record
from quartet.training.record import Epoch, TrainingRecord

if TYPE_CHECKING:
    from quartet.evaluation.metrics import Score

WRITTEN = (paths.SCORES, paths.HISTORY, paths.PREDICTIONS, paths.CONFUSION)


class Result(NamedTuple):
    """A trained model on the test set.

    `parameters` counts its trainable and non-trainable values, `layers` those of each layer; `metrics` is what
    `metrics.score` makes; `digits`, `labels` and `predicted` have each image's digit, class and predicted class.
    """

    record: TrainingRecord
    parameters: Mapping[str, int]
    layers: Sequence[Mapping[str, Any]]
    epochs: Sequence[Epoch]
    metrics: Mapping[str, Any]
    digits: NDArray[np.int64]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Tell for each image whether its prediction is right."""
        return self.labels == self.predicted


def write(scores: Mapping[str, Score], digits: NDArray[np.uint8]) -> None:
    """Write the scores of all trainings on images of these digits, their histories, and the SHA-256 of each file.

    The SHA-256 of the weights is written with them: it tells later which weights the scores are of.
    """
    files.remove_parts(*WRITTEN, paths.METRICS, paths.DIGESTS)
    accuracies = {name: {"accuracy": score.metrics["accuracy"]} for name, score in scores.items()}
    files.write_json(paths.METRICS, accuracies, sort_keys=False)
    files.write_json(paths.SCORES, {name: score.metrics for name, score in scores.items()}, sort_keys=False)
    pairs = [(record.read(name), score) for name, score in scores.items()]
    files.write_csv(paths.HISTORY, (row for training, _ in pairs for row in _epochs(training)))
    files.write_csv(paths.CONFUSION, (row for training, score in pairs for row in _cells(training, score)))
    files.write_csv(paths.PREDICTIONS, (row for training, score in pairs for row in _rows(training, score, digits)))
    files.write_digests(paths.DIGESTS, [*WRITTEN, *map(paths.model, scores)])


def _epochs(training: TrainingRecord) -> Iterable[dict[str, Any]]:
    """Yield a row for each epoch: its losses and its validation accuracy."""
    for epoch in record.read_history(training.name):
        yield {"training": training.name, "data": training.source.title, **epoch._asdict()}


def _cells(training: TrainingRecord, score: Score) -> Iterable[dict[str, Any]]:
    """Yield a row for each pair of a true and a predicted class: their names, and the number of such images."""
    names = training.class_names
    for (actual, predicted), count in np.ndenumerate(np.array(score.metrics["confusion"])):
        yield {
            "training": training.name,
            "data": training.source.title,
            "actual": names[actual],
            "predicted": names[predicted],
            "images": int(count),
        }


def _rows(training: TrainingRecord, score: Score, digits: NDArray[np.uint8]) -> Iterable[dict[str, Any]]:
    """Yield a row for each image: its digit, its class and the predicted one, as numbers and by their names."""
    names = training.class_names
    for image, (digit, label, guess) in enumerate(zip(digits.tolist(), score.labels, score.predicted, strict=True)):
        yield {
            "training": training.name,
            "image": image,
            "digit": digit,
            "label": label,
            "prediction": guess,
            "actual": names[label],
            "predicted": names[guess],
        }


def read_metrics() -> dict[str, Any]:
    """Read scores.json, by training; InputError if any file of evaluate is missing or damaged."""
    files.check_digests(paths.DIGESTS, WRITTEN, "evaluate")
    metrics = files.read_json(paths.SCORES)
    if not (isinstance(metrics, dict) and all(isinstance(part, dict) for part in metrics.values())):
        raise InputError(f"{paths.SCORES}: expected the metrics of each training; {files.remake('evaluate')}")
    return metrics


def is_evaluated(name: str) -> bool:
    """Tell whether evaluate's scores of a training are those of the weights that it has now."""
    digests = files.read_record(paths.DIGESTS, "evaluate")
    return bool(files.sha256(paths.model(name)) == digests.get(paths.model(name).as_posix()))


def check_images(results: Mapping[str, Result], digits: NDArray[np.uint8]) -> None:
    """Compare the images that were evaluated with those of these digits; InputError if they are others."""
    if any(not np.array_equal(result.digits, digits) for result in results.values()):
        raise InputError(f"{paths.PREDICTIONS}: not of the images in {paths.SPLIT}/; `dvc repro` evaluates them")


def read(names: Sequence[str]) -> dict[str, Result]:
    """Read what the stages before left of these trainings; InputError if any of it is missing or damaged."""
    metrics = read_metrics()
    rows: dict[str, list[tuple[int, int, int]]] = {name: [] for name in names}
    for row in files.read_csv(paths.PREDICTIONS):
        if row["training"] in rows:
            rows[row["training"]].append((int(row["digit"]), int(row["label"]), int(row["prediction"])))
    results = {}
    for name in names:
        if not rows[name]:
            raise InputError(f"{paths.PREDICTIONS}: expected the training '{name}', found none; `dvc repro` evaluates it")
        digits, labels, predicted = np.array(rows[name]).T
        summary = record.read_summary(name)
        results[name] = Result(
            record=record.read(name),
            parameters=summary["parameters"],
            layers=summary["layers"],
            epochs=record.read_history(name),
            metrics=metrics[name],
            digits=digits,
            labels=labels,
            predicted=predicted,
        )
    return results
