"""docs/published.json: the SHA-256 of each output of the published run on MNIST, and what it was made on."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from quartet import files, numerics, params, paths
from quartet.errors import InputError

FILE = Path("docs/published.json")
# In the order in which the stages make them, so that the first difference is the one to look into.
FOLDERS = (paths.RAW, paths.SPLIT, paths.TRAIN, paths.EVALUATE, paths.PLOT)
# The digest of the code, which changes with each comment, is in these alone.
EXCEPTED = "provenance.json"
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "matplotlib", "pillow", "safetensors", "idx2numpy", "dvc", "mlflow")


class Difference(NamedTuple):
    """A published output that is another file here: the SHA-256 of both, None if there is none."""

    path: str
    published: str | None
    found: str | None


def outputs(root: Path = Path()) -> dict[str, str]:
    """The SHA-256 of each file that the stages left below `root`, by its path, in the order of the stages."""
    return {
        path.relative_to(root).as_posix(): files.sha256(path)
        for folder in FOLDERS
        for path in sorted((root / folder).rglob("*"))
        if path.is_file() and path.name != EXCEPTED and not path.name.startswith(".")
    }


def machine() -> dict[str, Any]:
    """What results are made on: the processor as far as the system names it, and the versions of what computes."""
    cpuinfo = numerics.CPUINFO
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = numerics.processor_flags()
    widest = next((name for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in flags), "no AVX2")
    return {
        "processor": f"{names[0] if names else platform.processor() or platform.machine()} ({widest})",
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {package: version(package) for package in PACKAGES},
    }


def in_words(made_on: Mapping[str, Any], packages: tuple[str, ...] = PACKAGES) -> str:
    """What `machine` returns as a phrase, with the versions of these packages."""
    versions = ", ".join(f"{package} {made_on['packages'][package]}" for package in packages)
    return f"{made_on['processor']}, {made_on['cores']} cores, {made_on['system']}, Python {made_on['python']}, {versions}"


def write(root: Path = Path()) -> None:
    """Record the outputs below `root` as the published ones."""
    files.write_json(root / FILE, {"made_on": machine(), "outputs": outputs(root)})


def read(root: Path = Path()) -> dict[str, Any]:
    """The published record; InputError if it is missing or not one."""
    record = files.read_json(root / FILE) if (root / FILE).exists() else None
    if not isinstance(record, dict) or record.keys() != {"made_on", "outputs"}:
        raise InputError(f"{FILE}: expected what `make docs` writes; `git checkout {FILE}` brings it back")
    return record


def differences(published: Mapping[str, str], found: Mapping[str, str]) -> list[Difference]:
    """Every output that is not the published one, in the order of the stages."""
    rank = {folder.as_posix(): place for place, folder in enumerate(FOLDERS)}

    def place(path: str) -> tuple[int, str]:
        return next((number for folder, number in rank.items() if path.startswith(f"{folder}/")), len(rank)), path

    return [
        Difference(path, published.get(path), found.get(path))
        for path in sorted(published.keys() | found.keys(), key=place)
        if published.get(path) != found.get(path)
    ]


def parts() -> Iterator[tuple[str, tuple[str, ...]]]:
    """What is compared apart, and the beginnings of the paths that belong to it: the data, each training, the rest."""
    yield "data", (f"{paths.RAW.as_posix()}/", f"{paths.SPLIT.as_posix()}/")
    for name in params.TRAININGS:
        evaluated = f"{paths.EVALUATE.as_posix()}/{name}"
        yield name, (f"{paths.TRAIN.as_posix()}/{name}/", f"{evaluated}/", f"{evaluated}.json")
    yield "figures and tables", (f"{paths.PLOT.as_posix()}/",)
