"""Where things are, relative to the project's root, in which every stage runs."""

from __future__ import annotations

import os
from pathlib import Path

TRIAL = "trial"  # the training that belongs to the user

PARAMS = Path("params.yaml")
RAW = Path("data/raw")
SOURCE = RAW / "source.json"
SPLIT = Path("data/split")
MANIFEST = SPLIT / "manifest.json"
TRAIN = Path("stages/train")
EVALUATE = Path("stages/evaluate")
METRICS = EVALUATE / "metrics.json"  # what DVC shows and compares: a number for each training
SCORES = EVALUATE / "scores.json"  # all the numbers
HISTORY = EVALUATE / "history.csv"
PREDICTIONS = EVALUATE / "predictions.csv"
CONFUSION = EVALUATE / "confusion.csv"
DIGESTS = EVALUATE / "sha256.json"
PLOT = Path("stages/plot")
STUDY_PARAMS = Path("study/params.yaml")
TRAININGS = Path("study/trainings")  # kept from study to study, by fingerprint; DVC does not see them
STUDY = Path("stages/study")
STUDY_TRAININGS = STUDY / "trainings.csv"
STUDY_EPOCHS = STUDY / "epochs.csv"
STUDY_ANSWERS = STUDY / "answers.safetensors"
STUDY_DIGESTS = STUDY / "sha256.json"
STUDY_FIGURES = STUDY / "figures"
STUDY_TABLES = STUDY / "tables"
CLAIMS = STUDY / "claims.md"
FINDINGS = STUDY / "findings.json"
SWEEP = Path("stages/sweep")
SWEEP_TRIALS = SWEEP / "trials.csv"
SWEEP_FINALISTS = SWEEP / "finalists.csv"
SWEEP_CONFIRMATION = SWEEP / "confirmation.csv"
SWEEP_FIGURES = SWEEP / "figures"
RECIPE = SWEEP / "recipe.md"
CHECKPOINTS = Path(".checkpoints")
FIGURES = PLOT / "figures"
RESULTS = PLOT / "results.md"
PAGE = Path("stages/page/index.html")


def split(name: str) -> Path:
    """Return the path of a split's images and labels, as safetensors."""
    return SPLIT / f"{name}.safetensors"


def model(training: str) -> Path:
    """Return the path of a training's weights and what describes them, as safetensors."""
    return TRAIN / training / "model.safetensors"


def history(training: str) -> Path:
    """Return the path of the losses and the accuracy of each epoch, as CSV."""
    return TRAIN / training / "history.csv"


def summary(training: str) -> Path:
    """Return the path of the layer table, the hyperparameters and the data of a training, as JSON."""
    return TRAIN / training / "summary.json"


def provenance(training: str) -> Path:
    """Return the path of what a training came from: settings, data and the digest of the code, as JSON."""
    return TRAIN / training / "provenance.json"


def stage(training: str) -> str:
    """Return DVC's name for the stage of a training."""
    return training if training == TRIAL else f"train@{training}"


def project_root() -> Path:
    """Return the user's own checkout, absolute.

    DVC runs queued and `--temp` experiments in a throw-away copy below .dvc/tmp/exps of the checkout that DVC_ROOT names.
    Elsewhere it is the working directory: if a stage of another project called this one, DVC_ROOT names that project.
    """
    here, named = Path.cwd().resolve(), os.environ.get("DVC_ROOT")
    root = Path(named).resolve() if named else here
    return root if here.is_relative_to(root / ".dvc/tmp/exps") else here
