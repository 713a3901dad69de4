from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from quartet.base.errors import InputError
from quartet.commands import recipes, register
from quartet.data import splits
from quartet.study import statistics
from quartet.tracking import registry
from quartet.tracking.registry import Version
from trained import answering

IMAGES = 40
TEST = {"accuracy": 0.975}


def right(count, first=0):
    """An answer to each image, right for `count` of them from the place `first` on."""
    found = np.zeros(IMAGES, dtype=bool)
    found[first : first + count] = True
    return found


@pytest.mark.parametrize(
    ("before", "after", "better"),
    [
        (right(20), right(36), True),
        (right(20), right(22), False),  # two images more: chance
        (right(36), right(20), False),
        (right(20), right(20), False),
        (right(20), right(20, first=20), False),
    ],
)
def test_better_is_more_than_chance_makes(before, after, better):
    found, why = register.verdict(before, after)
    assert found == better
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    p = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert why == (
        f"of 40 validation images it gets {gained} right that the champion does not, and {lost} the other way round"
        f" (p = {p:#.2g})"
    )


def test_the_card_says_what_it_is_and_what_it_is_not_for():
    text = register.card(answering("ten", [0.0] * 10, 0.9), TEST, IMAGES)
    assert "trained as `ten` on UCI digits sample, not MNIST" in text
    assert "97.50 % of 40 images (95% Wilson interval 87.12 to 99.56)" in text  # statsmodels: 0.8712 to 0.9956
    assert "on validation 90.00 %" in text
    assert "0, 1, 2, 3, 4, 5, 6, 7, 8, 9" in text
    assert "lr 0.001" in text
    assert "Do not use it" in text
    four = register.card(answering("four", [0.0] * 4), TEST, IMAGES)
    assert "which of 4 groups" in four
    assert "0·6, 1·7, 2·3·5·8, 4·9" in four


def test_the_tags_are_those_that_one_chooses_by():
    found = register.tags(answering("four", [0.0] * 4, 0.9), TEST, {"test": "3" * 64})
    assert len(found.pop("recipe")) == 64
    assert found == {
        "variant": "four",
        "data": "UCI digits sample, not MNIST",
        "classes": "0·6, 1·7, 2·3·5·8, 4·9",
        "validation": "1" * 64,
        "val_accuracy": "0.9",
        "test_accuracy": "0.975",
    }


def test_an_interval_above_zero_is_better():
    found = {sign: statistics.contrast([1 + sign, 1 + 2 * sign, 1], [1, 1, 1], 0) for sign in (1, -1)}
    assert [register.verdict_of_study(contrast)[0] for contrast in found.values()] == [False, False]  # one seed ties
    better, why = register.verdict_of_study(statistics.contrast([2.0, 3.0, 2.5], [1.0, 1.0, 1.0], 0))
    assert better
    assert why.startswith("over 3 seeds its recipe has +1.50 points of validation accuracy (95% interval +1.")
    worse, why = register.verdict_of_study(statistics.contrast([1.0, 1.0, 1.0], [2.0, 3.0, 2.5], 0))
    assert not worse
    assert "-1.50 points" in why


@pytest.fixture
def shelf(monkeypatch, workspace):
    """A registry in memory: the champion by name. There is no study."""
    champions: dict[str, Version] = {}
    monkeypatch.setattr(registry, "champion", champions.get)
    monkeypatch.setattr(registry, "crown", lambda version: champions.update({version.name: version}))
    monkeypatch.setattr(register, "attempt", lambda action: action())
    return champions


def versions(*names, **tags):
    shared = {"validation": "1" * 64, **tags}
    return {
        name: Version("sample-ten", str(number), {"variant": name, **shared}) for number, name in enumerate(names, start=1)
    }


VALIDATION = splits.Split(np.zeros((IMAGES, 28, 28), dtype=np.uint8), np.zeros(IMAGES, dtype=np.uint8))
MODELS = {"weak": answering("ten", [0.0, 1.0, *[0.0] * 8], 0.7), "strong": answering("ten", [1.0, *[0.0] * 9], 0.9)}


def test_the_first_champion_is_the_best_on_validation(shelf, capsys):
    register.choose(MODELS, versions("weak", "strong"), VALIDATION)
    assert shelf["sample-ten"].number == "2"
    assert capsys.readouterr().out == "register: sample-ten: version 2 (strong) is the champion: there was none\n"


def test_a_better_challenger_is_crowned_once(shelf, capsys):
    both = versions("weak", "strong")
    shelf["sample-ten"] = both["weak"]
    register.choose(MODELS, both, VALIDATION)
    assert shelf["sample-ten"].number == "2"
    said = " ".join(capsys.readouterr().out.split())
    assert "version 2 (strong) is the champion, not version 1 (weak) any more: of 40 validation images it gets 40" in said
    register.choose(MODELS, both, VALIDATION)
    assert "version 2 (strong) stays the champion" in capsys.readouterr().out


@pytest.mark.parametrize(("seeds", "crowned"), [([0.5, 0.7, 0.6], "2"), ([0.5, -0.7, 0.6], "1")])
def test_a_study_of_both_recipes_decides(seeds, crowned, shelf, capsys, monkeypatch):
    """Whatever the two trained models say."""
    both = versions("weak", "strong")
    shelf["sample-ten"] = both["weak"]._replace(tags={**both["weak"].tags, "recipe": "one"})
    both["strong"] = both["strong"]._replace(tags={**both["strong"].tags, "recipe": "two"})
    contrast = statistics.contrast(seeds, [0.0] * len(seeds), 0)
    monkeypatch.setattr(recipes, "compare", lambda *pair: {("one", "two"): contrast}[pair])
    register.choose(MODELS, both, VALIDATION)
    assert shelf["sample-ten"].number == crowned
    assert "over 3 seeds its recipe has" in " ".join(capsys.readouterr().out.split())


def test_one_that_is_not_better_is_not_crowned(shelf, capsys):
    alike = {"weak": MODELS["weak"], "strong": answering("ten", [0.0, 1.0, *[0.0] * 8], 0.9)}
    both = versions("weak", "strong")
    shelf["sample-ten"] = both["weak"]
    register.choose(alike, both, VALIDATION)
    assert shelf["sample-ten"].number == "1"
    assert "version 1 (weak) stays the champion; strong: of 40 validation" in " ".join(capsys.readouterr().out.split())


def test_other_validation_images_cannot_be_compared(shelf, capsys):
    shelf["sample-ten"] = versions("old", validation="9" * 64)["old"]
    register.choose(MODELS, {name: it._replace(number="7") for name, it in versions("weak", "strong").items()}, VALIDATION)
    assert shelf["sample-ten"].number == "1"
    assert "`quartet register --force strong` decides" in " ".join(capsys.readouterr().out.split())


def test_a_champion_that_is_no_training_here_is_loaded(shelf, monkeypatch):
    shelf["sample-ten"] = versions("gone")["gone"]._replace(number="9")
    scores = np.tile(np.eye(10, dtype=np.float32)[1], (IMAGES, 1))
    monkeypatch.setattr(
        registry, "load", lambda uri: ((lambda images: scores), {}) if uri == "models:/sample-ten/9" else None
    )
    register.choose(MODELS, versions("weak", "strong"), VALIDATION)
    assert shelf["sample-ten"].number == "2"


@pytest.mark.parametrize(("data", "classes", "name"), [("mnist", 10, "mnist-ten"), ("sample", 4, "sample-four")])
def test_data_and_classes_are_in_the_name(data, classes, name):
    """So a model of the sample never competes with MNIST's."""
    assert register.registered_name(data, classes) == name


def test_an_unknown_training_is_named(workspace):
    with pytest.raises(InputError, match=r"^--force: expected one of ten, ten-bn, four, four-bn, trial, found 'other'"):
        register.main(["--force", "other"])
