"""MLflow's store: where it is, its experiment, and failures that never cost a training."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from filelock import FileLock, Timeout

from quartet.base import errors, paths, process

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "mnist-quartet"
PATIENCE = 5  # seconds to wait for a database that another process has locked
FAILED = object()  # what `attempt` returns for an action that failed
# Opens MLflow's pages on the runs of models, not on those of prompts.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
# How MLflow's client behaves here unless the user says otherwise: quiet, and bounded if a server does not answer.
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "GIT_PYTHON_REFRESH": "quiet",
}


def uri() -> str:
    """MLFLOW_TRACKING_URI if it is set, else the database in the project's root: where bare `mlflow ui` looks."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _own_uri()


def shown_uri() -> str:
    """The URI as it may be printed: without the user name and the password in it."""
    return re.sub("//[^/]*@", "//", uri())


def _own_uri() -> str:
    return f"sqlite:///{_database()}"


def _database() -> Path:
    return paths.project_root() / "mlflow.db"


def artifacts() -> str | None:
    """Where the project's own store keeps its artifacts, as a URI; None if MLFLOW_TRACKING_URI names another store.

    MLflow sets that variable itself, to the store in use.
    """
    file = uri().removeprefix("sqlite:///")
    own = uri() == _own_uri() or (file != uri() and Path(file).resolve() == _database())
    return (paths.project_root() / "mlruns").as_uri() if own else None


def initialise() -> None:
    """Make the store and the experiment if they are missing, once, before trainings that run side by side."""
    if artifacts() is None or not (_database().exists() and _database().stat().st_size):
        attempt(lambda: experiment_id(client()))


def mend_moved() -> None:
    """Point the project's own store at this project's mlruns/ if it has been moved.

    MLflow keeps absolute addresses of artifacts and has no command to change them. An address is changed unless what it
    names is still there and not here.
    """
    here, database = artifacts(), _database()
    if here is None or not database.exists():
        return
    with contextlib.closing(sqlite3.connect(database, timeout=PATIENCE)) as connection, connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
            return  # an empty file, which MLflow has yet to fill
        found = connection.execute("SELECT artifact_location FROM experiments WHERE name = ?", (EXPERIMENT,)).fetchone()
        before = _folder(found[0]) if found else None
        if before is None or found[0] == here:
            return
        for table, column in (
            ("experiments", "artifact_location"),
            ("runs", "artifact_uri"),
            ("logged_models", "artifact_location"),
        ):
            for row, address in connection.execute(f"SELECT rowid, {column} FROM {table}").fetchall():  # noqa: S608 -- ours
                if moved := _moved(address, before):
                    connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (moved, row))  # noqa: S608 -- ours
        print(f"sync: the project moved from {found[0]}: MLflow now finds its artifacts in {here}")


def _folder(address: str) -> Path | None:
    """The folder that an address of artifacts names, a path or a `file:` URI; None if it is of another kind."""
    parts = urlsplit(address)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(os.path.normpath(url2pathname(parts.path)))
    return Path(os.path.normpath(address)) if Path(address).is_absolute() else None


def _moved(address: str, before: Path) -> str | None:
    """The address in this project of what was below the folder `before`; None if it is to stay as it is."""
    old = _folder(address)
    if old is None or not old.is_relative_to(before):
        return None
    new = paths.project_root() / "mlruns" / old.relative_to(before)
    return new.as_uri() if new.exists() or not old.exists() else None


def import_ahead() -> None:
    """Import what logging a model will need, which takes seconds."""
    with _importing():
        for name in ("mlflow.pytorch", "torch.export._trace"):  # the second is what an export imports when it is called
            import_module(name)


def attempt(action: Callable[[], Any], quiet: bool = False) -> Any:
    """The action's value, or FAILED after one warning if it fails: tracking never costs a result."""
    try:
        with process.held(), _alone():
            _check_database()
            return action()
    except Exception as error:  # noqa: BLE001 -- whatever the store raises, the training goes on
        if not quiet:
            errors.warn(
                f"MLflow ({shown_uri()}) failed: {_explain(error)} -- the work goes on without it;"
                " `make sync` brings it up to date"
            )
        return FAILED


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Keep other processes of this project out, so that to look for a run and to make it are one step.

    One that is inside for more than PATIENCE seconds, as with a server that does not answer, is not waited for any longer.
    """
    folder = paths.project_root() / paths.CHECKPOINTS
    lock = FileLock(folder / "mlflow.lock")
    with contextlib.suppress(Timeout, OSError):  # a folder that cannot be written to has no lock
        folder.mkdir(exist_ok=True)
        lock.acquire(timeout=PATIENCE, poll_interval=0.01)
    try:
        yield
    finally:
        lock.release()


def _explain(error: Exception) -> str:
    """What went wrong, and how to repair what `make sync` alone does not."""
    cause: BaseException = error
    below = error.__cause__ or error.__context__
    while below:
        if isinstance(below, OSError | sqlite3.Error):  # the system's or SQLite's own words, at the bottom of many others
            cause = below
        below = below.__cause__ or below.__context__
    problem = f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}"
    if type(cause) is sqlite3.DatabaseError:  # its subclasses are other things than a damaged file
        return f"{problem}; move {uri().removeprefix('sqlite:///')} away, and it is made again"
    if "out-of-date database schema" in problem:  # MLflow says so of a newer one too
        problem = problem.partition(". Take")[0]
        return f"{problem}; back it up, then `mlflow db upgrade {shown_uri()}`, or move it away if a newer MLflow made it"
    return problem


def _check_database() -> None:
    """Find in seconds what MLflow, on the project's own store, would find after a minute of trying again."""
    if artifacts() is not None:
        with contextlib.closing(sqlite3.connect(_database(), timeout=PATIENCE)) as connection:
            connection.execute("BEGIN IMMEDIATE")


def client() -> MlflowClient:
    """MLflow's client on the store in use."""
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


def experiment_id(client: MlflowClient) -> str:
    """The experiment of this project's runs, made if it is missing."""
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
    if artifacts() not in (None, experiment.artifact_location) and _folder(experiment.artifact_location):
        raise FileNotFoundError(f"the project moved: its artifacts are looked for in {experiment.artifact_location}")
    return str(experiment.experiment_id)
