"""Errors that a user can act on, and the one line on standard error that says so."""

from __future__ import annotations

import sys

from quartet.base.redaction import shown


class WorkError(Exception):
    """Something failed while working: exit status 1."""

    exit_status = 1


class InputError(WorkError):
    """A parameter, a file or a setting is not what was expected: exit status 2."""

    exit_status = 2


def warn(message: str) -> None:
    """Print one warning line on standard error."""
    say(f"warning: {message}")


def say(message: str) -> None:
    """Print a message on standard error, as one line that names this program, without what `shown` removes."""
    print("quartet: " + shown(" ".join(message.split())), file=sys.stderr, flush=True)


def tell(message: str) -> None:
    """Print a line on standard output that has text from outside, without what `shown` removes."""
    print(shown(message), flush=True)
