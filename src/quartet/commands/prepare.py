"""`quartet prepare`: what `make` does before the pipeline."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from quartet.base import files, params, paths, process, stage
from quartet.base.errors import InputError
from quartet.commands import audit, outputs
from quartet.data import catalogue
from quartet.tracking import attempts

MADE_HERE = (catalogue.SAMPLE.name, catalogue.OWN.name)


def restore_data() -> None:
    """Bring the data back from DVC's cache if dvc.lock names it and none of it is there, as after `make clean`.

    DVC itself would run fetch again, for which the mirrors may be down. What is MADE_HERE stays away: instead of the sample,
    MNIST may be had now.
    """
    lock = Path("dvc.lock")
    recorded = outputs.of_stage(lock.read_text(encoding="utf-8"), "fetch") if lock.exists() else {}
    if paths.SOURCE.as_posix() not in recorded or any(Path(name).exists() for name in recorded):
        return
    cached = dict(zip(recorded, outputs.in_cache(*recorded.values()), strict=True))
    with suppress(InputError):  # missing or damaged in the cache, too: fetch gets the files again
        source = files.read_record(cached[paths.SOURCE.as_posix()], "fetch")
        if source.get("data") not in MADE_HERE and all(map(Path.exists, cached.values())):
            subprocess.run(["dvc", "checkout", "--quiet", *recorded], check=False)


def main(arguments: Sequence[str]) -> None:
    """Check params.yaml, the outputs' places and DVC's records; bring data back; make MLflow's store."""
    process.Parser(prog="quartet prepare", description=main.__doc__).parse_args(arguments)
    catalogue.chosen(params.load().data.source)
    stage.refuse_links(stage.outputs())
    audit.remove_false()
    restore_data()
    attempts.initialise()
