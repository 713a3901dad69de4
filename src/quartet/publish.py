"""`make docs`: the figures and tables of this run on MNIST, into docs/ and between README.md's markers."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import version
from pathlib import Path

from quartet import errors, files, paths
from quartet.errors import InputError

DOCS = Path("docs")
README = Path("README.md")


def machine() -> str:
    """What figures were made on: the processor's name where the system tells it, its cores, and the versions.

    With the instructions that PyTorch uses of it, on which the rounding depends.
    """
    from torch.backends.cpu import get_cpu_capability  # at the top, its memory would count in what bench starts

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    system = f"{name} ({get_cpu_capability()}), {os.cpu_count()} cores, {platform.system()}"
    packages = ", ".join(f"{package} {version(package)}" for package in ("torch", "dvc", "mlflow"))
    return f"{system}, Python {platform.python_version()}, {packages}"


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


def main() -> None:
    """Publish stages/plot/."""
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
    measured = results.partition("\n\n")[2].partition("\n## Beside the report")[0].replace("\n## ", "\n### ")
    quote("results", f"{measured}\n{made_on}")
    print(f"docs: {DOCS}/results.md, its figures and {README}")


if __name__ == "__main__":
    errors.run(main)
