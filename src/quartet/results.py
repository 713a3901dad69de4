"""The results tables: Markdown from numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from tabulate import tabulate

from quartet.history import Epoch
from quartet.report import REPORT, SOURCE


class Result(NamedTuple):
    """A trained model's summary, history and test metrics, and of each test image its digit, true and predicted class."""

    summary: Mapping[str, Any]
    epochs: Sequence[Epoch]
    metrics: Mapping[str, float]
    digits: NDArray[np.int64]
    actual: NDArray[np.str_]
    predicted: NDArray[np.str_]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each test image's prediction is right."""
        return self.actual == self.predicted


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows of equal keys as an aligned Markdown table; names stand to the left, figures to the right."""
    align = ["left" if key in ("model", "figure", "what changes") else "right" for key in rows[0]]
    return tabulate([dict(row) for row in rows], headers="keys", tablefmt="pipe", colalign=align, disable_numparse=True)


def interval(correct: NDArray[np.bool_]) -> tuple[float, float]:
    """The 95 % Wilson score interval of an accuracy, in percent (Wilson 1927, by way of SciPy)."""
    low, high = binomtest(int(correct.sum()), len(correct)).proportion_ci(method="wilson")
    return 100 * low, 100 * high


def measured(results: Mapping[str, Result]) -> str:
    """Every training's parameters, losses and accuracies."""
    rows = []
    for name, result in results.items():
        first, last = result.epochs[0], result.epochs[-1]
        low, high = interval(result.correct)
        parameters = result.summary["parameters"]
        rows.append(
            {
                "model": name,
                "parameters": f"{parameters['trainable']:,}"
                + (f" (+ {parameters['non_trainable']})" if parameters["non_trainable"] else ""),
                "train loss": f"{last.train_loss:.4f}",
                "val loss": f"{last.val_loss:.4f}",
                "val acc. % first → last": f"{100 * first.val_accuracy:.2f} → {100 * last.val_accuracy:.2f}",
                "test acc. % [95 % interval]": f"{100 * result.metrics['accuracy']:.2f} [{low:.2f}, {high:.2f}]",
                "macro F1": f"{result.metrics['macro_f1']:.4f}",
            }
        )
    return table(rows)


def beside_report(results: Mapping[str, Result], comparable: bool) -> str:
    """Each figure of the four variants, the report's, and the difference; marked where they do not compare."""
    rows = []
    for name, reported in REPORT.items():
        result = results[name]
        first, last = result.epochs[0], result.epochs[-1]
        pairs: list[tuple[str, float, float | None, str]] = [
            ("trainable parameters", result.summary["parameters"]["trainable"], reported.trainable, ",.0f"),
            ("train loss", last.train_loss, reported.train_loss, ".4f"),
            ("validation loss", last.val_loss, reported.val_loss, ".4f"),
            ("validation accuracy %, first epoch", 100 * first.val_accuracy, reported.first_val_accuracy, ".2f"),
            ("validation accuracy %, last epoch", 100 * last.val_accuracy, reported.last_val_accuracy, ".2f"),
            ("test accuracy %", 100 * result.metrics["accuracy"], reported.test_accuracy, ".2f"),
        ]
        for measure, ours, theirs, form in pairs:
            same_data = comparable or measure == "trainable parameters"
            rows.append(
                {
                    "model": name,
                    "figure": measure,
                    "ours": f"{ours:{form}}",
                    "report" if comparable else "report (MNIST: not comparable)": "–"
                    if theirs is None
                    else f"{theirs:{form}}",
                    "difference": "–" if theirs is None or not same_data else f"{ours - theirs:+{form}}",
                }
            )
    return table(rows)


def paired(results: Mapping[str, Result], groups: Sequence[Sequence[int]]) -> str:
    """What batch norm and merging classes change, image by image on the one test set.

    The p-value is the exact McNemar test's: that of as uneven a split of the images that only one model gets right, if each
    had the same chance (McNemar 1947). It speaks of these trained models, not of other seeds.
    """
    place = {digit: number for number, group in enumerate(groups) for digit in group}

    def merged(result: Result) -> NDArray[np.bool_]:
        guesses = np.array([place[int(digit)] for digit in result.predicted])
        return guesses == np.array([place[int(digit)] for digit in result.digits])

    ten, ten_bn, four, four_bn = (results[name].correct for name in ("ten", "ten-bn", "four", "four-bn"))
    regrouped = "scoring by group alone: ten → ten, its answers merged"
    questions = [
        ("batch norm, ten classes: ten → ten-bn", ten, ten_bn),
        ("batch norm, four classes: four → four-bn", four, four_bn),
        (regrouped, ten, merged(results["ten"])),
        ("training on groups: ten, merged → four", merged(results["ten"]), four),
        ("training on groups: ten-bn, merged → four-bn", merged(results["ten-bn"]), four_bn),
    ]
    rows = []
    for question, before, after in questions:
        gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
        p = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
        rows.append(
            {
                "what changes": question,
                "before %": f"{100 * before.mean():.2f}",
                "after %": f"{100 * after.mean():.2f}",
                "points": f"{100 * (after.mean() - before.mean()):+.2f}",
                "images gained / lost": f"{gained} / {lost}",
                "p": f"{p:#.2g}" if question != regrouped else "–",
            }
        )
    return table(rows)


def page(results: Mapping[str, Result], data_title: str, groups: Sequence[Sequence[int]], comparable: bool) -> str:
    """The whole results page: which data, the measured figures, what they show, and the report's beside them."""
    images = len(next(iter(results.values())).correct)
    return f"""\
# Results on {data_title}

Data: **{data_title}**, {images:,} test images. Seeds: {seeds(results)}.

{measured(results)}

In brackets: batch norm's running means and variances, which are not trained. The four variants are the report's models;
`trial` is the one that `dvc exp run` changes. {trial_settings(results)}

## What batch norm and merging classes change

{paired(results, groups)}

Images gained: right after and wrong before; lost: the other way round. p: exact McNemar test for these two trained models;
none where the answers are the same and merging them can only gain.
One seed each: another seed moves every row, and some across any threshold of p. A p-value here is about these weights, not
about the method.

## Beside the report

The report: {SOURCE}.

{beside_report(results, comparable)}
{
        ""
        if comparable
        else f'''
**The report's figures are for MNIST and these are for {data_title}: they do not compare.**
'''
    }"""


def trial_settings(results: Mapping[str, Result]) -> str:
    """In what the trial is another training than `ten`."""
    trial, ten = (results[name].summary["hyperparameters"] for name in ("trial", "ten"))
    others = [f"{key} {value} ({ten[key]})" for key, value in trial.items() if value != ten[key]]
    return f"Here it has other settings than `ten`: {', '.join(others)}." if others else "Here it has the settings of `ten`."


def seeds(results: Mapping[str, Result]) -> str:
    """The seeds that the trainings used, as `0`, or per model where they differ."""
    used = {name: result.summary["hyperparameters"]["seed"] for name, result in results.items()}
    if len(set(used.values())) == 1:
        return str(next(iter(used.values())))
    return ", ".join(f"{name} {seed}" for name, seed in used.items())
