"""`quartet results`: print the results table of the last run, and what can be done next."""

from __future__ import annotations

import subprocess
import textwrap
from collections.abc import Sequence

from quartet.base import errors, files, paths, process
from quartet.base.errors import InputError
from quartet.reporting import headings

SAVE = "git switch -c mine && git commit -am 'My baseline'"


def page_for_a_terminal(page: str) -> str:
    """Return a page without its details, and its parts in the other order: what matters most is what one sees last."""
    title, *parts = page.partition(f"\n{headings.DETAILS}\n")[0].rstrip("\n").split("\n## ")
    return "\n\n".join([*(f"## {part}" for part in reversed(parts)), title])


def is_changed(path: str) -> bool:
    """Tell whether a file is not as git has it in the last commit."""
    done = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", path], capture_output=True, check=False)
    return done.returncode == 1


def next_steps(data: str) -> str:
    """Return what to do next, after a run on this data, `mnist` or `sample`."""
    steps = {}
    if is_changed("dvc.lock"):
        steps[SAVE] = (
            "first: the last commit has other results, which are not in this cache; `dvc exp show` has `!` for them, and"
            " nothing to compare with"
        )
    steps["make ui"] = "compare the runs in MLflow"
    steps[". .venv/bin/activate"] = (
        "then: dvc exp run -S bn=true; dvc exp show --only-changed; dvc metrics diff; dvc plots show"
    )
    if data != "mnist":
        steps["QUARTET_MNIST=<directory or URL of its four files> make"] = "this was sample data, now MNIST"
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
        raise InputError(f"{paths.RESULTS}: missing; `make` makes it") from None
    for line in page_for_a_terminal(page).splitlines():
        errors.tell(line)
    print(f"\nNext:\n{next_steps(files.read_record(paths.SOURCE, 'fetch')['data'])}")
