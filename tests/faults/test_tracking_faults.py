"""Tracking never costs a result: MLflow's store and server broken in earnest, before and during a training."""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from project import PARAMS, ROOT, Project
from quartet.base import errors, params, paths, process
from quartet.base.params import Hyperparameters
from quartet.base.redaction import shown
from quartet.commands import pipeline_runs
from quartet.data import catalogue, splits
from quartet.tracking import attempts, runs, store
from quartet.training import loop
from tracked import HISTORY, KEYS, SERVER, WEIGHTS, WHOLE, Companion, describe, forget, found, steps

TRAININGS = ("ten", params.TRIAL)
OUTPUTS = ("history.csv", "model.safetensors", "provenance.json", "summary.json")
PAGE = 4096
# One worker runs all that shares what takes seconds to set up.
shares_server = pytest.mark.xdist_group("tracking server")
shares_project = pytest.mark.xdist_group("tracking project")

# Stands between two lines of its standard input: it answers each when it is done.
LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
for statement in ("BEGIN EXCLUSIVE", "ROLLBACK"):
    sys.stdin.readline()
    connection.execute(statement)
    print(statement, flush=True)
"""


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """Our own patience shortened, and MLflow's settings, which a client puts into the environment, as a user has them."""
    monkeypatch.setattr(store, "PATIENCE", 1)
    for name in ("MLFLOW_TRACKING_URI", *store.SETTINGS):
        monkeypatch.setenv(name, "")  # so that there is something to undo
        monkeypatch.delenv(name)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    for name in ("FACTOR", "JITTER"):  # of the time between two attempts
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_BACKOFF_{name}", "0")
    yield
    let_go()  # while it is there, no attempt of the next test begins
    forget()


def furnish(root: Path, template: Path, monkeypatch) -> Path:
    monkeypatch.chdir(root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(template, root / "mlflow.db")
    store.repair_moved()
    return root / "mlflow.db"


@pytest.fixture
def database(tmp_path, template, monkeypatch):
    """The store of a project that has not trained yet; its folder is the working directory."""
    return furnish(tmp_path, template, monkeypatch)


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own, and how to mount it again with other options."""

    def mount(options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mounting a disk needs more rights: {done.stderr.strip()}")

    mount("size=2m")
    try:
        yield lambda option: mount(f"remount,{option}")
    finally:
        os.chdir("/")
        forget()
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.fixture
def lock(database):
    companion = Companion(LOCK, str(database))
    try:
        yield companion
    finally:
        companion.end()


def train(code: str = "faulty", **before) -> None:
    """A training of four epochs, with something done before the epoch of that name: `two`, `three`, `four`, or `the_end`."""
    with runs.live(describe(code), None) as log:
        for name, epoch in zip(("one", "two", "three", "four"), HISTORY, strict=True):
            before.get(name, str)()
            log(runs.Outcome(HISTORY[: epoch.epoch]))
        log(WHOLE)
        before.get("the_end", str)()


def complete(code: str = "faulty") -> None:
    forget()
    runs.complete(describe(code), None, WHOLE)


def assert_up_to_date(code: str = "faulty") -> None:
    (run,) = found(code)
    assert [steps(run, key) for key in KEYS] == [[1, 2, 3, 4]] * 3
    assert run.info.status == "FINISHED"
    assert run.data.tags["weights"] == WEIGHTS
    assert run.data.params["lr"] == "0.001"
    assert [entry.tags[0].value for entry in run.inputs.dataset_inputs] == ["train", "validation"]


WAITING = "waiting for MLflow, 5 s at most; again stops at once"


def warning(capfd, said: Sequence[str] = ()) -> str:
    """Return the warning: the last line on standard error, after these. It names the store and what repairs it."""
    *before, line = capfd.readouterr().err.splitlines()
    assert before == [*said]
    assert line.startswith(f"quartet: warning: MLflow ({shown(store.uri())}) failed: ")
    assert line.endswith(" -- the work goes on without it; `make sync` brings it up to date")
    assert "SELECT" not in line
    assert "INSERT" not in line
    return line


# The store is locked.


def test_a_locked_store_costs_one_warning(lock, capfd):
    """The next run makes up for it."""
    lock.tell()
    train()
    assert "database is locked" in warning(capfd)
    lock.tell()
    train()
    assert capfd.readouterr().err == ""
    assert_up_to_date()


def test_a_store_locked_from_the_second_epoch_on_keeps_the_first(lock, capfd):
    """`make sync` adds the rest."""
    train(two=lock.tell)
    assert "database is locked" in warning(capfd)
    lock.tell()
    (run,) = found("faulty")
    assert (run.info.status, steps(run)) == ("RUNNING", [1])
    complete()
    assert_up_to_date()


def test_nothing_is_missing_after_a_lock_that_ends_early(lock, capfd):
    """It ends before the training does."""
    train(two=lock.tell, four=lock.tell)
    assert "database is locked" in warning(capfd)
    assert_up_to_date()


def test_a_store_locked_at_the_very_end_costs_one_warning(lock, capfd):
    train(the_end=lock.tell)
    assert "database is locked" in warning(capfd)
    lock.tell()
    (run,) = found("faulty")
    assert (run.info.status, steps(run)) == ("RUNNING", [1, 2, 3, 4])
    complete()
    assert_up_to_date()


@pytest.mark.parametrize("error", [KeyboardInterrupt, process.Terminated, errors.WorkError])
def test_a_store_that_fails_hides_no_end_of_a_training(lock, monkeypatch, capfd, error):
    monkeypatch.setattr(store, "PATIENCE", 2)  # a second later than the line that names the wait

    def fail() -> None:
        lock.tell()
        raise error

    with pytest.raises(error):
        train(three=fail)
    said = [] if error is errors.WorkError else [f"quartet: stopping: {WAITING}"]
    assert "database is locked" in warning(capfd, said)


# The store cannot be written.


def test_a_read_only_store_costs_one_warning(disk, tmp_path, template, monkeypatch, capfd):
    """The next run makes up for it."""
    furnish(tmp_path, template, monkeypatch)
    disk("ro")
    train()
    assert "attempt to write a readonly database" in warning(capfd)
    disk("rw")
    forget()
    train()
    assert_up_to_date()


def test_a_store_that_cannot_be_made_costs_one_warning_at_once(disk, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    disk("ro")
    started = time.monotonic()
    train()
    assert time.monotonic() - started < 60  # MLflow alone tries for longer
    assert "unable to open database file" in warning(capfd)


def test_a_full_disk_costs_one_warning(disk, tmp_path, template, monkeypatch, capfd):
    """Nothing is missing once there is room."""
    furnish(tmp_path, template, monkeypatch)
    rest = tmp_path / "rest"

    def fill() -> None:
        with contextlib.suppress(OSError), rest.open("wb", buffering=0) as file:
            while file.write(bytes(PAGE)):
                pass

    train(two=fill, the_end=rest.unlink)
    assert "database or disk is full" in warning(capfd)
    assert_up_to_date()


# The store is damaged.


def garbage(database: Path) -> None:
    database.write_bytes(bytes(range(256)) * 64)


def pages(database: Path) -> None:
    content = database.read_bytes()
    database.write_bytes(content[: 2 * PAGE] + b"\xa5" * (len(content) - 3 * PAGE) + content[-PAGE:])


def half(database: Path) -> None:
    os.truncate(database, database.stat().st_size // 2 // PAGE * PAGE)


@pytest.mark.parametrize("moment", ["one", "three"])
@pytest.mark.parametrize(
    ("damage", "problem"),
    [(garbage, "file is not a database"), (pages, "disk image is malformed"), (half, "disk image is malformed")],
)
def test_a_damaged_store_costs_one_warning(database, capfd, damage, problem, moment):
    """It says how to put that right."""
    train("whole")
    if moment == "one":
        damage(database)
        train()
    else:
        train(three=lambda: damage(database))
    line = warning(capfd)
    assert problem in line
    assert f"move {database} away, and it is made again" in line


def test_a_damaged_store_that_was_moved_away_is_made_again(database, capfd):
    garbage(database)
    train()
    assert f"move {database} away" in warning(capfd)
    assert not pipeline_runs.bring_up_to_date(TRAININGS)
    assert f"move {database} away" in warning(capfd)
    database.rename(database.with_suffix(".damaged"))
    assert pipeline_runs.bring_up_to_date(TRAININGS)
    complete()
    assert_up_to_date()
    assert capfd.readouterr().err == ""


def test_an_empty_file_is_made_a_store(database, capfd):
    database.write_bytes(b"")
    assert pipeline_runs.bring_up_to_date(TRAININGS)
    train()
    assert capfd.readouterr().err == ""
    assert_up_to_date()


def test_a_store_removed_during_a_training_costs_one_warning(database, template, capfd):
    train(two=database.unlink)
    warning(capfd)
    shutil.copy(template, database)  # as MLflow would make it
    store.repair_moved()
    complete()
    assert_up_to_date()


# The store is another MLflow's.


def test_a_store_of_an_older_schema_is_upgraded_without_a_word(database, capfd):
    from alembic import command
    from mlflow.store.db import utils

    train("old")
    forget()
    engine = utils.create_sqlalchemy_engine(f"sqlite:///{database}")
    config = utils._get_alembic_config(str(engine.url))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "-2")
    assert utils._get_schema_version(engine) != utils._get_latest_schema_revision()
    train()
    assert capfd.readouterr().err == ""
    assert utils._get_schema_version(engine) == utils._get_latest_schema_revision()
    engine.dispose()
    assert_up_to_date("old")
    assert_up_to_date()


def test_a_store_of_an_unknown_schema_costs_one_warning(database, template, capfd):
    """It says how to put that right."""
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'fedcba987654'")
    train()
    line = warning(capfd)
    assert "out-of-date database schema (found version fedcba987654" in line
    assert f"`mlflow db upgrade sqlite:///{database}`, or move it away if a newer MLflow made it" in line
    database.unlink()
    shutil.copy(template, database)  # as MLflow would make it
    store.repair_moved()
    complete()
    assert_up_to_date()


# What was deleted on MLflow's pages.


def test_a_run_that_is_deleted_during_its_training_is_made_again(database, capfd):
    train(three=lambda: store.client().delete_run(found("faulty")[0].info.run_id))
    assert "must be in the 'active' state" in warning(capfd)
    complete()
    assert_up_to_date()


def test_a_deleted_experiment_is_brought_back(database, capfd):
    train("before")
    client = store.client()
    client.delete_experiment(store.experiment_id(client))
    train()
    assert capfd.readouterr().err == ""
    for code in ("before", "faulty"):
        assert_up_to_date(code)


# The training fails.


def test_a_training_that_diverges_ends_its_run_as_failed(database, tiny, capfd):
    examples = loop.Examples(torch.from_numpy(tiny.images), torch.from_numpy(tiny.labels.astype(np.int64)))
    recipe = {"epochs": 3, "batch_size": 21, "schedule": "constant", "augment": False, "seed": 0}
    absurd = Hyperparameters.model_construct(**recipe, lr=1e30, classes=10, bn=False)
    with (
        pytest.raises(loop.DivergedError, match=r"became (nan|inf) in epoch \d+, step \d+; lower lr"),
        runs.live(describe("diverged"), None) as log,
    ):
        loop.fit(absurd, examples, examples, on_epoch=lambda epochs: log(runs.Outcome(epochs)))
    (run,) = found("diverged")
    assert run.info.status == "FAILED"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_makes_no_second_run(database, capfd, value):
    """It may come of the last step of an epoch, before the next one tells that the training diverged."""
    epochs = [HISTORY[0], HISTORY[1]._replace(val_loss=value)]
    for _ in range(2):
        with contextlib.suppress(loop.DivergedError), runs.live(describe("not finite"), None) as log:
            log(runs.Outcome(epochs[:1]))
            log(runs.Outcome(epochs))
            raise loop.DivergedError("the training loss became nan")
        (run,) = found("not finite")
        assert (run.info.status, steps(run)) == ("FAILED", [1, 2])
    assert capfd.readouterr().err == ""


# The server fails. MLflow's own, in a process that is killed and started again.


class Mlflow(Companion):
    """MLflow's tracking server at an address that stays."""

    port = 0

    def start(self, fault: str = "none", path: str = "/") -> None:
        self.port = int(self.tell(f"start {self.port} {fault} {path}"))

    def kill(self) -> None:
        self.tell("kill")


@pytest.fixture(scope="module")
def importing(template, tmp_path_factory):
    """A process that has all of MLflow's server in memory, not yet serving."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(template, folder)
    server = Mlflow(
        SERVER,
        _MLFLOW_SERVER_FILE_STORE=f"sqlite:///{folder}/mlflow.db",
        _MLFLOW_SERVER_ARTIFACT_ROOT=str(folder / "artifacts"),
        MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
        MLFLOW_DISABLE_TELEMETRY="true",
    )
    try:
        yield server
    finally:
        server.end()


@pytest.fixture
def server(importing, tmp_path, monkeypatch):
    """MLflow's tracking server, in use."""
    importing.start()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{importing.port}")
    try:
        yield importing
    finally:
        importing.kill()


@shares_server
def test_a_server_that_is_killed_costs_one_warning(server, capfd):
    """`make sync` makes up for it."""
    train("killed server", two=server.kill)
    warning(capfd)
    server.start()
    (run,) = found("killed server")
    assert (run.info.status, steps(run)) == ("RUNNING", [1])
    complete("killed server")
    assert_up_to_date("killed server")


@shares_server
def test_nothing_is_missing_if_the_server_is_back_before_the_end(server, capfd):
    train("restarted server", two=server.kill, three=server.start)
    warning(capfd)
    assert_up_to_date("restarted server")


@shares_server
@pytest.mark.parametrize("path", ["runs/create", "runs/log-batch", "runs/log-inputs", "runs/update"])
def test_a_server_that_dies_leaves_nothing_half_done(server, capfd, path):
    """It dies after a request, before its answer."""
    code = f"died after {path}"
    server.kill()
    server.start("die", path)
    train(code)
    warning(capfd)
    server.kill()
    server.start()
    train(code)
    assert capfd.readouterr().err == ""
    assert_up_to_date(code)


@shares_server
@pytest.mark.parametrize("path", ["runs/create", "runs/log-batch", "runs/log-inputs", "runs/update"])
def test_an_answer_that_is_lost_doubles_nothing(server, capfd, path):
    code = f"no answer to {path}"
    server.kill()
    server.start("lose", path)
    train(code)
    assert capfd.readouterr().err == ""
    complete(code)
    assert_up_to_date(code)


@shares_server
def test_a_server_that_drips_in_the_middle_costs_one_warning(server, monkeypatch, capfd):
    def drip() -> None:
        server.kill()
        server.start("drip", "runs/log-batch")
        monkeypatch.setattr(attempts, "DEADLINE", 3)

    with bounded():
        train("dripped on", two=drip)
    assert "it did not end within 3 s" in warning(capfd)
    server.kill()
    let_go()
    server.start()
    (run,) = found("dripped on")
    assert (run.info.status, steps(run)) == ("RUNNING", [1, 2])  # the server did what it was asked
    complete("dripped on")
    assert_up_to_date("dripped on")


@shares_server
def test_a_stop_waits_for_a_dripping_server_only_a_while(server, monkeypatch, capfd):
    monkeypatch.setattr(attempts, "GRACE", 4)
    code = "stopped while it dripped"

    def stop() -> None:
        server.kill()
        server.start("drip", "runs/update")
        raise process.Terminated(signal.SIGTERM)

    with bounded(), pytest.raises(process.Terminated):
        train(code, three=stop)
    said = "quartet: stopping: waiting for MLflow, 4 s at most; again stops at once"
    assert "it did not end within 4 s" in warning(capfd, [said])
    server.kill()
    let_go()
    server.start()
    (run,) = found(code)
    assert (run.info.status, steps(run)) == ("KILLED", [1, 2])  # the server did what it was asked


# This server is not MLflow's: it fails, answers wrongly, never answers, or never stops answering.


class Stub(ThreadingHTTPServer):
    """Answers every request alike."""

    daemon_threads = False  # so that server_close waits for the threads

    def __init__(self, answer: Callable[[StubHandler], None]) -> None:
        super().__init__(("127.0.0.1", 0), StubHandler)
        self.answer, self.requests, self.sent = answer, 0, 0
        self.asked, self.stopped = threading.Event(), threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """Keep standard error for the warning: the client hangs up where it gets no answer, or one without an end."""


class StubHandler(BaseHTTPRequestHandler):
    def answer(self) -> None:
        self.server.requests += 1
        self.server.asked.set()
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.answer(self)

    do_GET = do_POST = answer  # noqa: N815 -- http.server's names

    def head(self, status: int = 200, **headers: object) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()

    def drip(self, start: bytes, byte: bytes) -> None:
        self.wfile.write(start)
        while not self.server.stopped.wait(0.3):
            self.wfile.write(byte)

    def log_message(self, *_: object) -> None:
        """Keep standard error for the warning."""


def reply(status: int, body: bytes, **headers: object) -> Callable[[StubHandler], None]:
    def answer(handler: StubHandler) -> None:
        handler.head(status, Content_Length=len(body), **headers)
        handler.wfile.write(body)

    return answer


def never(handler: StubHandler) -> None:
    handler.server.stopped.wait(60)


def drip_headers(handler: StubHandler) -> None:
    handler.drip(b"HTTP/1.0 200 OK\r\nX-Slow: ", b"a")


def drip_body(handler: StubHandler) -> None:
    handler.head(Content_Type="application/json")
    handler.drip(b"{", b" ")


def drip_chunks(handler: StubHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    handler.drip(b"", b"1\r\n \r\n")


def without_end(block: bytes, end: int, **headers: object) -> Callable[[StubHandler], None]:
    """It ends all the same after so many bytes, so that a client that does not bound it fails a test and not the machine."""

    def answer(handler: StubHandler) -> None:
        handler.head(**headers)
        handler.connection.settimeout(0.1)  # the client stops to read and keeps the connection
        while handler.server.sent < end and not handler.server.stopped.is_set():
            with contextlib.suppress(TimeoutError):
                handler.server.sent += handler.connection.send(block[handler.server.sent % len(block) :])

    return answer


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """Starts a server that answers every request alike and has MLflow use it."""
    with contextlib.ExitStack() as stack:

        def start(answer: Callable[[StubHandler], None]) -> Stub:
            server = stack.enter_context(Stub(answer))
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            for end in (thread.join, server.shutdown, server.stopped.set):
                stack.callback(end)
            monkeypatch.chdir(tmp_path)
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
            return server

        yield start


@contextlib.contextmanager
def bounded(seconds: int = 40):
    """Fail what waits for longer than any server may cost, so that a wait without an end fails a test and not the suite."""

    def fail(*_: object) -> None:
        pytest.fail(f"it still waits after {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)  # again, if something catches it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def let_go() -> None:
    """Wait until what was given up has ended, as it does once its server is gone."""
    for thread in threading.enumerate():
        if thread.name == attempts.THREAD:
            thread.join(30)
            assert not thread.is_alive()


@pytest.mark.parametrize(
    ("status", "body", "problem"),
    [
        (500, b"", "500"),
        (500, b'{"error_code": "INTERNAL_ERROR", "message": "the\\nshelf\\nbroke"}', "500"),
        (403, b"Forbidden", "403"),
        (404, b"no such page", "404"),
        (200, b"<html>Log in to this network</html>", "Log in to this network"),
    ],
)
def test_a_server_that_answers_wrongly_costs_one_warning(stub, capfd, status, body, problem):
    server = stub(reply(status, body))
    train()
    assert problem in warning(capfd)
    assert 1 <= server.requests <= 2


def test_a_server_that_never_answers_has_the_time_that_is_set(stub, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server = stub(never)
    started = time.monotonic()
    train()
    assert time.monotonic() - started < 60
    assert "timed out" in warning(capfd)
    assert server.requests == 1
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "1"


def test_a_server_that_never_answers_is_given_up_by_default(stub, monkeypatch, capfd):
    for name in ("TIMEOUT", "MAX_RETRIES"):
        monkeypatch.delenv(f"MLFLOW_HTTP_REQUEST_{name}", raising=False)
    assert int(store.SETTINGS["MLFLOW_HTTP_REQUEST_TIMEOUT"]) <= 10
    monkeypatch.setitem(store.SETTINGS, "MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    server = stub(never)
    started = time.monotonic()
    train()
    assert time.monotonic() - started < 60
    assert "timed out" in warning(capfd)
    assert 1 <= server.requests <= 2


@pytest.mark.parametrize("drip", [drip_headers, drip_body, drip_chunks])
def test_a_server_that_drips_is_given_up_at_the_deadline(stub, monkeypatch, capfd, drip):
    """A byte now and then is within any time for the next byte."""
    monkeypatch.setattr(attempts, "DEADLINE", 2)
    server = stub(drip)
    with bounded():
        train()
    assert "TimeoutError: it did not end within 2 s" in warning(capfd)
    assert server.requests <= 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_asks_for_patience_is_not_waited_for(stub, capfd, status):
    server = stub(reply(status, b"", Retry_After=3600))
    with bounded():
        train()
    assert str(status) in warning(capfd)
    assert 1 <= server.requests <= 2


@pytest.mark.parametrize(
    "answer",
    [
        without_end(bytes(1 << 16), end=256 << 20),
        without_end(gzip.compress(bytes(1 << 20)), end=256 << 10, Content_Encoding="gzip"),  # a thousand times as much
    ],
    ids=["plain", "packed"],
)
def test_an_answer_without_end_is_read_so_far(stub, monkeypatch, capfd, answer):
    monkeypatch.setattr(store, "LONGEST_ANSWER", 1 << 20)
    server = stub(answer)
    with bounded():
        train()
    assert "the server's answer is longer than 1,048,576 bytes" in warning(capfd)
    assert server.sent < 64 << 20  # what the sockets hold; what was not sent is in no memory
    assert server.requests == 1


@pytest.mark.parametrize(
    "address",
    [
        "http://user:{}@127.0.0.1:9",
        "https://{}@127.0.0.1:9",
        "http://127.0.0.1:9/?token={}",
        "http://user:{}@@127.0.0.1:9",
        "http:/user:{}@127.0.0.1:9",
        "nosuch://user:{}@127.0.0.1/db",
        "user:{}@127.0.0.1/db",
        "postgresql://user:{}@127.0.0.1:9/db",
        "mysql+pymysql://127.0.0.1:9/db?user=me&password={}",
        "mssql+pyodbc:///?odbc_connect=DRIVER%3DX%3BPWD%3D{}",
        "http://user:{}@127.0.0.1:99999",
        "http://user:{}@[::1",
    ],
)
def test_the_secrets_of_a_stores_address_are_not_shown(address, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address.format("pa55%2Fw0rd"))
    train()
    told = warning(capfd)
    assert "***" in told
    assert not {secret for secret in ("pa55%2Fw0rd", "pa55/w0rd", "pa55%2fw0rd") if secret in told}
    assert {path.name for path in tmp_path.iterdir()} <= {".checkpoints"}


@pytest.mark.parametrize("status", ["500 \x1b[2J\x1b]0;owned\x07", "400 Bad"])
def test_a_servers_words_cannot_steer_the_terminal(stub, capfd, status):
    body = '{"error_code": "X", "message": "\\u001b[2J\\u202e\\r\\nquartet: all is well\x9b2J"}'.encode()

    def hostile(handler: StubHandler) -> None:
        handler.wfile.write(f"HTTP/1.0 {status}\r\nContent-Type: application/json\r\n\r\n".encode() + body)

    stub(hostile)
    train()
    assert warning(capfd).isprintable()


def test_nothing_begins_beside_what_was_given_up(database, monkeypatch, capfd):
    ended, begun = threading.Event(), []
    try:
        with monkeypatch.context() as hasty:
            hasty.setattr(attempts, "DEADLINE", 1)
            assert attempts.attempt(ended.wait) is attempts.FAILED
        assert "it did not end within 1 s" in warning(capfd)
        for _ in range(2):
            assert attempts.attempt(lambda: begun.append(1)) is attempts.FAILED
            assert "it has not ended what was given up" in warning(capfd)
        assert attempts.attempt(lambda: begun.append(1), quiet=True) is attempts.FAILED
    finally:
        ended.set()
        let_go()
    assert begun == []
    assert attempts.attempt(lambda: "done") == "done"
    assert capfd.readouterr().err == ""


# The stage's script, as DVC runs it.

# The same with another patience than it has.
PATIENT = """
import sys
from quartet.tracking import attempts
attempts.DEADLINE, attempts.GRACE = int(sys.argv.pop(1)), int(sys.argv.pop(1))
import train
train.process.run(train.main)
"""


class Stage:
    """A small project whose model `ten` trains for two epochs."""

    def __init__(self, root: Path, home: Path) -> None:
        self.root, self.store = root, root / "mlflow.db"
        self.env = Project(root, home).env | {"PYTHONPATH": str(ROOT / "src")}

    def train(self, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        return self._run(*before, sys.executable, str(ROOT / "src/train.py"), "ten")

    @contextlib.contextmanager
    def started(self, server: Stub, deadline: int, grace: int) -> Iterator[subprocess.Popen[str]]:
        command = [sys.executable, "-c", PATIENT, str(deadline), str(grace), "ten"]
        uri, pipe = f"http://127.0.0.1:{server.server_port}", subprocess.PIPE
        env = self.env | {"MLFLOW_TRACKING_URI": uri}
        training = subprocess.Popen(command, cwd=self.root, env=env, stdout=pipe, stderr=pipe, text=True)
        try:
            with bounded(100):
                yield training
        finally:
            training.kill()
            training.communicate()

    def sync(self) -> subprocess.CompletedProcess[str]:
        return self._run("quartet", "sync")

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=self.root, env=self.env, capture_output=True, text=True, check=False)

    def outputs(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted((self.root / paths.TRAIN / "ten").iterdir())}

    def assert_up_to_date(self, monkeypatch) -> None:
        monkeypatch.chdir(self.root)
        forget()
        client = store.client()
        (run,) = client.search_runs([store.experiment_id(client)])
        assert [steps(run, key) for key in KEYS] == [[1, 2]] * 3
        assert run.info.status == "FINISHED"

    def warning(self, done: subprocess.CompletedProcess[str]) -> str:
        assert done.returncode == 0, done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"quartet: warning: MLflow (sqlite:///{self.store}) failed: ")
        assert "`make sync`" in line
        return line


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, template):
    """A training that nothing disturbed."""
    root, home = tmp_path_factory.mktemp("undisturbed"), tmp_path_factory.mktemp("home")
    text = PARAMS.read_text(encoding="utf-8")
    assert text.count("  epochs: 10\n") == 1
    (root / "params.yaml").write_text(text.replace("  epochs: 10\n", "  epochs: 2\n"), encoding="utf-8")
    random = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        digits = np.arange(60, dtype=np.uint8) % 10
        images = {name: random.integers(0, 256, (60, 28, 28), dtype=np.uint8) for name in ("train", "validation")}
        splits.save_all({name: splits.Split(shown, digits) for name, shown in images.items()}, catalogue.SAMPLE.source)
        furnish(root, template, patch)
    forget()
    stage = Stage(root, home)
    done = stage.train()
    assert (done.returncode, done.stderr) == (0, "")
    assert tuple(stage.outputs()) == OUTPUTS
    return stage


@pytest.fixture
def stage(undisturbed, tmp_path, template, monkeypatch):
    """The same before its training."""
    for name in ("params.yaml", "data"):
        source = undisturbed.root / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    furnish(tmp_path, template, monkeypatch)
    forget()
    return Stage(tmp_path, Path(undisturbed.env["HOME"]))


def bound_by_modes() -> tuple[str, ...]:
    """What goes before a command that file modes are to bind, though root runs it."""
    if os.geteuid():
        return ()
    before = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    if shutil.which("setpriv") is None or subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        pytest.skip("file modes do not bind root, and setpriv cannot change that here")
    return before


@shares_project
def test_the_script_trains_beside_a_locked_store(stage, undisturbed, monkeypatch):
    """To the same bytes; `make sync` makes up for it."""
    lock = Companion(LOCK, str(stage.store))
    try:
        lock.tell()
        done = stage.train()
    finally:
        lock.end()
    assert "database is locked" in stage.warning(done)
    assert stage.outputs() == undisturbed.outputs()
    done = stage.sync()
    assert (done.returncode, done.stderr) == (0, "")
    assert "agrees with stages/" in done.stdout
    stage.assert_up_to_date(monkeypatch)


@shares_project
def test_the_script_trains_beside_a_read_only_store(stage, undisturbed, monkeypatch):
    """To the same bytes; the next run makes up for it."""
    before = bound_by_modes()
    stage.store.chmod(0o444)
    done = stage.train(before)
    assert "attempt to write a readonly database" in stage.warning(done)
    assert stage.outputs() == undisturbed.outputs()
    stage.store.chmod(0o644)
    done = stage.train(before)
    assert (done.returncode, done.stderr) == (0, "")
    assert stage.outputs() == undisturbed.outputs()
    stage.assert_up_to_date(monkeypatch)


@shares_project
def test_the_script_trains_on_beside_a_dripping_server(stage, undisturbed, stub):
    server = stub(drip_body)
    with stage.started(server, deadline=3, grace=3) as training:
        _, error = training.communicate()
    assert error == (
        f"quartet: warning: MLflow ({store.uri()}) failed: TimeoutError: it did not end within 3 s"
        " -- the work goes on without it; `make sync` brings it up to date\n"
    )
    assert training.returncode == 0
    assert stage.outputs() == undisturbed.outputs()
    assert server.requests <= 1


@shares_project
def test_the_script_trains_with_its_streams_closed(stage, undisturbed, monkeypatch):
    done = stage.train(before=("sh", "-c", '"$@" 0<&- 1>&- 2>&-', "sh"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert stage.outputs() == undisturbed.outputs()
    stage.assert_up_to_date(monkeypatch)


@shares_project
@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
def test_ctrl_c_is_answered_while_a_server_drips(stage, stub, again):
    server, grace = stub(drip_body), 90 if again else 1
    with stage.started(server, deadline=90, grace=grace) as training:
        assert server.asked.wait(60)
        begun = time.monotonic()
        training.send_signal(signal.SIGINT)
        said = training.stderr.readline()
        assert said == f"quartet: Ctrl-C: waiting for MLflow, {grace} s at most; again stops at once\n"
        assert time.monotonic() - begun < 10
        if again:
            training.send_signal(signal.SIGINT)
        assert training.communicate(timeout=30) == ("", "quartet: stopped by Ctrl-C\n")
        assert training.returncode == 130


# A command that is stopped at its work, and whose attempt to say so then waits.
STOPPED = """
import threading, time
from quartet.base import process
from quartet.tracking import attempts
attempts.GRACE = 90
def main():
    try:
        print("at work", flush=True)
        time.sleep(90)
    finally:
        attempts.attempt(threading.Event().wait, stopping=True)
process.run(main)
"""


def test_a_second_ctrl_c_stops_what_a_first_one_made_wait(database):
    pipe = subprocess.PIPE
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([sys.executable, "-c", STOPPED], env=env, stdout=pipe, stderr=pipe, text=True) as command:
        try:
            with bounded():
                assert command.stdout.readline() == "at work\n"
                command.send_signal(signal.SIGINT)
                said = command.stderr.readline()
                assert said == "quartet: stopping: waiting for MLflow, 90 s at most; again stops at once\n"
                command.send_signal(signal.SIGINT)
                _, error = command.communicate()
                assert error.splitlines()[-1] == "quartet: stopped by Ctrl-C"
                assert command.returncode == 130
        finally:
            command.kill()
