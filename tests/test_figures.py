from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from conftest import ROOT
from quartet.base.params import TRIAL
from quartet.reporting import figures
from quartet.training.record import Epoch
from trained import SHIPPED, results, settings

pytestmark = pytest.mark.computes

HISTORY = [Epoch(number, 1 / number, 1.2 / number, 1 - 0.1 / number) for number in (1, 2, 3)]
MATRIX = np.array([[5, 1], [0, 7]])


def chunks(png):
    """The types of a PNG's chunks; each one's checksum is checked."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    found, place = [], 8
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        content = png[place + 4 : place + 8 + length]
        assert struct.unpack(">I", png[place + 8 + length : place + 12 + length]) == (zlib.crc32(content),)
        found.append(content[:4].decode())
        place += 12 + length
    return found


DRAWINGS = {
    "losses": lambda: figures.losses("Loss", "fake data", {"a": HISTORY, "b": HISTORY[:2]}),
    "one epoch": lambda: figures.losses("Loss", "fake data", {"a": HISTORY[:1]}),
    "accuracies": lambda: figures.accuracies("Accuracy", "fake data", {"a": HISTORY, "b": HISTORY[::-1]}),
    "wrapped losses": lambda: figures.losses("Loss", "fake data", dict.fromkeys("abcd", HISTORY)),
    "many accuracies": lambda: figures.accuracies("Accuracy", "fake data", dict.fromkeys("abcdefghi", HISTORY)),
    "confusions": lambda: figures.confusions("Confusion", "fake data", ["0·6", "1"], {"a": MATRIX, "b": MATRIX.T}),
    "an empty row": lambda: figures.confusions("Confusion", "fake data", ["0", "1"], {"a": np.array([[0, 0], [1, 2]])}),
}


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_a_figure_is_the_same_bytes_twice_without_metadata_and_leaves_no_style(draw):
    before = dict(mpl.rcParams)
    first = draw()
    assert draw() == first
    # No tEXt, iTXt, zTXt or tIME: these would tell the time or matplotlib's version.
    assert set(chunks(first)) == {"IHDR", "pHYs", "IDAT", "IEND"}
    assert dict(mpl.rcParams) == before
    with Image.open(io.BytesIO(first)) as image:
        assert np.ptp(np.asarray(image.convert("L")).astype(int)) > 100


DRAW = """
import hashlib, quartet.reporting.figures
from test_figures import DRAWINGS
print(hashlib.sha256(b"".join(draw() for draw in DRAWINGS.values())).hexdigest())
"""
# Each of these changes what a plain script draws, or ends it.
MATPLOTLIBRC = """
savefig.dpi: 300
savefig.bbox: tight
savefig.facecolor: yellow
text.usetex: True
font.family: serif
lines.antialiased: False
axes.prop_cycle: cycler("color", ["r"])
image.interpolation: bilinear
axes.formatter.use_locale: True
"""


def test_nothing_of_the_users_own_configuration_is_drawn(tmp_path):
    users = tmp_path / "matplotlibrc"
    users.write_text(MATPLOTLIBRC, encoding="utf-8")
    damaged = tmp_path / "damaged"
    damaged.write_bytes(b"\xff\xfe")
    surroundings = [
        {},
        {"MATPLOTLIBRC": str(users), "MPLBACKEND": "nonsense", "LC_ALL": "C", "TZ": "Asia/Tokyo"},
        {"MATPLOTLIBRC": str(damaged)},
    ]
    found = []
    for changes in surroundings:
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}", **changes}
        done = subprocess.run(
            [sys.executable, "-c", DRAW], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        found.append(done.stdout)
    assert len(set(found)) == 1


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn, kept when they are saved."""
    kept = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kw: kept.append(figure) or save(figure, *args, **kw))
    return kept


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_figure_names_its_data(drawn, name):
    DRAWINGS[name]()
    assert drawn[0].get_suptitle().endswith("\ndata: fake data")


def test_losses_are_drawn_over_their_epochs(drawn):
    DRAWINGS["losses"]()
    first, second = drawn[0].axes
    training, validation = first.lines
    assert [panel.get_title() for panel in (first, second)] == ["a", "b"]
    assert training.get_xydata().tolist() == [[1, 1], [2, 0.5], [3, 1 / 3]]
    assert validation.get_ydata().tolist() == [1.2, 0.6, 1.2 / 3]
    assert [text.get_text() for text in first.get_legend().get_texts()] == ["training", "validation"]
    assert len(second.lines[0].get_xdata()) == 2


def test_no_loss_is_outside_its_panel(drawn):
    """The panels share their axis: what the second one holds must fit where the first one's values are smaller."""
    figures.losses("Loss", "fake data", {"a": HISTORY[1:], "b": HISTORY})
    for panel in drawn[0].axes:
        low, high = panel.get_ylim()
        assert low == 0
        assert high > max(max(epoch.train_loss, epoch.val_loss) for epoch in HISTORY)


def test_accuracies_are_drawn_under_their_names(drawn):
    DRAWINGS["accuracies"]()
    (panel,) = drawn[0].axes
    assert {line.get_label(): line.get_ydata().tolist() for line in panel.lines} == {
        "a": [epoch.val_accuracy for epoch in HISTORY],
        "b": [epoch.val_accuracy for epoch in HISTORY[::-1]],
    }


def test_confusions_have_true_rows_and_predicted_columns(drawn):
    DRAWINGS["confusions"]()
    panel = drawn[0].axes[0]
    assert {text.get_position(): text.get_text() for text in panel.texts} == {
        (0, 0): "5",
        (1, 0): "1",
        (0, 1): "0",
        (1, 1): "7",
    }
    assert (panel.get_ylabel(), panel.get_xlabel()) == ("true", "predicted")
    assert [label.get_text() for label in panel.get_yticklabels()] == ["0·6", "1"]
    np.testing.assert_allclose(panel.images[0].get_array(), np.sqrt([[5 / 6, 1 / 6], [0, 1]]))


MANY = [1, 3, 5, 9]
ABREAST = 3  # panels; further ones are below


def named(count):
    """Histories that differ, by as many names."""
    return {f"variant-{place}": [epoch._replace(val_accuracy=place / count) for epoch in HISTORY] for place in range(count)}


@pytest.mark.parametrize("count", MANY)
def test_every_curve_is_drawn_and_told_apart_in_the_legend(drawn, count):
    histories = named(count)
    figures.accuracies("Accuracy", "fake data", histories)
    (panel,) = drawn[0].axes
    assert [text.get_text() for text in panel.get_legend().get_texts()] == list(histories)
    values = {line.get_label(): line.get_ydata().tolist() for line in panel.lines}
    assert values == {name: [epoch.val_accuracy for epoch in history] for name, history in histories.items()}
    looks = {line.get_label(): (line.get_color(), line.get_marker()) for line in panel.lines}
    assert len(set(looks.values())) == count
    shown = {line.get_label(): (line.get_color(), line.get_marker()) for line in panel.get_legend().get_lines()}
    assert shown == looks


def boxes(figure):
    """Where the panels are, from the top left corner, in the order in which they were drawn: left, top, right, bottom."""
    height = figure.bbox.height
    found = [panel.get_tightbbox() for panel in figure.axes]
    return [(box.x0, height - box.y1, box.x1, height - box.y0) for box in found]


@pytest.mark.parametrize("kind", ["losses", "confusions"])
@pytest.mark.parametrize("count", MANY)
def test_panels_wrap_and_none_covers_another(drawn, kind, count):
    names = list(named(count))
    if kind == "losses":
        figures.losses("Loss", "fake data", named(count))
    else:
        figures.confusions("Confusion", "fake data", ["0", "1"], dict.fromkeys(names, MATRIX))
    assert [panel.get_title() for panel in drawn[0].axes] == names
    found = boxes(drawn[0])
    width, height = drawn[0].bbox.size
    for place, (left, top, right, bottom) in enumerate(found):
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        if place % ABREAST:
            assert left >= found[place - 1][2]
        if place >= ABREAST:
            assert top >= found[place - ABREAST][3]
    assert len({round(left) for left, *_ in found}) <= 2 * ABREAST
    alone = 5 if kind == "losses" else 5.6
    assert drawn[0].get_figwidth() == pytest.approx(alone * min(count, ABREAST))


def test_every_matrix_is_drawn_in_its_own_panel(drawn):
    matrices = {f"variant-{place}": MATRIX + place for place in range(5)}
    figures.confusions("Confusion", "fake data", ["0", "1"], matrices)
    for panel, matrix in zip(drawn[0].axes, matrices.values(), strict=True):
        counts = {text.get_position(): int(text.get_text()) for text in panel.texts}
        assert counts == {(column, row): count for (row, column), count in np.ndenumerate(matrix)}


def grouped(**variants):
    """What is drawn together of these variants and a trial, by the name of its file: a title, and names by panel."""
    found = results({**{name.replace("_", "-"): value for name, value in variants.items()}, TRIAL: settings()}, [3, 4])
    return {
        file: (title, {panel: result.record.name for panel, result in chosen.items()})
        for file, title, chosen in figures.by_classes(found)
    }


def test_the_shipped_variants_are_told_apart_by_batch_norm():
    variants = {name: SHIPPED.variants[name] for name in ("ten", "ten-bn", "four", "four-bn")}
    assert grouped(**variants) == {
        "ten": ("Ten classes", {"without batch norm": "ten", "with batch norm": "ten-bn"}),
        "four": ("Four classes", {"without batch norm": "four", "with batch norm": "four-bn"}),
        "trial": ("Trial", {"trial": "trial"}),
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


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_training_is_in_each_kind_of_figure(drawn, count):
    variants = {f"variant-{place}": settings(lr=0.001 * (place + 1)) for place in range(count)}
    found = results({**variants, "four": settings(classes=4), TRIAL: settings(classes=4)}, [0, 6, 3])
    pictures = figures.draw_all(found, "fake data")
    assert list(pictures) == [
        f"{kind}-{classes}.png" for classes in ("ten", "four", TRIAL) for kind in ("loss", "accuracy", "confusion")
    ]
    kinds = dict(zip(pictures, drawn, strict=True))
    assert [panel.get_title() for panel in kinds["loss-ten.png"].axes] == list(variants)
    assert [line.get_label() for line in kinds["accuracy-ten.png"].axes[0].lines] == list(variants)
    matrices = kinds["confusion-ten.png"].axes
    assert [panel.get_title() for panel in matrices] == list(variants)
    for panel, name in zip(matrices, variants, strict=True):
        counts = [int(text.get_text()) for text in panel.texts]
        assert np.reshape(counts, (10, 10)).tolist() == found[name].metrics["confusion"]
    names = [label.get_text() for label in kinds["confusion-trial.png"].axes[0].get_xticklabels()]
    assert names == ["0·6", "1·7", "2·3·5·8", "4·9"]
    assert kinds["accuracy-four.png"].get_suptitle() == "Four classes: validation accuracy\ndata: fake data"
    assert kinds["loss-trial.png"].get_suptitle() == "Trial: loss\ndata: fake data"
    assert kinds["confusion-ten.png"].get_suptitle() == "Ten classes: confusion on the test set\ndata: fake data"
