"""Headings of the results page. A README shows what is before WHAT_CHANGES, a terminal what is before DETAILS."""

WHAT_CHANGES = "## What batch norm and merging classes change"
BESIDE_REPORT = "Beside the report"
DETAILS = "## Layers and parameters"
