"""`quartet results`: print the results table of the last run, and what can be done next."""

from __future__ import annotations

import subprocess
import textwrap
from collections.abc import Sequence
from pathlib import Path

from quartet.base import errors, files, paths, process
from quartet.base.errors import InputError
from quartet.commands import outputs
from quartet.data import catalogue
from quartet.reporting import headings

SAVE = "git switch -c {} && git commit -am 'My baseline'"


def page_for_a_terminal(page: str) -> str:
    """Return a page without its details, and its parts in the other order: what matters most is what one sees last."""
    title, *parts = page.partition(f"\n{headings.DETAILS}\n")[0].rstrip("\n").split("\n## ")
    return "\n\n".join([*(f"## {part}" for part in reversed(parts)), title])


def why_commit() -> str:
    """Say why nothing should be compared with the last commit before these results are committed; "" if it can be."""
    if not _said("git", "status", "--porcelain", "--", "dvc.lock"):
        return ""
    committed, here = _said("git", "show", "HEAD:dvc.lock"), Path("dvc.lock").read_text(encoding="utf-8")
    metrics = outputs.of_stage(committed, "evaluate").get(paths.METRICS.as_posix())
    if not (metrics and outputs.in_cache(metrics)[0].exists()):
        return (
            "the results of the last commit are not in this cache, so `dvc exp show` has `!` for them, and nothing to"
            " compare with"
        )
    theirs, ours = (outputs.of_stage(lock, "fetch").get(paths.SOURCE.as_posix()) for lock in (committed, here))
    if theirs != ours:
        return (
            "the last commit has results on other data, with which `dvc exp show` and `dvc metrics diff` would compare these"
        )
    return ""


def free_branch() -> str:
    """Return the first of `mine`, `mine-2` and so on that is not a branch yet."""
    branches = _said("git", "branch", "--format=%(refname:short)").split()
    names = ("mine", *(f"mine-{number}" for number in range(2, len(branches) + 3)))
    return next(name for name in names if name not in branches)


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def next_steps(data: str) -> str:
    """Return what to do next, after a run on this data, by its name in params.yaml."""
    steps = {}
    if why := why_commit():
        steps[SAVE.format(free_branch())] = f"first: {why}"
    steps[str(paths.PAGE)] = "open it in a browser: results, misread images, a sheet to draw on"
    steps["make ui"] = "compare the runs in MLflow"
    steps[". .venv/bin/activate"] = "then: dvc exp run -S bn=true; dvc metrics diff; dvc plots show; README.md has more"
    if data == catalogue.SAMPLE.name:
        steps["QUARTET_MNIST=<directory or URL of its four files> make"] = "train on MNIST: this run used sample data"
    indent = " " * 6
    return "\n".join(
        f"  {command}\n{textwrap.fill(what, 80, initial_indent=indent, subsequent_indent=indent)}"
        for command, what in steps.items()
    )


def main(arguments: Sequence[str]) -> None:
    """Print the results of the last run, and what can be done next."""
    process.Parser(prog="quartet results", description=main.__doc__).parse_args(arguments)
    try:
        page = paths.RESULTS.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{paths.RESULTS}: missing; `make` makes it, in the project's root") from None
    data = files.read_record(paths.SOURCE, "fetch")["data"]
    for line in page_for_a_terminal(page).splitlines():
        errors.tell(line)
    print(f"\nNext:\n{next_steps(data)}")
