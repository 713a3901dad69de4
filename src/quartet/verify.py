"""`make verify`: run the pipeline on MNIST from scratch in a temporary clone; compare each output with the published one.

With `--here`: compare the outputs of this checkout as they are.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from quartet import errors, files, numerics, paths, published
from quartet.errors import InputError, WorkError

HERE = "--here"


def report(root: Path) -> bool:
    """Print whether the outputs below `root` are the published ones, part by part; False if any is not."""
    record = published.read(root)
    made_on, expected, found = record["made_on"], record["outputs"], published.outputs(root)
    differences = published.differences(expected, found)
    for part, beginnings in published.parts():
        count = sum(path.startswith(beginnings) for path in expected)
        differing = [difference for difference in differences if difference.path.startswith(beginnings)]
        if differing:
            print(f"{part:<20} differs: {len(differing)} of {count} files, first {differing[0].path}")
        else:
            print(f"{part:<20} identical ({count} files)")
    if not differences:
        print(f"verify: all {len(expected)} outputs are the published ones, byte for byte")
        return True
    first = differences[0]
    print(f"verify: the first difference is {first.path}: SHA-256 {first.found}, published {first.published}")
    print(f"verify: published on {published.in_words(made_on)}")
    print(f"verify: this is      {published.in_words(published.machine())}")
    return False


def require_mnist(root: Path) -> None:
    """Raise WorkError unless fetch recorded MNIST below `root`: no other data is published."""
    source = files.read_record(root / paths.SOURCE, "fetch")["data"]
    if source != "mnist":
        raise WorkError(
            f"{paths.SOURCE}: expected mnist, found {source}: only results on MNIST are published;"
            " QUARTET_MNIST=<directory or URL of its four files> make verify"
        )


def run_in(clone: Path) -> None:
    """Run the committed pipeline in a new clone with this project's packages, without any cache of DVC's or MLflow's.

    Raises WorkError if a step fails.
    """
    here = Path.cwd()
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_", "MAKE"))}
    variables |= {"MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONPATH": "src"}

    def call(*command: str, folder: Path = clone) -> None:
        if subprocess.run(command, cwd=folder, env=variables, check=False).returncode:
            raise WorkError(f"`{' '.join(command)}` failed, see above")

    call("git", "clone", "--quiet", str(here), str(clone), folder=here)
    (clone / ".venv").symlink_to(here / ".venv")
    call("dvc", "config", "--local", "cache.dir", "cache")  # a cache that the user shares between projects restores results
    mine = here / paths.RAW
    if "QUARTET_MNIST" not in variables and (mine / paths.SOURCE.name).exists():
        variables["QUARTET_MNIST"] = str(mine)
        if files.read_record(mine / paths.SOURCE.name, "fetch")["data"] != "mnist":
            del variables["QUARTET_MNIST"]
    call(sys.executable, "-m", "quartet.fetch")
    require_mnist(clone)
    variables.pop("QUARTET_MNIST", None)  # the files are there; named again, they would be fetched again
    call("make", "-o", ".venv/ready", "all")


def main() -> None:
    """Verify, and exit with status 1 if any output is not the published one."""
    if sys.argv[1:] not in ([], [HERE]):
        raise InputError(f"verify: expected nothing or {HERE}, found '{' '.join(sys.argv[1:])}'")
    published.read()
    if departure := numerics.departure():
        raise WorkError(f"{departure}: the published bytes are those of x86-64 processors with AVX2 and FMA")
    if sys.argv[1:] == [HERE]:
        require_mnist(Path())
        same = report(Path())
    else:
        with tempfile.TemporaryDirectory() as folder:
            clone = Path(folder, "clone")
            run_in(clone)
            same = report(clone)
            lock = subprocess.run(["git", "diff", "--quiet", "dvc.lock"], cwd=clone, check=False)
            print(f"verify: dvc.lock is {'another' if lock.returncode else 'unchanged'}")
            same = same and not lock.returncode
    if not same:
        raise WorkError("not every output is the published one")


if __name__ == "__main__":
    errors.run(main)
