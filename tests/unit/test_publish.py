from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from project import ROOT
from quartet.base import files, numerics, paths
from quartet.base.errors import InputError
from quartet.commands import outputs, publish
from quartet.data import catalogue

RESULTS = """# Results on MNIST

measured

## What batch norm and merging classes change

paired

## Beside the report

beside

![b](figures/b.png)

![a](figures/a.png)
"""
SWEEP = """# The recipe that the search found (MNIST)

a headline

a table

![Each trial's accuracy](figures/history.png)
"""
STUDY = """# What seeds say

in short

## The claims

verdicts

![seeds](figures/seeds.png)

![gap](figures/gap.png)
"""
PAGE = "a\n<!-- one:begin -->\nold\n<!-- one:end -->\nb\n<!-- two:begin -->\nkept\n<!-- two:end -->\n"


def test_what_is_quoted_goes_between_its_markers_alone(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(PAGE, encoding="utf-8")
    publish.quote("one", "new\n", page)
    assert page.read_text(encoding="utf-8") == PAGE.replace("old", "new")


@pytest.mark.parametrize("lost", ["<!-- one:begin -->\n", "<!-- one:end -->"])
def test_a_page_without_the_markers_is_named_and_left_as_it_is(tmp_path, lost):
    page = tmp_path / "README.md"
    page.write_text(PAGE.replace(lost, ""), encoding="utf-8")
    with pytest.raises(InputError, match="expected the markers <!-- one:begin --> and <!-- one:end -->"):
        publish.quote("one", "new\n", page)
    assert page.read_text(encoding="utf-8") == PAGE.replace(lost, "")


def test_figures_of_the_sample_are_not_published(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write_record(paths.SOURCE, catalogue.SAMPLE.source.record)
    with pytest.raises(InputError, match="expected data that others can have, found sample"):
        publish.main([])
    assert not (tmp_path / "docs").exists()


@pytest.fixture
def project(workspace):
    """What a pipeline on MNIST leaves, as far as it is published."""
    files.write_record(paths.SOURCE, catalogue.MNIST.source.record)
    outs = "[{path: stages/plot/figures}, {path: stages/plot/results.md}]"
    lock = f"stages: {{plot: {{outs: {outs}}}, train@gone: {{outs: [{{path: stages/train/gone/history.csv}}]}}}}"
    (workspace / "dvc.lock").write_text(lock, encoding="utf-8")
    files.write_bytes(paths.RESULTS, RESULTS.encode())
    files.write_bytes(paths.PAGE, b"a page")
    for name in ("b.png", "a.png"):
        files.write_bytes(paths.FIGURES / name, name.encode())
    publish.DOCS.mkdir()
    (publish.DOCS / "data.md").write_text("<!-- data-sets:begin -->\n<!-- data-sets:end -->\n", encoding="utf-8")
    publish.README.write_text("<!-- study:begin -->\n<!-- study:end -->\n", encoding="utf-8")
    return workspace


def test_results_on_another_data_set_have_their_own_folder(project, capsys):
    files.write_record(paths.SOURCE, catalogue.FASHION.source.record)
    publish.main([])
    folder = publish.DOCS / "fashion-mnist"
    assert (folder / "results.md").read_text(encoding="utf-8") == RESULTS.replace("figures/", "")
    assert [(folder / name).read_text(encoding="utf-8") for name in ("a.png", "b.png")] == ["a.png", "b.png"]
    assert sorted(path.name for path in publish.DOCS.iterdir()) == ["data.md", "fashion-mnist"]
    assert capsys.readouterr().out == "docs: docs/fashion-mnist/\n"


def test_the_data_sets_in_the_documents_are_those_of_the_table():
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    assert publish.replace_block(page, "data-sets", publish.data_sets(), ROOT / "docs/data.md") == page
    for data_set in catalogue.DATA_SETS.values():
        assert f"`{data_set.name}`" in page


@pytest.fixture
def study(project):
    """What a study on MNIST leaves, as far as it is published."""
    files.write_bytes(paths.CLAIMS, STUDY.encode())
    files.write_bytes(paths.FINDINGS, b"{}")
    files.write_csv(paths.STUDY_TRAININGS, [{"data": "mnist"}])
    for name in ("seeds.png", "gap.png"):
        files.write_bytes(paths.STUDY_FIGURES / name, name.encode())
    outs = ", ".join(f"{{path: {path}, md5: {files.md5(path)}}}" for path in (paths.CLAIMS, paths.FINDINGS))
    files.write_bytes(publish.STUDY_PIPELINE.with_suffix(".lock"), f"stages: {{claims: {{outs: [{outs}]}}}}".encode())
    return project


def test_the_results_are_published_with_every_figure(project):
    publish.main([])
    page = (publish.DOCS / "results.md").read_text(encoding="utf-8")
    assert page.startswith(RESULTS.replace("figures/", ""))
    assert re.findall(r"!\[.*\]\((.*)\)", page) == ["b.png", "a.png"]
    assert [(publish.DOCS / name).read_text(encoding="utf-8") for name in ("a.png", "b.png")] == ["a.png", "b.png"]
    assert list(outputs.read()["outputs"]) == [
        "stages/plot/figures/a.png",
        "stages/plot/figures/b.png",
        "stages/plot/results.md",
    ]
    made_on = f"Made by `make docs` on {publish.machine()}."
    assert page.endswith(f"{made_on}\n")
    assert (publish.DOCS / "index.html").read_bytes() == b"a page"


def test_the_study_is_published_with_its_numbers(study):
    (publish.DOCS / "study-gone.png").write_bytes(b"of an earlier study")
    publish.main(["--study"])
    page = (publish.DOCS / "study.md").read_text(encoding="utf-8")
    assert page.startswith(STUDY.replace("figures/", "study-"))
    figures = {name: (publish.DOCS / name).read_text(encoding="utf-8") for name in re.findall(r"!\[.*\]\((.*)\)", page)}
    assert figures == {"study-seeds.png": "seeds.png", "study-gap.png": "gap.png"}
    assert {path.name for path in publish.DOCS.glob("study*")} == {"study.md", "study.json", *figures}
    assert (publish.DOCS / "study.json").read_bytes() == paths.FINDINGS.read_bytes()
    assert publish.README.read_text(encoding="utf-8") == "<!-- study:begin -->\nin short\n<!-- study:end -->\n"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (paths.CLAIMS.unlink, "no study here"),
        (lambda: files.write_csv(paths.STUDY_TRAININGS, [{"data": "sample"}]), "the study here is on sample"),
        (
            lambda: files.write_bytes(paths.FINDINGS, b"{ }"),
            "stages/study/findings.json is not what study/dvc.lock records; `make study`",
        ),
        (
            publish.STUDY_PIPELINE.with_suffix(".lock").unlink,
            "stages/study/claims.md is not what study/dvc.lock records; `make study`",
        ),
    ],
)
def test_without_a_study_on_mnist_its_page_stays(study, capsys, spoil, reason):
    spoil()
    publish.main(["--study"])
    assert f"docs: {reason}: docs/study.md and README.md stay as they are" in capsys.readouterr().out
    assert not list(publish.DOCS.glob("study*"))
    assert "in short" not in publish.README.read_text(encoding="utf-8")


def test_a_figure_that_is_gone_is_removed_and_no_other(project):
    publish.main([])
    (paths.FIGURES / "a.png").unlink()
    files.write_bytes(paths.RESULTS, RESULTS.replace("\n![a](figures/a.png)\n", "").encode())
    files.write_bytes(publish.DOCS / "by-hand.png", b"a user's")
    publish.main([])
    left = sorted(path.name for path in publish.DOCS.iterdir())
    assert left == ["b.png", "by-hand.png", "data.md", "index.html", "published.json", "results.md"]
    assert "a.png" not in (publish.DOCS / "results.md").read_text(encoding="utf-8")


def test_without_figures_nothing_is_published(project):
    for picture in paths.FIGURES.iterdir():
        picture.unlink()
    with pytest.raises(InputError, match=r"stages/plot/figures: expected figures, found none; `dvc repro` draws them"):
        publish.main([])
    assert [path.name for path in publish.DOCS.iterdir()] == ["data.md"]


def test_leftovers_of_a_removed_variant_are_not_published(project):
    """What evaluate depends on has them in its hash: a clone would have another dvc.lock."""
    (paths.TRAIN / "gone").mkdir(parents=True)
    (paths.TRAIN / "ten").mkdir()
    with pytest.raises(InputError, match=r"stages/train: expected the trainings of params\.yaml alone, found gone; move"):
        publish.main([])
    assert [path.name for path in publish.DOCS.iterdir()] == ["data.md"]


@pytest.mark.parametrize("content", ["", "<<<<<<< HEAD\n", "stages: 1", "[]"])
def test_a_damaged_lock_file_is_named(project, content):
    (project / "dvc.lock").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"dvc\.lock: expected the lock file of DVC; `git checkout dvc\.lock`"):
        publish.main([])


def test_bytes_that_others_cannot_make_are_not_published(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(numerics, "departure", lambda: "this processor has no FMA")
    with pytest.raises(InputError, match="this processor has no FMA: others could not make these bytes"):
        publish.main([])
    assert list(tmp_path.iterdir()) == []


def test_an_older_python_that_draws_other_bytes_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(numerics, "departure", lambda: None)
    monkeypatch.setattr(publish, "sys", SimpleNamespace(version_info=(3, 10, 9)))
    with pytest.raises(InputError, match=r"Python: expected 3\.11 or newer"):
        publish.main([])
    assert list(tmp_path.iterdir()) == []


def test_the_documents_are_made_of_the_published_outputs():
    """Whoever checks the outputs with `make verify` has checked what the documents say."""
    published = outputs.read(ROOT)["outputs"]
    others = (f"{publish.STUDY}-", f"{publish.RECIPE}-")
    pictures = {path.name for path in (ROOT / "docs").glob("*.png") if not path.name.startswith(others)}
    assert pictures
    assert pictures == {Path(path).name for path in published if path.endswith(".png")}
    for name in pictures:
        assert files.sha256(ROOT / "docs" / name) == published[f"stages/plot/figures/{name}"]
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    assert files.sha256(ROOT / "docs/index.html") == published["stages/page/index.html"]
    results = page.rpartition("\nMade by ")[0].replace("](", "](figures/")
    assert hashlib.sha256(results.encode()).hexdigest() == published["stages/plot/results.md"]


def test_the_studys_documents_are_those_of_its_lock():
    """And what its trainings came to, in git, is what made them."""
    stages = yaml.safe_load((ROOT / "study/dvc.lock").read_text(encoding="utf-8"))["stages"]
    trained, found = ({out["path"]: out["md5"] for out in stages[name]["outs"]} for name in ("trainings", "claims"))
    assert {path: files.md5(ROOT / path) for path in trained} == trained
    assert files.md5(ROOT / "docs/study.json") == found["stages/study/findings.json"]
    page = (ROOT / "docs/study.md").read_text(encoding="utf-8")
    claims = re.sub(r"\]\(study-(\w+\.png)\)", r"](figures/\1)", page.rpartition("\nAll numbers: ")[0])
    assert hashlib.md5(claims.encode()).hexdigest() == found["stages/study/claims.md"]
    pictures = sorted((ROOT / "docs").glob("study-*.png"))
    listed = [{"md5": files.md5(path), "relpath": path.name.removeprefix("study-")} for path in pictures]
    folder = json.dumps(sorted(listed, key=lambda it: it["relpath"]), sort_keys=True).encode()  # as DVC hashes a folder
    assert f"{hashlib.md5(folder).hexdigest()}.dir" == found["stages/study/figures"]
    assert publish.summary(page) in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def sweep(workspace):
    """What a search on MNIST leaves, and the pages that tell of it."""
    files.write_bytes(paths.RECIPE, SWEEP.encode())
    files.write_bytes(paths.SWEEP_FIGURES / "history.png", b"a picture")
    for path in (paths.SWEEP_TRIALS, paths.SWEEP_FINALISTS, paths.SWEEP_CONFIRMATION):
        files.write_bytes(path, path.name.encode())
    publish.DOCS.mkdir()
    for page in (publish.README, publish.DOCS / "recipe.md"):
        page.write_text("before\n<!-- recipe:begin -->\n<!-- recipe:end -->\nafter\n", encoding="utf-8")
    return workspace


def test_what_a_search_found_is_published_with_its_tables(sweep):
    (publish.DOCS / "recipe-gone.png").write_bytes(b"of an earlier search")
    publish.main(["--sweep"])
    headline = publish.README.read_text(encoding="utf-8")
    assert headline == "before\n<!-- recipe:begin -->\na headline\n<!-- recipe:end -->\nafter\n"
    page = (publish.DOCS / "recipe.md").read_text(encoding="utf-8")
    assert page == (
        "before\n<!-- recipe:begin -->\na headline\n\na table\n\n![Each trial's accuracy](recipe-history.png)\n\n"
        "The accuracies of each training: [trials](recipe-trials.csv), [finalists](recipe-finalists.csv),"
        " [confirmation](recipe-confirmation.csv)."
        f" Made by `make sweep`, published on {publish.machine()}.\n<!-- recipe:end -->\nafter\n"
    )
    assert {path.name: path.read_bytes() for path in publish.DOCS.iterdir() if path.name != "recipe.md"} == {
        "recipe-history.png": b"a picture",
        "recipe-trials.csv": b"trials.csv",
        "recipe-finalists.csv": b"finalists.csv",
        "recipe-confirmation.csv": b"confirmation.csv",
    }


@pytest.mark.parametrize("content", [None, SWEEP.replace("MNIST", "Fashion-MNIST")])
def test_a_search_on_other_data_is_not_published(sweep, content):
    if content is None:
        paths.RECIPE.unlink()
    else:
        files.write_bytes(paths.RECIPE, content.encode())
    before = publish.README.read_bytes()
    with pytest.raises(InputError, match=r"stages/sweep/recipe.md: expected what a search on MNIST found"):
        publish.main(["--sweep"])
    assert publish.README.read_bytes() == before
    assert [path.name for path in publish.DOCS.iterdir()] == ["recipe.md"]
