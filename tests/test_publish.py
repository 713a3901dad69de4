from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from conftest import ROOT
from quartet import files, numerics, paths, publish, published
from quartet.errors import InputError

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
    files.write_record(paths.SOURCE, {"data": "sample"})
    with pytest.raises(InputError, match="expected mnist, found sample"):
        publish.main()
    assert not (tmp_path / "docs").exists()


def test_the_results_are_published_with_every_figure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    publish.DOCS.mkdir()
    files.write_record(paths.SOURCE, {"data": "mnist"})
    (tmp_path / "dvc.lock").write_text("stages: {plot: {outs: [{path: stages/plot}]}}", encoding="utf-8")
    files.write_bytes(
        paths.RESULTS, b"# Results on MNIST\n\nmeasured\n\n## What\n\npaired\n\n## Beside the report\n\nbeside\n"
    )
    for name in ("b.png", "a.png"):
        files.write_bytes(paths.PLOT / name, name.encode())
    publish.README.write_text("<!-- results:begin -->\n<!-- results:end -->\n", encoding="utf-8")
    publish.main()
    page = (publish.DOCS / "results.md").read_text(encoding="utf-8")
    assert page.startswith(paths.RESULTS.read_text(encoding="utf-8"))
    assert re.findall(r"!\[.*\]\((.*)\)", page) == ["a.png", "b.png"]
    assert [(publish.DOCS / name).read_text(encoding="utf-8") for name in ("a.png", "b.png")] == ["a.png", "b.png"]
    assert list(published.read()["outputs"]) == ["stages/plot/a.png", "stages/plot/b.png", "stages/plot/results.md"]
    made_on = f"Made by `make docs` on {publish.machine()}."
    assert page.endswith(f"{made_on}\n")
    assert publish.README.read_text(encoding="utf-8") == (
        f"<!-- results:begin -->\nmeasured\n\n### What\n\npaired\n\n{made_on}\n<!-- results:end -->\n"
    )


def test_bytes_that_others_cannot_make_are_not_published(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(numerics, "departure", lambda: "this processor has no FMA")
    with pytest.raises(InputError, match="this processor has no FMA: others could not make these bytes"):
        publish.main()
    assert list(tmp_path.iterdir()) == []


def test_the_committed_documents_are_made_of_the_published_outputs():
    """Whoever checks the outputs with `make verify` has checked what the documents say."""
    outputs = published.read(ROOT)["outputs"]
    pictures = [path for path in outputs if path.startswith("stages/plot/") and path.endswith(".png")]
    assert len(pictures) == 9
    for path in pictures:
        assert files.sha256(ROOT / "docs" / Path(path).name) == outputs[path]
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    results = page.partition("\n## Figures\n")[0]
    assert hashlib.sha256(results.encode()).hexdigest() == outputs["stages/plot/results.md"]
    assert publish.quoted(results) in (ROOT / "README.md").read_text(encoding="utf-8")
