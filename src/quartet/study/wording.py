"""Say in words and numbers what a study found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quartet.study import claims
from quartet.study.claims import LOSS, POINTS, Judged

DIGITS = {POINTS: 2, LOSS: 4, "epochs": 1, "": 2}  # after the point, by unit


def span(row: Mapping[str, Any], unit: str, *, sign: str = "+") -> str:
    """Write a mean and its interval, as `+0.13 [0.05, 0.21]`."""
    digits = DIGITS[unit]
    return f"{row['mean']:{sign}.{digits}f} [{row['low']:{sign}.{digits}f}, {row['high']:{sign}.{digits}f}]"


def sentence(judged: Judged) -> str:
    """Say what was found out about a claim."""
    claim, contrast = judged.claim, judged.contrast
    digits, unit = DIGITS[claim.unit], f" {claim.unit}" if claim.unit not in ("", LOSS) else ""
    found = f"{claim.what[0].upper()}{claim.what[1:]} is {span(contrast._asdict(), claim.unit)}{unit}"
    margin = f"{claim.margin:.{digits}f}{unit}"
    if judged.verdict == claims.HOLDS:
        return f"{found}{f', more than {margin}' if claim.margin else ''}."
    if judged.verdict == claims.FAILS and contrast.high < 0:
        return f"{found}: the other way round."
    if judged.verdict == claims.FAILS:
        return f"{found}: less than {margin} either way, which does not matter."
    if judged.p < claims.ALPHA:
        return f"{found}: there is a difference, and it may be less than {margin}."
    if not claim.margin:
        return f"{found}: that may be chance. It is about a direction alone, so no number of seeds is sure to be enough."
    return f"{found}: that may be chance. {contrast.needed:,} seeds would show one of {margin} in four of five studies."
