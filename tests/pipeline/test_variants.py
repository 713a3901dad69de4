"""A variant that is added to params.yaml, or removed from it, is in all that follows or in none of it."""

from __future__ import annotations

import csv
import json
import re

import pytest
import yaml

from project import KINDS, copy_of, keep_ten_alone, ran, runs, vega

# One worker runs all that shares this copy of the finished project.
pytestmark = pytest.mark.xdist_group("finished copy")

NEW = "ten-slow"


def named(project, *names: str) -> dict[str, dict[str, bool]]:
    """Where each of these trainings is shown: in each table, metric, plot, file of results and in MLflow."""
    root = project.root

    def column(file: str) -> set[str]:
        with (root / "stages/evaluate" / file).open(encoding="utf-8") as lines:
            return {row["training"] for row in csv.DictReader(lines)}

    results = (root / "stages/plot/results.md").read_text(encoding="utf-8")
    tables = [part for part in re.split(r"\n\n", results) if part.startswith("|")]
    assert len(tables) == 4  # on the sample, nothing is beside the report
    metrics = json.loads(project.run("dvc", "metrics", "show", "--json").stdout)[""]["data"]
    project.run("dvc", "plots", "show", "-o", str(root / "dvc_plots"))
    plots = vega((root / "dvc_plots/index.html").read_text(encoding="utf-8"))
    recorded = yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    tracked = {run["name"] for run in runs(project)}

    def places(name: str) -> dict[str, bool]:
        word = re.compile(rf"(?<![\w-]){name}(?![\w-])")
        return {
            "results.md, trainings": bool(word.search(tables[0])),
            "results.md, comparison": bool(word.search(tables[1])),
            "results.md, layers": bool(word.search(tables[2])),
            "results.md, confused": bool(word.search(tables[3])),
            "metrics": name in next(iter(metrics.values()))["data"],
            "history.csv": name in column("history.csv"),
            "predictions.csv": name in column("predictions.csv"),
            "plots": all(name in {row["training"] for row in plot["data"]["values"]} for plot in plots),
            "MLflow": name in tracked,
            "dvc.lock": f"train@{name}" in recorded,
        }

    return {name: places(name) for name in names}


def test_a_variant_more_and_three_fewer_are_so_everywhere(finished, tmp_path):
    """The new one is trained alone. With the last of its class of variants, the figures of that class are gone."""
    gone = ("four", "four-bn", "ten-bn")
    project = copy_of(finished, tmp_path)
    path = project.root / "params.yaml"
    keep_ten_alone(path)
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings["variants"][NEW] = {"lr": 0.0005}
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    assert ran(project.run("dvc", "repro").stdout) == [f"train@{NEW}", "evaluate", "plot", "page"]
    assert (project.root / "stages/train/four-bn/summary.json").exists()  # its leftovers are not results
    found = named(project, "ten", NEW, *gone)
    assert set(found.pop("ten").values()) == set(found.pop(NEW).values()) == {True}
    for places in found.values():
        assert {place for place, there in places.items() if there} <= {"MLflow", "dvc.lock"}  # the records of what was
    figures = {path.name for path in (project.root / "stages/plot/figures").iterdir()}
    assert figures == {f"{kind}-{of}.png" for kind in KINDS for of in ("ten", "trial")}
