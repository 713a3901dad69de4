"""Work with MLflow that may fail, and never costs a training."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import Any

from filelock import FileLock, Timeout

from quartet.base import errors, paths, process
from quartet.base.redaction import redacted
from quartet.tracking import store

FAILED = object()  # what `attempt` returns for an action that failed
DEADLINE = 60  # seconds for an action, however slow the server
GRACE = 5  # seconds for it after a signal to stop
# What a server with sign-in answers, and what to do.
REFUSALS = {
    "error code 401 ": (
        "it does not know this user or password (401): set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    ),
    "'Permission denied'": "this user may not write there (403): ask the person who keeps the server for the right to",
}
THREAD = "MLflow"  # the name of the thread that runs actions


def initialise() -> None:
    """Make the store and the experiment if they are missing, once, before trainings that run side by side."""
    if not store.is_made():
        attempt(lambda: store.experiment_id(store.client()))


def attempt(action: Callable[[], Any], *, quiet: bool = False, stopping: bool = False, repair: str = "`make sync`") -> Any:
    """Return the action's value, or FAILED after one warning if it fails: tracking never costs a result.

    The warning names the command that brings MLflow up to date, `repair`. It may take DEADLINE seconds, or GRACE if this
    process is `stopping`, or is told to stop meanwhile.
    """
    try:
        return _in_time(action, stopping)
    except Exception as error:  # noqa: BLE001 -- whatever the store raises, the training goes on
        if not quiet:
            errors.warn(
                f"MLflow ({store.uri()}) failed: {_explain(error)} -- the work goes on without it;"
                f" {repair} brings it up to date"
            )
        return FAILED


def _in_time(action: Callable[[], Any], stopping: bool) -> Any:
    """Do the action in a thread of its own and return its value; TimeoutError if that takes too long.

    Nothing else ends a request to a server that sends a byte now and then. A thread that was given up ends with the process;
    until then no other action begins.
    """
    if any(thread.name == THREAD for thread in threading.enumerate()):
        raise TimeoutError("it has not ended what was given up")
    future: Future[Any] = Future()

    def work() -> None:
        try:
            with _alone():
                store.check_database()
                value = action()
        except BaseException as error:  # noqa: BLE001 -- raised again where the action was asked for
            future.set_exception(error)
        else:
            future.set_result(value)

    thread = threading.Thread(target=work, name=THREAD, daemon=True)
    waiting_for = f"MLflow, {GRACE} s at most; again stops at once"
    with process.held(waiting_for) as signals:
        store.import_mlflow()  # outside the time limit: it is slow everywhere and needs no server
        thread.start()
        begun, seconds, said = time.monotonic(), float(GRACE if stopping else DEADLINE), False
        while not future.done() and time.monotonic() < begun + seconds:
            wait([future], timeout=0.1)
            if signals and said:
                break  # the second signal, as announced
            if signals and not stopping:
                stopping, seconds = True, min(seconds, time.monotonic() - begun + GRACE)
            if stopping and not (said or signals or future.done()) and time.monotonic() > begun + 1:
                said = True
                errors.say(f"stopping: waiting for {waiting_for}")
        if not future.done():
            raise TimeoutError(f"it did not end within {seconds:.0f} s")
        thread.join()
    return future.result()


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Keep other processes of this project out, so that to look for a run and to make it are one step.

    One that is inside for more than PATIENCE seconds, as with a server that does not answer, is not waited for any longer.
    """
    folder = paths.project_root() / paths.CHECKPOINTS
    lock = FileLock(folder / "mlflow.lock")
    with contextlib.suppress(Timeout, OSError):  # without a lock if the folder is read-only
        folder.mkdir(exist_ok=True)
        lock.acquire(timeout=store.PATIENCE, poll_interval=0.01)
    try:
        yield
    finally:
        lock.release()


def _explain(error: Exception) -> str:
    """Say what went wrong, and how to repair what `make sync` alone does not."""
    cause: BaseException = error
    below = error.__cause__ or error.__context__
    while below:
        if isinstance(below, OSError | sqlite3.Error):  # the original message, below several wrappers
            cause = below
        below = below.__cause__ or below.__context__
    words = " ".join(redacted(str(cause)).split())  # before cutting: a part of a secret would not be recognised
    problem = f"{type(cause).__name__}: {words[:300]}"
    for answer, advice in REFUSALS.items():
        if answer in problem:
            return advice
    if type(cause) is sqlite3.DatabaseError:  # its subclasses mean other things than a damaged file
        return f"{problem}; move {store.uri().removeprefix('sqlite:///')} away, and it is made again"
    if "out-of-date database schema" in problem:  # MLflow says the same if the schema is newer
        problem = problem.partition(". Take")[0]
        return f"{problem}; back it up, then `mlflow db upgrade {store.uri()}`, or move it away if a newer MLflow made it"
    return problem
