"""Where things are, relative to the project's root, in which every stage runs."""

from __future__ import annotations

import os
from pathlib import Path

PARAMS = Path("params.yaml")
RAW = Path("data/raw")
SOURCE = RAW / "source.json"
SPLIT = Path("data/split")
MANIFEST = SPLIT / "manifest.json"
TRAIN = Path("stages/train")
EVALUATE = Path("stages/evaluate")
PLOT = Path("stages/plot")
RESULTS = PLOT / "results.md"


def model(variant: str) -> Path:
    """The weights and what they are, as safetensors."""
    return TRAIN / variant / "model.safetensors"


def history(variant: str) -> Path:
    """The losses and the accuracy of each epoch, as CSV."""
    return TRAIN / variant / "history.csv"


def summary(variant: str) -> Path:
    """The layer table, the hyperparameters and the data of a training, as JSON."""
    return TRAIN / variant / "summary.json"


def provenance(variant: str) -> Path:
    """What a training came from: its settings, its data and the digest of the code, as JSON."""
    return TRAIN / variant / "provenance.json"


def metrics(name: str) -> Path:
    """The loss, accuracy and macro F1 of a trained model on the test set, as JSON."""
    return EVALUATE / f"{name}.json"


def digests(name: str) -> Path:
    """The SHA-256 of what evaluate left of a trained model, its metrics included, as JSON."""
    return EVALUATE / name / "sha256.json"


def stage(training: str) -> str:
    """What DVC calls the stage of a training."""
    return training if training == "trial" else f"train@{training}"


def project_root() -> Path:
    """The user's own checkout, absolute.

    DVC runs queued and `--temp` experiments in a throw-away copy; there, as everywhere, DVC_ROOT names the real one.
    """
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()
