from __future__ import annotations

import sys

import numpy as np
import pytest

from quartet import data, files, params, paths, train
from quartet.errors import InputError

MANIFEST = {"data": "sample", "splits": {name: {"sha256": name} for name in data.SPLITS}}


def fingerprint(name="ten", manifest=MANIFEST):
    return files.content_digest(train.provenance(train.describe(name, params.load(), manifest)))


@pytest.fixture
def edit(workspace):
    def replace(old, new):
        path = workspace / "params.yaml"
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return replace


def test_a_training_is_described_by_its_parameters_groups_and_data(workspace):
    found = train.describe("four-bn", params.load(), MANIFEST)
    recipe = {"epochs": 10, "batch_size": 20, "lr": 0.001, "schedule": "constant", "augment": False, "seed": 0}
    assert found == {
        "variant": "four-bn",
        "hyperparameters": {**recipe, "classes": 4, "bn": True},
        "groups": [[0, 6], [1, 7], [2, 3, 5, 8], [4, 9]],
        "data": "sample",
        "splits": {"train": "train", "validation": "validation"},
    }


def test_a_fingerprint_is_the_trainings_own(workspace):
    assert fingerprint() == fingerprint()
    assert len({fingerprint(name) for name in params.TRAININGS}) == 5


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("ten", "  lr: 0.001", "  lr: 0.002"),
        ("ten", "  seed: 0\n\n# The base", "  seed: 1\n\n# The base"),
        ("four", "[0, 6]\n  - [1, 7]", "[0, 7]\n  - [1, 6]"),
        ("trial", "bn: false", "bn: true"),
        ("trial", "augment: false", "augment: true"),
    ],
)
def test_a_fingerprint_changes_with_what_the_training_depends_on(edit, name, old, new):
    before = fingerprint(name)
    edit(old, new)
    assert fingerprint(name) != before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("ten", "bn: false", "bn: true"),
        ("trial", "  lr: 0.001", "  lr: 0.002"),
        ("ten", "[0, 6]\n  - [1, 7]", "[0, 7]\n  - [1, 6]"),
    ],
)
def test_a_fingerprint_stays_where_others_change(edit, name, old, new):
    before = fingerprint(name)
    edit(old, new)
    assert fingerprint(name) == before


def test_a_fingerprint_changes_with_the_training_images_alone(workspace):
    before = fingerprint()
    for split in data.SPLITS:
        other = {"data": "sample", "splits": {**MANIFEST["splits"], split: {"sha256": "another"}}}
        assert (fingerprint(manifest=other) == before) == (split == "test")


def test_examples_are_a_splits_images_and_classes(workspace, tiny):
    data.save_split("train", tiny)
    files.write_record(paths.MANIFEST, {"splits": {"train": {"sha256": files.sha256(data.split_path("train"))}}})
    images, labels = train.load_examples("train", [[0, 6], [1, 7], [2, 3, 5, 8], [4, 9]])
    np.testing.assert_array_equal(images.numpy(), tiny.images)
    classes = np.array([0, 1, 2, 2, 3, 2, 0, 1, 2, 3])
    np.testing.assert_array_equal(labels.numpy(), classes[tiny.labels])


@pytest.mark.parametrize("arguments", [[], ["five"], ["ten", "four"], ["train@ten"]])
def test_another_model_than_the_five_is_refused(workspace, monkeypatch, arguments):
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    with pytest.raises(
        InputError, match=f"expected one of ten, ten-bn, four, four-bn, trial, found '{' '.join(arguments)}'"
    ):
        train.main()


@pytest.mark.parametrize(("name", "old", "key"), [("trial", "64", "batch_size"), ("ten", "20", "report.batch_size")])
def test_a_batch_larger_than_the_training_set_is_refused(edit, tiny, monkeypatch, name, old, key):
    digests = {}
    for split in ("train", "validation"):
        data.save_split(split, tiny)
        digests[split] = {"sha256": files.sha256(data.split_path(split))}
    files.write_record(paths.MANIFEST, {"data": "sample", "splits": digests})
    edit(f"batch_size: {old}", "batch_size: 211")
    monkeypatch.setattr(sys, "argv", ["train", name])
    with pytest.raises(InputError, match=rf"params\.yaml: {key}: expected at most the 210 training images, found 211"):
        train.main()
    assert not paths.TRAIN.exists()
