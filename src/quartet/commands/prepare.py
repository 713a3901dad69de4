"""`quartet prepare`: what `make` does before the pipeline."""

from __future__ import annotations

from collections.abc import Sequence

from quartet.base import params, process
from quartet.commands import audit
from quartet.tracking import attempts


def main(arguments: Sequence[str]) -> None:
    """Check params.yaml and DVC's records, and make MLflow's store if it is missing, before trainings side by side do."""
    process.Parser(prog="quartet prepare", description=main.__doc__).parse_args(arguments)
    params.load()
    audit.remove_false()
    attempts.initialise()
