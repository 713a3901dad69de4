"""The report's claims, as docs/study-plan.md has them: what each compares, and which verdict follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quartet.study import statistics
from quartet.study.outcomes import Arm, Outcomes, percent
from quartet.study.statistics import Contrast

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
ALPHA = 0.05
FAST = 0.97  # validation accuracy that a fast training reaches early
STEPS = 0.9  # of the epochs that rise, if accuracy rises with each epoch

REPORTED = ("ten", "ten-bn", "four", "four-bn")  # the report's models
FIRST = ("gain-ten", "gain-four", "merging")  # the claims that a summary names

Pairs = tuple[NDArray[np.float64], NDArray[np.float64]]


class Claim(NamedTuple):
    """A claim of the report, so that it holds if its value of `after` is above that of `before`.

    `what` and `unit` name the difference for readers; `pairs` gets the two values of each seed. For an accuracy, `images`
    gets the difference of [seeds, test images], in percent of an image.
    """

    name: str
    section: str
    says: str
    what: str
    unit: str
    margin: float
    pairs: Callable[[Outcomes], Pairs]
    images: Callable[[Outcomes], NDArray[np.float64]] | None = None


class Judged(NamedTuple):
    """A claim with its numbers; `p` is adjusted for all claims. The second interval is about other test images too."""

    claim: Claim
    contrast: Contrast
    p: float
    verdict: str
    over_images: tuple[float, float] | None


def gain(before: str, after: str) -> Callable[[Outcomes], Pairs]:
    """Return what gets the accuracies of two arms."""
    return lambda found: (found.arm(after).accuracy, found.arm(before).accuracy)


def gain_by_image(before: str, after: str) -> Callable[[Outcomes], NDArray[np.float64]]:
    """Return what gets the difference of two arms for each seed and test image."""
    return lambda found: 100.0 * found.arm(after).correct - 100.0 * found.arm(before).correct


def _lower(without: str, with_it: str, loss: str) -> Callable[[Outcomes], Pairs]:
    return lambda found: (found.arm(without).epochs(loss)[:, -1], found.arm(with_it).epochs(loss)[:, -1])


def _rising(arm: Arm) -> NDArray[np.float64]:
    """Return the share of epochs after the first whose validation accuracy is above that of the one before.

    IndexError if there is one epoch.
    """
    accuracies = arm.epochs("val_accuracy")
    if accuracies.shape[1] < 2:
        raise IndexError("expected at least two epochs")
    return (np.diff(accuracies, axis=1) > 0).mean(axis=1)


def first_fast(arm: Arm) -> NDArray[np.float64]:
    """Return the first epoch whose validation accuracy reaches FAST, or the number of epochs plus one if none does."""
    fast = arm.epochs("val_accuracy") >= FAST
    return np.where(fast.any(axis=1), fast.argmax(axis=1) + 1, fast.shape[1] + 1).astype(np.float64)


def _rates(found: Outcomes) -> Pairs:
    """Return batch norm's mean gain over the learning rates above the lowest, and its gain at the lowest."""
    gains = [with_it.accuracy - without.accuracy for without, with_it in found.rates()]
    return np.mean(gains[1:], axis=0), gains[0]


def _merging(found: Outcomes) -> Pairs:
    return found.arm("four").accuracy, percent(found.arm("ten").merged(found.groups))


HUMONGOUS = "It is a humongous difference from our previous model"
LOWER = "significantly lower than the previous model"
POINTS, LOSS = "points", "of the loss"

CLAIMS = (
    Claim(
        "gain-ten",
        "4b",
        HUMONGOUS,
        "batch norm's gain in test accuracy with ten classes",
        POINTS,
        0.1,
        gain("ten", "ten-bn"),
        gain_by_image("ten", "ten-bn"),
    ),
    Claim(
        "gain-four",
        "4b",
        HUMONGOUS,
        "batch norm's gain in test accuracy with four classes",
        POINTS,
        0.1,
        gain("four", "four-bn"),
        gain_by_image("four", "four-bn"),
    ),
    Claim(
        "train-loss-ten",
        "4b",
        LOWER,
        "what batch norm takes off the training loss with ten classes",
        LOSS,
        0.002,
        _lower("ten", "ten-bn", "train_loss"),
    ),
    Claim(
        "val-loss-ten",
        "4b",
        LOWER,
        "what batch norm takes off the validation loss with ten classes",
        LOSS,
        0.002,
        _lower("ten", "ten-bn", "val_loss"),
    ),
    Claim(
        "train-loss-four",
        "4b",
        LOWER,
        "what batch norm takes off the training loss with four classes",
        LOSS,
        0.002,
        _lower("four", "four-bn", "train_loss"),
    ),
    Claim(
        "val-loss-four",
        "4b",
        LOWER,
        "what batch norm takes off the validation loss with four classes",
        LOSS,
        0.002,
        _lower("four", "four-bn", "val_loss"),
    ),
    Claim(
        "diverge",
        "3a",
        "both curves started to diverge after epoch 9",
        "the growth of the gap between the losses in the last epoch, without batch norm",
        LOSS,
        0,
        lambda found: (found.arm("ten").gaps[:, -1], found.arm("ten").gaps[:, -2]),
    ),
    Claim(
        "converge",
        "4b",
        "both curves started to converge after epoch 9",
        "the shrinking of the gap between the losses in the last epoch, with batch norm",
        LOSS,
        0,
        lambda found: (found.arm("ten-bn").gaps[:, -2], found.arm("ten-bn").gaps[:, -1]),
    ),
    Claim(
        "overfit",
        "4b",
        "may potentially indicate less risk of overfitting",
        "what batch norm takes off the gap between the losses",
        LOSS,
        0.002,
        lambda found: (found.arm("ten").gaps[:, -1], found.arm("ten-bn").gaps[:, -1]),
    ),
    Claim(
        "each-epoch",
        "4a",
        "shows an increasing trend with each epoch",
        "the share of epochs with a higher validation accuracy than the epoch before, minus 0.9,",
        "",
        0,
        lambda found: (_rising(found.arm("ten")), np.full(len(found.arm("ten").outcomes), STEPS)),
    ),
    Claim(
        "faster",
        "5",
        "facilitating faster convergence",
        "the epochs that batch norm saves on the way to 97% validation accuracy",
        "epochs",
        1,
        lambda found: (first_fast(found.arm("ten")), first_fast(found.arm("ten-bn"))),
    ),
    Claim(
        "rates",
        "5",
        "higher learning rates … without the risk of divergence",
        "batch norm's mean gain above a learning rate of 0.001, less its gain at 0.001",
        POINTS,
        0.1,
        _rates,
    ),
    Claim(
        "merging",
        "3b",
        "four classes reach 99.00%, ten 97.70%",
        "what training by group adds to merging the answers of ten classes afterwards",
        POINTS,
        0.1,
        _merging,
        lambda found: 100.0 * found.arm("four").correct - 100.0 * found.arm("ten").merged(found.groups),
    ),
)

# The claim that needs no training: row of the table of claims.
SCALING = {
    "claim": "scaling",
    "section": "2a",
    "says": "to make our model less complex",
    "verdict": FAILS,
    "finding": "The network has the same parameters whether or not its pixels are scaled.",
    "p_holm": None,
}


def judge(found: Outcomes) -> list[Judged]:
    """Judge each claim for which the study has numbers."""
    there = [claim for claim in CLAIMS if _has_numbers(claim, found)]
    contrasts = {claim.name: statistics.contrast(*claim.pairs(found), claim.margin) for claim in there}
    adjusted = statistics.holm({name: contrast.p for name, contrast in contrasts.items()})
    return [
        Judged(
            claim=claim,
            contrast=contrasts[claim.name],
            p=adjusted[claim.name],
            verdict=verdict(contrasts[claim.name], adjusted[claim.name], claim.margin),
            over_images=statistics.over_images_too(claim.images(found)) if claim.images else None,
        )
        for claim in there
    ]


def _has_numbers(claim: Claim, found: Outcomes) -> bool:
    """Tell whether the study has what a claim is about: an arm may have been taken out, or trained for one epoch."""
    try:
        claim.pairs(found)
    except LookupError:
        return False
    return True


def verdict(contrast: Contrast, p: float, margin: float) -> str:
    """Return the verdict on a claim from its numbers, with `p` adjusted for all claims, as docs/study-plan.md has it."""
    if p < ALPHA and contrast.low > margin:
        return HOLDS
    if contrast.equivalent < ALPHA or (p < ALPHA and contrast.high < 0):
        return FAILS
    return UNDECIDED
