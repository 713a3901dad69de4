"""MLflow's runs: one for each training, found again by the training's fingerprint and the SHA-256 of its weights.

The same settings, data and code come to other weights on a processor that rounds otherwise: that is another run. All here
says what MLflow should hold and adds what is missing, so that doing it twice, resuming, or coming back after a failure all
end with the same run. A failure here is one warning; it never costs a training.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil

from quartet.base import errors, paths, process
from quartet.tracking import attempts, models, store
from quartet.training.record import Epoch, TrainingRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from torch import nn

PROCESS = "process"  # tag: the process that writes the run, as `host pid start`
WEIGHTS = "weights"  # tag: the SHA-256 of the model's file, once the history is complete


class Outcome(NamedTuple):
    """What a training came to, as far as it is known: its epochs, and the SHA-256 of the model's file once there is one."""

    epochs: Sequence[Epoch] = ()
    weights: str = ""


class _Session(NamedTuple):
    client: MlflowClient
    run: Run  # as it was before this session
    tags: Mapping[str, str]  # those that this session set


@dataclass(frozen=True)
class Evaluation:
    """What evaluate found out about a trained model, for the model's run.

    `digest` identifies all of it. `draw` returns the files of these names to log; it is called only if the run lacks them.
    """

    metrics: Mapping[str, float]
    digest: str
    names: Sequence[str]
    draw: Callable[[], Mapping[str, bytes]]


def close_interrupted() -> None:
    """End as KILLED every run of this machine that still counts as running though its process is gone."""
    client = store.client()
    for run in client.search_runs([store.experiment_id(client)], "attributes.status = 'RUNNING'"):
        if _is_interrupted(run):
            client.set_terminated(run.info.run_id, "KILLED", _now(run.info.start_time))
            errors.tell(f"sync: run {run.info.run_name} ({run.info.run_id[:8]}) was interrupted: closed as KILLED")


@contextlib.contextmanager
def live(record: TrainingRecord, colour: str | None) -> Iterator[Callable[[Outcome], None]]:
    """Open the run of a training for the block, which gets a function that logs what the training came to so far.

    MLflow's pages draw it in `colour`, #rrggbb, or in one of their own. The run ends as FINISHED, as FAILED if the block
    raises, or as KILLED if it is stopped. A run that has its weights stays as it is if it turns out to be that of other
    weights; this training then has another run.
    """
    session = attempts.attempt(lambda: _join(store.client(), record, colour, Outcome()))
    begun = session is not attempts.FAILED
    known, missed = Outcome(), not begun

    def log(outcome: Outcome) -> None:
        nonlocal known, missed, session
        known = outcome
        if not missed:
            logged = attempts.attempt(lambda: _log(session, record, colour, outcome))
            missed = logged is attempts.FAILED
            session = session if missed else logged

    status = "FAILED"
    try:
        yield log
        status = "FINISHED"
    except (KeyboardInterrupt, process.Terminated):
        status = "KILLED"
        raise
    finally:

        def close() -> None:
            _close(_log(session, record, colour, known) if missed else session, status)

        if begun:
            attempts.attempt(close, quiet=missed, stopping=status == "KILLED")


def complete(record: TrainingRecord, colour: str | None, outcome: Outcome, network: nn.Sequential | None = None) -> None:
    """Make the run of a training hold its whole history and, if it is given, its model.

    A training that has no run gets one, tagged `restored`: DVC brought its files from the cache and nothing ran.
    """
    client = store.client()
    tags = {**_tags(record, colour), "restored": "true"}
    run, *doubles = _find(client, record, outcome) or [_create(client, record, tags)]
    for double in doubles:  # the same was trained twice at the same time
        client.delete_run(double.info.run_id)
    _describe(client, run, record)
    _log_outcome(client, run, _logged(client, run), outcome)
    if network is not None and not models.has_model(client, run):
        models.log_model(run, network)
    if run.info.status != "FINISHED":
        client.set_terminated(run.info.run_id, "FINISHED", _now(run.info.start_time))


def log_evaluation(record: TrainingRecord, weights: str, evaluation: Evaluation) -> None:
    """Log the metrics and the files of an evaluation to the run of these weights, which is complete, unless it has them."""
    client = store.client()
    run = _find(client, record, Outcome(weights=weights))[0]
    there = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    if run.data.tags.get("evaluation") == evaluation.digest and there.issuperset(evaluation.names):
        return
    for key, value in evaluation.metrics.items():
        if run.data.metrics.get(key) != value:
            client.log_metric(run.info.run_id, key, value)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in evaluation.draw().items():
            Path(folder, name).write_bytes(content)
        client.log_artifacts(run.info.run_id, folder)
    client.set_tag(run.info.run_id, "evaluation", evaluation.digest)


def is_evaluated(record: TrainingRecord, weights: str) -> bool:
    """Tell whether there is a run of these weights, by their SHA-256, with its evaluation."""
    client = store.client()
    query = f"tags.fingerprint = '{record.fingerprint}' and tags.{WEIGHTS} = '{weights}' and tags.evaluation != ''"
    return bool(client.search_runs([store.experiment_id(client)], query, max_results=1))


def _find(client: MlflowClient, record: TrainingRecord, outcome: Outcome) -> list[Run]:
    """Find the run of a training that may have come to this: one of its weights first, the oldest first. One, or none."""
    query = f"tags.fingerprint = '{record.fingerprint}'"
    found = client.search_runs([store.experiment_id(client)], query, order_by=["attributes.start_time ASC"])
    agreeing = [run for run in found if _agrees(run, _logged(client, run) if outcome.epochs else {}, outcome)]
    return sorted(agreeing, key=lambda run: bool(outcome.weights) and WEIGHTS not in run.data.tags)


def _logged(client: MlflowClient, run: Run) -> dict[tuple[str, int], float]:
    """Return the values of a run's epochs, by metric and step."""
    keys = Epoch._fields[1:]
    return {(key, metric.step): metric.value for key in keys for metric in client.get_metric_history(run.info.run_id, key)}


def _agrees(run: Run, logged: Mapping[tuple[str, int], float], outcome: Outcome) -> bool:
    """Tell whether a run has these weights or, if they or its own are not known yet, no other value of these epochs."""
    if outcome.weights and WEIGHTS in run.data.tags:
        return bool(run.data.tags[WEIGHTS] == outcome.weights)
    return all(
        logged.get((key, epoch.epoch), value) == value
        for epoch in outcome.epochs
        for key, value in _values(epoch)
        if math.isfinite(value)  # NaN never equals itself, and MLflow's database cannot store infinity
    )


def _values(epoch: Epoch) -> Iterator[tuple[str, float]]:
    return ((key, value) for key, value in epoch._asdict().items() if key != "epoch")


def _create(client: MlflowClient, record: TrainingRecord, tags: Mapping[str, str]) -> Run:
    # A trial has many runs, so each is named after its experiment.
    name = os.environ.get("DVC_EXP_NAME", "") if record.name == paths.TRIAL else ""
    return client.create_run(store.experiment_id(client), run_name=name or record.name, tags=dict(tags))


def _describe(client: MlflowClient, run: Run, record: TrainingRecord) -> None:
    """Log the hyperparameters and the data sets that the run does not hold yet."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param
    from mlflow.exceptions import MlflowException

    classes = ", ".join(record.class_names)
    hyperparameters = {**record.hyperparameters.model_dump(exclude_none=True), "groups": classes, "data": record.source.data}
    missing = [Param(key, str(value)) for key, value in hyperparameters.items() if key not in run.data.params]
    if missing:
        client.log_batch(run.info.run_id, params=missing)
    if run.inputs and run.inputs.dataset_inputs:
        return
    inputs = [
        DatasetInput(
            Dataset(
                name=f"{record.source.title}: {split}",
                digest=digest[:36],
                source_type="local",
                source=json.dumps({"uri": paths.split(split).as_posix()}),
            ),
            [InputTag("mlflow.data.context", split)],
        )
        for split, digest in record.splits.items()
    ]
    try:
        client.log_inputs(run.info.run_id, inputs)
    except MlflowException:  # another training logged them first; now they exist
        client.log_inputs(run.info.run_id, inputs)


def _join(client: MlflowClient, record: TrainingRecord, colour: str | None, outcome: Outcome) -> _Session:
    """Go on in a run that may come to this outcome: an unfinished one, else a whole one, else a new one."""
    found = sorted(_find(client, record, outcome), key=_is_whole)
    tags = {**_tags(record, colour), PROCESS: f"{platform.node()} {_identity()}"}
    run = found[0] if found else _create(client, record, tags)
    if not _is_whole(run):
        for key, value in tags.items():
            if run.data.tags.get(key) != value:
                client.set_tag(run.info.run_id, key, value)
        if found:
            client.update_run(run.info.run_id, status="RUNNING")
    _describe(client, run, record)
    return _Session(client, run, tags)


def _leave(session: _Session) -> None:
    """Leave an unfinished run as it was before this session."""
    client, before, tags = session
    run_id = before.info.run_id
    for key in tags:
        if key in before.data.tags:
            client.set_tag(run_id, key, before.data.tags[key])
        else:
            client.delete_tag(run_id, key)
    if _is_interrupted(before):
        client.set_terminated(run_id, "KILLED", _now(before.info.start_time))
    elif before.info.status != "RUNNING":  # a run that another process is writing stays RUNNING
        client.set_terminated(run_id, before.info.status, before.info.end_time)


def _is_whole(run: Run) -> bool:
    """Tell whether a run has all of a training: such a run is only read when the same is trained again."""
    return WEIGHTS in run.data.tags and run.info.status == "FINISHED"


def _is_interrupted(run: Run) -> bool:
    """Tell whether a run counts as running though its process, of this machine, is gone."""
    host, _, identity = run.data.tags.get(PROCESS, "").partition(" ")
    return run.info.status == "RUNNING" and host == platform.node() and not _alive(identity)


def _identity(pid: int | None = None) -> str:
    """Identify a process, by default this one, by its number and its start: a number alone is used again."""
    found = psutil.Process(pid)
    return f"{found.pid} {found.create_time():.0f}"


def _alive(identity: str) -> bool:
    pid = identity.split(" ", maxsplit=1)[0]
    try:
        return pid.isdigit() and _identity(int(pid)) == identity
    except psutil.NoSuchProcess:
        return False


def _log(session: _Session, record: TrainingRecord, colour: str | None, outcome: Outcome) -> _Session:
    """Log what a training came to so far; return its session, which is that of another run if this one has other values."""
    client, before, _ = session
    run = client.get_run(before.info.run_id)  # another process may have completed it meanwhile
    logged = _logged(client, run)
    if not _agrees(run, logged, outcome):
        if not _is_whole(run):
            _leave(session)
        session = _join(client, record, colour, outcome)
        run, logged = session.run, _logged(client, session.run)
    _log_outcome(client, run, logged, outcome)
    return session


def _close(session: _Session, status: str) -> None:
    client, before, _ = session
    run = client.get_run(before.info.run_id)
    if not _is_whole(run):
        client.set_terminated(run.info.run_id, status, _now(run.info.start_time))


def _now(started: int) -> int:
    """Return the time in ms since 1970, but not before a run started: a clock may be set back meanwhile."""
    return max(int(time.time() * 1000), started)


def _log_outcome(client: MlflowClient, run: Run, logged: Mapping[tuple[str, int], float], outcome: Outcome) -> None:
    """Log what the run has not `logged` yet, as MLflow would store a repeated step twice; then name the weights."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = [
        Metric(key, value, now, epoch.epoch)
        for epoch in outcome.epochs
        for key, value in _values(epoch)
        if (key, epoch.epoch) not in logged
    ]
    if metrics:
        client.log_batch(run.info.run_id, metrics=metrics)
    if outcome.weights and WEIGHTS not in run.data.tags:
        client.set_tag(run.info.run_id, WEIGHTS, outcome.weights)


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout.strip()


def _note(record: TrainingRecord) -> str:
    """Write the description of a run for MLflow's pages."""
    what = "A trial" if record.name == paths.TRIAL else f"Variant {record.name} of the report's model"
    settings = ", ".join(f"{key} {value}" for key, value in record.hyperparameters.model_dump(exclude_defaults=True).items())
    return (
        f"{what}, trained on {record.source.title}: {settings}. The metrics have each epoch's losses and validation"
        " accuracy, and those on the test set (test_error is in percent); the artifacts have the confusion matrix, the loss"
        " curve, a table by class and the layers."
    )


def _tags(record: TrainingRecord, colour: str | None) -> dict[str, str]:
    tags = {
        "variant": record.name,
        "data": record.source.title,
        "fingerprint": record.fingerprint,
        "stage": os.environ.get("DVC_STAGE"),
        "dvc.exp.name": os.environ.get("DVC_EXP_NAME"),
        "dvc.exp.baseline": os.environ.get("DVC_EXP_BASELINE_REV"),
        "mlflow.note.content": _note(record),
        "mlflow.runColor": colour,
        "mlflow.source.git.commit": _git("rev-parse", "HEAD"),
        # Whether the code differs from the commit. params.yaml is not code: its values are logged.
        "mlflow.source.git.dirty": "true" if _git("status", "--porcelain", "--", "src", "dvc.yaml") else "",
        "mlflow.source.name": "dvc.yaml",
        "mlflow.source.type": "PROJECT",
    }
    return {key: value for key, value in tags.items() if value}
