"""MLflow's store: where it is, its client and its experiment."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from quartet.base import errors, paths

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from requests import PreparedRequest, Response
    from urllib3 import BaseHTTPResponse

EXPERIMENT = "mnist-quartet"
STUDY = "mnist-quartet-study"
PATIENCE = 5  # seconds to wait for a database that another process has locked
LONGEST_ANSWER = 64 << 20  # bytes; the rest of a longer answer is not read
KIND = "custom_model_development"  # makes MLflow's pages open on training runs, not on prompts
NOTES = {
    EXPERIMENT: (
        "Tiny CNNs on MNIST: the report's model for ten classes and for four, without and with batch norm, and trials. Each"
        " run is one training, named by its variant or by the trial's experiment: its settings, each epoch's losses and"
        " validation accuracy, the metrics on the test set, and the model. Tick some runs and press Compare."
    ),
    STUDY: (
        "The study of many seeds. A run at the top is a study: the mean and the 95% interval of each arm's measures, and the"
        " figures. The runs below it are its trainings, named by what they are for, their arm and their seed. Or it is a"
        " search for a recipe, and below it are its trials."
    ),
}
# Defaults for MLflow's client, which the user may override: quiet, with short time limits.
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",  # a model from elsewhere may have code in it
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


def uri() -> str:
    """Return MLFLOW_TRACKING_URI if it is set, else the database in the project's root: where bare `mlflow ui` looks.

    What is relative in it is relative to that root, not to the copy in which DVC runs an experiment.
    """
    named = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not named:
        return _sqlite_uri(_database())
    if file := _sqlite_file(named):
        return _sqlite_uri(file) + "?".join(["", *named.split("?")[1:]])
    if named.startswith("file:") and not named.startswith("file:/"):
        return (paths.project_root() / url2pathname(named.removeprefix("file:"))).as_uri()
    if ":" not in named and named not in ("databricks", "databricks-uc", "uc"):  # these name a service
        return str(paths.project_root() / named)
    return named


def _database() -> Path:
    return paths.project_root() / "mlflow.db"


def _sqlite_file(address: str) -> Path | None:
    """Return the file of an SQLite database, absolute; None if the address is of another kind."""
    found = re.fullmatch(r"sqlite:///(?!:memory:|file:)([^?]+)(\?.*)?", address)
    file = paths.project_root() / found[1] if found else None
    return file.parent.resolve() / file.name if file else None


def _sqlite_uri(file: Path) -> str:
    """Return the URI of a database: absolute, unless its path has what MLflow and SQLAlchemy do not both read as it is.

    The path from the working directory has nothing of that kind.
    """
    path = str(file)
    return f"sqlite:///{path if quote(path, safe='/ ') == path else os.path.relpath(path)}"


def _is_own() -> bool:
    """Tell whether the store is the project's own, which MLFLOW_TRACKING_URI may name too."""
    named = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    return not named or _sqlite_file(named) == _database()


def artifacts() -> str | None:
    """Return the URI of the artifacts if the store is a database: in the project's root. None if the store decides."""
    keeps_none = uri().startswith(("sqlite:", "postgresql", "mysql", "mssql"))
    return (paths.project_root() / "mlruns").as_uri() if keeps_none else None


def repair_moved() -> None:
    """Point the project's own store at this project's mlruns/ if it has been moved.

    MLflow keeps absolute addresses of artifacts and has no command to change them. An address is changed unless what it
    names is still there and not here.
    """
    here, database = artifacts(), _database()
    if not (_is_own() and database.exists()):
        return
    with contextlib.closing(sqlite3.connect(database, timeout=PATIENCE)) as connection, connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
            return  # an empty file: MLflow has not made its tables yet
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
        errors.tell(f"sync: the project moved from {found[0]}: MLflow now finds its artifacts in {here}")


def _folder(address: str) -> Path | None:
    """Return the folder that an address of artifacts names, a path or a `file:` URI; None if it is of another kind."""
    parts = urlsplit(address)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(os.path.normpath(url2pathname(parts.path)))
    return Path(os.path.normpath(address)) if Path(address).is_absolute() else None


def _moved(address: str, before: Path) -> str | None:
    """Return the address in this project of what was below the folder `before`; None if it stays as it is."""
    old = _folder(address)
    if old is None or not old.is_relative_to(before):
        return None
    new = paths.project_root() / "mlruns" / old.relative_to(before)
    return new.as_uri() if new.exists() or not old.exists() else None


def import_ahead() -> None:
    """Import what logging a model will need, which takes seconds."""
    with _importing():
        for name in ("mlflow.pytorch", "torch.export._trace"):  # torch.export imports the second only when it is called
            import_module(name)


def is_made() -> bool:
    """Tell whether the project's own store, if that is the one in use, has been made."""
    return _is_own() and _database().exists() and _database().stat().st_size > 0


def check_database() -> None:
    """Find in seconds what MLflow, on the project's own store, would find after a minute of trying again."""
    if _is_own():
        with contextlib.closing(sqlite3.connect(_database(), timeout=PATIENCE)) as connection:
            connection.execute("BEGIN IMMEDIATE")


def import_mlflow() -> None:
    """Import MLflow, which takes seconds, and settle how its client behaves."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    with _importing():
        import mlflow
    for name in ("mlflow", "alembic", "urllib3"):  # the exception has the same message
        logging.getLogger(name).setLevel(logging.CRITICAL)
    named = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri())
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # MLflow has set it; others would read it as relative to the root
    if named is not None:
        os.environ["MLFLOW_TRACKING_URI"] = named
    _limit_answers()


def client() -> MlflowClient:
    """Return MLflow's client on the store in use."""
    import_mlflow()
    import mlflow

    return mlflow.MlflowClient(uri())


@contextlib.contextmanager
def _importing() -> Iterator[None]:
    """Import without garbage collection, which would visit all of PyTorch's objects: a third of the time.

    The objects that exist at the end are left out of later collections too.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@cache
def _limit_answers() -> None:
    """Let MLflow's client give up on an answer that is longer than LONGEST_ANSWER; it has no setting for that."""
    from mlflow.utils import request_utils

    class Limited(request_utils.TCPKeepAliveHTTPAdapter):
        def build_response(self, req: PreparedRequest, resp: BaseHTTPResponse) -> Response:
            resp.stream = partial(_limited, resp.stream)  # type: ignore[method-assign] # for this answer only
            return super().build_response(req, resp)

    request_utils.TCPKeepAliveHTTPAdapter = Limited  # type: ignore[misc] # replaces the class that it extends


def _limited(stream: Callable[..., Iterator[bytes]], *args: Any, **kwargs: Any) -> Iterator[bytes]:
    size = 0
    for part in stream(*args, **kwargs):
        size += len(part)
        if size > LONGEST_ANSWER:
            raise OSError(f"the server's answer is longer than {LONGEST_ANSWER:,} bytes")
        yield part


def experiment_id(client: MlflowClient, name: str = EXPERIMENT) -> str:
    """Return the experiment of this project's runs, or the study's; make it if it is missing."""
    from mlflow.exceptions import MlflowException

    tags = {"mlflow.experimentKind": KIND, "mlflow.note.content": NOTES[name]}
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifacts(), tags=tags))
        except MlflowException:  # another process made it first
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    for key, value in tags.items():
        if key not in experiment.tags:  # a tag that is there may have been edited by the user
            client.set_experiment_tag(experiment.experiment_id, key, value)
    if experiment.lifecycle_stage == "deleted":  # on MLflow's pages, which cannot restore it
        client.restore_experiment(experiment.experiment_id)
    if _is_own() and artifacts() != experiment.artifact_location and _folder(experiment.artifact_location):
        raise FileNotFoundError(f"the project moved: its artifacts are looked for in {experiment.artifact_location}")
    return str(experiment.experiment_id)
