"""Headings of the results page. A terminal shows what is before DETAILS, on MNIST alone what is beside the report."""

BESIDE_REPORT = "Beside the report"
DETAILS = "## Layers and parameters"
