"""Comparisons of trained models: intervals, paired tests, and which variant is compared with which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from quartet.base.params import TRIAL, Hyperparameters
from quartet.evaluation.predictions import Result


class Change(NamedTuple):
    """How many images two models answer right, and which of the two; `p` is the exact McNemar test's."""

    before: float
    after: float
    gained: int
    lost: int
    p: float


class Pair(NamedTuple):
    """Two variants to compare: their names, the second one's classes, and what it changes, as old and new values by key."""

    before: str
    after: str
    classes: int
    changes: dict[str, tuple[object, object]]


def interval(correct: NDArray[np.bool_]) -> tuple[float, float]:
    """Compute the 95% Wilson score interval of an accuracy, in percent (Wilson 1927, by way of SciPy)."""
    low, high = binomtest(int(correct.sum()), len(correct)).proportion_ci(method="wilson")
    return 100 * low, 100 * high


def change(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Change:
    """Compare two models image by image: whether each answered it right.

    The p-value is the exact McNemar test's: that of as uneven a split of the images that only one model gets right, if each
    had the same chance (McNemar 1947). It is about these trained models, not about other seeds.
    """
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    p = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    return Change(float(before.mean()), float(after.mean()), gained, lost, float(p))


def merged(result: Result, groups: Sequence[Sequence[int]]) -> NDArray[np.bool_]:
    """Tell for each image whether a model of ten classes names the right group of digits."""
    place = np.array([next(number for number, group in enumerate(groups) if digit in group) for digit in range(10)])
    return place[result.predicted] == place[result.digits]


def differences(before: Hyperparameters, after: Hyperparameters) -> dict[str, tuple[object, object]]:
    """Return the hyperparameters that differ, with both values. Without augmentation, images change by 0."""
    old, new = ({**it.model_dump(), **({} if it.augment else dict.fromkeys(it.sizes(), 0.0))} for it in (before, after))
    return {key: (old[key], value) for key, value in new.items() if old[key] != value}


def counterpart(wanted: Hyperparameters, classes: int, variants: Mapping[str, Hyperparameters]) -> str | None:
    """Return the variant to compare settings with: the first of so many classes, preferring the same `bn`; or None."""
    names = [name for name, settings in variants.items() if settings.classes == classes]
    same = [name for name in names if variants[name].bn == wanted.bn]
    return next(iter(same + names), None)


def variants(results: Mapping[str, Result]) -> dict[str, Hyperparameters]:
    """Return the hyperparameters of all trainings but the trial."""
    return {name: result.record.hyperparameters for name, result in results.items() if name != TRIAL}


def trial(results: Mapping[str, Result]) -> tuple[str, dict[str, tuple[object, object]]] | None:
    """Return the variant that the trial is compared with, and the settings that differ, as old and new values by key.

    None if no variant has as many classes.
    """
    settings, others = results[TRIAL].record.hyperparameters, variants(results)
    name = counterpart(settings, settings.classes, others)
    if name is None:
        return None
    return name, differences(others[name], settings)


def within_classes(variants: Mapping[str, Hyperparameters]) -> list[Pair]:
    """Pair each variant with the earlier one of the same classes with which it is compared."""
    pairs, earlier = [], dict[str, Hyperparameters]()
    for name, settings in variants.items():
        if other := counterpart(settings, settings.classes, earlier):
            pairs.append(Pair(other, name, settings.classes, differences(variants[other], settings)))
        earlier[name] = settings
    return pairs


def across_classes(variants: Mapping[str, Hyperparameters]) -> list[Pair]:
    """Pair each variant of four classes with the one of ten with which it is compared."""
    return [
        Pair(other, name, settings.classes, differences(variants[other], settings))
        for name, settings in variants.items()
        if settings.classes == 4 and (other := counterpart(settings, 10, variants))
    ]
