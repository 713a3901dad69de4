"""Errors that a user can act on, and how a command ends with one."""

from __future__ import annotations

import gc
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil


class WorkError(Exception):
    """Something failed while working: exit status 1."""

    exit_status = 1


class InputError(WorkError):
    """A parameter, a file or a setting is not what was expected: exit status 2."""

    exit_status = 2


class Terminated(BaseException):
    """SIGTERM or SIGHUP, raised in the main thread so that `with` blocks and `finally` clauses run."""


def _raise_terminated(number: int, _frame: FrameType | None) -> None:
    raise Terminated(number)


@contextmanager
def held() -> Iterator[None]:
    """Hold Ctrl-C, SIGTERM and SIGHUP back until the block ends; the second of them is let through.

    For code that an exception from outside would leave in a state that none can use: MLflow cut off within a transaction
    keeps its database locked until the process ends.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    came: list[int] = []

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def hold(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        restore()

    for number in before:
        signal.signal(number, hold)
    try:
        yield
    finally:
        restore()
        for late in came:
            signal.raise_signal(late)


def _stop_with(pid: int) -> None:
    """Wait for the end of that process, and stop this one as SIGTERM does."""
    with suppress(psutil.NoSuchProcess):
        dvc = psutil.Process(pid)
        while dvc.is_running() and dvc.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGTERM)


def run(main: Callable[[], None]) -> None:
    """Run a command and exit with its status; a user's mistake is one line on standard error, without a traceback.

    Status 0: done; 1: failed while working; 2: bad input; 129, 130 and 143: stopped by SIGHUP (its terminal is gone), by
    Ctrl-C and by SIGTERM. A stage whose dvc is killed stops as by SIGTERM, so that it does not work on beside the next run.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that the locale lacks is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    try:
        signal.signal(signal.SIGTERM, _raise_terminated)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(signal.SIGHUP, _raise_terminated)
        dvc = os.environ.get("DVC_PID", "")  # set in dvc.yaml; a shell that has no $PPID leaves it empty
        if dvc.isdigit():
            threading.Thread(target=_stop_with, args=(int(dvc),), daemon=True).start()
        main()
    except WorkError as error:
        _say(f"error: {error}")
        sys.exit(error.exit_status)
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        _say(f"error: {name}{error.strerror or error}")
        sys.exit(1)
    except KeyboardInterrupt:
        _say("stopped by Ctrl-C")
        sys.exit(128 + signal.SIGINT)
    except Terminated as terminated:
        number = signal.Signals(terminated.args[0])
        _say(f"stopped by {number.name}")
        sys.exit(128 + number)
    finally:
        gc.freeze()  # what ends anyway need not be searched for garbage: a second where PyTorch and MLflow are imported


def warn(message: str) -> None:
    """Print one warning line on standard error."""
    _say(f"warning: {message}")


def _say(message: str) -> None:
    print("quartet: " + " ".join(message.split()), file=sys.stderr, flush=True)
