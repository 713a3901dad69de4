"""`make docs`: the figures and tables of this run on MNIST, into docs/ and between README.md's markers."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from quartet import errors, files, numerics, paths, published
from quartet.errors import InputError

DOCS = Path("docs")
README = Path("README.md")


def machine() -> str:
    """What numbers were made on: the processor, its cores, and the versions that readers ask for first."""
    return published.in_words(published.machine(), ("torch", "dvc", "mlflow"))


def replace_block(text: str, name: str, content: str) -> str:
    """`text` with what stands between its markers of that name replaced; InputError where it has no such markers."""
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        raise InputError(f"{README}: expected the markers {begin.strip()} and {end}; `git checkout {README}`")
    return f"{head}{begin}{content.rstrip()}\n{closed}{tail}"


def quote(name: str, content: str, page: Path = README) -> None:
    """Replace what stands between a page's markers of that name."""
    files.write_bytes(page, replace_block(page.read_text(encoding="utf-8"), name, content).encode())


def quoted(results: str) -> str:
    """What README shows of the results page: all but its title and what follows the comparison with the report."""
    return results.partition("\n\n")[2].partition("\n## Beside the report")[0].replace("\n## ", "\n### ")


def main() -> None:
    """Publish stages/plot/, and the hashes of all outputs."""
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
    results = paths.RESULTS.read_text(encoding="utf-8")
    made_on = f"Made by `make docs` on {machine()}."
    pictures = sorted(paths.PLOT.glob("*.png"))
    for picture in pictures:
        shutil.copyfile(picture, DOCS / picture.name)
    shown = "\n\n".join(f"![{picture.stem}]({picture.name})" for picture in pictures)
    files.write_bytes(DOCS / "results.md", f"{results}\n## Figures\n\n{shown}\n\n{made_on}\n".encode())
    quote("results", f"{quoted(results)}\n{made_on}")
    published.write(published.outputs(places=published.locked()))
    print(f"docs: {DOCS}/results.md, its figures, {published.FILE} and {README}")


if __name__ == "__main__":
    errors.run(main)
