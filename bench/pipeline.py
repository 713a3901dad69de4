"""`make bench-pipeline`: `make` on MNIST against the seconds of pure training in it, and the peak memory of each stage.

Works in throw-away clones of what is committed, with this project's .venv; takes minutes. Prints a table and writes it to
docs/benchmarks.md, and the seconds of `make` on MNIST and on the sample to README.md, between their markers.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from quartet.base import paths
from quartet.base.errors import InputError
from quartet.base.process import run
from quartet.commands import publish
from targets import RATIO, Row, markdown

ROOT = Path(__file__).resolve().parent.parent
CORES = os.cpu_count() or 1


def peak_megabytes(stage: str, project: Path, variables: dict[str, str]) -> float:
    """Return the peak memory of a stage's process."""
    command = [sys.executable, f"src/{stage}.py"]
    with subprocess.Popen(command, cwd=project, env=variables, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise InputError(f"{stage}: failed with status {process.returncode}")
    return usage.ru_maxrss / 1024


def shortest(spans: Sequence[float], cores: int) -> float:
    """Return the least time in which so many cores can do pieces of work that take these times and cannot be divided."""
    found = {(0.0,) * cores}  # what each core has, in every way to divide the work so far
    for span in spans:
        found = {
            tuple(sorted((*loads[:core], loads[core] + span, *loads[core + 1 :])))
            for loads in found
            for core in range(cores)
        }
    return min(map(max, found))


def clone(project: Path) -> None:
    """Clone what is committed, with this project's .venv."""
    subprocess.run(["git", "clone", "-q", ROOT, project], check=True)
    (project / ".venv").symlink_to(Path(sys.executable).parent.parent)


def seconds_of_make(project: Path, variables: dict[str, str]) -> float:
    """Measure `make` in a clone whose packages are there."""
    start = time.perf_counter()
    subprocess.run(["make"], cwd=project, env=variables, check=True)
    return time.perf_counter() - start


def main() -> None:
    """Measure, print and write the table."""
    raw = ROOT / paths.RAW
    source = ROOT / paths.SOURCE
    if not os.environ.get("QUARTET_MNIST") and not (source.exists() and '"data": "mnist"' in source.read_text()):
        raise InputError("QUARTET_MNIST: expected MNIST there or in data/raw, found neither")
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder, "project")
        clone(project)
        if not os.environ.get("QUARTET_MNIST"):
            shutil.copytree(raw, project / paths.RAW, dirs_exist_ok=True)
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DVC_", "MAKE"))}
        variables["MLFLOW_DISABLE_TELEMETRY"] = "true"
        wall = seconds_of_make(project, variables)
        with closing(sqlite3.connect(project / "mlflow.db")) as store:
            spans = [row[0] / 1000 for row in store.execute("SELECT end_time - start_time FROM runs")]
        pure = sum(spans) / CORES
        # Evaluated again, MLflow's part included.
        (project / "mlflow.db").unlink()
        stages = ("fetch", "preprocess", "evaluate", "plot", "page")
        peaks = {stage: peak_megabytes(stage, project, variables) for stage in stages}
        sample = Path(folder, "sample")
        clone(sample)
        settings = (sample / paths.PARAMS).read_text(encoding="utf-8")
        (sample / paths.PARAMS).write_text(settings.replace("source: auto", "source: sample"), encoding="utf-8")
        short = seconds_of_make(sample, {name: value for name, value in variables.items() if name != "QUARTET_MNIST"})
    sizes = ", ".join(f"{stage} {peak:.0f}" for stage, peak in peaks.items())
    ratio, most = wall / pure, max(peaks.values())
    what = f"`make` on MNIST, installed, against {len(spans)} trainings' seconds over {CORES} cores"
    detail = (
        f"{wall:.0f} s of {pure:.0f} s; {shortest(spans, CORES) / pure:.2f} × for the trainings alone, divided among the"
        " cores as well as they can be"
    )
    rows = [
        Row(what, ratio, 1.2, RATIO, detail),
        Row("Peak memory of a stage", most, 1200, "{:.0f} MB", sizes),
    ]
    text = f"`make bench-pipeline` on {publish.machine()}; MNIST.\n\n{markdown(rows)}\n"
    print(f"\n{text}")
    publish.quote("bench-pipeline", text, ROOT / "docs/benchmarks.md")
    times = (
        f"Once the packages are there, `make` takes {wall / 60:.1f} minutes on MNIST and {short:.0f} seconds on the sample"
        f" ({CORES} cores)."
    )
    publish.quote("times", times, ROOT / "README.md")


if __name__ == "__main__":
    run(main)
