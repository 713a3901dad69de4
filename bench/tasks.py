"""`make bench-study`: trainings by Ray tasks beside each other against a training alone, and what a task itself costs.

Trains on random images; takes two minutes. Prints a table and writes it to docs/benchmarks.md.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from quartet.base import params, process
from quartet.commands import publish
from quartet.data.splits import Split
from quartet.study import design, engine, trained
from targets import RATIO, Row, markdown

# isort: off
import numpy as np

# isort: on

ROOT = Path(__file__).resolve().parent.parent
IMAGES = 20_000
EACH = 5  # trainings for each core
EMPTY = (100, 1_000)  # tasks that do nothing


def random_data() -> trained.Data:
    """Make random images with random digits."""
    random = np.random.default_rng(0)

    def split(count: int) -> Split:
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        return Split(images, random.integers(0, 10, count, dtype=np.uint8))

    return trained.Data(split(IMAGES), split(1_000), 0.1)


def job() -> design.Job:
    """Describe a training of one epoch by the report's settings."""
    settings = params.load(ROOT / "params.yaml")
    hyperparameters = settings.report.model_copy(update={"epochs": 1})
    return design.Job(design.ARMS, "one", 0, hyperparameters, settings.class_groups(10), 0)


def nothing(_shared: Any, number: int) -> bytes:
    """Do nothing."""
    return b"%d" % number


def seconds(work: Any, shared: Any, tasks: Sequence[Sequence[Any]]) -> float:
    """Measure the tasks beside each other, in a cluster that runs."""
    start = time.perf_counter()
    done = sum(1 for _ in engine.run(work, shared, tasks))
    if done != len(tasks):
        raise RuntimeError(f"{done} of {len(tasks)} tasks came back")
    return time.perf_counter() - start


def main() -> None:
    """Measure, print and write the table."""
    data, task = random_data(), job()
    arguments: tuple[Any, ...] = (task, {})
    begun = time.perf_counter()
    with engine.cluster():
        import ray

        started = time.perf_counter() - begun
        cores = int(ray.cluster_resources()["CPU"])
        seconds(trained.train, data, [arguments] * cores)  # each process imports PyTorch
        # In turns, so that a machine that slows down slows both.
        alone, beside = [], []
        for _ in range(3):
            alone.append(seconds(trained.train, data, [arguments]))
            beside.append(seconds(trained.train, data, [arguments] * (EACH * cores)))
        empty = {count: seconds(nothing, None, [(number,) for number in range(count)]) for count in EMPTY}
    ratio = statistics.median(EACH * one / many for one, many in zip(alone, beside, strict=True))
    few, many = EMPTY
    per_hour = 3600 * EACH * cores / statistics.median(beside)
    rows = [
        Row(
            f"Trainings an hour on {cores} cores, against {cores} × one alone",
            ratio,
            0.95,
            RATIO,
            f"{per_hour:.0f} an hour of one epoch with {IMAGES:,} images; starting Ray took {started:.1f} s",
            least=True,
        ),
        Row(
            f"Seconds of {many:,} empty tasks, against {many // few} × those of {few}",
            empty[many] / (many // few * empty[few]),
            1.5,
            RATIO,
            f"{empty[few]:.2f} s and {empty[many]:.2f} s",
        ),
    ]
    text = f"`make bench-study` on {publish.machine()}, Ray {version('ray')}.\n\n{markdown(rows)}\n"
    print(f"\n{text}")
    publish.quote("bench-study", text, ROOT / "docs/benchmarks.md")


if __name__ == "__main__":
    process.run(main)
