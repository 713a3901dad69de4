from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from quartet.study import statistics


def test_the_sign_flip_test_of_a_few_by_hand():
    # Of the eight ways to give 1, 2, 3 signs, the sums ±6 alone are as far from zero as 6; ±4 and beyond: four of eight.
    assert statistics.sign_flip([1, 2, 3]) == 2 / 8
    assert statistics.sign_flip([-1, 2, 3]) == 4 / 8
    assert statistics.sign_flip([0.0, 0.0]) == 1.0
    assert statistics.sign_flip([0.5]) == 1.0


@pytest.mark.parametrize("n", [2, 5, 9])
def test_the_sign_flip_test_counts_all_signs(n):
    values = np.random.default_rng(n).normal(0.3, 1, n)
    sums = [abs(sum(sign * value for sign, value in zip(signs, values, strict=True))) for signs in all_signs(n)]
    assert statistics.sign_flip(values) == np.mean([total >= abs(values.sum()) - 1e-9 for total in sums])
    # SciPy's own test of pairs, if it may try all signs.
    theirs = stats.permutation_test((values,), np.sum, permutation_type="samples", n_resamples=2**n)
    assert statistics.sign_flip(values) == pytest.approx(min(1, theirs.pvalue))


def all_signs(n):
    return itertools.product((-1, 1), repeat=n)


def test_the_least_p_is_that_of_the_pairs():
    """Two of all ways are as extreme as differences of one sign; ties by rounding count as equal."""
    for n in (3, 5, 10, 20):
        assert statistics.sign_flip([0.1 + 0.2] * n) == 2 ** (1 - n)


def test_more_pairs_than_can_be_tried_are_sampled():
    random = np.random.default_rng(0)
    few = random.normal(0.5, 1, statistics.EXACT)
    exact = statistics.sign_flip(few)
    # A pair without a difference changes nothing.
    sampled = statistics.sign_flip([*few, 0.0])
    assert sampled == pytest.approx(exact, abs=5 * math.sqrt(exact * (1 - exact) / 99_999) + 1e-5)


def test_holm_by_hand():
    assert statistics.holm({"a": 0.01, "b": 0.04, "c": 0.03}) == {"a": 0.03, "b": 0.06, "c": 0.06}
    assert statistics.holm({"a": 0.6, "b": 0.5}) == {"a": 1.0, "b": 1.0}
    assert statistics.holm({}) == {}


def test_equal_values_have_an_interval_without_width():
    assert statistics.interval([0.1 + 0.2] * 5) == (0.1 + 0.2, 0.1 + 0.2)
    assert statistics.interval([0.0, 0.0]) == (0.0, 0.0)
    same = statistics.contrast([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], 0.1)
    assert (same.mean, same.low, same.high, same.p, same.above, same.equivalent) == (0, 0, 0, 1, 0.5, 0)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_an_interval_of_any_size_is_around_the_mean(n):
    values = np.random.default_rng(n).normal(0, 1, n)
    low, high = statistics.interval(values)
    assert low < values.mean() < high


def test_the_interval_covers_as_often_as_it_says():
    """Of a bootstrap with so few values the coverage is known to be lower: for 20 normals about 93%."""
    random, trials, covered = np.random.default_rng(0), 300, 0
    for _ in range(trials):
        low, high = statistics.interval(random.normal(0, 1, 20))
        covered += low < 0 < high
    assert abs(covered / trials - 0.93) < 3.5 * math.sqrt(0.93 * 0.07 / trials)


def test_a_planted_difference_is_found_and_none_is_not():
    """Among 13 claims of 20 seeds, as in the plan: an effect of two standard deviations, and no effect."""
    random, trials = np.random.default_rng(1), 40
    found = false = 0
    for _ in range(trials):
        family = {str(number): random.normal(2 if number == 0 else 0, 1, 12) for number in range(13)}
        adjusted = statistics.holm({name: statistics.sign_flip(values) for name, values in family.items()})
        found += adjusted.pop("0") < 0.05
        false += any(p < 0.05 for p in adjusted.values())
    assert found == trials
    assert false / trials < 0.05 + 3.5 * math.sqrt(0.05 * 0.95 / trials)


def test_equivalence_is_two_one_sided_tests():
    values = np.random.default_rng(0).normal(0.01, 0.05, 20)
    low = stats.ttest_1samp(values, -0.1, alternative="greater").pvalue
    high = stats.ttest_1samp(values, 0.1, alternative="less").pvalue
    assert statistics.equivalent(values, 0.1) == pytest.approx(max(low, high))
    # The same as a 90% interval within the margin.
    span = stats.t.interval(0.9, 19, values.mean(), stats.sem(values))
    margin = max(map(abs, span))
    assert statistics.equivalent(values, 1.001 * margin) < 0.05 < statistics.equivalent(values, 0.999 * margin)


def test_the_needed_pairs_have_the_promised_power():
    for sd, difference in ((1.0, 1.0), (0.2, 0.1), (1.0, 0.5)):
        pairs = statistics.needed(sd, difference)

        def power(n, ratio=difference / sd):
            critical = stats.t.ppf(0.975, n - 1)
            return stats.nct.sf(critical, n - 1, math.sqrt(n) * ratio)

        assert power(pairs) >= statistics.POWER > power(pairs - 1)
    assert statistics.needed(1.0, 1.0) == 10  # Cohen 1988, table 2.4.1, with the correction for small samples
    assert statistics.needed(0.0, 0.1) == 2


def test_seeds_and_images_together_are_less_certain():
    random = np.random.default_rng(0)
    images = random.normal(0, 1, 400)
    difference = random.normal(0.5, 0.2, (10, 1)) + images + random.normal(0, 0.1, (10, 400))
    low, high = statistics.interval(difference.mean(axis=1))
    wide_low, wide_high = statistics.over_images_too(difference)
    assert wide_low < difference.mean() < wide_high
    expected = math.sqrt(difference.mean(axis=1).var() / 10 + images.var() / 400)
    assert (wide_high - wide_low) / (2 * 1.96 * expected) == pytest.approx(1, abs=0.1)
    assert (high - low) < (wide_high - wide_low) * 1.1


def test_brown_and_forsythe_tell_spreads_apart():
    random = np.random.default_rng(0)
    narrow, wide = random.normal(0, 1, 40), random.normal(5, 4, 40)
    assert statistics.spreads_differ([narrow, wide]) < 0.001
    assert statistics.spreads_differ([narrow, narrow + 3]) == pytest.approx(1)
    assert statistics.spreads_differ([[1.0, 1.0], [2.0, 2.0]]) == 1


def test_the_expected_best_is_the_mean_over_all_choices():
    values = [0.3, 0.1, 0.4, 0.15]
    for k, best in enumerate(statistics.expected_best(values), start=1):
        assert best == pytest.approx(np.mean([max(chosen) for chosen in itertools.combinations(values, k)]))
