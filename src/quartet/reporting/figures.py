"""Figures: from numbers to matplotlib, the same bytes from the same numbers."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from quartet.base.params import COLOURS, TRIAL
from quartet.data import splits

# Importing matplotlib fails on a backend that is missing, or on a matplotlibrc that is not text; neither is needed.
os.environ |= {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}
import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from quartet.evaluation.predictions import Result
    from quartet.training.record import Epoch

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
MARKERS = ("o-", "s--", "^-.", "D:", "v-")  # as many as have no factor in common with the colours: no pair repeats before 40
COLUMNS = 3  # panels side by side; further ones are below


@contextmanager
def _style(changes: Mapping[Any, Any] | None = None) -> Iterator[None]:
    """Draw in matplotlib's default style with STYLE on top, whatever the user's matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({**STYLE, **(changes or {})})
        yield


def by_classes(results: Mapping[str, Result]) -> Iterator[tuple[str, str, dict[str, Result]]]:
    """Yield what is drawn together: a name for the file, a title, and the trained models by the titles of their panels.

    These are the variants of as many classes, then the trial. Two variants that differ in batch norm alone are told apart by
    that, others by their names.
    """
    variants = {name: result for name, result in results.items() if name != TRIAL}
    for classes in dict.fromkeys(result.record.hyperparameters.classes for result in variants.values()):
        word = splits.IN_WORDS[classes]
        chosen = {name: result for name, result in variants.items() if result.record.hyperparameters.classes == classes}
        settings = [result.record.hyperparameters for result in chosen.values()]
        if len(settings) == 2 and settings[0].model_copy(update={"bn": not settings[0].bn}) == settings[1]:
            chosen = {
                "with batch norm" if result.record.hyperparameters.bn else "without batch norm": result
                for result in chosen.values()
            }
        yield word, f"{word.capitalize()} classes", chosen
    if TRIAL in results:
        yield TRIAL, "Trial", {TRIAL: results[TRIAL]}


def draw_all(results: Mapping[str, Result], data_title: str) -> dict[str, bytes]:
    """The figures of all trained models, as PNG by the names of their files."""
    drawn = {}
    for file, title, chosen in by_classes(results):
        epochs = {panel: result.epochs for panel, result in chosen.items()}
        matrices = {panel: result.metrics["confusion"] for panel, result in chosen.items()}
        names = splits.class_names(next(iter(chosen.values())).record.groups)
        drawn[f"loss-{file}.png"] = losses(f"{title}: loss", data_title, epochs)
        drawn[f"accuracy-{file}.png"] = accuracies(f"{title}: validation accuracy", data_title, epochs)
        drawn[f"confusion-{file}.png"] = confusions(f"{title}: confusion on the test set", data_title, names, matrices)
    return drawn


def _panels(title: str, data_title: str, count: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    rows, columns = math.ceil(count / COLUMNS), min(count, COLUMNS)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for unused in axes[count:]:
        unused.remove()
    figure.suptitle(f"{title}\ndata: {data_title}", fontsize=12)
    return figure, axes[:count]


def losses(title: str, data_title: str, histories: Mapping[str, Sequence[Epoch]]) -> bytes:
    """A panel for each training: its training and its validation loss over the epochs. PNG."""
    with _style():
        figure, axes = _panels(title, data_title, len(histories), (5, 3.6))
        for panel, (name, history) in zip(axes, histories.items(), strict=True):
            epochs = [epoch.epoch for epoch in history]
            panel.plot(epochs, [epoch.train_loss for epoch in history], "o-", ms=3.5, color=COLOURS[0], label="training")
            panel.plot(epochs, [epoch.val_loss for epoch in history], "s--", ms=3.5, color=COLOURS[1], label="validation")
            panel.set(title=name, xlabel="epoch")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            panel.tick_params(labelleft=True)
            panel.legend()
        # Not before all is drawn: setting one end of the axis fixes the other.
        axes[0].set(ylim=(0, None))
        for panel in axes[::COLUMNS]:
            panel.set_ylabel("mean cross-entropy")
        return _png(figure)


def accuracies(title: str, data_title: str, histories: Mapping[str, Sequence[Epoch]]) -> bytes:
    """One panel: the validation accuracy of each training over the epochs. PNG."""
    with _style():
        figure, (panel,) = _panels(title, data_title, 1, (6, 3.8))
        for place, (name, history) in enumerate(histories.items()):
            marker, colour = MARKERS[place % len(MARKERS)], COLOURS[place % len(COLOURS)]
            values = [epoch.val_accuracy for epoch in history]
            panel.plot([epoch.epoch for epoch in history], values, marker, ms=4, color=colour, label=name)
        panel.set(xlabel="epoch", ylabel="validation accuracy")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        panel.legend(loc="lower right", ncols=math.ceil(len(histories) / 10))
        return _png(figure)


def confusions(
    title: str,
    data_title: str,
    class_names: Sequence[str],
    matrices: Mapping[str, ArrayLike],
) -> bytes:
    """A panel for each model: its confusion matrix, rows true and columns predicted, shaded by each row's share. PNG."""
    with _style({"axes.grid": False}):
        figure, axes = _panels(title, data_title, len(matrices), (5.6, 5.4))
        for panel, (name, counts) in zip(axes, matrices.items(), strict=True):
            matrix = np.asarray(counts)
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
        for panel in axes[::COLUMNS]:
            panel.set_ylabel("true")
        return _png(figure)


def _png(figure: Figure) -> bytes:
    """The figure as PNG without metadata, which would name matplotlib's version."""
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()
