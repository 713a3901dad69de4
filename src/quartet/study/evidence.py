"""Draw the figures of the study: numbers of each seed, with what they say together."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from quartet.base.params import COLOURS
from quartet.reporting.figures import panels, png, style

Interval = tuple[float, float]


def seeds(
    title: str, data_title: str, accuracies: Mapping[str, NDArray[np.float64]], spans: Mapping[str, Interval]
) -> bytes:
    """Draw each seed's accuracy in percent as a dot, a column for each arm, beside the mean and its interval. PNG."""
    with style():
        figure, (panel,) = panels(
            title, data_title, 1, (7, 4.2), "a dot is a seed; the bar is the mean with its 95% interval"
        )
        for place, (arm, values) in enumerate(accuracies.items()):
            colour = COLOURS[place % len(COLOURS)]
            shift = np.linspace(-0.16, 0.16, len(values))  # in the order of the seeds, so that no dot hides another
            panel.plot(place + shift, values, "o", ms=4, alpha=0.6, color=colour)
            low, high = spans[arm]
            mean = values.mean()
            panel.errorbar(place + 0.3, mean, [[mean - low], [high - mean]], fmt="_", ms=12, capsize=4, color=colour)
        panel.set(xticks=range(len(accuracies)), ylabel="test accuracy, %\n(the axis does not start at 0)")
        panel.set_xticklabels(accuracies)
        panel.grid(axis="x", visible=False)
        return png(figure)


def paired(
    title: str, data_title: str, differences: Mapping[str, NDArray[np.float64]], spans: Mapping[str, Interval], margin: float
) -> bytes:
    """Draw the differences of each seed in points, a row for each comparison, with mean, interval and margin. PNG."""
    with style():
        note = f"a dot is a seed; the bar is the mean with its 95% interval; grey: less than {margin:g} points"
        figure, (panel,) = panels(title, data_title, 1, (7, 1.4 + 0.6 * len(differences)), note)
        panel.axvspan(-margin, margin, color="#dfe6ee", zorder=0)
        panel.axvline(0, color="black", lw=0.8)
        for place, (name, values) in enumerate(differences.items()):
            shift = np.linspace(-0.14, 0.14, len(values))
            panel.plot(values, place + shift, "o", ms=4, alpha=0.6, color=COLOURS[0])
            low, high = spans[name]
            mean = values.mean()
            panel.errorbar(
                mean, place + 0.3, xerr=[[mean - low], [high - mean]], fmt="|", ms=12, capsize=4, color=COLOURS[1]
            )
        panel.set(yticks=range(len(differences)), xlabel="difference in test accuracy, points")
        panel.set_yticklabels([textwrap.fill(name, 36) for name in differences])
        panel.invert_yaxis()
        panel.grid(axis="y", visible=False)
        return png(figure)


def gaps(title: str, data_title: str, curves: Mapping[str, NDArray[np.float64]]) -> bytes:
    """Draw validation loss minus training loss [seeds, epochs] of each arm by epoch: its mean, and a band of 80%. PNG.

    The first epoch, whose training loss is that of a network that knows nothing, would hide the others.
    """
    note = "from the second epoch on; the line is the mean over the seeds, the band has 80% of them"
    with style():
        figure, (panel,) = panels(title, data_title, 1, (7, 4.2), note)
        for place, (arm, values) in enumerate(curves.items()):
            epochs, later = np.arange(2, values.shape[1] + 1), values[:, 1:]
            low, high = np.quantile(later, [0.1, 0.9], axis=0)
            colour = COLOURS[place % len(COLOURS)]
            panel.fill_between(epochs, low, high, color=colour, alpha=0.15, lw=0)
            panel.plot(epochs, later.mean(axis=0), "o-", ms=3.5, color=colour, label=arm)
        panel.axhline(0, color="black", lw=0.8)
        panel.set(xlabel="epoch", ylabel="validation loss − training loss", xticks=epochs)
        panel.legend()
        return png(figure)


def rates(
    title: str,
    data_title: str,
    values: Sequence[float],
    accuracies: Mapping[str, Sequence[NDArray[np.float64]]],
    diverged: Mapping[str, Sequence[NDArray[np.bool_]]],
) -> bytes:
    """Draw each training's accuracy in percent by learning rate, and the means; a cross is one that diverged. PNG."""
    with style():
        figure, (panel,) = panels(
            title, data_title, 1, (7, 4.2), "a dot is a seed, a cross one that diverged; the line is the mean"
        )
        for place, (arm, by_rate) in enumerate(accuracies.items()):
            colour = COLOURS[place % len(COLOURS)]
            panel.plot(values, [accuracy.mean() for accuracy in by_rate], "-", color=colour, label=arm)
            for lr, accuracy, lost in zip(values, by_rate, diverged[arm], strict=True):
                x = lr * np.geomspace(0.93, 1.07, len(accuracy))
                panel.plot(x[~lost], accuracy[~lost], "o", ms=4, alpha=0.6, color=colour)
                panel.plot(x[lost], accuracy[lost], "x", ms=6, color=colour)
        low, _ = panel.get_ylim()
        note = "\n(the axis does not start at 0)" if low > 0 else ""
        panel.set(xscale="log", xlabel="learning rate", ylabel=f"test accuracy, %{note}", xticks=values)
        panel.set_xticklabels([f"{lr:g}" for lr in values])
        panel.minorticks_off()
        panel.legend(loc="lower left")
        return png(figure)


def best_of(title: str, data_title: str, curves: Mapping[str, Sequence[float]]) -> bytes:
    """Draw the expected best accuracy of k seeds, in percent, by k. PNG."""
    with style():
        figure, (panel,) = panels(title, data_title, 1, (7, 4.2), "what the best of k seeds is expected to have")
        for place, (arm, values) in enumerate(curves.items()):
            panel.plot(range(1, len(values) + 1), values, "o-", ms=3.5, color=COLOURS[place % len(COLOURS)], label=arm)
        panel.set(xlabel="k, the number of seeds", ylabel="expected best test accuracy, %\n(the axis does not start at 0)")
        panel.legend(loc="lower right")
        return png(figure)
