from __future__ import annotations

import json

import pytest
import yaml

from quartet.base import files, params, paths
from quartet.base.errors import InputError
from quartet.commands import outputs

NAMES = (
    "data/raw/source.json",
    "data/split/train.safetensors",
    "stages/evaluate/metrics.json",
    "stages/evaluate/predictions.csv",
    "stages/plot/figures/loss-ten.png",
    "stages/plot/results.md",
)


@pytest.fixture
def project(workspace):
    """A few outputs of each stage, published; what is no output lies beside them."""
    trained = [f"stages/train/{name}/model.safetensors" for name in params.load().trainings]
    others = ["stages/train/ten/provenance.json", "stages/train/ten/.part", "stages/note.txt"]
    for name in [*NAMES, *trained, *others]:
        files.write_bytes(workspace / name, name.encode())
    outputs.write(outputs.hashes())
    return workspace


def test_every_output_is_recorded_but_the_codes_digest(project):
    record = outputs.read()
    trained = [f"stages/train/{name}/model.safetensors" for name in params.load().trainings]
    assert record["outputs"] == {name: files.sha256(project / name) for name in [*NAMES, *trained]}
    assert record["made_on"] == outputs.machine()


def test_every_output_belongs_to_one_part(project):
    parts = list(outputs.parts(params.load().trainings))
    for path in outputs.hashes():
        assert sum(path.startswith(beginnings) for _, beginnings in parts) == 1


def test_the_parts_follow_the_stages_and_the_given_trainings():
    parts = list(outputs.parts(("mine", "mine-too")))
    assert [name for name, _ in parts] == ["data", "mine", "mine-too", "evaluation", "figures and tables", "page"]
    assert [name for name, beginnings in parts if "stages/train/mine/a".startswith(beginnings)] == ["mine"]


def test_outputs_that_differ_are_told_in_the_order_of_the_stages(project):
    expected = outputs.hashes()
    paths.RESULTS.write_text("another", encoding="utf-8")
    paths.model("ten-bn").unlink()
    (paths.SPLIT / "new.safetensors").touch()
    found = outputs.differences(expected, outputs.hashes())
    assert [(difference.path, difference.published is None, difference.found is None) for difference in found] == [
        ("data/split/new.safetensors", True, False),
        ("stages/train/ten-bn/model.safetensors", False, True),
        ("stages/plot/results.md", False, False),
    ]


def test_a_machine_is_told_by_its_processor_and_versions(project):
    made_on = outputs.machine()
    words = outputs.in_words(made_on)
    assert made_on["processor"] in words
    assert all(f"{package} {version}" in words for package, version in made_on["packages"].items())


def test_only_what_dvc_lock_lists_is_published(project):
    outs = [{"path": "data/split"}, {"path": "stages/train/ten/model.safetensors"}]
    text = yaml.safe_dump({"schema": "2.0", "stages": {"one": {"outs": outs}, "two": {"cmd": "true"}}})
    (project / "dvc.lock").write_text(text, encoding="utf-8")
    assert list(outputs.hashes(places=outputs.locked())) == [
        "data/split/train.safetensors",
        "stages/train/ten/model.safetensors",
    ]


GOOD = {"outputs": {"a": "b"}, "made_on": outputs.machine()}


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
    outputs.FILE.unlink()
    if content is not None:
        outputs.FILE.write_text(content, encoding="utf-8")
    advice = "docs/published.json: expected what `make docs` writes; `git checkout docs/published.json` brings it back"
    with pytest.raises(InputError) as refused:
        outputs.read()
    assert str(refused.value) == advice


def test_a_record_that_is_whole_is_read(project):
    outputs.FILE.write_text(json.dumps(GOOD), encoding="utf-8")
    assert outputs.read() == GOOD


@pytest.mark.parametrize(
    "lock", ["", "schema: '2.0'\nstages:\n  fetch:\n", "stages: {fetch: {outs: [1]}}", "stages: [", "[]", "stages: {}"]
)
def test_a_lock_without_the_stage_or_damaged_names_no_output(lock):
    assert outputs.of_stage(lock, "fetch") == {}
    assert outputs.of_stage("stages: {fetch: {outs: [{path: a, md5: b}]}}", "fetch") == {"a": "b"}
