from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from quartet.evaluation import comparison
from quartet.evaluation.comparison import Pair
from trained import SHIPPED, described, result, settings

VARIANTS = {
    "ten": settings(),
    "ten-bn": settings(bn=True),
    "four": settings(classes=4),
    "four-bn": settings(classes=4, bn=True),
}
FAST = {"lr": (0.001, 0.01)}


# Newcombe, Statistics in Medicine 17 (1998), 857-872, table I, method 3.
@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(81, 263, 25.53, 36.62), (15, 148, 6.24, 16.05), (0, 20, 0.0, 16.11), (1, 29, 0.61, 17.18)],
)
def test_the_interval_is_wilsons(right, count, low, high):
    correct = np.arange(count) < right
    assert comparison.interval(correct) == pytest.approx((low, high), abs=0.005)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (3, 1), (1, 3), (5, 5), (0, 12), (30, 13)])
def test_a_change_is_counted_and_tested_as_mcnemar_did(gained, lost):
    kinds = [(False, True)] * gained + [(True, False)] * lost + [(True, True)] * 4 + [(False, False)] * 3
    before, after = np.random.default_rng(0).permutation(np.array(kinds)).T
    found = comparison.change(before, after)
    images = gained + lost + 7
    assert (found.before, found.after) == ((lost + 4) / images, (gained + 4) / images)
    assert (found.gained, found.lost) == (gained, lost)
    tail = sum(math.comb(gained + lost, k) for k in range(min(gained, lost) + 1)) / 2 ** (gained + lost)
    assert found.p == pytest.approx(min(1, 2 * tail), rel=1e-12)


def test_an_answer_in_the_right_group_is_right_once_merged():
    digits = [0, 6, 1, 2, 8, 4, 9]
    ten = result(described("ten", VARIANTS["ten"]), digits, [6, 6, 0, 8, 4, 9, 7])
    assert ten.correct.tolist() == [False, True, False, False, False, False, False]
    groups = [[0, 6], [1, 7], [2, 3, 5, 8], [4, 9]]
    assert comparison.merged(ten, groups).tolist() == [True, True, False, True, False, True, False]


def test_differences_have_the_old_value_and_the_new_one():
    changed = settings(lr=0.01, schedule="onecycle", seed=3)
    assert comparison.differences(VARIANTS["ten"], changed) == {
        "lr": (0.001, 0.01),
        "schedule": ("constant", "onecycle"),
        "seed": (0, 3),
    }
    assert comparison.differences(changed, changed) == {}


def test_how_much_counts_only_with_augmentation():
    other = settings(rotation=5, elastic=1)
    assert comparison.differences(VARIANTS["ten"], other) == {}
    assert comparison.differences(other, settings(augment=True, rotation=0, scaling=0, shift=2)) == {
        "augment": (False, True),
        "shift": (0, 2),
    }


@pytest.mark.parametrize("wanted", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("classes", [10, 4])
def test_the_counterpart_has_the_classes_and_if_it_can_the_bn(wanted, classes):
    for count in range(len(VARIANTS) + 1):
        for order in itertools.permutations(VARIANTS, count):
            candidates = [name for name in order if VARIANTS[name].classes == classes]
            # The sort keeps the order of equals.
            expected = sorted(candidates, key=lambda name: VARIANTS[name].bn != wanted.bn)
            found = comparison.counterpart(wanted, classes, {name: VARIANTS[name] for name in order})
            assert found == (expected[0] if expected else None)


def test_the_shipped_variants_are_paired_as_published():
    bn = {"bn": (False, True)}
    assert comparison.within_classes(SHIPPED.variants)[:2] == [Pair("ten", "ten-bn", 10, bn), Pair("four", "four-bn", 4, bn)]
    merging = {"classes": (10, 4)}
    assert comparison.across_classes(SHIPPED.variants)[:2] == [
        Pair("ten", "four", 4, merging),
        Pair("ten-bn", "four-bn", 4, merging),
    ]


@pytest.mark.parametrize("bn", [False, True])
def test_a_fifth_variant_is_paired_with_the_one_of_its_bn(bn):
    suffix = "-bn" if bn else ""
    ten, four = settings(bn=bn, lr=0.01), settings(bn=bn, lr=0.01, classes=4)
    assert comparison.within_classes({**VARIANTS, "fast": ten})[2:] == [Pair(f"ten{suffix}", "fast", 10, FAST)]
    assert comparison.across_classes({**VARIANTS, "fast": ten}) == comparison.across_classes(VARIANTS)
    assert comparison.within_classes({**VARIANTS, "fast": four})[2:] == [Pair(f"four{suffix}", "fast", 4, FAST)]
    assert comparison.across_classes({**VARIANTS, "fast": four})[2:] == [
        Pair(f"ten{suffix}", "fast", 4, {"classes": (10, 4), **FAST})
    ]


def test_the_first_of_as_many_classes_is_the_counterpart():
    # A variant of four classes is compared with a later one of ten; of as many classes, only with an earlier one.
    variants = {"fast": settings(lr=0.01), **dict(reversed(VARIANTS.items()))}
    assert comparison.within_classes(variants) == [
        Pair("four-bn", "four", 4, {"bn": (True, False)}),
        Pair("fast", "ten-bn", 10, {"bn": (False, True), "lr": (0.01, 0.001)}),
        Pair("fast", "ten", 10, {"lr": (0.01, 0.001)}),
    ]
    assert comparison.across_classes(variants) == [
        Pair("ten-bn", "four-bn", 4, {"classes": (10, 4)}),
        Pair("fast", "four", 4, {"classes": (10, 4), "lr": (0.01, 0.001)}),
    ]


@pytest.mark.parametrize("names", [[], ["ten"], ["four"], ["four", "four-bn"], ["ten", "ten-bn"]], ids=str)
def test_nothing_is_paired_across_classes_if_all_have_as_many(names):
    chosen = {name: VARIANTS[name] for name in names}
    assert comparison.across_classes(chosen) == []
    assert [(pair.before, pair.after) for pair in comparison.within_classes(chosen)] == list(itertools.pairwise(names))


def test_variants_of_the_same_settings_differ_in_nothing():
    assert comparison.within_classes({"ten": settings(), "again": settings()}) == [Pair("ten", "again", 10, {})]
