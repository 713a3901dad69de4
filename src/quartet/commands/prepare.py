"""`quartet prepare`: what `make` does before the pipeline."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from quartet.base import params, process, stage
from quartet.commands import audit, outputs
from quartet.tracking import attempts


def restore_data() -> None:
    """Bring the data that dvc.lock names back from DVC's cache if none of it is there, as after `make clean`.

    DVC itself would run fetch again, for which the mirrors may be down.
    """
    lock = Path("dvc.lock")
    files = outputs.of_stage(lock.read_text(encoding="utf-8"), "fetch") if lock.exists() else {}
    if files and not any(map(Path.exists, map(Path, files))) and outputs.are_cached(files.values()):
        subprocess.run(["dvc", "checkout", "--quiet", *files], check=False)  # if it fails, fetch gets the files again


def main(arguments: Sequence[str]) -> None:
    """Check params.yaml, the outputs' places and DVC's records; bring data back; make MLflow's store."""
    process.Parser(prog="quartet prepare", description=main.__doc__).parse_args(arguments)
    params.load()
    stage.refuse_links(stage.outputs())
    audit.remove_false()
    restore_data()
    attempts.initialise()
