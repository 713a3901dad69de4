from __future__ import annotations

import json

import numpy as np
import pytest

import preprocess
from quartet.base import files, params, paths
from quartet.base.errors import InputError
from quartet.data import catalogue, idx, splits


def fill(train, test):
    """Write data/raw/ as fetch leaves it."""
    arrays = {
        "train-images-idx3-ubyte": train.images,
        "train-labels-idx1-ubyte": train.labels,
        "t10k-images-idx3-ubyte": test.images,
        "t10k-labels-idx1-ubyte": test.labels,
    }
    for name, array in arrays.items():
        files.write_bytes(paths.RAW / name, idx.encode(array))
    idx.record(catalogue.SAMPLE.source)


@pytest.fixture
def raw(workspace, tiny):
    """Ten times as many training images as in `tiny`, each numbered in its first two pixels."""
    images, labels = np.tile(tiny.images, (10, 1, 1)), np.tile(tiny.labels, 10)
    images[:, 0, 0], images[:, 0, 1] = np.divmod(np.arange(2_100), 256)
    fill(splits.Split(images, labels), tiny)
    return splits.Split(images, labels)


def numbers(split):
    return (split.images[:, 0, 0].astype(int) * 256 + split.images[:, 0, 1]).tolist()


def test_every_image_is_in_one_split_with_its_label(raw, tiny, capsys):
    preprocess.main()
    train, validation, test = (splits.load_split(name) for name in splits.SPLITS)
    assert len(validation.images) == 210
    assert sorted(numbers(train) + numbers(validation)) == list(range(2_100))
    for split in (train, validation):
        places = numbers(split)
        np.testing.assert_array_equal(split.images, raw.images[places])
        np.testing.assert_array_equal(split.labels, raw.labels[places])
    np.testing.assert_array_equal(test.images, tiny.images)
    np.testing.assert_array_equal(test.labels, tiny.labels)
    assert "not MNIST: 1,890 train, 210 validation, 210 test" in capsys.readouterr().out


def test_the_manifest_counts_and_identifies_the_splits(raw):
    preprocess.main()
    manifest = splits.load_manifest()
    assert manifest["data"] == "sample"
    assert {name: split["images"] for name, split in manifest["splits"].items()} == {
        "train": 1_890,
        "validation": 210,
        "test": 210,
    }
    assert manifest["splits"]["test"]["digit_counts"] == [21] * 10
    both = [manifest["splits"][name]["digit_counts"] for name in ("train", "validation")]
    assert [sum(counts) for counts in zip(*both, strict=True)] == [210] * 10
    assert sorted(path.name for path in paths.SPLIT.iterdir()) == [
        "manifest.json",
        "test.safetensors",
        "train.safetensors",
        "validation.safetensors",
    ]


def test_only_another_seed_makes_other_bytes(raw, workspace):
    def content():
        preprocess.main()
        return {path.name: path.read_bytes() for path in paths.SPLIT.iterdir()}

    first = content()
    assert content() == first
    shipped = (workspace / "params.yaml").read_text(encoding="utf-8")
    section = shipped.index("data:")
    (workspace / "params.yaml").write_text(shipped[:section] + shipped[section:].replace("seed: 0", "seed: 1", 1))
    assert params.load().data.seed == 1
    other = content()
    assert other["train.safetensors"] != first["train.safetensors"]
    assert other["test.safetensors"] == first["test.safetensors"]


def test_what_a_killed_run_left_half_written_goes(raw):
    half = [paths.SPLIT / f".{name}.abc_1234.part" for name in ("manifest.json", "train.safetensors", "test.safetensors")]
    users = paths.SPLIT / ".notes.txt.abc_1234.part"
    for path in (*half, users):
        files.write_bytes(path, b"half")
    preprocess.main()
    assert [path.name for path in paths.SPLIT.glob(".*")] == [users.name]


def test_a_file_that_fetch_did_not_record_is_refused(raw):
    path = paths.RAW / "t10k-labels-idx1-ubyte"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"t10k-labels-idx1-ubyte: not the file .* dvc repro --force --single-item fetch`"):
        preprocess.main()
    assert not paths.SPLIT.exists()


def test_without_a_record_it_is_refused(workspace):
    with pytest.raises(InputError, match=r"data/raw/source\.json: missing"):
        preprocess.main()


@pytest.mark.parametrize("content", [{}, [], {"data": "mnist", "sha256": {}}])
def test_a_record_that_fetch_does_not_write_is_refused(raw, content):
    paths.SOURCE.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match=r"data/raw/source\.json: not the content .*single-item fetch`"):
        preprocess.main()


def test_a_split_without_some_digit_is_refused(workspace, tiny):
    few = splits.Split(tiny.images[:30], tiny.labels[:30])
    fill(few, tiny)
    with pytest.raises(InputError, match=r"split validation: no image of digit \d; change data.validation_fraction or"):
        preprocess.main()
    assert not paths.SPLIT.exists()
