"""MLflow's runs of the pipeline's trainings, brought up to date with the models that DVC has."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from quartet.base import errors, files, params, paths, process
from quartet.evaluation import predictions
from quartet.tracking import attempts, runs, store
from quartet.training import record

WHEN_TOLD = "--when-told"
ARTIFACTS = ("confusion.png", "loss.png", "per_class.csv", "summary.json")
EVALUATED = "="  # not a name: evaluate's files are written


def complete(name: str) -> bool:
    """Complete the run of a training with its history and its model; False after one warning if MLflow fails."""
    from quartet.model import network, weights  # PyTorch, slow to import and not needed to start the process beside

    training, colour = record.read(name), params.load().colour(name)
    outcome = runs.Outcome(record.read_history(name), files.sha256(paths.model(name)))
    model = network.with_scores(weights.load(paths.model(name), training.description))
    if files.sha256(paths.model(name)) != outcome.weights:
        raise errors.WorkError(f"{paths.model(name)}: written while it was read; run `make sync` again")
    return _works(partial(runs.complete, training, colour, outcome, model))


def log_evaluation(name: str, metrics: dict[str, Any]) -> bool:
    """Complete the run of a training with what evaluate found, its part of scores.json; False as `complete`."""
    from quartet.reporting import figures

    training = record.read(name)
    title = training.source.title

    def draw() -> dict[str, bytes]:
        names, matrices = training.class_names, {"": metrics["confusion"]}
        drawn = (
            figures.confusions(f"Confusion on the test set: {name}", title, names, matrices),
            figures.losses(f"Loss: {name}", title, {name: record.read_history(name)}),
            files.csv_bytes(metrics["classes"]),
            paths.summary(name).read_bytes(),
        )
        return dict(zip(ARTIFACTS, drawn, strict=True))

    numbers = {f"test_{key}": value for key, value in metrics.items() if isinstance(value, float)}
    numbers["test_error"] = round(100 * (1 - metrics["accuracy"]), 6)  # percent, so that bars differ visibly
    evaluation = runs.Evaluation(
        metrics=numbers,
        digest=files.content_digest({**metrics, **numbers, "drawn by": files.sha256(Path(figures.__file__))}),
        names=ARTIFACTS,
        draw=draw,
    )
    return _works(partial(runs.log_evaluation, training, files.sha256(paths.model(name)), evaluation))


def _works(action: Callable[[], object]) -> bool:
    return attempts.attempt(action) is not attempts.FAILED


def repair() -> bool:
    """Repair what a move of the project or a kill left in MLflow; False after one warning if MLflow fails."""
    return _works(store.repair_moved) and _works(runs.close_interrupted)


def bring_up_to_date(names: Iterable[str]) -> bool:
    """Complete the run of every trained model among `names`; False after one warning if MLflow fails."""
    trained = [name for name in names if paths.model(name).exists()]
    if not (repair() and all(map(complete, trained))):
        return False
    metrics = predictions.read_metrics() if paths.SCORES.exists() else {}
    evaluated = [name for name in trained if name in metrics and predictions.is_evaluated(name)]
    return all(log_evaluation(name, metrics[name]) for name in evaluated)


def lacks_a_run(names: Iterable[str]) -> bool:
    """Tell whether MLflow lacks the evaluated run of a training; if it fails, False after one warning."""
    weights = {name: files.sha256(paths.model(name)) for name in names}
    there = attempts.attempt(lambda: all(runs.is_evaluated(record.read(name), weights[name]) for name in weights))
    return there is False


@contextmanager
def beside() -> Iterator[Callable[[str], None]]:
    """Bring MLflow up to date in a process of its own.

    The block gets a function that tells that process the name of a training whose weights are right, and at last EVALUATED.
    Importing MLflow and logging a model take as long as evaluating one. Ends when that process has, after a warning if that
    failed; the process ends when its parent does.
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "quartet.commands.pipeline_runs", WHEN_TOLD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, bufsize=0) as other:

        def tell(word: str) -> None:
            with suppress(BrokenPipeError):  # the warning below tells it
                other.stdin.write(f"{word}\n".encode())  # type: ignore[union-attr] # a pipe, as asked for

        yield tell
    if other.returncode:
        errors.warn(
            f"MLflow's process ended with status {other.returncode} -- the work goes on without it;"
            " `make sync` brings it up to date"
        )


def when_told(words: Iterator[str]) -> None:
    """Do the other side of `beside`: log each model as it is named, and what evaluate found once it is written."""
    with suppress(ImportError):  # the first attempt reports it, and evaluate goes on without MLflow
        store.import_ahead()
    names: list[str] = []
    works = repair()
    for word in words:  # reads to the end, so that the parent can always write
        if word == EVALUATED:
            metrics = predictions.read_metrics()
            works = works and all(log_evaluation(name, metrics[name]) for name in names)
        else:
            names.append(word)
            works = works and complete(word)


if __name__ == "__main__" and sys.argv[1:] == [WHEN_TOLD]:
    process.run(lambda: when_told(line.strip() for line in sys.stdin))
