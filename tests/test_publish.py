from __future__ import annotations

import pytest

from quartet import files, paths, publish
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
