"""`quartet publish`: the figures and tables of this run on MNIST, into docs/ and between README.md's markers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from quartet.base import files, numerics, params, paths, process
from quartet.base.errors import InputError
from quartet.commands import outputs
from quartet.reporting import headings

DOCS = Path("docs")
README = Path("README.md")


def machine() -> str:
    """Return what numbers were made on: the processor, its cores, and the versions that readers ask for first."""
    return outputs.in_words(outputs.machine(), ("torch", "dvc", "mlflow"))


def replace_block(text: str, name: str, content: str, page: Path) -> str:
    """Replace what is between the markers of that name in the text of a page; InputError if it has no such markers."""
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        raise InputError(f"{page}: expected the markers {begin.strip()} and {end}; `git checkout {page}`")
    return f"{head}{begin}{content.rstrip()}\n{closed}{tail}"


def quote(name: str, content: str, page: Path = README) -> None:
    """Replace what is between a page's markers of that name."""
    files.write_bytes(page, replace_block(page.read_text(encoding="utf-8"), name, content, page).encode())


def quoted(results: str) -> str:
    """Return what README shows of the results page: the table of results, with what explains it."""
    return results.partition("\n\n")[2].partition(f"\n{headings.WHAT_CHANGES}\n")[0]


def main(arguments: Sequence[str]) -> None:
    """Write the results of this run on MNIST into docs/ and README.md, and the hashes of all outputs."""
    process.Parser(prog="quartet publish", description=main.__doc__).parse_args(arguments)
    if departure := numerics.departure():
        raise InputError(
            f"{departure}: others could not make these bytes; publish from an x86-64 processor with AVX2 and FMA"
        )
    if sys.version_info < (3, 11):
        raise InputError(
            "Python: expected 3.11 or newer, whose matplotlib draws the published bytes; make PYTHON=python3.11"
        )
    source = files.read_record(paths.SOURCE, "fetch")["data"]
    if source != "mnist":
        raise InputError(
            f"{paths.SOURCE}: expected mnist, found {source}: docs/ shows no other data; QUARTET_MNIST=… make docs"
        )
    leftovers = {path.name for path in paths.TRAIN.glob("[!.]*")} - set(params.load().trainings)
    if leftovers:  # they change the hash of a dependency, which nobody else could reproduce
        raise InputError(
            f"{paths.TRAIN}: expected the trainings of {paths.PARAMS} alone, found {', '.join(sorted(leftovers))};"
            " move that away, then `make docs` again"
        )
    results = paths.RESULTS.read_text(encoding="utf-8")
    made_on = f"Made by `make docs` on {machine()}."
    pictures = sorted(paths.FIGURES.glob("*.png"))
    if not pictures:
        raise InputError(f"{paths.FIGURES}: expected figures, found none; `dvc repro` draws them")
    for picture in pictures:
        files.write_bytes(DOCS / picture.name, picture.read_bytes())
    page = results.replace(f"]({paths.FIGURES.name}/", "](")
    files.write_bytes(DOCS / "results.md", f"{page}\n{made_on}\n".encode())
    quote("results", quoted(results))
    published = outputs.figures(outputs.read()) if outputs.FILE.exists() else set()
    for name in published - {picture.name for picture in pictures}:
        (DOCS / name).unlink(missing_ok=True)  # of variants that were removed
    outputs.write(outputs.hashes(places=outputs.locked()))
    print(f"docs: {DOCS}/results.md, its figures, {outputs.FILE} and {README}")
