"""`gallery`: which trainings are drawn together, and what each figure shows of them."""

from __future__ import annotations

import numpy as np
import pytest

from project import KINDS
from quartet.base.params import TRIAL
from quartet.reporting import gallery
from trained import SHIPPED, results, settings

pytestmark = pytest.mark.computes


def grouped(**variants):
    """What is drawn together of these variants and a trial, by the word of its files: a title, and names by panel."""
    found = results({**{name.replace("_", "-"): value for name, value in variants.items()}, TRIAL: settings()}, [3, 4])
    return {
        group.word: (group.title, {panel: result.record.name for panel, result in group.panels.items()})
        for group in gallery.groups(found)
    }


def test_the_shipped_variants_are_told_apart_by_batch_norm():
    variants = {name: SHIPPED.variants[name] for name in ("ten", "ten-bn", "four", "four-bn")}
    assert grouped(**variants) == {
        "ten": ("Ten classes", {"without batch norm": "ten", "with batch norm": "ten-bn"}),
        "four": ("Four classes", {"without batch norm": "four", "with batch norm": "four-bn"}),
        "trial": ("Trial", {"ten": "ten", "trial": "trial"}),
    }


def test_the_panels_keep_the_order_of_the_variants():
    found = grouped(four_bn=settings(classes=4, bn=True), ten=settings(), four=settings(classes=4))
    assert list(found) == ["four", "ten", "trial"]
    assert list(found["four"][1].items()) == [("with batch norm", "four-bn"), ("without batch norm", "four")]


@pytest.mark.parametrize(
    "variants",
    [
        {"ten": settings(), "fast": settings(lr=0.01)},
        {"ten": settings(), "fast_bn": settings(lr=0.01, bn=True)},
        {"ten": settings(), "again": settings()},
        {"ten": settings(bn=True), "again": settings(bn=True)},
        {"ten": settings(), "ten_bn": settings(bn=True), "fast": settings(lr=0.01)},
        {"ten": settings()},
        {"ten_bn": settings(bn=True)},
    ],
    ids="-".join,
)
def test_variants_that_differ_in_more_than_bn_have_their_names(variants):
    names = [name.replace("_", "-") for name in variants]
    assert grouped(**variants)["ten"] == ("Ten classes", {name: name for name in names})


def test_a_class_without_a_variant_is_not_drawn():
    four, bn = settings(classes=4), settings(classes=4, bn=True)
    assert list(grouped(four=four, four_bn=bn)) == ["four", "trial"]
    assert list(grouped()) == ["trial"]


@pytest.mark.parametrize(
    ("changes", "note", "beside"),
    [
        ({}, "with the settings of ten", ["ten", "trial"]),
        ({"lr": 0.01, "epochs": 3}, "unlike ten: epochs 3, lr 0.01", ["ten", "trial"]),
        ({"bn": True}, "unlike ten: bn True", ["ten", "trial"]),
        ({"classes": 4, "seed": 1}, "unlike four: seed 1", ["four", "trial"]),
    ],
)
def test_the_trial_is_beside_its_variant(changes, note, beside):
    found = results({"ten": settings(), "four": settings(classes=4), TRIAL: settings(**changes)}, [3, 4])
    *_, trial = gallery.groups(found)
    assert (trial.note.replace("\N{NO-BREAK SPACE}", " "), list(trial.panels)) == (note, beside)


def test_a_trial_of_other_classes_is_alone(drawn):
    found = results({"ten": settings(), TRIAL: settings(classes=4)}, [3, 4])
    *_, trial = gallery.groups(found)
    assert (trial.note, list(trial.panels)) == ("no variant has as many classes", ["trial"])


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_training_is_in_each_kind_of_figure(drawn, tiny, count):
    variants = {f"variant-{place}": settings(lr=0.001 * (place + 1)) for place in range(count)}
    found = results({**variants, "four": settings(classes=4), TRIAL: settings(classes=4, lr=0.01)}, [0, 6, 3])
    pictures = gallery.draw_all(found, tiny.images, "fake data")
    assert list(pictures) == [f"{kind}-{group}.png" for kind in KINDS for group in ("ten", "four", TRIAL)]
    kinds = dict(zip(pictures, drawn, strict=True))
    assert [panel.get_title() for panel in kinds["loss-ten.png"].axes] == list(variants)
    assert [line.get_label() for line in kinds["accuracy-ten.png"].axes[0].lines] == list(variants)
    matrices = kinds["confusion-ten.png"].axes
    assert [panel.get_title() for panel in matrices] == list(variants)
    for panel, name in zip(matrices, variants, strict=True):
        counts = [int(text.get_text()) for text in panel.texts]
        assert np.reshape(counts, (10, 10)).tolist() == found[name].metrics["confusion"]
    assert [panel.get_title() for panel in kinds["mistakes-ten.png"].axes] == list(variants)
    names = [label.get_text() for label in kinds["confusion-trial.png"].axes[0].get_xticklabels()]
    assert names == ["0·6", "1·7", "2·3·5·8", "4·9"]
    assert kinds["accuracy-four.png"].get_suptitle() == "Four classes: validation accuracy\ndata: fake data"
    title = kinds["loss-trial.png"].get_suptitle().replace("\N{NO-BREAK SPACE}", " ")
    assert title == "Trial: loss\nunlike four: lr 0.01\ndata: fake data"
    for title, figure in zip(pictures, drawn, strict=True):
        assert figure.get_suptitle().endswith("\ndata: fake data"), title


def test_the_trials_curves_are_over_those_of_its_variant(drawn, tiny):
    found = results({"ten": settings(), TRIAL: settings(lr=0.01)}, [0, 6, 3])
    kinds = dict(zip(gallery.draw_all(found, tiny.images, "fake data"), drawn, strict=True))
    (losses,) = kinds["loss-trial.png"].axes
    labels = ["ten, training", "ten, validation", "trial, training", "trial, validation"]
    assert [line.get_label() for line in losses.lines] == labels
    assert [line.get_label() for line in kinds["accuracy-trial.png"].axes[0].lines] == ["ten", "trial"]
    for kind in ("confusion", "mistakes"):
        assert [panel.get_title() for panel in kinds[f"{kind}-trial.png"].axes] == ["ten", "trial"]
