"""The results tables: Markdown from numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tabulate import tabulate

from quartet.base.params import TRIAL, Hyperparameters
from quartet.data import splits
from quartet.evaluation import comparison
from quartet.evaluation.comparison import Pair
from quartet.evaluation.predictions import Result
from quartet.evaluation.report import REPORT, SOURCE, UNREPORTED


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows of equal keys as an aligned Markdown table; names to the left, numbers to the right."""
    align = ["left" if key in ("model", "figure", "what changes") else "right" for key in rows[0]]
    return tabulate([dict(row) for row in rows], headers="keys", tablefmt="pipe", colalign=align, disable_numparse=True)


def measured(results: Mapping[str, Result]) -> str:
    """Every training's parameters, losses and accuracies."""
    rows = []
    for name, result in results.items():
        first, last = result.epochs[0], result.epochs[-1]
        low, high = comparison.interval(result.correct)
        parameters = result.parameters
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


def variants(results: Mapping[str, Result]) -> dict[str, Hyperparameters]:
    """The hyperparameters of all trainings but the trial."""
    return {name: result.record.hyperparameters for name, result in results.items() if name != TRIAL}


def beside_report(results: Mapping[str, Result], comparable: bool) -> str:
    """Each number of the variants, the report's, and the difference; a dash if the report has none or is of other data."""
    rows = []
    for name in variants(results):
        result, theirs = results[name], REPORT.get(name, UNREPORTED)
        first, last = result.epochs[0], result.epochs[-1]
        pairs: list[tuple[str, float, float | None, str]] = [
            ("trainable parameters", result.parameters["trainable"], theirs.trainable, ",.0f"),
            ("train loss", last.train_loss, theirs.train_loss, ".4f"),
            ("validation loss", last.val_loss, theirs.val_loss, ".4f"),
            ("validation accuracy %, first epoch", 100 * first.val_accuracy, theirs.first_val_accuracy, ".2f"),
            ("validation accuracy %, last epoch", 100 * last.val_accuracy, theirs.last_val_accuracy, ".2f"),
            ("test accuracy %", 100 * result.metrics["accuracy"], theirs.test_accuracy, ".2f"),
        ]
        for measure, ours, report, form in pairs:
            same_data = comparable or measure == "trainable parameters"
            rows.append(
                {
                    "model": name,
                    "figure": measure,
                    "ours": f"{ours:{form}}",
                    "report" if comparable else "report (MNIST: not comparable)": "–"
                    if report is None
                    else f"{report:{form}}",
                    "difference": "–" if report is None or not same_data else f"{ours - report:+{form}}",
                }
            )
    return table(rows)


def paired(results: Mapping[str, Result], groups: Sequence[Sequence[int]]) -> str:
    """What the variants change, and what merging classes does, image by image on the one test set.

    No p-value is given if the answers are the same and merging them can only gain.
    """
    settings = variants(results)
    right = {name: results[name].correct for name in settings}
    questions = [
        (f"{_what(pair)}: {pair.before} → {pair.after}", right[pair.before], right[pair.after], True)
        for pair in comparison.within_classes(settings)
    ]
    for number, pair in enumerate(comparison.across_classes(settings)):
        regrouped = comparison.merged(results[pair.before], groups)
        if number == 0:
            scoring = f"scoring by group alone: {pair.before} → {pair.before}, its answers merged"
            questions.append((scoring, right[pair.before], regrouped, False))
        others = "".join(f", {change}" for change in _changes(pair) if not change.startswith("classes"))
        training = f"training on groups{others}: {pair.before}, merged → {pair.after}"
        questions.append((training, regrouped, right[pair.after], True))
    rows = []
    for question, before, after, tested in questions:
        change = comparison.change(before, after)
        rows.append(
            {
                "what changes": question,
                "before %": f"{100 * change.before:.2f}",
                "after %": f"{100 * change.after:.2f}",
                "points": f"{100 * (change.after - change.before):+.2f}",
                "images gained / lost": f"{change.gained} / {change.lost}",
                "p": f"{change.p:#.2g}" if tested else "–",
            }
        )
    return table(rows) if rows else "There are no two variants to compare."


def _changes(pair: Pair) -> list[str]:
    return [f"{key} {old} → {new}" for key, (old, new) in pair.changes.items()]


def _what(pair: Pair) -> str:
    """What changes between two variants of as many classes."""
    what = "batch norm" if pair.changes == {"bn": (False, True)} else ", ".join(_changes(pair)) or "nothing"
    return f"{what}, {splits.IN_WORDS[pair.classes]} classes"


def page(results: Mapping[str, Result], data_title: str, groups: Sequence[Sequence[int]], comparable: bool) -> str:
    """The whole results page: which data, the measured figures, what they show, and the report's beside them."""
    images = len(next(iter(results.values())).correct)
    return f"""\
# Results on {data_title}

Data: **{data_title}**, {images:,} test images. Seeds: {seeds(results)}.

{measured(results)}

In brackets: batch norm's running means and variances, which are not trained.
{reports_models(results)} `trial` is the one that `dvc exp run` changes.
{trial_settings(results)}

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


def reports_models(results: Mapping[str, Result]) -> str:
    """Which variants are the report's models, by their names."""
    names = [f"`{name}`" for name in variants(results) if name in REPORT]
    listed = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    return f"The report's models: {listed}." if names else "None of the variants is a model of the report."


def trial_settings(results: Mapping[str, Result]) -> str:
    """In what the trial is another training than the variant with which it is compared."""
    trial = results[TRIAL].record.hyperparameters
    name = comparison.counterpart(trial, trial.classes, variants(results))
    if name is None:
        return "No variant has as many classes."
    changes = comparison.differences(variants(results)[name], trial)
    others = [f"{key} {new} ({old})" for key, (old, new) in changes.items()]
    what = f"other settings than `{name}`: {', '.join(others)}" if others else f"the settings of `{name}`"
    return f"Here it has {what}."


def seeds(results: Mapping[str, Result]) -> str:
    """The seeds that the trainings used, as `0`, or per model if they differ."""
    used = {name: result.record.hyperparameters.seed for name, result in results.items()}
    if len(set(used.values())) == 1:
        return str(next(iter(used.values())))
    return ", ".join(f"{name} {seed}" for name, seed in used.items())
