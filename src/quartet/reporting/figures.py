"""Draw figures with matplotlib: the same bytes from the same numbers."""

from __future__ import annotations

import io
import math
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quartet.base.params import COLOURS

# A missing backend or a broken matplotlibrc would make the import fail; neither is needed.
os.environ |= {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}
import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from quartet.training.record import Epoch

STYLE: dict[Any, Any] = {
    "figure.dpi": 220,  # sharp on a projector
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}
LONG = 7  # letters of the longest name of a class that has room beside the others
MARKERS = ("o-", "s--", "^-.", "D:", "v-")  # 5, coprime with the 8 colours, so that no pair repeats before 40
COLUMNS = 2  # panels side by side, readable at the width of a page; further ones are below
GREY = "#8a94a3"  # curves shown for comparison
RIGHT = "#dfe6ee"  # the diagonal of a confusion matrix
ABREAST = 12  # misclassified images side by side in a panel


@contextmanager
def style(changes: Mapping[Any, Any] | None = None) -> Iterator[None]:
    """Draw in matplotlib's default style with STYLE on top, whatever the user's matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({**STYLE, **(changes or {})})
        yield


def panels(title: str, data_title: str, count: int, size: tuple[float, float], *notes: str) -> tuple[Figure, list[Axes]]:
    """Make a figure of so many panels of a size in inches. Its title has the notes and names the data."""
    rows, columns = math.ceil(count / COLUMNS), min(count, COLUMNS)
    width = max(size[0] * columns, 6)
    lines = [line for part in (title, *notes, f"data: {data_title}") for line in textwrap.wrap(part, int(12 * width))]
    figure = Figure(figsize=(width, size[1] * rows + 0.2 * len(lines)), layout="constrained")
    axes = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for unused in axes[count:]:
        unused.remove()
    figure.suptitle("\n".join(lines), fontsize=11)
    return figure, axes[:count]


def losses(
    title: str,
    data_title: str,
    histories: Mapping[str, Sequence[Epoch]],
    beside: Mapping[str, Sequence[Epoch]] | None = None,
    note: str = "",
) -> bytes:
    """Draw a panel for each training: its training and its validation loss by epoch, on a log axis. PNG.

    Each panel also has the losses of the trainings in `beside`, in grey.
    """
    with style():
        figure, axes = panels(title, data_title, len(histories), (4.6, 3.4), note)
        for panel, (name, history) in zip(axes, histories.items(), strict=True):
            for other, compared in (beside or {}).items():
                _loss(panel, compared, (GREY, GREY), f"{other}, ")
            _loss(panel, history, COLOURS[:2], f"{name}, " if beside else "")
            panel.set(title=name, xlabel="epoch", yscale="log")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            panel.tick_params(labelleft=True)
            panel.legend()
        # The panels share their axis, whose range is known only after all are drawn.
        low, high = axes[0].get_ylim()
        subs = (1, 2, 5) if high > 30 * low else (1, 2, 3, 5, 7)
        for panel in axes:
            panel.yaxis.set_major_locator(LogLocator(subs=subs) if high > 3 * low else MaxNLocator(5))
            panel.yaxis.set_minor_locator(NullLocator())
            panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        for panel in axes[::COLUMNS]:
            panel.set_ylabel("mean cross-entropy (log scale)")
        return png(figure)


def _loss(panel: Axes, history: Sequence[Epoch], colours: Sequence[str], whose: str) -> None:
    epochs = [epoch.epoch for epoch in history]
    panel.plot(epochs, [epoch.train_loss for epoch in history], "o-", ms=3.5, color=colours[0], label=f"{whose}training")
    panel.plot(epochs, [epoch.val_loss for epoch in history], "s--", ms=3.5, color=colours[1], label=f"{whose}validation")


def accuracies(title: str, data_title: str, histories: Mapping[str, Sequence[Epoch]], note: str = "") -> bytes:
    """Draw the validation accuracy of each training by epoch, in one panel. PNG."""
    with style():
        figure, (panel,) = panels(title, data_title, 1, (6, 4), note)
        for place, (name, history) in enumerate(histories.items()):
            marker, colour = MARKERS[place % len(MARKERS)], COLOURS[place % len(COLOURS)]
            values = [epoch.val_accuracy for epoch in history]
            panel.plot([epoch.epoch for epoch in history], values, marker, ms=4, color=colour, label=name)
        low, _ = panel.get_ylim()
        panel.set(xlabel="epoch", ylabel="validation accuracy" + ("\n(the axis does not start at 0)" if low > 0 else ""))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        panel.legend(loc="lower right", ncols=math.ceil(len(histories) / 10))
        return png(figure)


def confusions(
    title: str,
    data_title: str,
    class_names: Sequence[str],
    matrices: Mapping[str, ArrayLike],
    note: str = "",
) -> bytes:
    """Draw a panel for each model: its confusion matrix, rows true and columns predicted. PNG.

    The colours are those of the errors, each as its share of the row's images; the diagonal has a colour of its own.
    """
    shares = {name: _error_shares(np.asarray(counts)) for name, counts in matrices.items()}
    darkest = max(share.max() for share in shares.values())
    legend = f"orange: errors, as a share of their row (darkest: {darkest:.1%})" if darkest else "no errors"
    colours = mpl.colormaps["Oranges"].with_extremes(bad=RIGHT)
    with style({"axes.grid": False}):
        figure, axes = panels(title, data_title, len(matrices), (4.6, 5.1), note, legend)
        for panel, (name, counts) in zip(axes, matrices.items(), strict=True):
            share = shares[name]
            diagonal = np.eye(len(share), dtype=bool)
            panel.imshow(np.ma.masked_array(share, diagonal), cmap=colours, vmin=0, vmax=darkest or 1)
            for (row, column), count in np.ndenumerate(np.asarray(counts)):
                dark = not diagonal[row, column] and share[row, column] > 0.6 * darkest
                colour = "white" if dark else "#999999" if count == 0 else "black"
                panel.text(column, row, f"{count}", ha="center", va="center", fontsize=9.5, color=colour)
            _class_axes(panel, name, class_names, range(len(class_names)))
        for panel in axes[::COLUMNS]:
            panel.set_ylabel("true")
        return png(figure)


def _error_shares(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """Divide each count by its row's sum, 0 on the diagonal."""
    share: NDArray[np.float64] = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    return np.where(np.eye(len(matrix), dtype=bool), 0, share)


def _class_axes(panel: Axes, name: str, class_names: Sequence[str], places: Sequence[float]) -> None:
    panel.set(title=name, xlabel="predicted", xticks=places, yticks=places)
    shown = list(class_names)
    if max(map(len, shown)) > LONG:
        shown = [name.replace("·", "·\n") for name in shown]
        panel.tick_params(labelsize=7)
        panel.tick_params(axis="x", rotation=90)
    panel.set_xticklabels(shown)
    panel.set_yticklabels(shown)
    panel.tick_params(labelleft=True, length=0)
    panel.spines[:].set_visible(False)


def mistakes(
    title: str,
    data_title: str,
    class_names: Sequence[str],
    answers: Mapping[str, tuple[NDArray[np.int64], NDArray[np.int64]]],
    images: NDArray[np.uint8],
    *,
    note: str = "",
) -> bytes:
    """Draw a panel for each model: images of the test set that it takes for another class. PNG.

    Rows are true classes and columns predicted ones. `answers` has each model's true and predicted classes, int64 [n] each,
    for `images` uint8 [n, 28, 28]. A cell shows its first images; if there are more, a number says how many in all.
    """
    classes = len(class_names)
    side = max(1, ABREAST // classes)  # images in a row, and in a column, of a cell
    step = 28 * side + 10
    legend = "the first of each kind; a number says how many there are in all"
    centres = [(place + 0.5) * step - 0.5 for place in range(classes)]
    with style({"axes.grid": False}):
        figure, axes = panels(title, data_title, len(answers), (4.6, 5.1), note, legend)
        for panel, (name, (labels, predicted)) in zip(axes, answers.items(), strict=True):
            canvas = np.full((classes * step, classes * step), 255, dtype=np.uint8)
            for row, column in np.ndindex(classes, classes):
                top, left = row * step, column * step
                canvas[top : top + step - 2, left : left + step - 2] = 235 if row == column else 248
                if row == column:
                    continue
                found = np.flatnonzero((labels == row) & (predicted == column))
                for number, image in enumerate(found[: side * side]):
                    y, x = top + 1 + 28 * (number // side), left + 1 + 28 * (number % side)
                    canvas[y : y + 28, x : x + 28] = np.minimum(canvas[y : y + 28, x : x + 28], 255 - images[image])
                if len(found) > side * side:
                    corner = (left + step - 4, top + step - 4)
                    panel.text(*corner, f"{len(found)}", ha="right", va="bottom", fontsize=8, color="#c2410c")
            panel.imshow(canvas, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            _class_axes(panel, name, class_names, centres)
        for panel in axes[::COLUMNS]:
            panel.set_ylabel("true")
        return png(figure)


def png(figure: Figure) -> bytes:
    """Return the figure as PNG without metadata, which would name matplotlib's version."""
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()
