from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from conftest import ROOT
from quartet import errors

PREAMBLE = "import sys, time, quartet.errors as errors\n"
WAIT = """
def main():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("cleaned up", flush=True)
errors.run(main)
"""
HELD = """
def main():
    with errors.held():
        print("ready", flush=True)
        time.sleep(0.5)
        print("done", flush=True)
    time.sleep(60)
errors.run(main)
"""


def start(code, **variables):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **variables}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + code], env=environment, stdout=pipe, stderr=pipe, text=True, encoding="utf-8"
    )


@pytest.mark.parametrize(
    ("body", "status", "line"),
    [
        ("raise errors.InputError('a key: expected this,\\n  found that')", 2, "error: a key: expected this, found that"),
        ("raise errors.WorkError('it failed')", 1, "error: it failed"),
        ("open('/no/such/file')", 1, "error: /no/such/file: No such file or directory"),
        ("raise OSError(28, 'No space left on device')", 1, "error: No space left on device"),
        ("raise OSError('odd')", 1, "error: odd"),
        ("raise KeyboardInterrupt", 130, "stopped by Ctrl-C"),
        ("errors.warn('take\\ncare')", 0, "warning: take care"),
    ],
)
def test_a_command_ends_with_its_status_and_one_line(body, status, line):
    process = start(f"errors.run(lambda: exec({body!r}))")
    assert process.communicate(timeout=60) == ("", f"quartet: {line}\n")
    assert process.returncode == status


def test_a_command_that_succeeds_says_nothing_and_goes_on():
    process = start("errors.run(lambda: None); print('after')")
    assert process.communicate(timeout=60) == ("after\n", "")
    assert process.returncode == 0


def test_a_mistake_in_the_program_keeps_its_traceback():
    process = start("errors.run(lambda: 1 / 0)")
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert error.startswith("Traceback")
    assert error.endswith("ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize(
    ("number", "status", "line"),
    [
        (signal.SIGTERM, 143, "stopped by SIGTERM"),
        (signal.SIGINT, 130, "stopped by Ctrl-C"),
        (signal.SIGHUP, 129, "stopped by SIGHUP"),
    ],
)
@pytest.mark.parametrize(("code", "said"), [(WAIT, "cleaned up\n"), (HELD, "done\n")], ids=["cleaning up", "held"])
def test_a_stopped_command_first_does_what_it_must(code, said, number, status, line):
    process = start(code)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.communicate(timeout=60) == (said, f"quartet: {line}\n")
    assert process.returncode == status


def test_a_command_whose_dvc_is_gone_already_stops_in_one_line():
    gone = subprocess.Popen(["true"])
    gone.wait()
    for _ in range(10):  # whichever comes first, the signal or the work
        process = start("errors.run(lambda: time.sleep(60))", DVC_PID=str(gone.pid))
        assert process.communicate(timeout=60) == ("", "quartet: stopped by SIGTERM\n")
        assert process.returncode == 143


def test_a_command_whose_dvc_is_there_or_unknown_goes_on():
    for pid in (str(os.getpid()), ""):
        process = start("errors.run(lambda: time.sleep(0.5)); print('after')", DVC_PID=pid)
        assert process.communicate(timeout=60) == ("after\n", "")


def test_being_terminated_is_no_exception_that_a_broad_clause_catches():
    assert not issubclass(errors.Terminated, Exception)
    assert issubclass(errors.InputError, errors.WorkError)


def test_a_second_signal_is_let_through():
    process = start(HELD.replace("0.5", "60"))
    assert process.stdout.readline() == "ready\n"
    for number in (signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)
        time.sleep(0.5)
    assert process.communicate(timeout=30)[0] == ""
    assert process.returncode in (130, 143)


def test_what_holds_signals_back_leaves_the_handlers_as_they_were():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with errors.held():
        assert signal.getsignal(signal.SIGINT) not in before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
