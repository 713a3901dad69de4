from __future__ import annotations

import json

import pytest
import yaml

from quartet import files, params, paths, published
from quartet.errors import InputError


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A few outputs of each stage, published; what is no output lies beside them."""
    monkeypatch.chdir(tmp_path)
    names = ["data/raw/source.json", "data/split/train.safetensors", "stages/plot/results.md"]
    for name in params.TRAININGS:
        names += [
            f"stages/train/{name}/model.safetensors",
            f"stages/evaluate/{name}/loss.png",
            f"stages/evaluate/{name}.json",
        ]
    for name in [*names, "stages/train/ten/provenance.json", "stages/train/ten/.part", "stages/note.txt"]:
        files.write_bytes(tmp_path / name, name.encode())
    published.write(published.outputs())
    return tmp_path


def test_every_output_is_recorded_but_the_codes_digest(project):
    record = published.read()
    assert len(record["outputs"]) == 18
    assert record["outputs"] == published.outputs()
    assert record["outputs"]["stages/plot/results.md"] == files.sha256(paths.RESULTS)
    assert [path for path in record["outputs"] if "provenance" in path or "part" in path or "note" in path] == []
    assert record["made_on"] == published.machine()


def test_every_output_belongs_to_one_part(project):
    for path in published.outputs():
        assert sum(path.startswith(beginnings) for _, beginnings in published.parts()) == 1


def test_outputs_that_differ_are_told_in_the_order_of_the_stages(project):
    expected = published.outputs()
    paths.RESULTS.write_text("another", encoding="utf-8")
    paths.model("ten-bn").unlink()
    (paths.SPLIT / "new.safetensors").touch()
    found = published.differences(expected, published.outputs())
    assert [(difference.path, difference.published is None, difference.found is None) for difference in found] == [
        ("data/split/new.safetensors", True, False),
        ("stages/train/ten-bn/model.safetensors", False, True),
        ("stages/plot/results.md", False, False),
    ]


def test_a_machine_is_told_by_its_processor_and_versions(project):
    made_on = published.machine()
    words = published.in_words(made_on)
    assert made_on["processor"] in words
    assert all(f"{package} {version}" in words for package, version in made_on["packages"].items())


def test_only_what_dvc_lock_lists_is_published(project):
    outs = [{"path": "data/split"}, {"path": "stages/train/ten/model.safetensors"}]
    text = yaml.safe_dump({"schema": "2.0", "stages": {"one": {"outs": outs}, "two": {"cmd": "true"}}})
    (project / "dvc.lock").write_text(text, encoding="utf-8")
    assert list(published.outputs(places=published.locked())) == [
        "data/split/train.safetensors",
        "stages/train/ten/model.safetensors",
    ]


GOOD = {"outputs": {"a": "b"}, "made_on": published.machine()}


@pytest.mark.parametrize(
    "content",
    [
        None,
        "{",
        "[]",
        "{}",
        "<<<<<<< HEAD",
        json.dumps({"outputs": {}, "made_on": GOOD["made_on"]}),
        json.dumps({"outputs": {"a": 1}, "made_on": GOOD["made_on"]}),
        json.dumps({"outputs": ["a"], "made_on": GOOD["made_on"]}),
        json.dumps({"outputs": {"a": "b"}, "made_on": 1}),
        json.dumps({"outputs": {"a": "b"}, "made_on": {**GOOD["made_on"], "packages": {}}}),
    ],
)
def test_what_is_not_a_record_is_refused(project, content):
    published.FILE.unlink()
    if content is not None:
        published.FILE.write_text(content, encoding="utf-8")
    advice = "docs/published.json: expected what `make docs` writes; `git checkout docs/published.json` brings it back"
    with pytest.raises(InputError) as refused:
        published.read()
    assert str(refused.value) == advice


def test_a_record_that_is_whole_is_read(project):
    published.FILE.write_text(json.dumps(GOOD), encoding="utf-8")
    assert published.read() == GOOD
