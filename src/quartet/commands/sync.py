"""`quartet sync`: make MLflow agree with the models that DVC has."""

from __future__ import annotations

from collections.abc import Sequence

from quartet.base import errors, params, process
from quartet.commands import audit, pipeline_runs
from quartet.study import nested
from quartet.tracking import store


def main(arguments: Sequence[str]) -> None:
    """Synchronise and say how it went."""
    parser = process.Parser(prog="quartet sync", description="Make MLflow agree with the models that DVC has.")
    parser.add_argument("--missing", action="store_true", help="only if it lacks a run, as of what came from DVC's cache")
    options = parser.parse_args(arguments)
    settings = params.load()
    if options.missing and not pipeline_runs.lacks_a_run(settings.trainings):
        return
    audit.remove_false()
    if not (pipeline_runs.bring_up_to_date(settings.trainings) and nested.bring_up_to_date()):
        raise errors.WorkError("MLflow is not up to date; see the warning above, then run `make sync` again")
    errors.tell(f"sync: MLflow ({store.uri()}) agrees with stages/")
