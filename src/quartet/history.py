"""history.csv: a line for each epoch of a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from quartet import files, paths
from quartet.errors import InputError


class Epoch(NamedTuple):
    """A line of the history: mean losses over all images (cross-entropy, natural logarithm), accuracy 0 to 1."""

    epoch: int
    train_loss: float
    val_loss: float
    val_accuracy: float


def write(name: str, epochs: Sequence[Epoch]) -> None:
    """Write the history of a training."""
    files.write_csv(paths.history(name), [epoch._asdict() for epoch in epochs])


def read_summary(name: str) -> dict[str, Any]:
    """Read what a training was: its hyperparameters, data and layers; InputError where it is missing or damaged."""
    return files.read_record(paths.summary(name), paths.stage(name))


def read_provenance(name: str) -> dict[str, Any]:
    """Read what a training came from: its settings, data and code; InputError if it is missing, damaged or another's."""
    stage = paths.stage(name)
    provenance = files.read_record(paths.provenance(name), stage)
    summary = read_summary(name)
    if any(summary.get(key) != value for key, value in provenance.items() if key != "code"):
        raise InputError(
            f"{paths.provenance(name)}: not of the training that {paths.summary(name)} describes; {files.remake(stage)}"
        )
    return provenance


def read(name: str) -> list[Epoch]:
    """Read the history of a training; InputError where the file is missing, or not the one that summary.json names."""
    path = paths.history(name)
    rows = files.read_csv(path)
    if files.sha256(path) != read_summary(name)["history_sha256"]:
        raise InputError(
            f"{path}: its SHA-256 is not the one in {paths.summary(name)}: damaged; {files.remake(paths.stage(name))}"
        )
    return [
        Epoch(int(row["epoch"]), float(row["train_loss"]), float(row["val_loss"]), float(row["val_accuracy"]))
        for row in rows
    ]
