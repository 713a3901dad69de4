"""Headings of the results page at which it is cut: a README shows what is before the first, a terminal up to the second."""

WHAT_CHANGES = "## What batch norm and merging classes change"
DETAILS = "## Layers and parameters"
