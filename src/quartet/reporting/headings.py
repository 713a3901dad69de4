"""Headings of the results page at which it is cut: a README shows what is before the first, a terminal up to the second."""

BESIDE_REPORT = "## Beside the report"
DETAILS = "## Layers and parameters"
