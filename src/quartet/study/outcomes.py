"""What the trainings of a study came to: the outputs of its first stage, and the arrays that its statistics need."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from quartet.base import files, paths
from quartet.base.errors import InputError
from quartet.base.params import Groups
from quartet.data import splits
from quartet.study import design
from quartet.study.design import Job, Study
from quartet.study.trained import Trained
from quartet.training.record import Epoch

STAGE = "study/dvc.yaml:trainings"
WRITTEN = (paths.STUDY_TRAININGS, paths.STUDY_EPOCHS, paths.STUDY_ANSWERS)
LOSSES = ("train_loss", "val_loss")


class Outcome(NamedTuple):
    """What the training with a seed came to: its history, and its answers to the test images, classes uint8 [images]."""

    seed: int
    epochs: Sequence[Epoch]
    predicted: NDArray[np.uint8]
    diverged: str


@dataclass(frozen=True)
class Arm:
    """Trainings that differ in their seed alone, in its order; `digits` has the digit of each test image."""

    outcomes: Sequence[Outcome]
    groups: Groups
    digits: NDArray[np.uint8]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Tell for each seed and test image whether the answer is right."""
        labels = splits.merge(self.digits, self.groups)
        return np.array([outcome.predicted == labels for outcome in self.outcomes])

    def merged(self, groups: Groups) -> NDArray[np.bool_]:
        """Tell the same for answers of ten classes that are merged into groups afterwards."""
        labels = splits.merge(self.digits, groups)
        return np.array([splits.merge(outcome.predicted, groups) == labels for outcome in self.outcomes])

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """Return the test accuracy of each seed in percent."""
        return percent(self.correct)

    def epochs(self, measure: str) -> NDArray[np.float64]:
        """Return a column of the history as [seeds, epochs].

        After a divergence a loss counts as that of equal chances for all classes, and an accuracy as the largest class's.
        """
        last = max(len(outcome.epochs) for outcome in self.outcomes)
        labels = splits.merge(self.digits, self.groups)
        lost = math.log(len(self.groups)) if measure in LOSSES else float(np.bincount(labels).max() / len(labels))
        rows = [[float(getattr(epoch, measure)) for epoch in outcome.epochs] for outcome in self.outcomes]
        return np.array([row + [lost] * (last - len(row)) for row in rows])

    @property
    def gaps(self) -> NDArray[np.float64]:
        """Return the validation loss minus the training loss as [seeds, epochs]."""
        return self.epochs("val_loss") - self.epochs("train_loss")

    @property
    def diverged(self) -> int:
        """Count the trainings that diverged."""
        return sum(bool(outcome.diverged) for outcome in self.outcomes)


@dataclass(frozen=True)
class Outcomes:
    """All trainings of a study: its arms, and the arms of its other questions, by question and name."""

    study: Study
    groups: Groups
    data: str
    arms: Mapping[str, Mapping[str, Arm]]

    def arm(self, name: str) -> Arm:
        """Return an arm of the study; KeyError if there is none of that name."""
        return self.arms[design.ARMS][name]

    def rates(self) -> list[tuple[Arm, Arm]]:
        """Return the two arms at each learning rate, the lowest first."""
        found = self.arms[design.RATES]
        return [
            tuple(found[design.at_rate(arm, lr)] for arm in self.study.rates.arms)  # type: ignore[misc] # there are two
            for lr in sorted(self.study.rates.values)
        ]


def percent(correct: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the share of right answers of [seeds, images] in percent."""
    return np.asarray(100 * correct.mean(axis=1), dtype=np.float64)


def write(
    jobs: Sequence[Job], fingerprints: Sequence[str], trained: Sequence[Trained], digits: NDArray[np.uint8], data: str
) -> None:
    """Write the outcomes of these trainings, in their order: nothing else decides the bytes."""
    files.remove_parts(*WRITTEN, paths.STUDY_DIGESTS)
    answers = [_answers(job, result, digits) for job, result in zip(jobs, trained, strict=True)]
    rows, epochs = [], []
    for number, (job, result) in enumerate(zip(jobs, trained, strict=True)):
        right = answers[number] == splits.merge(digits, job.groups)
        rows.append(
            {
                "training": number,
                "question": job.question,
                "arm": job.arm,
                "seed": job.seed,
                "classes": len(job.groups),
                "data": data,
                "test_accuracy": f"{100 * right.mean():.2f}",
                "diverged": result.diverged,
                "fingerprint": fingerprints[number],
            }
        )
        epochs += [{"training": number, **epoch._asdict()} for epoch in result.epochs]
    files.write_csv(paths.STUDY_TRAININGS, rows)
    files.write_csv(paths.STUDY_EPOCHS, epochs)
    files.write_bytes(paths.STUDY_ANSWERS, save({"predicted": np.array(answers)}))
    files.write_digests(paths.STUDY_DIGESTS, WRITTEN)


def _answers(job: Job, trained: Trained, digits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return what a training predicts for the test images: the largest class for all of them if it diverged."""
    if not trained.diverged:
        return trained.test
    return np.full(len(digits), np.bincount(splits.merge(digits, job.groups)).argmax(), dtype=np.uint8)


def read(study: Study, groups: Groups, digits: NDArray[np.uint8]) -> Outcomes:
    """Read what `write` has written, answers to test images of these digits; InputError if it is missing or damaged."""
    files.check_digests(paths.STUDY_DIGESTS, WRITTEN, STAGE)
    epochs: dict[int, list[Epoch]] = {}
    for row in files.read_csv(paths.STUDY_EPOCHS):
        epoch = Epoch(int(row["epoch"]), *(float(row[key]) for key in Epoch._fields[1:]))
        epochs.setdefault(int(row["training"]), []).append(epoch)
    try:
        predicted = load(paths.STUDY_ANSWERS.read_bytes())["predicted"]
    except (SafetensorError, KeyError):
        raise InputError(f"{paths.STUDY_ANSWERS}: not what the study writes; {files.remake(STAGE)}") from None
    if predicted.shape[1:] != digits.shape:
        raise InputError(f"{paths.STUDY_ANSWERS}: not of the images in {paths.RAW}/; {files.remake(STAGE)}")
    found: dict[str, dict[str, list[Outcome]]] = {}
    kinds: dict[tuple[str, str], Groups] = {}
    rows = files.read_csv(paths.STUDY_TRAININGS)
    for row in rows:
        number, question, arm = int(row["training"]), row["question"], row["arm"]
        outcome = Outcome(int(row["seed"]), epochs.get(number, []), predicted[number], row["diverged"])
        found.setdefault(question, {}).setdefault(arm, []).append(outcome)
        kinds[question, arm] = groups if int(row["classes"]) == 4 else tuple((digit,) for digit in range(10))
    arms = {
        question: {name: Arm(outcomes, kinds[question, name], digits) for name, outcomes in by_name.items()}
        for question, by_name in found.items()
    }
    return Outcomes(study, groups, rows[0]["data"], arms)
