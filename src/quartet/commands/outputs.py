"""The outputs of the pipeline by their SHA-256, and docs/published.json, which has those of the published run on MNIST."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from quartet.base import files, numerics, params, paths
from quartet.base.errors import InputError

FILE = Path("docs/published.json")
# In the order of the stages, so that the first difference is the one to investigate.
FOLDERS = (paths.RAW, paths.SPLIT, paths.TRAIN, paths.EVALUATE, paths.PLOT, paths.PAGE.parent)
# Only these have the digest of the code, which changes with every comment.
EXCEPTED = "provenance.json"
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "matplotlib", "pillow", "safetensors", "idx2numpy", "dvc", "mlflow")


class Difference(NamedTuple):
    """An output that differs from the published one: the SHA-256 of both, or None if it is missing."""

    path: str
    published: str | None
    found: str | None


def of_stage(lock: str, stage: str) -> dict[str, str]:
    """Return the MD5 of each output of a stage by its path, from the text of a dvc.lock.

    Empty if it lacks the stage, or is damaged: then DVC says so.
    """
    try:
        return {str(out["path"]): str(out["md5"]) for out in yaml.safe_load(lock)["stages"][stage]["outs"]}
    except (yaml.YAMLError, LookupError, TypeError):
        return {}


def in_cache(*digests: str) -> list[Path]:
    """Return the places in DVC's cache of the files of these MD5, whether they are there or not."""
    said = subprocess.run(["dvc", "cache", "dir"], capture_output=True, text=True, check=False).stdout
    cache = Path(said.strip() or ".dvc/cache") / "files/md5"
    return [cache / digest[:2] / digest[2:] for digest in digests]


def locked(root: Path = Path()) -> list[Path]:
    """Return the outputs of all stages, files and folders, as dvc.lock lists them; InputError if it is damaged.

    DVC keeps the stages of variants there that params.yaml has no more: these are left out.
    """
    variants = params.load(root / paths.PARAMS).variants
    try:
        stages = yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
        current = [stages[name] for name in stages if "@" not in name or name.partition("@")[2] in variants]
        return [Path(out["path"]) for stage in current for out in stage.get("outs", [])]
    except (OSError, ValueError, TypeError, LookupError, AttributeError, yaml.YAMLError):
        raise InputError("dvc.lock: expected the lock file of DVC; `git checkout dvc.lock` brings it back") from None


def hashes(root: Path = Path(), places: Iterable[Path] = FOLDERS) -> dict[str, str]:
    """Hash each file at or below the places, which are relative to `root`: its SHA-256 by its path, without EXCEPTED."""
    found = {path for place in places for path in [root / place, *(root / place).rglob("*")] if path.is_file()}
    return {
        path.relative_to(root).as_posix(): files.sha256(path)
        for path in sorted(found)
        if path.name != EXCEPTED and not path.name.startswith(".")
    }


def machine() -> dict[str, Any]:
    """Describe what results are made on: the processor as far as the system names it, and the versions of what computes."""
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
    """Put what `machine` returns into a phrase, with the versions of these packages."""
    versions = ", ".join(f"{package} {made_on['packages'][package]}" for package in packages)
    return f"{made_on['processor']}, {made_on['cores']} cores, {made_on['system']}, Python {made_on['python']}, {versions}"


def write(found: Mapping[str, str], root: Path = Path()) -> None:
    """Record these outputs as the published ones."""
    files.write_json(root / FILE, {"made_on": machine(), "outputs": dict(found)})


def read(root: Path = Path()) -> dict[str, Any]:
    """Read the published record; InputError if it is missing or not one."""
    try:
        record = json.loads((root / FILE).read_bytes())
        hashes = record["outputs"]
        complete = bool(hashes) and all(isinstance(part, str) for pair in hashes.items() for part in pair)
        in_words(record["made_on"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        complete = False
    if not complete:
        raise InputError(f"{FILE}: expected what `make docs` writes; `git checkout {FILE}` brings it back")
    return dict(record)


def figures(published: Mapping[str, Any]) -> set[str]:
    """Return the names of the figures in a record that `read` returned."""
    return {path.name for path in map(Path, published["outputs"]) if path.parent == paths.FIGURES}


def differences(published: Mapping[str, str], found: Mapping[str, str]) -> list[Difference]:
    """List every output that is not the published one, in the order of the stages."""

    def place(path: str) -> tuple[int, str]:
        above = (number for number, folder in enumerate(FOLDERS) if Path(path).is_relative_to(folder))
        return next(above, len(FOLDERS)), path

    return [
        Difference(path, published.get(path), found.get(path))
        for path in sorted(published.keys() | found.keys(), key=place)
        if published.get(path) != found.get(path)
    ]


def parts(trainings: Iterable[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield what is reported apart (the data, each training, what follows) and the beginnings of its paths."""
    yield "data", (f"{paths.RAW.as_posix()}/", f"{paths.SPLIT.as_posix()}/")
    for name in trainings:
        yield name, (f"{paths.TRAIN.as_posix()}/{name}/",)
    yield "evaluation", (f"{paths.EVALUATE.as_posix()}/",)
    yield "figures and tables", (f"{paths.PLOT.as_posix()}/",)
    yield "page", (f"{paths.PAGE.parent.as_posix()}/",)
