"""A benchmark's figures beside their targets, as a Markdown table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from tabulate import tabulate

RATIO, PERCENT = "{:.3g} ×", "{:.2g} %"


class Row(NamedTuple):
    """A line of the table; `value` is held against `limit`, which it must not pass (or must reach, where `least`)."""

    what: str
    value: float
    limit: float
    form: str
    detail: str
    least: bool = False

    def cells(self) -> tuple[str, str, str, str, str]:
        met = self.value >= self.limit if self.least else self.value <= self.limit
        verdict = "–" if math.isnan(self.value) else "yes" if met else "**no**"
        target = f"{'≥' if self.least else '≤'} {self.form.format(self.limit)}"
        return self.what, self.form.format(self.value), target, verdict, self.detail


def markdown(rows: Sequence[Row]) -> str:
    headers = ["what", "measured", "target", "met", "in detail"]
    return tabulate([row.cells() for row in rows], headers=headers, tablefmt="github", disable_numparse=True)
