"""What a study says of the recipes of two trained models, on the validation images: the test set chooses nothing."""

from __future__ import annotations

from collections.abc import Mapping

from quartet.base import files, paths
from quartet.study import design, outcomes, statistics, trained
from quartet.study.design import Job
from quartet.study.statistics import Contrast
from quartet.training.record import TrainingRecord


def fingerprint(training: TrainingRecord, images: Mapping[str, str]) -> str:
    """Return the fingerprint by which a study knows a training; `images` has the SHA-256 of each split."""
    job = Job(design.ARMS, training.name, 0, training.hyperparameters, training.groups, 0)
    return files.content_digest(trained.describe(job, images, trained.code_digest()))


def compare(before: str, after: str) -> Contrast | None:
    """Compare the validation accuracies, in percent, of the arms that two trainings, named by fingerprint, belong to.

    A training that diverged counts as one without a right answer. None if there is no study with both in two of its arms;
    InputError if the study's files are damaged.
    """
    if not paths.STUDY_TRAININGS.exists():
        return None
    files.check_digests(paths.STUDY_DIGESTS, outcomes.WRITTEN, outcomes.STAGE)
    rows = [row for row in files.read_csv(paths.STUDY_TRAININGS) if row["question"] == design.ARMS]
    arms = {row["fingerprint"]: row["arm"] for row in rows}
    if arms.get(before) == arms.get(after) or not {before, after} <= arms.keys():
        return None
    last = {row["training"]: 100 * float(row["val_accuracy"]) for row in files.read_csv(paths.STUDY_EPOCHS)}

    def accuracies(arm: str) -> list[float]:
        return [0.0 if row["diverged"] else last[row["training"]] for row in rows if row["arm"] == arm]

    return statistics.contrast(accuracies(arms[after]), accuracies(arms[before]), 0)
