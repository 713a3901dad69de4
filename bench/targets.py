"""A benchmark's numbers beside their targets: a narrow Markdown table, with notes below it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from tabulate import tabulate

RATIO, PERCENT = "{:.3g} ×", "{:.2g} %"


class Row(NamedTuple):
    """A row of the table. `value` must not pass `limit`; if `least`, it must reach it."""

    what: str
    value: float
    limit: float
    form: str
    detail: str
    least: bool = False

    def cells(self) -> tuple[str, str, str, str]:
        met = self.value >= self.limit if self.least else self.value <= self.limit
        verdict = "–" if math.isnan(self.value) else "yes" if met else "**no**"
        target = f"{'≥' if self.least else '≤'} {self.form.format(self.limit)}"
        return self.what, self.form.format(self.value), target, verdict


def markdown(rows: Sequence[Row]) -> str:
    """Make a table of the rows, numbered, and a numbered list of their details."""
    headers = ["", "what", "measured", "target", "met"]
    cells = [(f"{number}.", *row.cells()) for number, row in enumerate(rows, start=1)]
    notes = "\n".join(f"{number}. {row.detail}" for number, row in enumerate(rows, start=1))
    return f"{tabulate(cells, headers=headers, tablefmt='github', disable_numparse=True)}\n\n{notes}"
