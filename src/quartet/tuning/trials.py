"""A search in MLflow: a run for each search, and below it one for each of its trials.

A search is found again by what its trials follow from, a trial by its number. So doing it twice, or after a failure, ends
with the same runs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from functools import partial

from quartet.base import paths
from quartet.study.nested import PARENT, PLACE, family, log_found
from quartet.tracking import attempts, store
from quartet.tuning.search import Tried

SWEEP = "sweep"  # tag: the digest of a search
REPAIR = "`make sweep`"  # brings MLflow up to date


def log_trials(digest: str, title: str, tried: Iterable[Tried]) -> str:
    """Make MLflow hold these trials of a search; return the run above them, or "" after one warning if MLflow fails."""
    note = f"A search for a recipe on {title}: each run below is a trial of it."
    found = attempts.attempt(partial(family, SWEEP, digest, title, note), repair=REPAIR)
    if found is attempts.FAILED:
        return ""
    parent, there = found
    for it in tried:
        if _place(it) in there:
            continue
        if attempts.attempt(partial(_log_trial, parent, title, it), repair=REPAIR) is attempts.FAILED:
            return ""
    return str(parent)


def _place(it: Tried) -> str:
    return f"trial {it.number}"


def _log_trial(parent: str, title: str, it: Tried) -> None:
    from mlflow.entities import Metric, Param

    client, now = store.client(), int(time.time() * 1000)
    tags = {PARENT: parent, PLACE: _place(it), "data": title, "stopped": str(it.stopped).lower()}
    run = client.create_run(store.experiment_id(client, store.STUDY), run_name=_place(it), tags=tags).info.run_id
    metrics = [Metric("val_accuracy", accuracy / 100, now, step) for step, accuracy in enumerate(it.accuracies, start=1)]
    mean = Metric("val_accuracy_mean", it.mean / 100, now, 0)
    client.log_batch(run, [*metrics, mean], [Param(name, str(value)) for name, value in it.changes.items()])
    client.set_terminated(run, "FINISHED")


def log_search(digest: str, title: str, tried: Iterable[Tried], measures: Mapping[str, float]) -> None:
    """Log the figures and the page of a search that is over, and what its recipes came to, to the run above its trials."""
    if parent := log_trials(digest, title, tried):
        shown = [paths.RECIPE, *sorted(paths.SWEEP_FIGURES.glob("*.png"))]
        attempts.attempt(partial(log_found, parent, measures, shown), repair=REPAIR)
