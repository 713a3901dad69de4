"""A training of the study: done in memory, and kept in a file that is named by its fingerprint."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from quartet.base import errors, files, paths
from quartet.data import splits
from quartet.data.splits import Split
from quartet.model import weights
from quartet.model.inference import predict
from quartet.study import engine
from quartet.study.design import Job
from quartet.training import determinism, loop, record
from quartet.training.progress import ManyProgress
from quartet.training.record import Epoch

# The code that a training's result follows from besides its images, below src/. All else may change without training again.
CODE = (
    "quartet/__init__.py",
    "quartet/base/numerics.py",
    "quartet/model/inference.py",
    "quartet/model/network.py",
    "quartet/training/adam.py",
    "quartet/training/augment.py",
    "quartet/training/averaging.py",
    "quartet/training/determinism.py",
    "quartet/training/loop.py",
)


class Data(NamedTuple):
    """The images of all trainings: those to divide into training and validation images by `fraction`, and the test set.

    Without a test set nothing is predicted for it.
    """

    pool: Split
    test: Split | None
    fraction: float

    def divided(self, seed: int) -> dict[str, Split]:
        """Return the splits as preprocess makes them with a seed."""
        return splits.divide(self.pool, self.test, self.fraction, seed)


class Trained(NamedTuple):
    """What a training came to: its history, and the class uint8 [n] that it predicts for each validation and test image.

    If the training diverged, `diverged` says so: the history ends before that, and predictions and weights are empty.
    `seconds` is how long it took.
    """

    epochs: Sequence[Epoch]
    validation: NDArray[np.uint8]
    test: NDArray[np.uint8]
    weights: Mapping[str, torch.Tensor]
    diverged: str
    seconds: float = 0.0

    @property
    def val_accuracy(self) -> float:
        """Return the validation accuracy after the last epoch in percent; 0 if the training diverged."""
        return 0.0 if self.diverged else 100 * self.epochs[-1].val_accuracy


def describe(job: Job, images: Mapping[str, str], code: str) -> dict[str, Any]:
    """Return all that the result of a training follows from, as JSON has it.

    `images` has the SHA-256 of each split, as in data/split/manifest.json, and `code` is the digest of CODE.
    """
    hyperparameters = job.hyperparameters.model_dump(exclude={"seed", "weights_seed", "order_seed"})
    return {
        "hyperparameters": {**hyperparameters, **job.hyperparameters.seeds()},
        "groups": [list(group) for group in job.groups],
        "splits": dict(images),
        "code": code,
    }


def code_digest() -> str:
    """Return the SHA-256 of CODE and of PyTorch's version."""
    return record.code_digest(patterns=CODE)


def path(description: Mapping[str, Any]) -> Path:
    """Return where a training is kept: a file that is named by the SHA-256 of its description."""
    return paths.project_root() / paths.TRAININGS / f"{files.content_digest(description)}.safetensors"


def train(data: Data, job: Job, description: Mapping[str, Any]) -> bytes:
    """Do a training, and return the content of its file. One that diverges is a result too."""
    divided = data.divided(job.split_seed)
    training, validation = (loop.examples(divided[name], job.groups) for name in ("train", "validation"))
    epochs: list[Epoch] = []
    begun = time.monotonic()

    def note(history: Sequence[Epoch]) -> None:
        epochs[:] = history

    try:
        network, _ = loop.fit(job.hyperparameters, training, validation, on_epoch=note)
    except loop.DivergedError as error:
        return weights.pack({}, _came_to(description, epochs, begun, str(error)))
    answers = {"validation": _answers(network, validation.images)}
    if data.test is not None:  # a copy: what another process shares cannot be written to, and PyTorch warns
        answers["test"] = _answers(network, torch.from_numpy(data.test.images.copy()))
    return weights.pack({**network.state_dict(), **answers}, _came_to(description, epochs, begun))


def _came_to(description: Mapping[str, Any], epochs: Sequence[Epoch], begun: float, diverged: str = "") -> dict[str, Any]:
    seconds = round(time.monotonic() - begun, 3)
    return {**description, "epochs": [list(epoch) for epoch in epochs], "diverged": diverged, "seconds": seconds}


def _answers(network: nn.Sequential, images: torch.Tensor) -> torch.Tensor:
    with determinism.deterministic():
        return predict(network, images).argmax(dim=1).to(torch.uint8)


def read(path: Path, description: Mapping[str, Any]) -> Trained | None:
    """Read a training's file. None if it is missing; ValueError if it is damaged, or not of this description."""
    try:
        tensors, found = weights.unpack(path.read_bytes())
    except FileNotFoundError:
        return None
    epochs = [Epoch(*epoch) for epoch in found.pop("epochs")]
    diverged, seconds = found.pop("diverged"), found.pop("seconds")
    if found != description:
        raise ValueError("of another training")
    nothing = torch.empty(0, dtype=torch.uint8)
    validation, test = (tensors.pop(name, nothing).numpy() for name in ("validation", "test"))
    return Trained(epochs, validation, test, tensors, diverged, seconds)


def complete(jobs: Sequence[Job], data: Data, *, quiet: bool = False) -> tuple[list[Trained], list[str]]:
    """Do those trainings that are not kept yet, beside each other; return what all of them came to, and their fingerprints.

    Each is kept as soon as it is done, so a study that is stopped goes on where it was. `quiet` shows no progress.
    """
    code, images = code_digest(), {}
    for seed in {job.split_seed for job in jobs}:
        divided = data.divided(seed).items()
        images[seed] = {name: hashlib.sha256(splits.pack(split)).hexdigest() for name, split in divided}
    described = [describe(job, images[job.split_seed], code) for job in jobs]
    wanted = {path(description): (job, description) for job, description in zip(jobs, described, strict=True)}
    found = {place: training for place, (_, description) in wanted.items() if (training := _kept(place, description))}
    missing = {place: task for place, task in wanted.items() if place not in found}
    if not quiet:
        print(f"study: {len(wanted)} trainings, {len(found)} of them done before", flush=True)
    if missing:
        _do(missing, data, len(wanted), quiet)
        found |= {place: training for place, (_, description) in missing.items() if (training := read(place, description))}
    places = [path(description) for description in described]
    return [found[place] for place in places], [place.stem for place in places]


def _kept(place: Path, description: Mapping[str, Any]) -> Trained | None:
    """Read a training that is kept; None, after a warning, if its file is damaged."""
    try:
        return read(place, description)
    except (OSError, ValueError) as error:
        errors.warn(f"{place}: {error}; it is trained again")
        return None


def _do(missing: Mapping[Path, tuple[Job, Mapping[str, Any]]], data: Data, total: int, quiet: bool) -> None:
    """Do trainings as Ray tasks and keep each as it is done."""
    places = list(missing)
    files.remove_parts(*places)
    with engine.cluster() as nodes, nullcontext() if quiet else ManyProgress(total, total - len(missing), nodes) as progress:
        for number, content in engine.run(train, data, [missing[place] for place in places]):
            files.write_bytes(places[number], content)
            if progress:
                progress.one_more()
