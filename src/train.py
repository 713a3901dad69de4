"""Stages train@<variant> and trial: train one model, write stages/train/<name>/."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

from quartet.base import files, params, paths, process, stage
from quartet.base.errors import InputError
from quartet.data import splits
from quartet.model import network, weights
from quartet.tracking import runs
from quartet.training import loop, record
from quartet.training.checkpoint import CheckpointFile
from quartet.training.progress import Progress


def main() -> None:
    """Train the model that the command line names, a variant of params.yaml or the trial."""
    settings = params.load()
    name = sys.argv[1] if len(sys.argv) == 2 else ""
    if name not in settings.trainings:
        raise InputError(f"train: expected one of {', '.join(settings.trainings)}, found '{' '.join(sys.argv[1:])}'")
    training = record.describe(name, settings, splits.load_manifest())
    hyperparameters = training.hyperparameters
    train, validation = (loop.load_examples(split, training.groups) for split in ("train", "validation"))
    if hyperparameters.batch_size > len(train.images):
        raise InputError(
            f"{paths.PARAMS}: {settings.key(name, 'batch_size')}: expected at most the {len(train.images)} training images,"
            f" found {hyperparameters.batch_size}"
        )
    tracked = stage.note(paths.stage(name), settings)
    progress = Progress(name, hyperparameters.epochs, math.ceil(len(train.images) / hyperparameters.batch_size))
    with CheckpointFile(training) as checkpoint, runs.live(training, settings.colour(name)) as log:
        record.remove_parts(name)

        def on_epoch(epochs: Sequence[record.Epoch]) -> None:
            progress.epoch(epochs[-1])
            log(runs.Outcome(epochs))

        trained, epochs = loop.fit(
            hyperparameters, train, validation, on_step=progress.step, on_epoch=on_epoch, checkpoint=checkpoint
        )
        progress.close()
        stage.check(tracked, "training")  # on failure, the checkpoint still has the training
        weights.save(paths.model(name), trained, training.description)
        record.write(training, epochs, network.layer_table(trained), tracked)
        log(runs.Outcome(epochs, files.sha256(paths.model(name))))


if __name__ == "__main__":
    process.run(main)
