"""The record of a training: what it is, and the files that it leaves in stages/train/<name>/ besides the weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from quartet.base import files, paths
from quartet.base.errors import InputError
from quartet.base.params import Groups, Hyperparameters, Params
from quartet.base.stage import Tracked
from quartet.data.splits import Source

# The code that training uses, below src/. Tracking is left out because it changes no result.
CODE = (
    "train.py",
    "quartet/__init__.py",
    "quartet/base/*.py",
    "quartet/data/__init__.py",
    "quartet/data/splits.py",
    "quartet/model/*.py",
    "quartet/training/*.py",
)


@dataclass(frozen=True)
class TrainingRecord:
    """What a training is: all that its result follows from.

    `splits` has the SHA-256 of the training and the validation split, `code` that of the code.
    """

    name: str
    hyperparameters: Hyperparameters
    groups: Groups
    source: Source
    splits: Mapping[str, str]
    code: str

    @property
    def description(self) -> dict[str, Any]:
        """Return all but the code, as JSON has it."""
        return {
            "variant": self.name,
            "hyperparameters": self.hyperparameters.model_dump(exclude_defaults=True),
            "groups": [list(group) for group in self.groups],
            **self.source.record,
            "splits": dict(self.splits),
        }

    @property
    def class_names(self) -> list[str]:
        """Return the name of each class that it tells apart."""
        return self.source.class_names(self.groups)

    @property
    def provenance(self) -> dict[str, Any]:
        """Return all of it, as JSON has it."""
        return {**self.description, "code": self.code}

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of all of it, by which MLflow's run of the training is found again."""
        return files.content_digest(self.provenance)


class Epoch(NamedTuple):
    """A line of the history: mean losses over all images (cross-entropy, natural logarithm), accuracy 0 to 1.

    The training loss is that which the training makes small, with the setting `label_smoothing`.
    """

    epoch: int
    train_loss: float
    val_loss: float
    val_accuracy: float


def code_digest(source: Path = Path(__file__).parents[2], patterns: Sequence[str] = CODE) -> str:
    """Return the SHA-256 of the files of CODE below `source`, by their paths, and of PyTorch's version without its build."""
    digest = hashlib.sha256(version("torch").split("+")[0].encode())
    found = {path.relative_to(source).as_posix() for pattern in patterns for path in source.glob(pattern)}
    for path in sorted(found):
        digest.update(path.encode() + (source / path).read_bytes())
    return digest.hexdigest()


def describe(name: str, settings: Params, manifest: Mapping[str, Any]) -> TrainingRecord:
    """Describe a training that these settings name, on the data that preprocess's manifest describes."""
    hyperparameters = settings.hyperparameters(name)
    return TrainingRecord(
        name=name,
        hyperparameters=hyperparameters,
        groups=settings.class_groups(hyperparameters.classes),
        source=Source.of(manifest),
        splits={split: manifest["splits"][split]["sha256"] for split in ("train", "validation")},
        code=code_digest(),
    )


def remove_parts(name: str) -> None:
    """Remove what a training that was killed while it wrote its files left half-written."""
    files.remove_parts(paths.history(name), paths.model(name), paths.provenance(name), paths.summary(name))


def write(record: TrainingRecord, epochs: Sequence[Epoch], layers: Sequence[Mapping[str, Any]], tracked: Tracked) -> None:
    """Write history.csv, summary.json and provenance.json.

    `layers` is what `network.layer_table` returns, `tracked` what DVC tracked for the stage when the training began.
    """
    name = record.name
    files.write_csv(paths.history(name), [epoch._asdict() for epoch in epochs])
    summary = {
        **record.description,
        "layers": list(layers),
        "parameters": {key: sum(row[key] for row in layers) for key in ("trainable", "non_trainable")},
        "history_sha256": files.sha256(paths.history(name)),
    }
    files.write_record(paths.summary(name), summary)
    dvc = {"params": tracked.params, "deps": tracked.deps}
    files.write_record(paths.provenance(name), {**record.provenance, "dvc": dvc})


def read(name: str) -> TrainingRecord:
    """Read the record of a training; InputError if its file is missing, damaged or another training's."""
    path, stage = paths.provenance(name), paths.stage(name)
    provenance = files.read_record(path, stage)
    summary = read_summary(name)
    if any(summary.get(key) != value for key, value in provenance.items() if key not in ("code", "dvc")):
        raise InputError(f"{path}: not of the training that {paths.summary(name)} describes; {files.remake(stage)}")
    try:
        return TrainingRecord(
            name=provenance["variant"],
            hyperparameters=Hyperparameters(**provenance["hyperparameters"]),
            groups=tuple(tuple(group) for group in provenance["groups"]),
            source=Source.of(provenance),
            splits=provenance["splits"],
            code=provenance["code"],
        )
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: not what this version of the project writes; {files.remake(stage)}") from None


def read_summary(name: str) -> dict[str, Any]:
    """Read the description of a training, its layers and their numbers of values; InputError if missing or damaged."""
    return files.read_record(paths.summary(name), paths.stage(name))


def read_history(name: str) -> list[Epoch]:
    """Read the history of a training; InputError if the file is missing, or not the one that summary.json names."""
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
