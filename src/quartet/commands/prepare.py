"""`quartet prepare`: what `make` does before the pipeline."""

from __future__ import annotations

from collections.abc import Sequence

from quartet.base import params, process, stage
from quartet.commands import audit
from quartet.tracking import attempts


def main(arguments: Sequence[str]) -> None:
    """Check params.yaml, the outputs' places and DVC's records; make MLflow's store before trainings side by side do."""
    process.Parser(prog="quartet prepare", description=main.__doc__).parse_args(arguments)
    params.load()
    stage.refuse_links(stage.outputs())
    audit.remove_false()
    attempts.initialise()
