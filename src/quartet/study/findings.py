"""All numbers that a study reports, as rows of its tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quartet.base.numerics import rounded
from quartet.study import claims, design, statistics, wording
from quartet.study.claims import Judged
from quartet.study.outcomes import Arm, Outcomes

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Findings:
    """The verdicts, and the rows of each table.

    `arms` has a row for each arm and measure, `contrasts` one for each comparison beside the claims, `sources` one for what
    varies, `rates` one for each learning rate.
    """

    judged: list[Judged]
    arms: Rows
    contrasts: Rows
    sources: Rows
    rates: Rows

    @property
    def claims(self) -> Rows:
        """Return a row for each claim: those that were judged, and the one that needs no training."""
        rows = [
            {
                "claim": judged.claim.name,
                "section": judged.claim.section,
                "says": judged.claim.says,
                "verdict": judged.verdict,
                "finding": wording.sentence(judged),
                "difference": judged.claim.what,
                "unit": judged.claim.unit,
                "margin": judged.claim.margin,
                **_numbers(judged.contrast._asdict()),
                "p_holm": rounded(judged.p),
                "low_images": rounded(judged.over_images[0]) if judged.over_images else None,
                "high_images": rounded(judged.over_images[1]) if judged.over_images else None,
            }
            for judged in self.judged
        ]
        return [*rows, {**dict.fromkeys(rows[0] if rows else claims.SCALING), **claims.SCALING}]

    @property
    def tables(self) -> dict[str, Rows]:
        """Return all tables by name."""
        return {
            "claims": self.claims,
            "arms": self.arms,
            "contrasts": self.contrasts,
            "sources": self.sources,
            "rates": self.rates,
        }


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: rounded(value) if isinstance(value, float) else value for key, value in values.items()}


def measures(arm: Arm) -> dict[str, NDArray[np.float64]]:
    """Return the numbers of each seed of an arm: accuracies in percent, losses, and the first epoch with 97%."""
    return {
        "test_accuracy": arm.accuracy,
        "val_accuracy": 100 * arm.epochs("val_accuracy")[:, -1],
        "train_loss": arm.epochs("train_loss")[:, -1],
        "val_loss": arm.epochs("val_loss")[:, -1],
        "loss_gap": arm.gaps[:, -1],
        "epochs_to_97": claims.first_fast(arm),
    }


def find(found: Outcomes) -> Findings:
    """Compute all that the study reports."""
    arms = found.arms[design.ARMS]
    return Findings(
        judged=claims.judge(found),
        arms=[
            {"arm": name, "measure": measure, "diverged": arm.diverged, **_numbers(statistics.summary(values)._asdict())}
            for name, arm in arms.items()
            for measure, values in measures(arm).items()
        ],
        contrasts=_contrasts(found),
        sources=_sources(found),
        rates=_rates(found),
    )


def _contrasts(found: Outcomes) -> Rows:
    """Compare what the user names, as a family of its own; then the interaction and the spreads, if their arms are there."""
    margin, rows = found.study.margin, []
    own = {
        name: statistics.contrast(*claims.gain(before, after)(found), margin)
        for name, (before, after) in found.study.contrasts.items()
    }
    adjusted = statistics.holm({name: contrast.p for name, contrast in own.items()})
    for name, contrast in own.items():
        before, after = found.study.contrasts[name]
        rows.append(
            {
                "contrast": name,
                "difference": f"{after} − {before}",
                **_numbers(contrast._asdict()),
                "p_holm": rounded(adjusted[name]),
            }
        )
    arms = found.arms[design.ARMS]
    if {*claims.REPORTED} <= arms.keys():
        ten, ten_bn, four, four_bn = (arms[name].accuracy for name in claims.REPORTED)
        contrast = statistics.contrast(ten_bn - ten, four_bn - four, margin)
        what = "batch norm's gain with ten classes − with four"
        rows.append({"contrast": "interaction", "difference": what, **_numbers(contrast._asdict()), "p_holm": None})
    return rows


def spreads(found: Outcomes) -> dict[str, float]:
    """Compute whether batch norm changes the spread of the accuracies: p by the number of classes, if its arms are there."""
    arms = found.arms[design.ARMS]
    pairs = {"ten": claims.REPORTED[:2], "four": claims.REPORTED[2:]}
    return {
        word: statistics.spreads_differ([arms[name].accuracy for name in pair])
        for word, pair in pairs.items()
        if {*pair} <= arms.keys()
    }


def _sources(found: Outcomes) -> Rows:
    """Describe the accuracies if one thing alone varies, and if weights and order do, as in the arm."""
    arm = found.study.sources.arm
    seeds = found.study.sources.seeds
    both = found.arms[design.ARMS][arm].accuracy[:seeds]
    varied = {name: found.arms[name][arm].accuracy for name in (design.WEIGHTS, design.ORDER, design.SPLIT)}
    return [
        {"arm": arm, "varies": name, **_numbers(statistics.summary(values)._asdict())}
        for name, values in {**varied, "weights and order": both}.items()
    ]


def _rates(found: Outcomes) -> Rows:
    """Describe both arms at each learning rate."""
    names = found.study.rates.arms
    return [
        {
            "lr": lr,
            "arm": name,
            "diverged": arm.diverged,
            **_numbers(statistics.summary(arm.accuracy)._asdict()),
        }
        for lr, pair in zip(sorted(found.study.rates.values), found.rates(), strict=True)
        for name, arm in zip(names, pair, strict=True)
    ]
