"""Make MLflow agree with the trained and evaluated models that DVC has: `make sync`, and the end of evaluate."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from quartet import errors, files, history, model, params, paths, tracking

WHEN_TOLD = "--when-told"
ARTIFACTS = ("confusion.png", "loss.png", "per_class.csv")


def bring_up_to_date() -> bool:
    """Complete the run of every trained model; False after one warning where MLflow fails."""
    if tracking.FAILED in map(tracking.attempt, (tracking.mend_moved, tracking.close_interrupted)):
        return False
    for name in params.TRAININGS:
        if not paths.model(name).exists():
            continue
        network, description = model.load_weights(paths.model(name), name)
        epochs = history.read(name)
        folder = paths.EVALUATE / name
        evaluation = None
        if paths.metrics(name).exists():
            evaluation = tracking.Evaluation(
                metrics={f"test_{key}": value for key, value in files.read_json(paths.metrics(name)).items()},
                artifacts=[folder / artifact for artifact in ARTIFACTS] + [paths.summary(name)],
                network=model.with_scores(network),
            )
        if tracking.attempt(partial(tracking.complete, description, epochs, evaluation)) is tracking.FAILED:
            return False
    return True


@contextmanager
def afterwards() -> Iterator[None]:
    """Bring MLflow up to date once the block has ended without an error, and exit with the status of that if it is not 0.

    It is a process of its own, because importing MLflow takes as long as the block. One whose parent dies reads no line
    and ends.
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "quartet.sync", WHEN_TOLD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as process:
        yield
        process.communicate(b"go\n")
    if process.returncode:
        sys.exit(process.returncode)


def main() -> None:
    """Synchronise and say how it went; for `afterwards`, when told and saying only what went wrong."""
    if sys.argv[1:] == [WHEN_TOLD]:
        with suppress(ImportError):  # bring_up_to_date will say so, and go on without MLflow
            tracking.import_ahead()
        if sys.stdin.readline():
            bring_up_to_date()
        return
    if not bring_up_to_date():
        raise errors.WorkError("MLflow is not up to date; see the warning above, then run `make sync` again")
    print(f"sync: MLflow ({tracking.uri()}) agrees with stages/")


if __name__ == "__main__":
    errors.run(main)
