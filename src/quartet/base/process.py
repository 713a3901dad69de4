"""How a command of this project runs and ends: exit statuses, signals, and the end of the dvc that started it."""

from __future__ import annotations

import argparse
import gc
import io
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import PurePath
from types import FrameType
from typing import NoReturn

import psutil

from quartet.base.errors import InputError, WorkError, say
from quartet.base.redaction import shown

SHELLS = ("sh", "bash", "dash", "ash", "ksh", "zsh", "csh", "tcsh", "fish")


class Parser(argparse.ArgumentParser):
    """A parser of command lines whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError; argparse would print how the command is used, and exit."""
        raise InputError(f"{self.prog}: {message}; `{self.prog} --help` explains it")


class Terminated(BaseException):
    """SIGTERM or SIGHUP, raised in the main thread so that `with` blocks and `finally` clauses run."""


def _named(number: int) -> str:
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def _raise_terminated(number: int, _frame: FrameType | None) -> None:
    raise Terminated(number)


@contextmanager
def held(waiting_for: str) -> Iterator[Sequence[int]]:
    """Hold Ctrl-C, SIGTERM and SIGHUP back until the block ends; the second of them is let through.

    The first one prints a line at once that names what is `waiting_for`. The block gets a list that grows by each signal.

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
        say(f"{_named(number)}: waiting for {waiting_for}")

    for number in before:
        signal.signal(number, hold)
    try:
        yield came
    finally:
        restore()
        for late in came:
            signal.raise_signal(late)


def dvc_above() -> psutil.Process | None:
    """Return the DVC among the parents of a stage, or None if it has ended already.

    DVC runs a stage through a shell, in its own session. So what is above the shells is DVC, or a program that uses its
    Python API. If DVC was killed, init or another process that adopts orphans is there, in a session of its own.
    """
    shells = {*SHELLS, PurePath(os.environ.get("SHELL", "")).name}
    with suppress(psutil.NoSuchProcess, ProcessLookupError):  # a parent may end meanwhile
        for parent in psutil.Process().parents():
            if PurePath(_command(parent)).name.lstrip("-") not in shells:
                return parent if os.getsid(parent.pid) == os.getsid(0) else None
    return None


def _command(found: psutil.Process) -> str:
    try:
        return str(found.cmdline()[0])
    except (psutil.AccessDenied, IndexError):
        return str(found.name())


def _stop_with(dvc: psutil.Process | None) -> None:
    """Wait for the end of DVC, and stop this process as SIGTERM does."""
    with suppress(psutil.NoSuchProcess):
        while dvc and dvc.is_running() and dvc.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGTERM)


def _open_streams() -> None:
    """Replace each standard stream that is closed, as by `2>&-`; else the next file that is opened would become it."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is the stream's
            os.set_inheritable(opened, True)
            setattr(sys, name, os.fdopen(opened, mode, closefd=False))


def run(main: Callable[[], None]) -> None:
    """Run a command and exit with its status; a user's mistake is one line on standard error, without a traceback.

    Status 0: done; 1: failed while working; 2: bad input; 129, 130 and 143: stopped by SIGHUP (its terminal is gone), by
    Ctrl-C and by SIGTERM. A stage whose dvc is killed stops as by SIGTERM, so that it does not work on beside the next run.
    """
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # characters that the locale lacks must not cause a failure
            stream.reconfigure(errors="backslashreplace")
    try:
        signal.signal(signal.SIGTERM, _raise_terminated)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # unless nohup ignores it
            signal.signal(signal.SIGHUP, _raise_terminated)
        if os.environ.get("DVC_STAGE"):  # set by DVC for its stages
            threading.Thread(target=_stop_with, args=(dvc_above(),), daemon=True).start()
        main()
    except WorkError as error:
        say(f"error: {error}")
        sys.exit(error.exit_status)
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        say(f"error: {name}{error.strerror or error}")
        sys.exit(1)
    except Exception:  # noqa: BLE001 -- a mistake of this project; its traceback may quote what is secret
        for line in traceback.format_exc().splitlines():
            print(shown(line), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        say(f"stopped by {_named(signal.SIGINT)}")
        sys.exit(128 + signal.SIGINT)
    except Terminated as terminated:
        number = terminated.args[0]
        say(f"stopped by {_named(number)}")
        sys.exit(128 + number)
    finally:
        gc.freeze()  # skips the last collection: it takes a second after PyTorch and MLflow were imported
