"""Headings of the results page. A terminal shows what is before DETAILS."""

DETAILS = "## Layers and parameters"
