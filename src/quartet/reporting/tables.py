"""Write the results page: Markdown from numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tabulate import tabulate

from quartet.base.params import TRIAL
from quartet.evaluation import comparison
from quartet.evaluation.comparison import Pair
from quartet.evaluation.predictions import Result
from quartet.evaluation.report import REPORT, SOURCE, UNREPORTED
from quartet.reporting.headings import DETAILS

LEFT = ("layer", "measure", "model", "true → predicted", "what changes")
MEASURED = "Losses and validation accuracy are those of the last epoch; in brackets, the 95% Wilson interval."
MOST = 3  # confused pairs of classes that the table lists for each model

Rows = list[dict[str, str]]  # of one table: its cells by the heading of their column


def table(rows: Sequence[Mapping[str, str]], left: Sequence[str] = LEFT) -> str:
    """Write rows of equal keys as an aligned Markdown table; the columns `left` to the left, numbers to the right."""
    align = ["left" if key in left else "right" for key in rows[0]]
    return tabulate([dict(row) for row in rows], headers="keys", tablefmt="pipe", colalign=align, disable_numparse=True)


def measured(results: Mapping[str, Result]) -> Rows:
    """Make a row for each training: its losses and accuracies after its last epoch."""
    rows = []
    for name, result in results.items():
        last = result.epochs[-1]
        low, high = comparison.interval(result.correct)
        rows.append(
            {
                "model": name,
                "train / val loss": f"{last.train_loss:.4f} / {last.val_loss:.4f}",
                "val acc. %": f"{100 * last.val_accuracy:.2f}",
                "test acc. % [95%]": f"{100 * result.metrics['accuracy']:.2f} [{low:.2f}, {high:.2f}]",
            }
        )
    return rows


def beside_report(results: Mapping[str, Result]) -> Rows:
    """Make a row for each number of a variant: ours, the report's, and the difference."""
    rows = []
    for name in comparison.variants(results):
        result, theirs = results[name], REPORT.get(name, UNREPORTED)
        first, last = result.epochs[0], result.epochs[-1]
        pairs: list[tuple[str, float, float | None, str]] = [
            ("trainable parameters", result.parameters["trainable"], theirs.trainable, ",.0f"),
            ("train loss", last.train_loss, theirs.train_loss, ".4f"),
            ("val loss", last.val_loss, theirs.val_loss, ".4f"),
            ("val acc. %, first epoch", 100 * first.val_accuracy, theirs.first_val_accuracy, ".2f"),
            ("val acc. %, last epoch", 100 * last.val_accuracy, theirs.last_val_accuracy, ".2f"),
            ("test acc. %", 100 * result.metrics["accuracy"], theirs.test_accuracy, ".2f"),
        ]
        for measure, ours, report, form in pairs:
            rows.append(
                {
                    "model": name,
                    "measure": measure,
                    "ours": f"{ours:{form}}",
                    "report": "–" if report is None else f"{report:{form}}",
                    "difference": "–" if report is None else f"{ours - report:+{form}}",
                }
            )
    return rows


def paired(results: Mapping[str, Result], groups: Sequence[Sequence[int]]) -> Rows:
    """Compare what variants, merged classes and the trial change, image by image on the one test set.

    No p-value is given if the answers are the same and merging them can only gain.
    """
    settings = comparison.variants(results)
    right = {name: result.correct for name, result in results.items()}
    questions = [
        (f"{_what(pair)}: {pair.before} → {pair.after}", right[pair.before], right[pair.after], True)
        for pair in comparison.within_classes(settings)
    ]
    for number, pair in enumerate(comparison.across_classes(settings)):
        regrouped = comparison.merged(results[pair.before], groups)
        if number == 0:
            scoring = f"scoring by group: {pair.before} → {pair.before}*"
            questions.append((scoring, right[pair.before], regrouped, False))
        others = "".join(f", {change}" for change in _changes(pair) if not change.startswith("classes"))
        training = f"training by group{others}: {pair.before}* → {pair.after}"
        questions.append((training, regrouped, right[pair.after], True))
    if compared := comparison.trial(results):
        other, _ = compared
        questions.append((f"the trial's settings: {other} → {TRIAL}", right[other], right[TRIAL], True))
    rows = []
    for question, before, after, tested in questions:
        change = comparison.change(before, after)
        rows.append(
            {
                "what changes": question,
                "test acc. %": f"{100 * change.before:.2f} → {100 * change.after:.2f}",
                "won/lost": f"{change.gained}/{change.lost}",
                "p": f"{change.p:#.2g}" if tested else "–",
            }
        )
    return rows


def layers(results: Mapping[str, Result]) -> Rows:
    """Make a row for each layer: its output for one image, and its trainable + non-trainable values in each model.

    Models of the same layers share a column.
    """
    models = [({layer["layer"]: layer for layer in result.layers}, name) for name, result in results.items()]
    different = [model for place, (model, _) in enumerate(models) if model not in [other for other, _ in models[:place]]]
    columns = {", ".join(name for other, name in models if other == model): model for model in different}
    longest = sorted(columns.values(), key=len, reverse=True)
    rows = []
    for name in dict.fromkeys(name for model in longest for name in model):
        having = [model[name] for model in columns.values() if name in model]
        shapes = dict.fromkeys(_shape(layer["output_shape"]) for layer in having)
        counts = {title: _count(model[name]) if name in model else "–" for title, model in columns.items()}
        rows.append({"layer": name, "output": " or ".join(shapes), **counts})
    totals = {
        title: _count({key: sum(layer[key] for layer in model.values()) for key in ("trainable", "non_trainable")})
        for title, model in columns.items()
    }
    return [*rows, {"layer": "all", "output": "", **totals}]


def _shape(sizes: Sequence[int]) -> str:
    """Write a shape as the report does: height, width, filters."""
    return "×".join(map(str, [*sizes[1:], sizes[0]]))


def _count(layer: Mapping[str, int]) -> str:
    extra = layer["non_trainable"]
    return f"{layer['trainable']:,}" + (f" + {extra:,}" if extra else "")


def confused(results: Mapping[str, Result]) -> Rows:
    """Make a row for each of the pairs of classes that a model confuses most, MOST of each model."""
    rows = []
    for name, result in results.items():
        matrix, names = np.array(result.metrics["confusion"]), result.record.class_names
        errors = {pair: int(count) for pair, count in np.ndenumerate(matrix) if pair[0] != pair[1] and count}
        for (true, predicted), count in sorted(errors.items(), key=lambda error: -error[1])[:MOST]:
            rows.append(
                {
                    "model": name,
                    "true → predicted": f"{names[true]} → {names[predicted]}",
                    "images": str(count),
                    "of the true class %": f"{100 * count / matrix[true].sum():.2f}",
                }
            )
    return rows


def _changes(pair: Pair) -> list[str]:
    return [f"{key} {old} → {new}" for key, (old, new) in pair.changes.items()]


def _what(pair: Pair) -> str:
    """Say what changes between two variants of as many classes."""
    return "batch norm" if pair.changes == {"bn": (False, True)} else ", ".join(_changes(pair)) or "nothing"


def page(
    results: Mapping[str, Result],
    data_title: str,
    groups: Sequence[Sequence[int]],
    pictures: Sequence[str],
    *,
    comparable: bool,
) -> str:
    """Write the results page: which data, the results, what they show, the report's beside them, details, and the pictures.

    `comparable` says whether the data are the report's, whose numbers then stand beside these.
    """
    images = len(next(iter(results.values())).correct)
    lines = [
        f"# Results on {data_title}",
        f"Data: **{data_title}**, {images:,} test images. Seeds: {seeds(results)}.",
        table(measured(results)),
        MEASURED + trial_loss(results),
        f"{reports_models(results)} `{TRIAL}` is the one that `dvc exp run` changes. Its counterpart is the"
        f" variant of the same classes and, if there is one, the same batch norm. {trial_settings(results)}",
        "## What batch norm and merging classes change",
        _table_or(paired(results, groups), "There are no two trainings to compare."),
        r"\*: answers of ten classes, merged into the groups. Won: images that are right after and wrong before; lost:"
        " the other way round. p: exact McNemar test for these two trained models; none if the answers are the same and"
        " merging them can only gain.",
        "One seed each: another seed changes every row, and may change which p is small. A p-value here is about these"
        " weights, not about the method.",
        *(["## Beside the report", f"The report: {SOURCE}.", table(beside_report(results))] if comparable else []),
        DETAILS,
        table(layers(results)),
        "Trainable + non-trainable values: batch norm's running means and variances are not trained. Max pooling comes"
        " before ReLU, which is faster and gives the same.",
        "## Most confused classes",
        _table_or(confused(results), "No image is misclassified."),
        "## Figures",
        *(f"![{Path(picture).stem}]({picture})" for picture in pictures),
    ]
    return "\n\n".join(map(wrapped, lines)) + "\n"


def _table_or(rows: Rows, otherwise: str) -> str:
    return table(rows) if rows else otherwise


def wrapped(text: str) -> str:
    """Break a paragraph into lines that fit a terminal of 80 columns; return a table, a title or a picture as it is."""
    as_it_is = text.startswith(("|", "#", "!["))
    return text if as_it_is else textwrap.fill(text, 80, break_long_words=False, break_on_hyphens=False)


def reports_models(results: Mapping[str, Result]) -> str:
    """Name the variants that are the report's models."""
    names = [f"`{name}`" for name in comparison.variants(results) if name in REPORT]
    listed = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    return f"The report's models: {listed}." if names else "None of the variants is a model of the report."


def trial_settings(results: Mapping[str, Result]) -> str:
    """Say in what the trial differs from the variant with which it is compared."""
    compared = comparison.trial(results)
    if compared is None:
        return "No variant has as many classes."
    name, changes = compared
    if not changes:
        return f"Here it has the settings of `{name}`."
    listed = ", ".join(f"{key} {new} instead of {old}" for key, (old, new) in changes.items())
    return f"Here it has other settings than `{name}`: {listed}."


def trial_loss(results: Mapping[str, Result]) -> str:
    """Say why the trial's training loss cannot be compared with the other losses; nothing if it can."""
    settings = results[TRIAL].record.hyperparameters
    reasons = {"augmented images": settings.augment, "smoothed labels": settings.label_smoothing}
    harder = [what for what, applies in reasons.items() if applies]
    return f" The training loss of `{TRIAL}` is that of {' and '.join(harder)}." if harder else ""


def seeds(results: Mapping[str, Result]) -> str:
    """List the seeds that the trainings used, as `0`, or for each model if they differ."""
    used = {name: result.record.hyperparameters.seed for name, result in results.items()}
    if len(set(used.values())) == 1:
        return str(next(iter(used.values())))
    return ", ".join(f"{name} {seed}" for name, seed in used.items())
