"""Figures: from numbers to matplotlib, the same bytes from the same numbers."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

# Importing matplotlib fails on a backend that is not there, or on a matplotlibrc that is not text; neither is needed.
os.environ |= {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}
import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from quartet.history import Epoch

STYLE: dict[Any, Any] = {
    "figure.dpi": 110,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}
BLUE, ORANGE = "#2b6cb0", "#dd6b20"


@contextmanager
def _style(changes: Mapping[Any, Any] | None = None) -> Iterator[None]:
    """Draw in matplotlib's default style with STYLE on top, whatever the user's matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({**STYLE, **(changes or {})})
        yield


def _panels(title: str, data_title: str, count: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(size[0] * count, size[1]), layout="constrained")
    axes = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    figure.suptitle(f"{title}\ndata: {data_title}", fontsize=12)
    return figure, list(axes)


def losses(title: str, data_title: str, histories: Mapping[str, Sequence[Epoch]]) -> bytes:
    """A panel for each training: its training and its validation loss over the epochs. PNG."""
    with _style():
        figure, axes = _panels(title, data_title, len(histories), (5, 3.6))
        for panel, (name, history) in zip(axes, histories.items(), strict=True):
            epochs = [epoch.epoch for epoch in history]
            panel.plot(epochs, [epoch.train_loss for epoch in history], "o-", ms=3.5, color=BLUE, label="training")
            panel.plot(epochs, [epoch.val_loss for epoch in history], "s--", ms=3.5, color=ORANGE, label="validation")
            panel.set(title=name, xlabel="epoch")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            panel.tick_params(labelleft=True)
            panel.legend()
        # Not before all is drawn: setting one end of the axis fixes the other.
        axes[0].set(ylabel="mean cross-entropy", ylim=(0, None))
        return _png(figure)


def accuracies(title: str, data_title: str, histories: Mapping[str, Sequence[Epoch]]) -> bytes:
    """One panel: the validation accuracy of each training over the epochs. PNG."""
    with _style():
        figure, (panel,) = _panels(title, data_title, 1, (6, 3.8))
        for marker, colour, (name, history) in zip(("o-", "s--"), (BLUE, ORANGE), histories.items(), strict=False):
            values = [epoch.val_accuracy for epoch in history]
            panel.plot([epoch.epoch for epoch in history], values, marker, ms=4, color=colour, label=name)
        panel.set(xlabel="epoch", ylabel="validation accuracy")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        panel.legend(loc="lower right")
        return _png(figure)


def confusions(title: str, data_title: str, class_names: Sequence[str], matrices: Mapping[str, NDArray[np.int64]]) -> bytes:
    """A panel for each model: its confusion matrix, rows true and columns predicted, shaded by each row's share. PNG."""
    with _style({"axes.grid": False}):
        figure, axes = _panels(title, data_title, len(matrices), (5.6, 5.4))
        for panel, (name, matrix) in zip(axes, matrices.items(), strict=True):
            share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
            # The square root tells a few errors from none.
            panel.imshow(np.sqrt(share), cmap="Blues", vmin=0, vmax=1)
            for (row, column), count in np.ndenumerate(matrix):
                colour = "white" if share[row, column] > 0.4 else "#888888" if count == 0 else "black"
                panel.text(column, row, f"{count}", ha="center", va="center", fontsize=8.5, color=colour)
            places = range(len(class_names))
            panel.set(title=name, xlabel="predicted", xticks=places, yticks=places)
            panel.set_xticklabels(class_names)
            panel.set_yticklabels(class_names)
            panel.tick_params(labelleft=True, length=0)
            panel.spines[:].set_visible(False)
        axes[0].set_ylabel("true")
        return _png(figure)


def _png(figure: Figure) -> bytes:
    """The figure as PNG without metadata, which would name matplotlib's version."""
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()
