from __future__ import annotations

import numpy as np
import pytest

from quartet import params, results
from quartet.history import Epoch
from quartet.report import REPORT

GROUPS = [[0, 6], [1, 7], [2, 3, 5, 8], [4, 9]]
DIGITS = [0, 6, 1, 7, 2, 3, 4, 9]
NAMES = {digit: "·".join(map(str, group)) for group in GROUPS for digit in group}


def result(predicted, trainable=4470, seed=0, accuracy=0.5):
    """A model that answered the eight test images DIGITS with these classes."""
    four = any("·" in name for name in predicted)
    return results.Result(
        summary={"parameters": {"trainable": trainable, "non_trainable": 0}, "hyperparameters": {"seed": seed}},
        epochs=[Epoch(1, 0.9, 0.8, 0.9), Epoch(2, 0.0724, 0.0631, 0.98)],
        metrics={"accuracy": accuracy, "macro_f1": 0.97531},
        digits=np.array(DIGITS),
        actual=np.array([NAMES[digit] if four else str(digit) for digit in DIGITS]),
        predicted=np.array(predicted),
    )


@pytest.fixture
def everything():
    """Of the wrong answers of ten, two are in the right group and one is not; that of ten-bn is not."""
    ten = result(["0", "0", "4", "7", "2", "3", "4", "4"])
    ten_bn = result(["0", "6", "1", "7", "0", "3", "4", "9"], accuracy=0.875)
    right = [NAMES[digit] for digit in DIGITS]
    four = result([NAMES[1], *right[1:]], trainable=4368)
    four_bn = result([*right[:-1], NAMES[2]], trainable=4424)
    return {"ten": ten, "ten-bn": ten_bn, "four": four, "four-bn": four_bn, "trial": result(ten.predicted)}


def cells(table):
    """A Markdown table as a dictionary for each row."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


# Newcombe, Statistics in Medicine 17 (1998), 857-872, table I, method 3.
@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(81, 263, 25.53, 36.62), (15, 148, 6.24, 16.05), (0, 20, 0.0, 16.11), (1, 29, 0.61, 17.18)],
)
def test_the_interval_is_wilsons(right, count, low, high):
    correct = np.arange(count) < right
    assert results.interval(correct) == pytest.approx((low, high), abs=0.005)


def test_a_table_is_markdown_aligned_with_its_figures_unchanged():
    lines = results.table([{"model": "ten", "p": "0.10"}, {"model": "four", "p": "1e-05"}]).splitlines()
    assert lines[1].replace("-", "") == "|:|:|"
    assert cells("\n".join(lines)) == [{"model": "ten", "p": "0.10"}, {"model": "four", "p": "1e-05"}]


def test_every_training_is_measured(everything):
    rows = cells(results.measured(everything))
    assert [row["model"] for row in rows] == list(params.TRAININGS)
    assert rows[0] == {
        "model": "ten",
        "parameters": "4,470",
        "train loss": "0.0724",
        "val loss": "0.0631",
        "val acc. % first → last": "90.00 → 98.00",
        # Wilson, five of eight right: centre (5 + z²/2) / (8 + z²), half width z/(8 + z²) · √(5·3/8 + z²/4), z = 1.96.
        "test acc. % [95 % interval]": "50.00 [30.57, 86.32]",
        "macro F1": "0.9753",
    }


def test_untrained_values_are_counted_apart(everything):
    summary = {**everything["ten"].summary, "parameters": {"trainable": 4526, "non_trainable": 56}}
    assert (
        cells(results.measured({"ten-bn": everything["ten"]._replace(summary=summary)}))[0]["parameters"] == "4,526 (+ 56)"
    )


def test_what_changes_is_counted_image_by_image(everything):
    rows = cells(results.paired(everything, GROUPS))
    found = [(row["before %"], row["after %"], row["points"], row["images gained / lost"], row["p"]) for row in rows]
    # ten is right on 5 of 8 and, merged, on 7; ten-bn on 7 and, merged, on 7; four and four-bn on 7.
    # p, by hand: 3 to 1 is 2 · (1 + 4) / 2⁴; 1 to 1 is 1, capped; 2 to 0 is 2 / 2².
    assert found == [
        ("62.50", "87.50", "+25.00", "3 / 1", "0.62"),
        ("87.50", "87.50", "+0.00", "1 / 1", "1.0"),
        ("62.50", "87.50", "+25.00", "2 / 0", "–"),
        ("87.50", "87.50", "+0.00", "1 / 1", "1.0"),
        ("87.50", "87.50", "+0.00", "1 / 1", "1.0"),
    ]


def test_models_that_agree_differ_by_nothing(everything):
    same = {**everything, "ten-bn": everything["ten"]}
    row = cells(results.paired(same, GROUPS))[0]
    assert (row["points"], row["images gained / lost"], row["p"]) == ("+0.00", "0 / 0", "1.0")


def test_a_difference_is_ours_less_the_reports(everything):
    rows = cells(results.beside_report(everything, comparable=True))
    assert [row["model"] for row in rows] == [name for name in REPORT for _ in range(6)]
    ten = {row["figure"]: (row["ours"], row["report"], row["difference"]) for row in rows[:6]}
    assert ten == {
        "trainable parameters": ("4,470", "4,470", "+0"),
        "train loss": ("0.0724", "0.0624", "+0.0100"),
        "validation loss": ("0.0631", "0.0731", "-0.0100"),
        "validation accuracy %, first epoch": ("90.00", "93.08", "-3.08"),
        "validation accuracy %, last epoch": ("98.00", "97.70", "+0.30"),
        "test accuracy %": ("50.00", "97.93", "-47.93"),
    }
    uncounted = next(row for row in rows if row["model"] == "ten-bn")
    assert (uncounted["report"], uncounted["difference"]) == ("–", "–")


def test_the_samples_figures_are_not_subtracted_from_the_reports(everything):
    rows = cells(results.beside_report(everything, comparable=False))
    assert "report (MNIST: not comparable)" in rows[0]
    assert "report" not in rows[0]
    # The number of parameters does not depend on the data.
    assert {row["difference"] for row in rows if row["figure"] != "trainable parameters"} == {"–"}
    assert rows[0]["difference"] == "+0"


def test_the_page_names_its_data_and_says_whether_it_compares(everything):
    mnist = results.page(everything, "MNIST", GROUPS, comparable=True)
    assert mnist.startswith("# Results on MNIST\n")
    assert "**MNIST**, 8 test images. Seeds: 0." in mnist
    assert "compar" not in mnist
    assert mnist.endswith("|\n")
    sample = results.page(everything, "a sample", GROUPS, comparable=False)
    assert sample.startswith("# Results on a sample\n")
    assert "**The report's figures are for MNIST and these are for a sample: they do not compare.**" in sample
    for page in (mnist, sample):
        assert results.measured(everything) in page
        assert results.paired(everything, GROUPS) in page


def test_seeds_are_told_apart_where_they_differ(everything):
    assert results.seeds(everything) == "0"
    chosen = {"ten": everything["ten"], "trial": result(everything["ten"].predicted, seed=3)}
    assert results.seeds(chosen) == "ten 0, trial 3"


def test_the_trials_settings_are_told_where_they_are_not_those_of_ten(everything):
    ten = everything["ten"]
    same = {"lr": 0.001, "bn": False, "seed": 0}
    chosen = {
        "ten": ten._replace(summary={**ten.summary, "hyperparameters": same}),
        "trial": ten._replace(summary={**ten.summary, "hyperparameters": same | {"lr": 0.01, "bn": True}}),
    }
    assert results.trial_settings(chosen) == "Here it has other settings than `ten`: lr 0.01 (0.001), bn True (False)."
    assert results.trial_settings({"ten": ten, "trial": ten}) == "Here it has the settings of `ten`."
