"""MLflow: a run for each training, found again by the training's fingerprint. No other module knows MLflow.

Everything here says what MLflow should hold and adds what is missing, so that doing it twice, resuming, or coming back
after a failure all end with the same run. A failure here is one warning; it never costs a training.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import hashlib
import json
import logging
import os
import platform
import re
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

from quartet import errors, paths
from quartet.data import SIDE, TITLES, class_names

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from torch import nn

    from quartet.history import Epoch

EXPERIMENT = "mnist-quartet"
PROCESS = "process"  # the tag that names the process of a run, as `host pid start`
PATIENCE = 5  # seconds to wait for a database that another process has locked
FAILED = object()  # what `attempt` returns for an action that failed
# Opens MLflow's pages on the runs of models, not on those of prompts.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
# MLflow's pages pick a colour by chance, and two of the four may get the same. Trials, of which there are many, keep theirs.
COLOURS = {"ten": "#2b6cb0", "ten-bn": "#dd6b20", "four": "#38a169", "four-bn": "#805ad5"}
# How MLflow's client behaves here unless the user says otherwise: quiet, and bounded where a server does not answer.
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "GIT_PYTHON_REFRESH": "quiet",
}


class _Session(NamedTuple):
    client: MlflowClient
    run_id: str
    ended: int | None = None  # when the run was finished before, in ms since 1970


@dataclass(frozen=True)
class Evaluation:
    """What evaluate found out about a trained model, for the model's run."""

    metrics: Mapping[str, float]
    artifacts: Sequence[Path]
    network: nn.Sequential


def uri() -> str:
    """MLFLOW_TRACKING_URI where it is set, else the database in the project's root: where bare `mlflow ui` looks."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _own_uri()


def shown_uri() -> str:
    """The URI as it may be printed: without the user name and the password in it."""
    return re.sub("//[^/]*@", "//", uri())


def _own_uri() -> str:
    return f"sqlite:///{_database()}"


def _database() -> Path:
    return paths.project_root() / "mlflow.db"


def artifacts() -> str | None:
    """Where the project's own store keeps its artifacts, as a URI; None where MLFLOW_TRACKING_URI names another store.

    MLflow sets that variable itself, to the store in use.
    """
    return (paths.project_root() / "mlruns").as_uri() if uri() == _own_uri() else None


def initialise() -> None:
    """Make the store and the experiment, once, before trainings that run side by side."""
    attempt(lambda: _experiment_id(_client()))


def mend_moved() -> None:
    """Point the project's own store at this project's mlruns/ where it has been moved.

    MLflow keeps absolute addresses of artifacts and has no command to change them.
    """
    here, database = artifacts(), _database()
    if here is None or not database.exists():
        return
    with contextlib.closing(sqlite3.connect(database, timeout=PATIENCE)) as connection, connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
            return  # an empty file, which MLflow has yet to fill
        found = connection.execute("SELECT artifact_location FROM experiments WHERE name = ?", (EXPERIMENT,)).fetchone()
        if found and found[0] != here:
            for table, column in (
                ("experiments", "artifact_location"),
                ("runs", "artifact_uri"),
                ("logged_models", "artifact_location"),
            ):
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",  # noqa: S608 -- ours
                    (here, len(found[0]) + 1, len(found[0]), found[0]),
                )
            print(f"sync: the project moved from {found[0]}: MLflow now finds its artifacts in {here}")


def close_interrupted() -> None:
    """End as KILLED every run of this machine that still counts as running though its process is gone."""
    client = _client()
    for run in client.search_runs([_experiment_id(client)], "attributes.status = 'RUNNING'"):
        host, _, process = run.data.tags.get(PROCESS, "").partition(" ")
        if host == platform.node() and not _alive(process):
            client.set_terminated(run.info.run_id, "KILLED")
            print(f"sync: run {run.info.run_name} ({run.info.run_id[:8]}) was interrupted: closed as KILLED")


@contextlib.contextmanager
def live(description: Mapping[str, Any]) -> Iterator[Callable[[Sequence[Epoch]], None]]:
    """Open the run of a training for the block, which gets a function that logs the history so far.

    `description` is what `train.describe` returns, and the training's fingerprint. The run ends as FINISHED, as FAILED if
    the block raises, or as KILLED if it is stopped.
    """
    opened = attempt(lambda: _open(_client(), description))
    session = None if opened is FAILED else opened
    known: Sequence[Epoch] = ()
    missed = session is None

    def log(history: Sequence[Epoch]) -> None:
        nonlocal known, missed
        known = history
        if session and not missed:
            missed = attempt(lambda: _log_epochs(session, history)) is FAILED

    status = "FAILED"
    try:
        yield log
        status = "FINISHED"
    except (KeyboardInterrupt, errors.Terminated):
        status = "KILLED"
        raise
    finally:
        if session:
            attempt(lambda: _close(session, known if missed else (), status), quiet=missed)


def complete(description: Mapping[str, Any], history: Sequence[Epoch], evaluation: Evaluation | None) -> None:
    """Make the run of a training hold its whole history and, where there is one, its evaluation.

    A training that has no run gets one, tagged `restored`: DVC brought its files from the cache and nothing ran.
    """
    client = _client()
    run, *doubles = _find(client, description["fingerprint"]) or [_create(client, description, restored="true")]
    for double in doubles:  # two trainings of the same at the same time
        client.delete_run(double.info.run_id)
    _describe(client, run, description)
    session = _Session(client, run.info.run_id)
    _log_epochs(session, history)
    if evaluation:
        _log_evaluation(session, evaluation)
    if run.info.status != "FINISHED":
        client.set_terminated(run.info.run_id, "FINISHED")


def import_ahead() -> None:
    """Import what logging a model will need, which takes seconds."""
    with _importing():
        for name in ("mlflow.pytorch", "torch.export._trace"):  # the second is what an export imports when it is called
            import_module(name)


def attempt(action: Callable[[], Any], quiet: bool = False) -> Any:
    """The action's value, or FAILED after one warning where it fails: tracking never costs a result."""
    try:
        with errors.held():
            _check_database()
            return action()
    except Exception as error:  # noqa: BLE001 -- whatever the store raises, the training goes on
        if not quiet:
            errors.warn(
                f"MLflow ({shown_uri()}) failed: {_explain(error)} -- the work goes on without it;"
                " `make sync` brings it up to date"
            )
        return FAILED


def _explain(error: Exception) -> str:
    """What went wrong, and how to mend what `make sync` alone does not."""
    cause: BaseException = error
    below = error.__cause__ or error.__context__
    while below:
        if isinstance(below, OSError | sqlite3.Error):  # the system's or SQLite's own words, at the bottom of many others
            cause = below
        below = below.__cause__ or below.__context__
    problem = f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}"
    if type(cause) is sqlite3.DatabaseError:  # its subclasses are other things than a damaged file
        return f"{problem}; move {uri().removeprefix('sqlite:///')} away and it is made anew"
    if "out-of-date database schema" in problem:  # MLflow says so of a newer one too
        problem = problem.partition(". Take")[0]
        return f"{problem}; back it up, then `mlflow db upgrade {shown_uri()}`, or move it away if a newer MLflow made it"
    return problem


def _check_database() -> None:
    """Find in seconds what MLflow, on the project's own store, would find after a minute of trying again."""
    if artifacts() is not None:
        with contextlib.closing(sqlite3.connect(_database(), timeout=PATIENCE)) as connection:
            connection.execute("BEGIN IMMEDIATE")


def _client() -> MlflowClient:
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    with _importing():
        import mlflow

        for name in ("mlflow", "alembic", "urllib3"):  # what they have to say is in the exception
            logging.getLogger(name).setLevel(logging.CRITICAL)
        mlflow.set_tracking_uri(uri())
        return mlflow.MlflowClient(uri())


@contextlib.contextmanager
def _importing() -> Iterator[None]:
    """Without garbage collection, which while so much is imported visits all of PyTorch's objects: a third of the time.

    What is there at the end stays, so that no later collection visits it again.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _experiment_id(client: MlflowClient) -> str:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        try:
            return str(client.create_experiment(EXPERIMENT, artifact_location=artifacts(), tags=EXPERIMENT_TAGS))
        except MlflowException:  # another process was first
            experiment = client.get_experiment_by_name(EXPERIMENT)
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":  # on MLflow's pages, which cannot bring it back
        client.restore_experiment(experiment.experiment_id)
    if artifacts() not in (None, experiment.artifact_location):
        raise FileNotFoundError(f"the project moved: its artifacts are looked for in {experiment.artifact_location}")
    return str(experiment.experiment_id)


def _find(client: MlflowClient, fingerprint: str) -> list[Run]:
    """The runs of a training, the oldest first: one, or none."""
    query = f"tags.fingerprint = '{fingerprint}'"
    return list(client.search_runs([_experiment_id(client)], query, order_by=["attributes.start_time ASC"]))


def _create(client: MlflowClient, description: Mapping[str, Any], **tags: str) -> Run:
    whole = {**_tags(description), **tags}
    return client.create_run(_experiment_id(client), run_name=description["variant"], tags=whole)


def _describe(client: MlflowClient, run: Run, description: Mapping[str, Any]) -> None:
    """Log the hyperparameters and the data sets that the run does not hold yet."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param
    from mlflow.exceptions import MlflowException

    classes = " ".join(class_names(description["groups"]))
    hyperparameters = {**description["hyperparameters"], "groups": classes, "data": description["data"]}
    missing = [Param(key, str(value)) for key, value in hyperparameters.items() if key not in run.data.params]
    if missing:
        client.log_batch(run.info.run_id, params=missing)
    if run.inputs and run.inputs.dataset_inputs:
        return
    inputs = [
        DatasetInput(
            Dataset(
                name=f"{TITLES[description['data']]}: {split}",
                digest=digest[:36],
                source_type="local",
                source=json.dumps({"uri": f"data/split/{split}.safetensors"}),
            ),
            [InputTag("mlflow.data.context", split)],
        )
        for split, digest in description["splits"].items()
    ]
    try:
        client.log_inputs(run.info.run_id, inputs)
    except MlflowException:  # a training beside this one was the first to log them: now they are there
        client.log_inputs(run.info.run_id, inputs)


def _open(client: MlflowClient, description: Mapping[str, Any]) -> _Session:
    found = _find(client, description["fingerprint"])
    process = {PROCESS: f"{platform.node()} {_process()}"}
    run = found[0] if found else _create(client, description, **process)
    session = _Session(client, run.info.run_id, run.info.end_time if run.info.status == "FINISHED" else None)
    for key, value in {**_tags(description), **process}.items():
        if run.data.tags.get(key) != value:
            client.set_tag(run.info.run_id, key, value)
    if found:
        client.update_run(run.info.run_id, status="RUNNING")
    _describe(client, run, description)
    return session


def _process(pid: int | None = None) -> str:
    process = psutil.Process(pid)
    return f"{process.pid} {process.create_time():.0f}"


def _alive(process: str) -> bool:
    pid = process.split(" ", maxsplit=1)[0]
    try:
        return pid.isdigit() and _process(int(pid)) == process
    except psutil.NoSuchProcess:
        return False


def _close(session: _Session, missed: Sequence[Epoch], status: str) -> None:
    if missed:
        _log_epochs(session, missed)
    # Trained again, it is the run that it was, and took the time that it took.
    session.client.set_terminated(session.run_id, status, session.ended if status == "FINISHED" else None)


def _log_epochs(session: _Session, epochs: Sequence[Epoch]) -> None:
    """Log the epochs that the run does not hold yet: MLflow would store a repeated step twice."""
    from mlflow.entities import Metric

    logged = {metric.step for metric in session.client.get_metric_history(session.run_id, "train_loss")}
    now = int(time.time() * 1000)
    metrics = [
        Metric(key, value, now, epoch.epoch)
        for epoch in epochs
        if epoch.epoch not in logged
        for key, value in epoch._asdict().items()
        if key != "epoch"
    ]
    if metrics:
        session.client.log_batch(session.run_id, metrics=metrics)


def _log_evaluation(session: _Session, evaluation: Evaluation) -> None:
    digest = hashlib.sha256(json.dumps(dict(evaluation.metrics), sort_keys=True).encode())
    for path in evaluation.artifacts:
        digest.update(path.name.encode() + path.read_bytes())
    run = session.client.get_run(session.run_id)
    if run.data.tags.get("evaluation") == digest.hexdigest():
        return
    for key, value in evaluation.metrics.items():
        if run.data.metrics.get(key) != value:
            session.client.log_metric(session.run_id, key, value)
    for path in evaluation.artifacts:
        session.client.log_artifact(session.run_id, str(path))
    if not _has_model(session.client, run):
        _log_model(run, evaluation.network)
    session.client.set_tag(session.run_id, "evaluation", digest.hexdigest())


def _has_model(client: MlflowClient, run: Run) -> bool:
    """Whether a whole model was logged to the run; deletes what a kill or a failure left of one."""
    from mlflow.entities import LoggedModelStatus

    logged = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    for model in logged:
        if model.status != LoggedModelStatus.READY:
            client.delete_logged_model(model.model_id)
    return any(model.status == LoggedModelStatus.READY for model in logged)


def _log_model(run: Run, network: nn.Sequential) -> None:
    """Log the network, sigmoid included, as pt2: no pickle is needed to load it."""
    import mlflow
    import numpy as np
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    classes = list(network.parameters())[-1].numel()
    float32 = np.dtype(np.float32)
    with mlflow.start_run(run_id=run.info.run_id):
        mlflow.pytorch.log_model(
            # The archive's writer takes a channels-last weight for a slice of another tensor.
            copy.deepcopy(network).to(memory_format=torch.contiguous_format),  # type: ignore[call-overload] # as in model.py
            name="model",
            serialization_format="pt2",
            # A batch of one would fix the model's batch size to one.
            input_example=np.zeros((2, 1, SIDE, SIDE), np.float32),
            signature=ModelSignature(
                Schema([TensorSpec(float32, (-1, 1, SIDE, SIDE), "pixels from 0 to 1")]),
                Schema([TensorSpec(float32, (-1, classes), "score of each class")]),
            ),
            pip_requirements=[f"{name}=={version(name)}" for name in ("mlflow", "torch", "numpy")],
        )
    if run.info.end_time:
        mlflow.MlflowClient().set_terminated(run.info.run_id, run.info.status, run.info.end_time)


def _tags(description: Mapping[str, Any]) -> dict[str, str]:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    tags = {
        "variant": description["variant"],
        "data": TITLES[description["data"]],
        "fingerprint": description["fingerprint"],
        "stage": os.environ.get("DVC_STAGE"),
        "dvc.exp.name": os.environ.get("DVC_EXP_NAME"),
        "dvc.exp.baseline": os.environ.get("DVC_EXP_BASELINE_REV"),
        "mlflow.runColor": COLOURS.get(description["variant"]),
        "mlflow.source.git.commit": commit,
        "mlflow.source.name": "dvc.yaml",
        "mlflow.source.type": "PROJECT",
    }
    return {key: value for key, value in tags.items() if value}


if __name__ == "__main__":
    errors.run(initialise)
