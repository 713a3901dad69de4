"""`quartet verify`: run the pipeline on MNIST in a temporary clone; compare each output with the published one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from quartet.base import errors, files, numerics, params, paths, process
from quartet.base.errors import InputError, WorkError
from quartet.commands import outputs


def report(root: Path) -> bool:
    """Print part by part whether the outputs below `root` are the published ones; False if any is not."""
    record = outputs.read(root)
    made_on, expected, found = record["made_on"], record["outputs"], outputs.hashes(root, outputs.locked(root))
    differences = outputs.differences(expected, found)
    for part, beginnings in outputs.parts(params.load(root / paths.PARAMS).trainings):
        differing = [difference for difference in differences if difference.path.startswith(beginnings)]
        if differing:
            errors.tell(f"{part:<20} differs in {len(differing)} files, first {differing[0].path}")
        else:
            print(f"{part:<20} identical ({sum(path.startswith(beginnings) for path in expected)} files)")
    if not differences:
        print(f"verify: all {len(expected)} outputs are the published ones, byte for byte")
        return True
    path, there, here = differences[0]
    errors.tell(f"verify: the first difference is {path}: SHA-256 {here or '(missing)'}, published {there or '(missing)'}")
    errors.tell(f"verify: published on {outputs.in_words(made_on)}")
    errors.tell(f"verify: this is      {outputs.in_words(outputs.machine())}")
    return False


def require_mnist(root: Path) -> None:
    """Raise WorkError unless fetch recorded MNIST below `root`: no other data is published."""
    source = files.read_record(root / paths.SOURCE, "fetch")["data"]
    if source != "mnist":
        raise WorkError(
            f"{paths.SOURCE}: expected mnist, found {source}: only results on MNIST are published;"
            " QUARTET_MNIST=<directory or URL of its four files> make verify"
        )


def surroundings(here: Path, scratch: Path) -> dict[str, str]:
    """Return the environment for the clone: nothing of another DVC, MLflow, Git or make, and where MNIST is.

    Without QUARTET_MNIST, the files of data/raw/ are offered; fetch verifies them.
    """
    others = ("DVC_", "GIT_", "MLFLOW_", "MAKE", "PYTHONPATH")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    named = variables.pop("QUARTET_MNIST", "")
    if named and "://" not in named:
        named = str((here / Path(named).expanduser()).resolve())
    if not named and (here / paths.RAW / "train-images-idx3-ubyte").exists() and _has_mnist(here):
        named = str(here / paths.RAW)
    if named:
        variables["QUARTET_MNIST"] = named
    return variables | {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DVC_SITE_CACHE_DIR": str(scratch / "dvc"),  # else DVC leaves a folder for each clone outside of it
    }


def _has_mnist(here: Path) -> bool:
    try:
        return bool(files.read_record(here / paths.SOURCE, "fetch")["data"] == "mnist")
    except (InputError, LookupError):
        return False  # then the mirrors are tried


def call(*command: str, folder: Path, variables: Mapping[str, str]) -> None:
    """Run a command; WorkError if it fails. If this process is stopped, the command is stopped first."""
    try:
        status = subprocess.Popen(command, cwd=folder, env=dict(variables)).wait()
    except BaseException:
        for child in psutil.Process().children():  # a signal may come before Popen returns what it has started
            child.terminate()  # make passes the signal on and waits for its children
            child.wait()
        raise
    if status:
        raise WorkError(f"`{' '.join(command)}` failed, see above")


def run_in(clone: Path, variables: Mapping[str, str]) -> None:
    """Run the committed pipeline in a new clone with this project's packages, without any cache of DVC's or MLflow's.

    Raises WorkError if a step fails.
    """
    here = Path.cwd()
    call("git", "clone", "--quiet", str(here), str(clone), folder=here, variables=variables)
    (clone / ".venv").symlink_to(here / ".venv")
    # With a cache that the user shares between projects, DVC would restore results instead of making them.
    call("dvc", "config", "--local", "cache.dir", "cache", folder=clone, variables=variables)
    call(sys.executable, "src/fetch.py", folder=clone, variables=variables)
    require_mnist(clone)
    fetched = {name: value for name, value in variables.items() if name != "QUARTET_MNIST"}  # already fetched
    call("make", "all", folder=clone, variables=fetched)


def verify_committed() -> bool:
    """Run what is committed, and print whether it makes the published outputs and the committed dvc.lock."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder, "clone")
        variables = surroundings(Path.cwd(), clone.parent)
        if subprocess.run(["git", "status", "--porcelain"], env=variables, capture_output=True, check=False).stdout:
            print("verify: the last commit is verified; changes that are not committed are left out", flush=True)
        run_in(clone, variables)
        same = report(clone)
        lock = subprocess.run(["git", "diff", "--quiet", "dvc.lock"], cwd=clone, env=variables, check=False).returncode
        if lock and same:
            print("verify: dvc.lock differs, in the code or the packages: commit the one that `make` writes")
    return same and not lock


def main(arguments: Sequence[str]) -> None:
    """Run what is committed on MNIST from scratch, and compare each output with the published one."""
    parser = process.Parser(prog="quartet verify", description=main.__doc__)
    parser.add_argument("--here", action="store_true", help="compare the outputs of this checkout as they are")
    here = parser.parse_args(arguments).here
    outputs.read()
    if departure := numerics.departure():
        raise WorkError(f"{departure}: the published bytes are those of x86-64 processors with AVX2 and FMA")
    if here:
        require_mnist(Path())
        same = report(Path())
    else:
        same = verify_committed()
    if not same:
        raise WorkError("this is not what was published, see above")
