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
from PIL import Image

from project import ROOT
from quartet.reporting import figures
from quartet.training.record import Epoch

pytestmark = pytest.mark.computes

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
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


# Of 40 images of class 0 and 1, 38 are taken for the other class: more than the 36 that fit into a cell.
ANSWERS = (np.array([0] * 39 + [1]), np.array([1] * 38 + [0, 1]))


DRAWINGS = {
    "losses": lambda: figures.losses("Loss", "fake data", {"a": HISTORY, "b": HISTORY[:2]}),
    "one epoch": lambda: figures.losses("Loss", "fake data", {"a": HISTORY[:1]}),
    "accuracies": lambda: figures.accuracies("Accuracy", "fake data", {"a": HISTORY, "b": HISTORY[::-1]}),
    "wrapped losses": lambda: figures.losses("Loss", "fake data", dict.fromkeys("abcd", HISTORY)),
    "many accuracies": lambda: figures.accuracies("Accuracy", "fake data", dict.fromkeys("abcdefghi", HISTORY)),
    "confusions": lambda: figures.confusions("Confusion", "fake data", ["0·6", "1"], {"a": MATRIX, "b": MATRIX.T}),
    "no error": lambda: figures.confusions("Confusion", "fake data", ["0", "1"], {"a": np.diag([3, 4])}),
    "losses beside": lambda: figures.losses("Loss", "fake data", {"a": HISTORY}, {"b": HISTORY[:2]}, "lr 2 (1)"),
    "mistakes": lambda: figures.mistakes("Mistakes", "fake data", ["0", "1"], {"a": ANSWERS, "b": ANSWERS[::-1]}, IMAGES),
    "no mistake": lambda: figures.mistakes("Mistakes", "fake data", ["0", "1"], {"a": (ANSWERS[0],) * 2}, IMAGES),
    "an empty row": lambda: figures.confusions("Confusion", "fake data", ["0", "1"], {"a": np.array([[0, 0], [1, 2]])}),
}


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_a_figure_is_the_same_bytes_twice(draw):
    """It has no metadata, and leaves no style of its own."""
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
print(hashlib.sha256(b"".join(DRAWINGS[name]() for name in ("one epoch", "accuracies", "confusions"))).hexdigest())
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
    searched = os.pathsep.join(str(ROOT / folder) for folder in ("src", "tests", "tests/unit"))
    found = []
    for changes in surroundings:
        environment = {**os.environ, "PYTHONPATH": searched, **changes}
        done = subprocess.run(
            [sys.executable, "-c", DRAW], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        found.append(done.stdout)
    assert len(set(found)) == 1


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


def test_losses_have_a_log_axis_that_holds_them_all(drawn):
    """The panels share their axis: what the second one holds must fit where the first one's values are smaller."""
    figures.losses("Loss", "fake data", {"a": HISTORY[1:], "b": HISTORY})
    values = [loss for epoch in HISTORY for loss in (epoch.train_loss, epoch.val_loss)]
    for panel in drawn[0].axes:
        assert panel.get_yscale() == "log"
        low, high = panel.get_ylim()
        assert 0 < low < min(values) < max(values) < high
    assert drawn[0].axes[0].get_ylabel() == "mean cross-entropy (log scale)"


@pytest.mark.parametrize("losses", [(0.02, 0.43), (0.30, 0.34), (1e-5, 2.3), (0.5, 0.5)])
def test_a_log_axis_has_ticks_that_can_be_read(drawn, losses):
    figures.losses("Loss", "fake data", {"a": [Epoch(place, loss, loss, 0.9) for place, loss in enumerate(losses, 1)]})
    (panel,) = drawn[0].axes
    low, high = panel.get_ylim()
    labels = [label for label in panel.get_yticklabels() if low <= label.get_position()[1] <= high]
    assert 2 <= len(labels) <= 20
    for label in labels:
        assert float(label.get_text()) == pytest.approx(label.get_position()[1], rel=1e-5)


@pytest.mark.parametrize("loss", [0.0, float("nan"), float("inf")])
def test_a_loss_that_no_log_axis_has_is_left_out(drawn, loss):
    figures.losses("Loss", "fake data", {"a": [*HISTORY, Epoch(4, loss, loss, 0.9)], "b": [Epoch(1, loss, loss, 0.9)]})
    low, high = drawn[0].axes[0].get_ylim()
    assert 0 < low < 1 / 3 < 1.2 < high < 10


def test_what_losses_are_compared_with_is_grey_beside_them(drawn):
    figures.losses("Loss", "fake data", {"trial": HISTORY}, {"ten": HISTORY[:2]}, "lr 2 (1)")
    (panel,) = drawn[0].axes
    labels = ["ten, training", "ten, validation", "trial, training", "trial, validation"]
    assert [text.get_text() for text in panel.get_legend().get_texts()] == labels
    assert [line.get_color() == figures.GREY for line in panel.lines] == [True, True, False, False]
    assert [len(line.get_xdata()) for line in panel.lines] == [2, 2, 3, 3]
    assert drawn[0].get_suptitle() == "Loss\nlr 2 (1)\ndata: fake data"


@pytest.mark.parametrize(("lowest", "told"), [(0.9, True), (0.0, False)])
def test_an_axis_that_does_not_start_at_0_says_so(drawn, lowest, told):
    figures.accuracies("Accuracy", "fake data", {"a": [Epoch(1, 1, 1, lowest), Epoch(2, 1, 1, 0.95)]})
    (panel,) = drawn[0].axes
    assert (panel.get_ylim()[0] > 0) == told
    assert ("does not start at 0" in panel.get_ylabel()) == told


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
    shown = panel.images[0].get_array()
    assert shown.mask.tolist() == [[True, False], [False, True]]
    assert (shown[0, 1], shown[1, 0]) == (1 / 6, 0)
    assert drawn[0].get_suptitle().splitlines()[1] == "orange: errors, as a share of their row (darkest: 16.7%)"


def test_the_panels_of_confusions_share_their_colours(drawn):
    figures.confusions("Confusion", "fake data", ["0", "1"], {"a": [[9, 1], [0, 8]], "b": [[5, 5], [2, 6]]})
    assert [panel.images[0].get_clim() for panel in drawn[0].axes] == [(0, 0.5)] * 2


def test_mistakes_are_in_the_row_of_their_class(drawn):
    labels, predicted = np.array([0, 0, 2, 1, 2]), np.array([0, 2, 0, 1, 2])
    figures.mistakes("Mistakes", "fake data", ["0", "1", "2"], {"a": (labels, predicted)}, IMAGES)
    (panel,) = drawn[0].axes
    canvas = np.asarray(panel.images[0].get_array())
    step = len(canvas) // 3
    for row in range(3):
        for column in range(3):
            cell = canvas[row * step : (row + 1) * step, column * step : (column + 1) * step]
            wrong = [image for image in range(5) if (labels[image], predicted[image]) == (row, column) and row != column]
            assert (cell.min() < 128) == bool(wrong)
            for image in wrong:  # ink is dark
                np.testing.assert_array_equal(cell[1:29, 1:29], np.minimum(255 - IMAGES[image], 248))
    assert (panel.get_ylabel(), panel.get_xlabel()) == ("true", "predicted")
    assert list(panel.texts) == []


def test_a_number_says_how_many_mistakes_there_are(drawn):
    DRAWINGS["mistakes"]()
    first, second = drawn[0].axes
    assert [text.get_text() for text in first.texts] == ["38"]
    assert [text.get_text() for text in second.texts] == ["38"]
    (x, y), (other_x, other_y) = first.texts[0].get_position(), second.texts[0].get_position()
    middle = len(np.asarray(first.images[0].get_array())) / 2
    assert x > middle > y  # true 0, predicted 1
    assert other_x < middle < other_y


MANY = [1, 3, 5, 9]
NAMES = ["0·6", "1·7", "2·3·5·8", "4·9"]
LONG = "unlike ten: batch_size 64 (20), lr 0.01 (0.001), schedule onecycle (constant), epochs 3 (10), seed 7 (0)"
ABREAST = 2  # panels; further ones are below


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
    figure.draw_without_rendering()
    height = figure.bbox.height
    found = [panel.get_tightbbox() for panel in figure.axes]
    return [(box.x0, height - box.y1, box.x1, height - box.y0) for box in found]


@pytest.mark.parametrize("kind", ["losses", "confusions", "mistakes"])
@pytest.mark.parametrize("count", MANY)
def test_panels_wrap_and_none_covers_another(drawn, kind, count):
    names = list(named(count))
    if kind == "losses":
        figures.losses("Loss", "fake data", named(count))
    elif kind == "confusions":
        figures.confusions("Confusion", "fake data", NAMES, dict.fromkeys(names, np.eye(4, dtype=int)))
    else:
        figures.mistakes("Mistakes", "fake data", list("0123456789"), dict.fromkeys(names, ANSWERS), IMAGES, note=LONG)
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
    assert drawn[0].get_figwidth() == pytest.approx(max(6, 4.6 * min(count, ABREAST)))


def test_every_matrix_is_drawn_in_its_own_panel(drawn):
    matrices = {f"variant-{place}": MATRIX + place for place in range(5)}
    figures.confusions("Confusion", "fake data", ["0", "1"], matrices)
    for panel, matrix in zip(drawn[0].axes, matrices.values(), strict=True):
        counts = {text.get_position(): int(text.get_text()) for text in panel.texts}
        assert counts == {(column, row): count for (row, column), count in np.ndenumerate(matrix)}
