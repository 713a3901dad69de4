"""`quartet publish`: what the pipeline and the study found on MNIST, into docs/ and between README.md's markers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from quartet.base import errors, files, numerics, params, paths, process
from quartet.base.errors import InputError
from quartet.commands import outputs
from quartet.data import catalogue, idx

DOCS = Path("docs")
README = Path("README.md")
STUDY_PIPELINE = Path("study/dvc.yaml")
RECIPE = "recipe"  # of this name are the page about the search, its part that is written, and its files' beginning
STUDY = "study"  # of this name are the study's page, its JSON and README's part, and with it begin its figures' names


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


def summary(page: str) -> str:
    """Return what is between a page's title and its first section."""
    return page.partition("\n\n")[2].partition("\n## ")[0]


def publish_figures(pictures: Sequence[Path], prefix: str = "") -> None:
    """Copy figures into docs/, their names after the prefix, which may begin with a folder."""
    for picture in pictures:
        files.write_bytes(DOCS / f"{prefix}{picture.name}", picture.read_bytes())


def why_not_the_study() -> str:
    """Say why the study's results cannot be published; "" if they can."""
    if not paths.CLAIMS.exists():
        return "no study here"
    data = files.read_csv(paths.STUDY_TRAININGS)[0]["data"]
    if data != "mnist":
        return f"the study here is on {data}"
    lock = STUDY_PIPELINE.with_suffix(".lock")
    recorded = outputs.of_stage(lock.read_text(encoding="utf-8") if lock.exists() else "", "claims")
    changed = [path for path in (paths.CLAIMS, paths.FINDINGS) if recorded.get(path.as_posix()) != files.md5(path)]
    return f"{changed[0]} is not what {lock} records; `make study`" if changed else ""


def publish_study() -> None:
    """Write the study's page, figures and numbers into docs/, and its summary into README.md."""
    page = paths.CLAIMS.read_text(encoding="utf-8")
    quote(STUDY, summary(page))
    publish_family(STUDY, paths.STUDY_FIGURES)
    numbers = DOCS / f"{STUDY}.json"
    files.write_bytes(numbers, paths.FINDINGS.read_bytes())
    made = f"All numbers: [{numbers.name}]({numbers.name}). Made by `make study`, published on {machine()}."
    files.write_bytes(DOCS / f"{STUDY}.md", f"{shown(page, STUDY, paths.STUDY_FIGURES)}\n{made}\n".encode())


def publish_family(name: str, figures: Path) -> None:
    """Copy each figure into docs/ as `{name}-{its name}`; remove the copies of figures that do not exist now."""
    pictures = sorted(figures.glob("*.png"))
    publish_figures(pictures, f"{name}-")
    for gone in {path.name for path in DOCS.glob(f"{name}-*.png")} - {f"{name}-{picture.name}" for picture in pictures}:
        (DOCS / gone).unlink()


def shown(page: str, name: str, figures: Path) -> str:
    """Return a page whose links to figures are those of docs/."""
    return page.replace(f"]({figures.name}/", f"]({name}-")


def publish_sweep() -> None:
    """Write what the search on MNIST found into docs/, with its figures and tables, and its headline into README."""
    page = paths.RECIPE.read_text(encoding="utf-8") if paths.RECIPE.exists() else ""
    title, _, found = page.partition("\n\n")
    if not title.endswith(f"({catalogue.MNIST.title})"):
        raise InputError(f"{paths.RECIPE}: expected what a search on MNIST found; `make sweep` makes it, in hours")
    quote(RECIPE, found.partition("\n\n")[0])
    publish_family(RECIPE, paths.SWEEP_FIGURES)
    tables = [paths.SWEEP_TRIALS, paths.SWEEP_FINALISTS, paths.SWEEP_CONFIRMATION]
    for path in tables:
        files.write_bytes(DOCS / f"{RECIPE}-{path.name}", path.read_bytes())
    links = ", ".join(f"[{path.stem}]({RECIPE}-{path.name})" for path in tables)
    made = f"The accuracies of each training: {links}. Made by `make sweep`, published on {machine()}."
    quote(RECIPE, f"{shown(found, RECIPE, paths.SWEEP_FIGURES)}\n{made}", DOCS / f"{RECIPE}.md")
    print(f"docs: {DOCS}/{RECIPE}.md, its figures and tables, and {README}")


def main(arguments: Sequence[str]) -> None:
    """Write the results on MNIST into docs/: those of the pipeline, with the hashes of all outputs, or an option's."""
    parser = process.Parser(prog="quartet publish", description=main.__doc__)
    parser.add_argument("--study", action="store_true", help="publish the study alone; stage page then shows its verdicts")
    parser.add_argument("--sweep", action="store_true", help="publish what the search for a recipe found alone")
    options = parser.parse_args(arguments)
    if departure := numerics.departure():
        raise InputError(
            f"{departure}: others could not make these bytes; publish from an x86-64 processor with AVX2 and FMA"
        )
    if sys.version_info < (3, 11):
        raise InputError(
            "Python: expected 3.11 or newer, whose matplotlib draws the published bytes; make PYTHON=python3.11"
        )
    if options.sweep:
        publish_sweep()
    elif not options.study:
        publish_results()
    elif reason := why_not_the_study():
        errors.tell(f"docs: {reason}: {DOCS}/{STUDY}.md and {README} stay as they are")
    else:
        publish_study()
        print(f"docs: {DOCS}/{STUDY}.md, its figures, {DOCS}/{STUDY}.json and {README}")


def data_sets() -> str:
    """Write the table of data sets, and whose they are, in Markdown."""
    listed = [*catalogue.DATA_SETS.values(), catalogue.QMNIST]
    rows = [
        {
            "`data.source`": f"`{it.name}`" if it.name in catalogue.DATA_SETS else "(`quartet retest`)",
            "title": it.title,
            "hashes": it.hashes or "–",
            "tried": it.tried,
        }
        for it in listed
    ]
    table = tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
    return "\n".join([table, "", *(f"- {it.title}: {it.citation}. Licence: {it.licence}." for it in listed if it.citation)])


def publish_other(source: str) -> None:
    """Write the results on a data set that is not MNIST, and their figures, into a folder of docs/ of its own."""
    folder = DOCS / source
    page = paths.RESULTS.read_text(encoding="utf-8").replace(f"]({paths.FIGURES.name}/", "](")
    files.write_bytes(folder / paths.RESULTS.name, page.encode())
    publish_figures(sorted(paths.FIGURES.glob("*.png")), f"{source}/")
    print(f"docs: {folder}/")


def publish_results() -> None:
    """Write the pipeline's tables, figures and page into docs/, and record the hashes of all outputs.

    Results on data that others can have, but that is not MNIST, go into a folder of their own.
    """
    source = idx.source().data
    if source != catalogue.MNIST.name and catalogue.chosen(source).files:
        publish_other(source)
        return
    if source != catalogue.MNIST.name:
        raise InputError(f"{paths.SOURCE}: expected data that others can have, found {source}; QUARTET_MNIST=… make docs")
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
    publish_figures(pictures)
    page = results.replace(f"]({paths.FIGURES.name}/", "](")
    files.write_bytes(DOCS / "results.md", f"{page}\n{made_on}\n".encode())
    files.write_bytes(DOCS / paths.PAGE.name, paths.PAGE.read_bytes())
    published = outputs.figures(outputs.read()) if outputs.FILE.exists() else set()
    for name in published - {picture.name for picture in pictures}:
        (DOCS / name).unlink(missing_ok=True)  # of variants that were removed
    outputs.write(outputs.hashes(places=outputs.locked()))
    quote("data-sets", data_sets(), DOCS / "data.md")
    print(f"docs: {DOCS}/results.md, its figures, {DOCS}/{paths.PAGE.name} and {outputs.FILE}")
