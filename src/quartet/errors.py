"""Errors that a user can act on, and how a command ends with one."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType


class WorkError(Exception):
    """Something failed while working: exit status 1."""

    exit_status = 1


class InputError(WorkError):
    """A parameter, a file or a setting is not what was expected: exit status 2."""

    exit_status = 2


class Terminated(BaseException):
    """SIGTERM, raised in the main thread so that `with` blocks and `finally` clauses run."""


def _raise_terminated(_signal: int, _frame: FrameType | None) -> None:
    raise Terminated


def run(main: Callable[[], None]) -> None:
    """Run a command and exit with its status; a user's mistake is one line on standard error, without a traceback.

    Status 0: done; 1: failed while working; 2: bad input; 130 and 143: stopped by Ctrl-C and by SIGTERM.
    """
    signal.signal(signal.SIGTERM, _raise_terminated)
    try:
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
    except Terminated:
        _say("stopped by SIGTERM")
        sys.exit(128 + signal.SIGTERM)


def warn(message: str) -> None:
    """Print one warning line on standard error."""
    _say(f"warning: {message}")


def _say(message: str) -> None:
    print("quartet: " + " ".join(message.split()), file=sys.stderr, flush=True)
