"""Write what a study found: the page of claims, its tables and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from quartet.base import files, paths
from quartet.data import catalogue
from quartet.reporting import tables
from quartet.study import claims, design, evidence, findings, statistics
from quartet.study.claims import LOSS, POINTS
from quartet.study.findings import Findings, Rows
from quartet.study.outcomes import Arm, Outcomes
from quartet.study.wording import span

LEFT = ("arm", "comparison", "difference", "model", "section", "the report says", "verdict", "what varies")
COUNTED = {claims.HOLDS: "hold", claims.FAILS: "do not hold", claims.UNDECIDED: "are undecided"}
PLAN = "study-plan.md"


def draw_all(found: Outcomes, results: Findings) -> dict[str, bytes]:
    """Draw the figures of a study: PNGs by the names of their files."""
    title, arms = catalogue.title(found.data), found.arms[design.ARMS]
    accuracies = {name: arm.accuracy for name, arm in arms.items()}
    spans = {row["arm"]: (row["low"], row["high"]) for row in results.arms if row["measure"] == "test_accuracy"}
    gains = {judged.claim.what: judged for judged in results.judged if judged.claim.images}  # rates has another scale
    differences = {what: np.subtract(*judged.claim.pairs(found)) for what, judged in gains.items()}
    intervals = {what: (judged.contrast.low, judged.contrast.high) for what, judged in gains.items()}
    curves = {name: arm.gaps for name, arm in arms.items()}
    names, rates = found.study.rates.arms, found.rates()
    by_rate = {name: [pair[place] for pair in rates] for place, name in enumerate(names)}
    lost = {name: [np.array([bool(it.diverged) for it in arm.outcomes]) for arm in by_rate[name]] for name in names}
    drawn = {
        "seeds": evidence.seeds("Test accuracy of each seed", title, accuracies, spans),
        "gap": evidence.gaps("Gap between the losses", title, curves),
        "rates": evidence.rates(
            "Test accuracy by learning rate",
            title,
            sorted(found.study.rates.values),
            {name: [arm.accuracy for arm in by_rate[name]] for name in names},
            lost,
        ),
        "best": evidence.best_of(
            "Best of several seeds", title, {name: statistics.expected_best(values) for name, values in accuracies.items()}
        ),
    }
    if differences:
        drawn["paired"] = evidence.paired("Differences seed by seed", title, differences, intervals, found.study.margin)
    return {f"{name}.png": drawn[name] for name in ("paired", "seeds", "gap", "rates", "best") if name in drawn}


def table(rows: Rows) -> str:
    """Write rows of texts as a Markdown table."""
    return tables.table(rows, LEFT)


def _by_arm(results: Findings) -> dict[str, dict[str, Any]]:
    """Return the rows of each arm by measure."""
    by_arm: dict[str, dict[str, Any]] = {}
    for row in results.arms:
        by_arm.setdefault(row["arm"], {})[row["measure"]] = row
    return by_arm


def _headline(results: Findings) -> list[str]:
    """Say the most important in a table and a few lines: a README shows them."""
    summary = table(
        [
            {
                "model": arm,
                "test acc. % [95%]": span(rows["test_accuracy"], POINTS, sign=""),
                "SD": f"{rows['test_accuracy']['sd']:.2f}",
                "train / val loss": f"{rows['train_loss']['mean']:.4f} / {rows['val_loss']['mean']:.4f}",
            }
            for arm, rows in _by_arm(results).items()
        ]
    )
    verdicts = [row["verdict"] for row in results.claims]
    counts = ", ".join(f"{verdicts.count(word)} {words}" for word, words in COUNTED.items())
    return [
        summary,
        "Means over the seeds, after the last epoch; in brackets, 95% intervals of the mean.",
        "\n".join(f"- {row['finding']}" for row in results.claims if row["claim"] in claims.FIRST),
        f"Of {len(verdicts)} claims of the report, {counts}.",
    ]


def _claims(results: Findings) -> str:
    return table(
        [
            {
                "section": row["section"],
                "the report says": f"“{row['says']}” ({row['claim']})",
                "verdict": f"**{row['verdict']}**",
                "p": "–" if row["p_holm"] is None else f"{row['p_holm']:#.2g}",
            }
            for row in results.claims
        ]
    )


def _arms(results: Findings) -> str:
    return table(
        [
            {
                "arm": row["arm"],
                "n": str(row["n"]),
                "test acc. % [95%]": span(row, POINTS, sign=""),
                "SD": f"{row['sd']:.2f}",
                "median": f"{row['median']:.2f}",
                "min": f"{row['min']:.2f}",
                "max": f"{row['max']:.2f}",
            }
            for row in results.arms
            if row["measure"] == "test_accuracy"
        ]
    )


def _losses(results: Findings) -> str:
    return table(
        [
            {
                "arm": arm,
                "train loss [95%]": span(rows["train_loss"], LOSS, sign=""),
                "val loss [95%]": span(rows["val_loss"], LOSS, sign=""),
                "epochs to 97%": span(rows["epochs_to_97"], "epochs", sign=""),
            }
            for arm, rows in _by_arm(results).items()
        ]
    )


def _contrasts(rows: Rows) -> str:
    return table(
        [
            {
                "comparison": row["contrast"],
                "difference": row["difference"],
                "points [95%]": span(row, POINTS),
                "p": f"{row['p'] if row['p_holm'] is None else row['p_holm']:#.2g}",
                "P(above)": f"{row['above']:.2f}",
            }
            for row in rows
        ]
    )


def _sources(rows: Rows) -> str:
    return table(
        [
            {"what varies": row["varies"], "n": str(row["n"]), "mean": f"{row['mean']:.2f}", "SD": f"{row['sd']:.2f}"}
            for row in rows
        ]
    )


def _rates(found: Outcomes, rows: Rows) -> str:
    by_rate: dict[float, dict[str, Any]] = {}
    for row in rows:
        by_rate.setdefault(row["lr"], {})[row["arm"]] = row
    return table(
        [
            {
                "learning rate": f"{lr:g}",
                **{
                    f"{arm}: acc. % [95%]": span(pair[arm], POINTS, sign="")
                    + (f", {pair[arm]['diverged']} diverged" if pair[arm]["diverged"] else "")
                    for arm in found.study.rates.arms
                },
            }
            for lr, pair in by_rate.items()
        ]
    )


def page(found: Outcomes, results: Findings, pictures: Sequence[str]) -> str:
    """Write the page of claims, in Markdown."""
    title, arms = catalogue.title(found.data), found.arms[design.ARMS]
    first: Arm = next(iter(arms.values()))
    comparable = found.data == "mnist"
    images, seeds = len(first.digits), found.study.seeds
    lost = sum(row["diverged"] for row in results.rates)
    spreads = "; ".join(f"{word} classes: p = {p:#.2g}" for word, p in findings.spreads(found).items())
    lines = [
        f"# What {seeds} seeds say about the report's claims",
        f"Data: **{title}**, {images:,} test images. {seeds} trainings of each model, seeds 0 to {seeds - 1}.",
        *([] if comparable else [f"**The report is about MNIST. On {title} the verdicts say nothing about it.**"]),
        *_headline(results),
        "## The claims",
        _claims(results),
        "What was measured for each is below, in words. A claim holds if the whole interval is on its side and beyond the"
        " smallest difference that matters, and p is below 0.05. It does not hold if that is so on the other side, or if two"
        " one-sided t-tests find no difference that matters; p says nothing about that. p: exact sign-flip test over the"
        " seeds, adjusted by Holm's method for all claims. The rules were written down before the first training:"
        f" [{PLAN}]({PLAN}).",
        "## In words",
        "\n".join(f"- **{row['claim']}** {row['verdict']}. {row['finding']}" for row in results.claims),
        "## The arms",
        _arms(results),
        _losses(results),
        "Losses are those of the last epoch. Epochs to 97%: the first epoch with that validation accuracy; if none has it,"
        " the number of epochs plus one.",
        *(["## More comparisons", _contrasts(results.contrasts)] if results.contrasts else []),
        "P(above): the share of seeds whose difference is above zero, a tie counting as half."
        + (f" Does batch norm change the spread between seeds (Brown and Forsythe)? {spreads}." if spreads else ""),
        "## Where the spread comes from",
        _sources(results.sources),
        f"Test accuracy of `{found.study.sources.arm}` in percent, if one thing alone varies and all else is as with seed"
        " 0.",
        "## Learning rates",
        _rates(found, results.rates),
        f"{found.study.rates.epochs} epochs, {found.study.rates.seeds} seeds. A training that diverged, whose loss"
        f" was no longer finite, counts as always naming the largest class; {lost or 'none'} did.",
        "## What the intervals are about",
        "All intervals but the following are 95% BCa bootstrap intervals: what other seeds would give on this test set.",
        *_over_images(results),
        "\n".join(f"![{name.removesuffix('.png')}]({paths.STUDY_FIGURES.name}/{name})" for name in pictures),
    ]
    return "\n\n".join(lines) + "\n"


def _over_images(results: Findings) -> list[str]:
    rows = [
        f"- {judged.claim.name}: {judged.over_images[0]:+.2f} to {judged.over_images[1]:+.2f} points"
        for judged in results.judged
        if judged.over_images
    ]
    if not rows:
        return []
    return ["With other seeds and other test images, of as many:", "\n".join(rows)]


def write(results: Findings, pictures: Mapping[str, bytes], text: str) -> None:
    """Write the page, the figures, a CSV file for each table, and all numbers as JSON."""
    written = {paths.STUDY_TABLES / f"{name}.csv": rows for name, rows in results.tables.items() if rows}
    files.remove_parts(*written, paths.CLAIMS, paths.FINDINGS, *(paths.STUDY_FIGURES / name for name in pictures))
    for place, rows in written.items():
        files.write_csv(place, rows)
    for name, picture in pictures.items():
        files.write_bytes(paths.STUDY_FIGURES / name, picture)
    files.write_json(paths.FINDINGS, results.tables, sort_keys=False)
    files.write_bytes(paths.CLAIMS, text.encode())
