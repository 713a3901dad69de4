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
from quartet import figures
from quartet.history import Epoch

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
import hashlib, quartet.figures
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


@pytest.mark.parametrize("name", ["losses", "accuracies", "confusions"])
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
