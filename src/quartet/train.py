"""Stages train@<variant> and trial: train one model, write stages/train/<name>/."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from quartet import data, errors, files, history, model, params, paths, tracking, training
from quartet.checkpoint import CheckpointFile
from quartet.errors import InputError
from quartet.progress import Progress


def code_digest() -> str:
    """The SHA-256 over the modules of this project that are loaded, and PyTorch's version without its build."""
    digest = hashlib.sha256(torch.__version__.split("+")[0].encode())
    loaded = {
        Path(module.__file__) for name, module in sys.modules.items() if name.startswith("quartet") and module.__file__
    }
    for path in sorted(loaded | {Path(__file__)}, key=lambda path: path.name):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def describe(name: str, settings: params.Params, manifest: dict[str, Any]) -> dict[str, Any]:
    """What a training is: its name, hyperparameters, class groups and data."""
    hyperparameters = settings.hyperparameters(name)
    return {
        "variant": name,
        "hyperparameters": hyperparameters.model_dump(),
        "groups": [list(group) for group in settings.class_groups(hyperparameters.classes)],
        "data": manifest["data"],
        "splits": {split: manifest["splits"][split]["sha256"] for split in ("train", "validation")},
    }


def provenance(description: Mapping[str, Any]) -> dict[str, Any]:
    """What a training comes from: its description and the digest of the code. The digest of this is its fingerprint."""
    return {**description, "code": code_digest()}


def load_examples(split: str, groups: list[list[int]]) -> training.Examples:
    """A split as tensors, its digits as the classes of `groups`."""
    loaded = data.load_split(split)
    return training.Examples(torch.from_numpy(loaded.images), torch.from_numpy(data.merge(loaded.labels, groups)))


def load_both(name: str, settings: params.Params) -> tuple[training.Examples, training.Examples]:
    """The training and the validation examples of a training; InputError if there are fewer than a batch to train on."""
    hyperparameters = settings.hyperparameters(name)
    groups = [list(group) for group in settings.class_groups(hyperparameters.classes)]
    train, validation = (load_examples(split, groups) for split in ("train", "validation"))
    if hyperparameters.batch_size > len(train.images):
        key = "batch_size" if name == params.TRIAL else "report.batch_size"
        raise InputError(
            f"{paths.PARAMS}: {key}: expected at most the {len(train.images)} training images,"
            f" found {hyperparameters.batch_size}"
        )
    return train, validation


def train_and_save(
    name: str,
    settings: params.Params,
    description: Mapping[str, Any],
    examples: tuple[training.Examples, training.Examples],
    *,
    checkpoint: CheckpointFile | None = None,
    log: Callable[[Sequence[history.Epoch]], None] = lambda _epochs: None,
) -> None:
    """Train one model and write stages/train/<name>/, all but its provenance; `log` gets the history after each epoch."""
    hyperparameters = settings.hyperparameters(name)
    train, validation = examples
    progress = Progress(name, hyperparameters.epochs, math.ceil(len(train.images) / hyperparameters.batch_size))

    def on_epoch(epochs: Sequence[history.Epoch]) -> None:
        progress.epoch(epochs[-1])
        log(epochs)

    network, epochs = training.fit(
        hyperparameters, train, validation, on_step=progress.step, on_epoch=on_epoch, checkpoint=checkpoint
    )
    progress.close()
    log(epochs)  # if a training was stopped after its last epoch, none was trained here
    layers = model.layer_table(network)
    totals = {key: sum(row[key] for row in layers) for key in ("trainable", "non_trainable")}
    history.write(name, epochs)
    digest = files.sha256(paths.history(name))
    files.write_record(
        paths.summary(name), {**description, "layers": layers, "parameters": totals, "history_sha256": digest}
    )
    model.save_weights(paths.model(name), network, description)


def main() -> None:
    """Train the model that the command line names, one of params.TRAININGS."""
    name = sys.argv[1] if len(sys.argv) == 2 else ""
    if name not in params.TRAININGS:
        raise InputError(f"train: expected one of {', '.join(params.TRAININGS)}, found '{' '.join(sys.argv[1:])}'")
    settings = params.load()
    description = describe(name, settings, data.load_manifest())
    examples = load_both(name, settings)
    origin = provenance(description)
    fingerprint = files.content_digest(origin)
    with (
        CheckpointFile(name, fingerprint) as checkpoint,
        tracking.live({**description, "fingerprint": fingerprint}) as log,
    ):
        train_and_save(name, settings, description, examples, checkpoint=checkpoint, log=log)
        files.write_record(paths.provenance(name), origin)


if __name__ == "__main__":
    errors.run(main)
