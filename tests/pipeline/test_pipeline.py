"""The whole pipeline, for real, in a clone on the sample."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from project import EPOCHS, KINDS, STAGES, TRAININGS, VARIANTS, answers, lock, ran, runs, vega
from quartet.base import params

# One worker runs all that shares the finished project.
pytestmark = pytest.mark.xdist_group("finished")


@pytest.fixture
def experiment(finished):
    yield finished
    finished.run("git", "checkout", "-q", "params.yaml", "dvc.lock")
    finished.run("dvc", "checkout", "-q")


def test_the_first_repro_runs_every_stage(finished) -> None:
    """It says that the data is the sample."""
    assert sorted(ran(finished.output)) == sorted(STAGES)
    assert "SAMPLE DATA" in finished.output
    assert "not MNIST" in (finished.root / "stages/plot/results.md").read_text(encoding="utf-8").splitlines()[0]


def test_the_second_repro_runs_nothing(finished) -> None:
    assert ran(finished.run("dvc", "repro").stdout) == []


def test_every_output_is_cached_by_dvc(finished) -> None:
    stages = yaml.safe_load(lock(finished))["stages"]
    cache = finished.root / ".dvc/cache/files/md5"
    digests = [out["md5"] for stage in stages.values() for out in stage["outs"]]
    # Five files of the data, four of the splits, four of each training, six of the evaluation, figures, table and page.
    assert len(digests) == 5 + 4 + 5 * 4 + 6 + 3
    assert all((cache / digest[:2] / digest[2:]).is_file() for digest in digests)


def test_a_comment_in_the_code_changes_the_provenance_alone(experiment) -> None:
    def outputs() -> dict[str, str]:
        return {out["path"]: out["md5"] for out in yaml.safe_load(lock(experiment))["stages"]["train@four"]["outs"]}

    before = outputs()
    code = experiment.root / "src/quartet/base/errors.py"
    code.write_text(code.read_text(encoding="utf-8") + "# A comment.\n", encoding="utf-8")
    try:
        assert ran(experiment.run("dvc", "repro", "--single-item", "train@four").stdout) == ["train@four"]
        after = outputs()
    finally:
        experiment.run("git", "checkout", "-q", "src")
    assert [path for path in before if after[path] != before[path]] == ["stages/train/four/provenance.json"]


def test_an_experiment_retrains_the_trial_alone(experiment) -> None:
    """DVC shows it beside the four."""
    output = experiment.run("dvc", "exp", "run", "evaluate", "-S", "bn=true", "-n", "with-bn").stdout
    assert ran(output) == ["trial", "evaluate"]
    shown = list(csv.DictReader(experiment.run("dvc", "exp", "show", "--csv").stdout.splitlines()))
    row = next(row for row in shown if row["Experiment"] == "with-bn")
    baseline = next(row for row in shown if row["rev"] not in ("workspace", "") and row["Experiment"] == "")
    for name in VARIANTS:
        assert float(row[f"{name}.accuracy"]) == float(baseline[f"{name}.accuracy"]) > 0.5
    column = "trial.accuracy"
    assert (row["bn"], baseline["bn"]) == ("True", "False")
    assert row[column] != baseline[column]


def test_touching_what_trains_nothing_trains_nothing(experiment) -> None:
    for what in ("data/download", "data/sources", "reporting/figures", "reporting/tables", "commands/*"):
        touched = list(experiment.root.glob(f"src/quartet/{what}.py"))
        assert touched
        for path in touched:
            path.write_text(path.read_text(encoding="utf-8") + "# A comment.\n", encoding="utf-8")
    try:
        would_run = ran(experiment.run("dvc", "repro", "--dry").stdout)
    finally:
        experiment.run("git", "checkout", "-q", "src")
    assert would_run == ["fetch", "evaluate", "plot", "page"]


def test_mlflow_holds_one_whole_run_for_each_training(finished) -> None:
    found = {run["name"]: run for run in runs(finished, f"params.epochs = '{EPOCHS}'") if "dvc.exp.name" not in run["tags"]}
    assert sorted(found) == sorted(TRAININGS)
    for name, run in found.items():
        assert run["status"] == "FINISHED"
        assert all(sorted(steps) == list(range(1, EPOCHS + 1)) for steps in run["steps"].values())
        metrics = json.loads((finished.root / "stages/evaluate/scores.json").read_bytes())[name]
        assert {key: run["metrics"][f"test_{key}"] for key in ("accuracy", "loss", "macro_f1")}.items() <= metrics.items()
        assert {"confusion.png", "loss.png", "per_class.csv", "summary.json"} == set(run["artifacts"])
        assert [context for _, context in run["datasets"]] == ["train", "validation"]
        assert run["params"]["data"] == "sample"
        assert run["tags"]["data"] == "UCI digits sample, not MNIST"
        assert run["tags"]["stage"] == ("trial" if name == "trial" else f"train@{name}")
        assert re.fullmatch("[0-9a-f]{64}", run["tags"]["fingerprint"])
        assert re.fullmatch("[0-9a-f]{40}", run["tags"]["mlflow.source.git.commit"])
        assert len(run["models"]) == 1
        (listed,) = (finished.root / "mlruns").rglob(f"{run['models'][0]}/artifacts/requirements.txt")
        assert "torch==2.13.0" in listed.read_text(encoding="utf-8").splitlines()  # on the index that everybody has
    colours = [found[name]["tags"].get("mlflow.runColor") for name in VARIANTS]
    assert len(set(colours)) == 4
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in colours)
    assert "mlflow.runColor" not in found["trial"]["tags"]


def test_the_logged_model_agrees_with_evaluate(finished, within, monkeypatch) -> None:
    """It loads without pickle."""
    run = next(run for run in runs(finished) if run["name"] == "four-bn")
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    with Path(finished.root / "stages/evaluate/predictions.csv").open(encoding="utf-8") as file:
        predicted = [int(row["prediction"]) for row in csv.DictReader(file) if row["training"] == "four-bn"][:7]
    assert within(finished, answers, run["models"][0]) == predicted


@pytest.fixture(scope="module")
def plots_page(finished, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("plots")
    finished.run("dvc", "plots", "show", "-o", str(folder))
    return folder / "index.html"


def test_dvc_draws_the_plots(plots_page) -> None:
    page = plots_page.read_text(encoding="utf-8")
    assert page.count('<img src="static') == 3 * len(KINDS)
    for spec in vega(page):
        rows = spec["data"]["values"]
        assert {row["training"] for row in rows} == set(TRAININGS)
        assert {row["data"] for row in rows} == {"UCI digits sample, not MNIST"}
    *curves, confusion = vega(page)
    assert [spec["spec"]["encoding"]["color"]["scale"]["range"] for spec in curves] == [list(params.COLOURS)] * 3
    sides = {side: confusion["spec"]["encoding"][side] for side in "xy"}
    assert {side: (found["field"], found["title"]) for side, found in sides.items()} == {
        "x": ("predicted", "predicted"),
        "y": ("actual", "true"),
    }


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def drawings(page: Path, folder: Path) -> tuple[list[str], str]:
    """The plots that a browser without a network draws of a page, as SVG, and all that it then has."""
    options = [
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"),
        *(f"--user-data-dir={folder}", "--virtual-time-budget=20000", "--dump-dom"),
    ]
    done = subprocess.run([CHROMIUM, *options, page.as_uri()], capture_output=True, text=True, check=True)
    return re.findall(r'<svg[^>]*class="marks".*?</svg>', done.stdout, flags=re.DOTALL), done.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_shows_the_plots_without_the_internet(plots_page, tmp_path) -> None:
    drawn, shown = drawings(plots_page, tmp_path)
    texts = [re.findall(r"<text[^>]*>([^<]*)</text>", drawing) for drawing in drawn]
    titles = ["Training loss", "Validation loss", "Validation accuracy", "Confusion on the test set"]
    assert [next(text for text in found if text in titles) for found in texts] == titles
    for found in texts:
        assert any(text.endswith("data: UCI digits sample, not MNIST") for text in found)
        assert [text for text in found if text in TRAININGS] == TRAININGS
    figures = re.findall(r"<p>stages/plot/figures/(\S+)\.png</p>", shown)
    assert figures == [f"{kind}-{group}" for kind in KINDS for group in ("ten", "four", "trial")]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_two_revisions_have_their_own_confusion_matrices(plots_page, tmp_path) -> None:
    """The rows of `dvc plots diff` come one revision after the other."""
    page = plots_page.read_text(encoding="utf-8")
    *_, match = re.finditer(r"var spec = ", page)
    spec, end = json.JSONDecoder().raw_decode(page, match.end())
    here = spec["data"]["values"]
    there = [{**row, "rev": "HEAD", "images": str(int(row["images"]) + 5000)} for row in here]
    spec["data"]["values"] = here + there
    both = tmp_path / "both.html"
    both.write_text(f"{page[: match.end()]}{json.dumps(spec)}{page[end:]}", encoding="utf-8")
    *_, drawing = drawings(both, tmp_path / "profile")[0]
    # Cells are drawn from left to right, then downwards, as their headings are.
    cells = re.findall(r'<g class="mark-text role-mark[^"]*"[^>]*>(.*?)</g>', drawing, flags=re.DOTALL)
    counts = [sorted(map(int, re.findall(r">(\d+)</text>", cell))) for cell in cells]
    assert counts == [
        sorted(int(row["images"]) for row in rows if row["training"] == name) for name in TRAININGS for rows in (here, there)
    ]


def test_metrics_show_has_the_numbers_of_each_training(finished) -> None:
    shown = json.loads(finished.run("dvc", "metrics", "show", "--json").stdout)
    (metrics,) = [file["data"] for file in shown[""]["data"].values()]
    assert list(metrics) == TRAININGS
    assert all(set(numbers) == {"accuracy"} for numbers in metrics.values())


def test_nothing_that_git_should_see_was_left_behind(finished) -> None:
    assert finished.run("git", "status", "--porcelain").stdout == ""
