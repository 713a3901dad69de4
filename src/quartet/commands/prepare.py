"""`quartet prepare`: what `make` does before the pipeline."""

from __future__ import annotations

from collections.abc import Sequence

from quartet.base import params, process
from quartet.tracking import store


def main(arguments: Sequence[str]) -> None:
    """Check params.yaml, and make MLflow's store if it is missing, before trainings side by side would all try to."""
    process.Parser(prog="quartet prepare", description=main.__doc__).parse_args(arguments)
    params.load()
    store.initialise()
