"""Statistics of a few numbers, one for each seed: intervals, exact tests, and how many seeds a difference would need."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

LEVEL = 0.95
RESAMPLES = 9_999
EXACT = 20  # pairs for which all signs are tried; of more, a sample
POWER = 0.8


class Summary(NamedTuple):
    """The numbers of an arm; `low` and `high` are the BCa interval of the mean."""

    n: int
    mean: float
    sd: float
    median: float
    min: float
    max: float
    low: float
    high: float


class Contrast(NamedTuple):
    """Paired differences: their mean with its BCa interval, the sign-flip test's p, and the share of pairs above zero.

    `equivalent` is the larger p of two one-sided t-tests that the mean is within the margin. `needed` is the number of pairs
    with which a t-test would find a difference of the margin in four of five studies.
    """

    n: int
    mean: float
    low: float
    high: float
    p: float
    above: float
    equivalent: float
    needed: int


def interval(values: ArrayLike) -> tuple[float, float]:
    """Compute the 95% bias-corrected and accelerated bootstrap interval of a mean (Efron 1987, by way of SciPy).

    If all values are equal, but for the last bits, it has no width.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if np.ptp(numbers) <= 1e-12 * np.abs(numbers).max():
        return float(numbers[0]), float(numbers[0])
    found = stats.bootstrap(
        (numbers,), np.mean, confidence_level=LEVEL, n_resamples=RESAMPLES, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    return float(found.low), float(found.high)


def summary(values: ArrayLike) -> Summary:
    """Describe the numbers of an arm; the standard deviation is that of a sample (n - 1)."""
    numbers = np.asarray(values, dtype=np.float64)
    low, high = interval(numbers)
    return Summary(
        n=len(numbers),
        mean=float(numbers.mean()),
        sd=float(numbers.std(ddof=1)),
        median=float(np.median(numbers)),
        min=float(numbers.min()),
        max=float(numbers.max()),
        low=low,
        high=high,
    )


def sign_flip(differences: ArrayLike) -> float:
    """Compute the two-sided p of paired differences: the share of all ways to give them signs whose sum is as far from 0.

    Exact for up to EXACT pairs, from 99,999 random ways for more (Fisher 1935; Phipson and Smyth 2010).
    """
    numbers = np.asarray(differences, dtype=np.float64)
    least = abs(numbers.sum()) - 1e-9 * np.abs(numbers).sum()  # sums of the same numbers may round otherwise
    if len(numbers) > EXACT:
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (99_999, len(numbers)))
        return float((1 + (np.abs(signs @ numbers) >= least).sum()) / 100_000)
    first, second = (_signed_sums(half) for half in np.array_split(numbers, 2))
    extreme = sum(int((np.abs(second + value) >= least).sum()) for value in first)
    return extreme / 2 ** len(numbers)


def _signed_sums(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sums of some numbers with all possible signs."""
    return np.array([np.dot(signs, numbers) for signs in itertools.product((-1.0, 1.0), repeat=len(numbers))])


def equivalent(differences: ArrayLike, margin: float) -> float:
    """Compute the p of two one-sided t-tests that the mean is within the margin, not included (Schuirmann 1987)."""
    numbers = np.asarray(differences, dtype=np.float64)
    if np.ptp(numbers) == 0:
        return 0.0 if abs(numbers[0]) < margin else 1.0
    above = stats.ttest_1samp(numbers, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(numbers, margin, alternative="less").pvalue
    return float(max(above, below))


def needed(sd: float, difference: float) -> int:
    """Compute how many pairs a two-sided t-test at 5% needs to find a difference in POWER of all studies.

    The power is that of the noncentral t distribution.
    """
    if sd == 0:
        return 2
    pairs = 2
    while pairs < 1_000_000:
        critical = stats.t.ppf(0.975, pairs - 1)
        if stats.nct.sf(critical, pairs - 1, math.sqrt(pairs) * difference / sd) >= POWER:
            return pairs
        pairs += max(1, pairs // 50)
    return pairs


def contrast(after: ArrayLike, before: ArrayLike, margin: float) -> Contrast:
    """Compare two values of each seed: the differences are `after` minus `before`."""
    differences = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    low, high = interval(differences)
    return Contrast(
        n=len(differences),
        mean=float(differences.mean()),
        low=low,
        high=high,
        p=sign_flip(differences),
        above=float((np.sign(differences) + 1).mean() / 2),
        equivalent=equivalent(differences, margin) if margin else 1.0,
        needed=needed(float(differences.std(ddof=1)), margin) if margin else 0,
    )


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjust p-values of a family for their number, so that one false alarm in it has a chance of 5% at most (Holm 1979)."""
    adjusted, largest = {}, 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def over_images_too(difference: NDArray[np.float64]) -> tuple[float, float]:
    """Compute the 95% percentile interval of the mean of [seeds, images] over other seeds and other images at once."""
    random = np.random.default_rng(0)
    seeds, images = difference.shape
    means = []
    for _ in range(2_000):
        chosen = difference[random.integers(seeds, size=seeds)].mean(axis=0)
        means.append(chosen[random.integers(images, size=images)].mean())
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def spreads_differ(groups: Sequence[ArrayLike]) -> float:
    """Compute the p of Brown and Forsythe's test that the groups have the same spread (1974, by way of SciPy).

    It is 1 if no number differs in its distance from its group's median.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        p = float(stats.levene(*map(np.asarray, groups), center="median").pvalue)
    return 1.0 if math.isnan(p) else p


def expected_best(values: ArrayLike) -> list[float]:
    """Compute the expected best of 1, 2, ... n of these values, drawn without replacement."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = len(ordered)
    return [
        float(sum(value * math.comb(place, k - 1) for place, value in enumerate(ordered)) / math.comb(n, k))
        for k in range(1, n + 1)
    ]
