"""Make MLflow agree with the trained and evaluated models that DVC has: `make sync`, and the end of evaluate."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from quartet import errors, files, history, params, paths, tracking

WHEN_NAMED = "--when-named"
ARTIFACTS = ("confusion.png", "loss.png", "per_class.csv")


def bring_up_to_date(names: Iterable[str] = params.TRAININGS) -> bool:
    """Complete the run of every trained model among `names`; False after one warning where MLflow fails."""
    from quartet import model  # PyTorch, which a process that only starts this one need not wait for

    if tracking.FAILED in map(tracking.attempt, (tracking.mend_moved, tracking.close_interrupted)):
        return False
    for name in names:
        if not paths.model(name).exists():
            continue
        network, description = model.load_weights(paths.model(name), name)
        fingerprint = files.content_digest(history.read_provenance(name))
        epochs = history.read(name)
        folder = paths.EVALUATE / name
        evaluation = None
        if paths.metrics(name).exists():
            files.check_digests(paths.digests(name), "evaluate")
            evaluation = tracking.Evaluation(
                metrics={f"test_{key}": value for key, value in files.read_json(paths.metrics(name)).items()},
                artifacts=[folder / artifact for artifact in ARTIFACTS] + [paths.summary(name)],
                network=model.with_scores(network),
            )
        if (
            tracking.attempt(partial(tracking.complete, {**description, "fingerprint": fingerprint}, epochs, evaluation))
            is tracking.FAILED
        ):
            return False
    return True


@contextmanager
def beside() -> Iterator[Callable[[str], None]]:
    """Bring MLflow up to date in a process of its own; the block gets a function that names a training ready for it.

    Importing MLflow and logging a model take as long as evaluating one. Ends when that process has, after a warning where
    that failed; the process ends when its parent does.
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "quartet.sync", WHEN_NAMED]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, bufsize=0) as process:

        def ready(name: str) -> None:
            with suppress(BrokenPipeError):  # the warning below says it
                process.stdin.write(f"{name}\n".encode())  # type: ignore[union-attr] # a pipe, as asked for

        yield ready
    if process.returncode:
        errors.warn(
            f"MLflow's process ended with status {process.returncode} -- the work goes on without it;"
            " `make sync` brings it up to date"
        )


def main() -> None:
    """Synchronise and say how it went; for `beside`, what standard input names, saying only what goes wrong."""
    if sys.argv[1:] == [WHEN_NAMED]:
        with suppress(ImportError):  # bring_up_to_date will say so, and go on without MLflow
            tracking.import_ahead()
        names = (line.strip() for line in sys.stdin)
        bring_up_to_date(names)
        list(names)  # where that gave up: the parent shall find its pipe open
        return
    if not bring_up_to_date():
        raise errors.WorkError("MLflow is not up to date; see the warning above, then run `make sync` again")
    print(f"sync: MLflow ({tracking.shown_uri()}) agrees with stages/")


if __name__ == "__main__":
    errors.run(main)
