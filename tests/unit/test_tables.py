from __future__ import annotations

import re

import pytest

from quartet.base.params import TRIAL
from quartet.reporting import tables
from trained import described, result, settings

GROUPS = [[0, 6], [1, 7], [2, 3, 5, 8], [4, 9]]
DIGITS = [0, 6, 1, 7, 2, 3, 4, 9]
TEN = [0, 0, 4, 7, 2, 3, 4, 4]
PICTURES = ("figures/loss-b.png", "figures/loss-a.png")
RIGHT = [0, 0, 1, 1, 2, 2, 3, 3]  # of four classes


def answered(name, predicted, accuracy=0.5, **changes):
    """A model that answered the eight test images DIGITS with these classes."""
    found = result(described(name, settings(**changes)), DIGITS, predicted)
    return found._replace(metrics={**found.metrics, "accuracy": accuracy})


@pytest.fixture
def everything():
    """Of the wrong answers of ten, two are in the right group and one is not; that of ten-bn is not."""
    return {
        "ten": answered("ten", TEN),
        "ten-bn": answered("ten-bn", [0, 6, 1, 7, 0, 3, 4, 9], accuracy=0.875, bn=True),
        "four": answered("four", [1, *RIGHT[1:]], classes=4),
        "four-bn": answered("four-bn", [*RIGHT[:-1], 1], classes=4, bn=True),
        TRIAL: answered(TRIAL, TEN),
    }


def page_of(everything, title="MNIST", comparable=True):
    """The page, with its lines of text joined."""
    page = tables.page(everything, title, GROUPS, PICTURES, comparable=comparable)
    return re.sub(r"(?<=[^\n|])\n(?=[^\n|#])", " ", page)


def cells(table):
    """A Markdown table as a dictionary for each row."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_a_table_is_markdown_aligned_with_its_figures_unchanged():
    lines = tables.table([{"model": "ten", "p": "0.10"}, {"model": "four", "p": "1e-05"}]).splitlines()
    assert lines[1].replace("-", "") == "|:|:|"
    assert cells("\n".join(lines)) == [{"model": "ten", "p": "0.10"}, {"model": "four", "p": "1e-05"}]


def test_every_training_is_measured(everything):
    rows = tables.measured(everything)
    assert [row["model"] for row in rows] == list(everything)
    measured = {
        "train / val loss": "0.0724 / 0.0631",
        "val acc. %": "98.00",
        # Wilson, five of eight right: centre (5 + z²/2) / (8 + z²), half width z/(8 + z²) · √(5·3/8 + z²/4), z = 1.96.
        "test acc. % [95%]": "50.00 [30.57, 86.32]",
    }
    assert rows[0].items() >= measured.items()


PAIRED = [
    "batch norm: ten → ten-bn",
    "batch norm: four → four-bn",
    "scoring by group: ten → ten*",
    "training by group: ten* → four",
    "training by group: ten-bn* → four-bn",
    "the trial's settings: ten → trial",
]


def test_what_changes_is_counted_image_by_image(everything):
    rows = tables.paired(everything, GROUPS)
    assert [row["what changes"] for row in rows] == PAIRED
    found = [(row["test acc. %"], row["won/lost"], row["p"]) for row in rows]
    # ten is right on 5 of 8 and, merged, on 7; ten-bn on 7 and, merged, on 7; four and four-bn on 7.
    # p, by hand: 3 to 1 is 2 · (1 + 4) / 2⁴; 1 to 1 is 1, capped; 2 to 0 is 2 / 2².
    assert found == [
        ("62.50 → 87.50", "3/1", "0.62"),
        ("87.50 → 87.50", "1/1", "1.0"),
        ("62.50 → 87.50", "2/0", "–"),
        ("87.50 → 87.50", "1/1", "1.0"),
        ("87.50 → 87.50", "1/1", "1.0"),
        ("62.50 → 62.50", "0/0", "1.0"),
    ]


def test_models_that_agree_differ_by_nothing(everything):
    same = {**everything, "ten-bn": answered("ten-bn", TEN, bn=True)}
    row = tables.paired(same, GROUPS)[0]
    assert (row["won/lost"], row["p"]) == ("0/0", "1.0")


def test_a_difference_is_ours_less_the_reports(everything):
    rows = tables.beside_report(everything)
    assert [row["model"] for row in rows] == [name for name in everything if name != TRIAL for _ in range(6)]
    ten = {row["measure"]: (row["ours"], row["report"], row["difference"]) for row in rows[:6]}
    assert ten == {
        "trainable parameters": ("4,470", "4,470", "+0"),
        "train loss": ("0.0724", "0.0624", "+0.0100"),
        "val loss": ("0.0631", "0.0731", "-0.0100"),
        "val acc. %, first epoch": ("90.00", "93.08", "-3.08"),
        "val acc. %, last epoch": ("98.00", "97.70", "+0.30"),
        "test acc. %": ("50.00", "97.93", "-47.93"),
    }
    uncounted = next(row for row in rows if row["model"] == "ten-bn")
    assert (uncounted["report"], uncounted["difference"]) == ("–", "–")


def test_the_page_names_its_data_and_compares_mnist_alone(everything):
    mnist = page_of(everything)
    assert mnist.startswith("# Results on MNIST\n")
    assert "**MNIST**, 8 test images. Seeds: 0." in mnist
    assert tables.table(tables.beside_report(everything)) in mnist
    assert mnist.endswith("\n\n![loss-b](figures/loss-b.png)\n\n![loss-a](figures/loss-a.png)\n")
    sample = tables.page(everything, "a sample", GROUPS, PICTURES, comparable=False)
    assert sample.startswith("# Results on a sample\n")
    assert "## Beside the report" not in sample
    assert "97.93" not in sample
    for page in (mnist, sample):
        assert tables.table(tables.measured(everything)) in page
        assert tables.table(tables.paired(everything, GROUPS)) in page


def test_the_layers_of_each_model_add_up_to_its_parameters(everything):
    rows = tables.layers(everything)
    assert list(rows[0]) == ["layer", "output", "ten, trial", "ten-bn", "four", "four-bn"]
    *layers, total = rows
    for title, model in zip(list(rows[0])[2:], everything.values(), strict=False):
        counts = [tuple(map(int, row[title].replace(",", "").split(" + "))) for row in layers if row[title] != "–"]
        assert sum(count[0] for count in counts) == model.parameters["trainable"]
        assert sum(sum(count[1:]) for count in counts) == model.parameters["non_trainable"]
    assert total == {
        "layer": "all",
        "output": "",
        "ten, trial": "4,470",
        "ten-bn": "4,526 + 56",
        "four": "4,368",
        "four-bn": "4,424 + 56",
    }
    shown = {row["layer"]: (row["output"], row["ten, trial"], row["ten-bn"], row["four"]) for row in layers}
    # The report's section 3d, and batch norm's two times 16 values of each kind.
    assert shown["conv1"] == ("28×28×16", "800", "800", "800")
    assert shown["norm1"] == ("28×28×16", "–", "32 + 32", "–")
    assert shown["conv2"] == ("14×14×8", "3,208", "3,208", "3,208")
    assert shown["conv3"] == ("4×4×4", "292", "292", "292")
    assert shown["output"] == ("10 or 4", "170", "170", "68")
    assert list(shown)[:4] == ["conv1", "norm1", "pool1", "relu1"]


def test_the_most_confused_classes_come_first():
    digits = [8] * 10 + [4, 9]
    model = result(described("ten", settings()), digits, [2, 2, 9, 9, 9, 0, 8, 8, 8, 8, 9, 9])
    rows = [tuple(row.values()) for row in tables.confused({"ten": model})]
    # Of equals, the first in the order of the classes: 4 → 9 and 8 → 0 are one image each.
    assert rows == [("ten", "8 → 9", "3", "30.00"), ("ten", "8 → 2", "2", "20.00"), ("ten", "4 → 9", "1", "100.00")]
    four = result(described("four", settings(classes=4)), [0, 6, 1, 7], [2, 0, 1, 1])
    rows = [tuple(row.values()) for row in tables.confused({"ten": model, "four": four})]
    assert rows[3:] == [("four", "0·6 → 2·3·5·8", "1", "50.00")]
    right = result(described("four", settings(classes=4)), [0, 6], [0, 0])
    assert tables.confused({"four": right}) == []


def test_seeds_are_told_apart_where_they_differ(everything):
    assert tables.seeds(everything) == "0"
    chosen = {"ten": everything["ten"], TRIAL: answered(TRIAL, TEN, seed=3)}
    assert tables.seeds(chosen) == "ten 0, trial 3"


OF_TEN = [0, 6, 1, 7, 2, 3, 4, 4]  # right about seven
CHANGED = "lr 0.001 → 0.01"


def add(everything, name, predicted, **changes):
    """The same trainings with one more variant, which stands before the trial as in params.yaml."""
    variants = {other: found for other, found in everything.items() if other != TRIAL}
    return {**variants, name: answered(name, predicted, **changes), TRIAL: everything[TRIAL]}


def models(rows):
    return list(dict.fromkeys(row["model"] for row in rows))


def questions(everything):
    return [row["what changes"] for row in tables.paired(everything, GROUPS)]


@pytest.mark.parametrize("bn", [False, True], ids=["without bn", "with bn"])
def test_a_fifth_variant_of_ten_classes_is_in_every_table(everything, bn):
    other = "ten-bn" if bn else "ten"
    more = add(everything, "fast", OF_TEN, bn=bn, lr=0.01)
    assert models(tables.measured(more)) == ["ten", "ten-bn", "four", "four-bn", "fast", "trial"]
    assert models(tables.beside_report(more)) == ["ten", "ten-bn", "four", "four-bn", "fast"]
    assert questions(more) == [*PAIRED[:2], f"{CHANGED}: {other} → fast", *PAIRED[2:]]
    row = tables.paired(more, GROUPS)[2]
    assert row["test acc. %"] == f"{'87.50' if bn else '62.50'} → 87.50"
    assert (row["won/lost"], row["p"]) == (("1/1", "1.0") if bn else ("2/0", "0.50"))


@pytest.mark.parametrize("bn", [False, True], ids=["without bn", "with bn"])
def test_a_fifth_variant_of_four_classes_is_in_every_table(everything, bn):
    suffix = "-bn" if bn else ""
    more = add(everything, "fast", RIGHT, classes=4, bn=bn, lr=0.01)
    assert models(tables.measured(more)) == ["ten", "ten-bn", "four", "four-bn", "fast", "trial"]
    assert models(tables.beside_report(more)) == ["ten", "ten-bn", "four", "four-bn", "fast"]
    assert questions(more) == [
        *PAIRED[:2],
        f"{CHANGED}: four{suffix} → fast",
        *PAIRED[2:5],
        f"training by group, {CHANGED}: ten{suffix}* → fast",
        PAIRED[5],
    ]
    rows = tables.paired(more, GROUPS)
    # four and four-bn are right on 7, as ten and ten-bn are once merged; the fifth is right on all 8.
    for row in (rows[2], rows[6]):
        assert row["test acc. %"] == "87.50 → 100.00"
        assert (row["won/lost"], row["p"]) == ("1/0", "1.0")


def test_a_variant_that_the_report_does_not_have_stands_alone(everything):
    rows = tables.beside_report(add(everything, "fast", OF_TEN, lr=0.01))
    fast = [row for row in rows if row["model"] == "fast"]
    assert {(row["report"], row["difference"]) for row in fast} == {("–", "–")}
    assert [row["ours"] for row in fast] == ["4,470", "0.0724", "0.0631", "90.00", "98.00", "50.00"]
    page = page_of(add(everything, "fast", OF_TEN, lr=0.01))
    assert "The report's models: `ten`, `ten-bn`, `four` and `four-bn`." in page


def test_all_that_a_variant_changes_is_told(everything):
    assert questions(add(everything, "other", OF_TEN, lr=0.01, schedule="onecycle", seed=3))[2] == (
        "lr 0.001 → 0.01, schedule constant → onecycle, seed 0 → 3: ten → other"
    )
    without = {name: found for name, found in everything.items() if name != "ten"}
    assert questions(add(without, "other", OF_TEN, lr=0.01))[1] == ("bn True → False, lr 0.001 → 0.01: ten-bn → other")
    assert questions(add(everything, "again", TEN))[2] == "nothing: ten → again"


REMOVED = {
    "ten": [
        "batch norm: four → four-bn",
        "scoring by group: ten-bn → ten-bn*",
        "training by group, bn True → False: ten-bn* → four",
        "training by group: ten-bn* → four-bn",
        "the trial's settings: ten-bn → trial",
    ],
    "ten-bn": [
        "batch norm: four → four-bn",
        "scoring by group: ten → ten*",
        "training by group: ten* → four",
        "training by group, bn False → True: ten* → four-bn",
        "the trial's settings: ten → trial",
    ],
    "four": [
        "batch norm: ten → ten-bn",
        "scoring by group: ten-bn → ten-bn*",
        "training by group: ten-bn* → four-bn",
        "the trial's settings: ten → trial",
    ],
    "four-bn": [
        "batch norm: ten → ten-bn",
        "scoring by group: ten → ten*",
        "training by group: ten* → four",
        "the trial's settings: ten → trial",
    ],
}


@pytest.mark.parametrize(("name", "left"), REMOVED.items(), ids=REMOVED)
def test_a_removed_variant_is_gone_from_every_table(everything, name, left):
    assert re.search(rf"(?<![\w-]){name}(?![\w-])(?! classes)", page_of(everything))
    del everything[name]
    page = page_of(everything)
    assert not re.search(rf"(?<![\w-]){name}(?![\w-])(?! classes)", page)
    assert questions(everything) == left
    assert models(tables.measured(everything)) == list(everything)
    assert models(tables.beside_report(everything)) == [name for name in everything if name != TRIAL]


@pytest.mark.parametrize("name", ["ten", "ten-bn", "four", "four-bn"])
def test_a_page_of_only_one_variant_compares_it_with_the_trial(everything, name):
    alone = {name: everything[name], TRIAL: everything[TRIAL]}
    page = page_of(alone)
    if name.startswith("ten"):
        assert questions(alone) == [f"the trial's settings: {name} → trial"]
    else:
        assert tables.paired(alone, GROUPS) == []
        assert "There are no two trainings to compare." in page_of(alone)
        assert "\n\nThere are no two trainings to compare.\n\n" in page
    assert f"The report's models: `{name}`." in page
    assert models(tables.measured(alone)) == [name, "trial"]
    assert models(tables.beside_report(alone)) == [name]


def test_a_page_without_variants_of_ten_classes_merges_none(everything):
    fours = {name: found for name, found in everything.items() if not name.startswith("ten")}
    page = page_of(fours)
    assert questions(fours) == ["batch norm: four → four-bn"]
    assert "The report's models: `four` and `four-bn`." in page
    assert "No variant has as many classes." in page


def test_a_page_without_a_model_of_the_report_says_so(everything):
    page = page_of(add({TRIAL: everything[TRIAL]}, "fast", TEN))
    assert "None of the variants is a model of the report. `trial` is" in page


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "Here it has the settings of `ten`."),
        ({"bn": True}, "Here it has the settings of `ten-bn`."),
        ({"lr": 0.01}, "Here it has other settings than `ten`: lr 0.01 instead of 0.001."),
        ({"lr": 0.01, "bn": True}, "Here it has other settings than `ten-bn`: lr 0.01 instead of 0.001."),
        (
            {"classes": 4, "epochs": 3, "seed": 7},
            "Here it has other settings than `four`: epochs 3 instead of 10, seed 7 instead of 0.",
        ),
        ({"classes": 4, "bn": True}, "Here it has the settings of `four-bn`."),
    ],
    ids=str,
)
def test_the_trial_is_told_apart_from_its_counterpart(everything, changes, told):
    everything[TRIAL] = answered(TRIAL, RIGHT, **changes)
    assert tables.trial_settings(everything) == told
    assert told in page_of(everything)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, ""),
        ({"augment": True}, "augmented images"),
        ({"label_smoothing": 0.1}, "smoothed labels"),
        ({"augment": True, "label_smoothing": 0.1}, "augmented images and smoothed labels"),
    ],
    ids=str,
)
def test_a_training_loss_of_its_own_is_told(everything, changes, told):
    everything[TRIAL] = answered(TRIAL, RIGHT, **changes)
    found = re.findall(r"The training loss of `trial` is that of ([^.]*)\.", page_of(everything))
    assert found == ([told] if told else [])


def test_the_trials_counterpart_may_have_another_bn(everything):
    chosen = {"ten": everything["ten"], TRIAL: answered(TRIAL, TEN, lr=0.01, bn=True)}
    assert (
        tables.trial_settings(chosen)
        == "Here it has other settings than `ten`: bn True instead of False, lr 0.01 instead of 0.001."
    )


def test_a_trial_without_a_counterpart_is_told(everything):
    chosen = {"ten": everything["ten"], TRIAL: answered(TRIAL, RIGHT, classes=4)}
    assert tables.trial_settings(chosen) == "No variant has as many classes."
    assert "No variant has as many classes." in page_of(chosen)


def test_tables_and_text_fit_a_terminal_of_80_columns(everything):
    for comparable in (True, False):
        page = tables.page(everything, "UCI digits sample, not MNIST", GROUPS, PICTURES, comparable=comparable)
        assert [line for line in page.splitlines() if len(line) > 80] == []
