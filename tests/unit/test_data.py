from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import safetensors.numpy

from quartet.base import files, paths
from quartet.base.errors import InputError
from quartet.data import catalogue, idx, splits
from trained import write_manifest


@pytest.fixture
def pair(tmp_path):
    def write(images, labels):
        names = tmp_path / "images", tmp_path / "labels"
        for path, array in zip(names, (images, labels), strict=True):
            path.write_bytes(idx.encode(np.asarray(array, dtype=np.uint8)))
        return names

    return write


@pytest.fixture
def saved(workspace, tiny):
    splits.save_split("train", tiny)
    path = paths.split("train")
    write_manifest(train=files.sha256(path))
    return path


def test_a_pair_of_files_is_read(pair, tiny):
    images, labels = idx.read_pair(*pair(tiny.images, tiny.labels))
    np.testing.assert_array_equal(images, tiny.images)
    np.testing.assert_array_equal(labels, tiny.labels)


@pytest.mark.parametrize(
    ("shape", "labels", "problem"),
    [
        ((3, 28, 28), [1, 10, 2], "labels: expected labels 0 to 9, found 10 at item 1"),
        ((3, 28, 28), [1, 2], "labels: expected a label for each of 3 images, found 2"),
        ((2, 28, 28), [1, 2, 3], "labels: expected a label for each of 2 images, found 3"),
        ((2, 28, 27), [1, 2], "images: expected images of 28x28, found 28x27"),
        ((2, 32, 28), [1, 2], "images: expected images of 28x28, found 32x28"),
    ],
)
def test_a_pair_that_does_not_fit_is_refused(pair, shape, labels, problem):
    with pytest.raises(InputError, match=problem):
        idx.read_pair(*pair(np.zeros(shape), labels))


@pytest.mark.parametrize(
    ("count", "fraction", "held_out"), [(2, 0.5, 1), (10, 0.1, 1), (999, 0.25, 250), (60_000, 0.1, 6_000)]
)
def test_a_split_loses_no_image_and_takes_none_twice(count, fraction, held_out):
    train, validation = splits.split_indices(count, fraction, seed=3)
    assert len(validation) == held_out
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(count))
    assert (np.diff(train) > 0).all()
    assert (np.diff(validation) > 0).all()


def test_a_split_comes_from_its_seed_alone():
    first = splits.split_indices(1_000, 0.1, seed=1)
    np.random.default_rng(9).random(5)
    second, other = splits.split_indices(1_000, 0.1, seed=1), splits.split_indices(1_000, 0.1, seed=2)
    np.testing.assert_array_equal(first[1], second[1])
    assert set(first[1].tolist()) != set(other[1].tolist())


def test_a_split_draws_from_everywhere():
    # Of 1,000 drawn from 10,000, each tenth holds 100 on average; 40 is 6 standard deviations off.
    _, validation = splits.split_indices(10_000, 0.1, seed=0)
    tenths = np.bincount(validation // 1_000, minlength=10)
    assert tenths.min() > 40


@pytest.mark.parametrize(("count", "fraction"), [(10, 0.01), (10, 0.99), (1, 0.5), (0, 0.5)])
def test_a_fraction_that_leaves_a_split_empty_is_refused(count, fraction):
    with pytest.raises(InputError, match=f"data.validation_fraction: {fraction} of {count} images"):
        splits.split_indices(count, fraction, seed=0)


def test_dividing_gives_each_image_once_and_keeps_the_test_set(tiny):
    test = splits.Split(tiny.images[:50], tiny.labels[:50])
    divided = splits.divide(tiny, test, 0.5, seed=0)
    assert tuple(divided) == splits.SPLITS
    assert divided["test"] is test
    halves = divided["train"], divided["validation"]
    given = zip(tiny.images, tiny.labels, strict=True)
    found = (pair for half in halves for pair in zip(half.images, half.labels, strict=True))
    assert sorted((image.tobytes(), int(label)) for image, label in found) == sorted(
        (image.tobytes(), int(label)) for image, label in given
    )


@pytest.mark.parametrize("digit", [0, 7, 9])
def test_a_test_set_without_some_digit_is_refused(tiny, digit):
    kept = tiny.labels != digit
    with pytest.raises(InputError, match=f"split test: no image of digit {digit}; "):
        splits.divide(tiny, splits.Split(tiny.images[kept], tiny.labels[kept]), 0.5, seed=0)


def test_all_splits_are_saved_with_a_manifest_of_them(workspace, tiny):
    parts = (
        (tiny.images[:90], tiny.images[90:200], tiny.images[200:]),
        (tiny.labels[:90], tiny.labels[90:200], tiny.labels[200:]),
    )
    divided = {name: splits.Split(*arrays) for name, *arrays in zip(splits.SPLITS, *parts, strict=True)}
    splits.save_all(divided, catalogue.MNIST.source)
    manifest = splits.load_manifest()
    assert manifest["data"] == "mnist"
    assert {name: described["images"] for name, described in manifest["splits"].items()} == dict(
        zip(splits.SPLITS, (90, 110, 10), strict=True)
    )
    for name, split in divided.items():
        found = splits.load_split(name)
        np.testing.assert_array_equal(found.images, split.images)
        np.testing.assert_array_equal(found.labels, split.labels)
        counts = [split.labels.tolist().count(digit) for digit in range(10)]
        assert manifest["splits"][name]["digit_counts"] == counts


def test_digits_are_counted():
    assert splits.digit_counts(np.array([9, 0, 0, 3], dtype=np.uint8)) == [2, 0, 0, 1, 0, 0, 0, 0, 0, 1]


def test_digits_become_the_place_of_their_group():
    merged = splits.merge(np.arange(10, dtype=np.uint8), [[0, 6], [1, 7], [2, 3, 5, 8], [4, 9]])
    assert merged.dtype == np.int64
    assert merged.tolist() == [0, 1, 2, 2, 3, 2, 0, 1, 2, 3]


def test_groups_of_one_digit_change_nothing(tiny):
    np.testing.assert_array_equal(splits.merge(tiny.labels, [[digit] for digit in range(10)]), tiny.labels)


def test_a_class_is_called_by_its_digits():
    assert catalogue.MNIST.source.class_names([[0, 6], [1], [2, 3, 5, 8]]) == ["0·6", "1", "2·3·5·8"]


def test_a_split_that_is_saved_is_read_back(saved, tiny):
    found = splits.load_split("train")
    assert found.images.dtype == found.labels.dtype == np.uint8
    np.testing.assert_array_equal(found.images, tiny.images)
    np.testing.assert_array_equal(found.labels, tiny.labels)


def test_equal_splits_are_equal_bytes_of_nothing_else(saved, tiny):
    before = saved.read_bytes()
    splits.save_split("train", splits.Split(tiny.images.copy(), tiny.labels.copy()))
    assert saved.read_bytes() == before
    # The container's bytes, by its specification: the header's length, the header, then the arrays and nothing more.
    header = json.loads(before[8 : 8 + struct.unpack("<Q", before[:8])[0]])
    assert header.keys() == {"images", "labels"}
    assert before.endswith(tiny.images.tobytes() + tiny.labels.tobytes())
    assert len(before) == 8 + struct.unpack("<Q", before[:8])[0] + tiny.images.size + tiny.labels.size


def test_a_flipped_bit_is_found(saved):
    content = bytearray(saved.read_bytes())
    content[len(content) // 2] ^= 1
    saved.write_bytes(content)
    with pytest.raises(InputError, match=r"train\.safetensors: its SHA-256 is not the one in .*manifest\.json: damaged"):
        splits.load_split("train")


def test_a_missing_split_is_named(saved):
    saved.unlink()
    with pytest.raises(InputError, match=r"train\.safetensors: missing; `dvc repro` makes it"):
        splits.load_split("train")


@pytest.mark.parametrize(
    ("manifest", "problem"),
    [
        (None, r"manifest\.json: missing"),
        ("{", r"manifest\.json: not JSON"),
        ("{}", r"manifest\.json: not the content .*single-item preprocess`"),
        ("[]", r"manifest\.json: not the content .*single-item preprocess`"),
        ('{"splits": {"test": {}}}', r"manifest\.json: not the content .*single-item preprocess`"),
    ],
)
def test_a_damaged_manifest_is_named(saved, manifest, problem):
    paths.MANIFEST.unlink()
    if manifest is not None:
        paths.MANIFEST.write_text(manifest, encoding="utf-8")
    with pytest.raises(InputError, match=problem):
        splits.load_split("train")


@pytest.mark.parametrize("content", ["no tensors", "", "PK\x03\x04 a zip file"])
def test_a_file_that_is_no_split_is_refused(saved, content):
    """Its digest is the one of the manifest."""
    saved.write_text(content, encoding="utf-8")
    write_manifest(train=files.sha256(saved))
    with pytest.raises(InputError, match="not what preprocess writes: damaged"):
        splits.load_split("train")


def stored(folder, arrays) -> None:
    """Write these arrays as the training split, with a manifest that names its SHA-256."""
    content = arrays if isinstance(arrays, bytes) else safetensors.numpy.save(arrays)
    files.write_bytes(paths.split("train"), content)
    digest = files.sha256(paths.split("train"))
    write_manifest("mnist", train=digest)


def header(**arrays) -> bytes:
    """A safetensors file of this header, without the arrays that it promises."""
    text = json.dumps(arrays).encode()
    return struct.pack("<Q", len(text)) + text


U8 = np.zeros((3, 28, 28), np.uint8)
DIGITS = np.array([0, 1, 9], np.uint8)
ONE = b'"images":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
TWICE = b"{" + ONE + b"," + ONE + b"}"
MALFORMED = {
    "float images": {"images": U8.astype(np.float32), "labels": DIGITS},
    "signed labels": {"images": U8, "labels": DIGITS.astype(np.int8)},
    "labels out of range": {"images": U8, "labels": np.array([0, 1, 10], np.uint8)},
    "another number of labels": {"images": U8, "labels": DIGITS[:2]},
    "labels of two dimensions": {"images": U8, "labels": DIGITS.reshape(3, 1)},
    "smaller images": {"images": U8[:, :27], "labels": DIGITS},
    "flat images": {"images": U8.reshape(3, 784), "labels": DIGITS},
    "no image": {"images": U8[:0], "labels": DIGITS[:0]},
    "no labels": {"images": U8},
    "other names": {"x": U8, "y": DIGITS},
    "nothing": b"",
    "not safetensors": b"PK\x03\x04" + bytes(100),
    "784 TiB": header(images={"dtype": "U8", "shape": [2**40, 28, 28], "data_offsets": [0, 784 * 2**40]}),
    "cut off": safetensors.numpy.save({"images": U8, "labels": DIGITS})[:-1],
    "too long": safetensors.numpy.save({"images": U8, "labels": DIGITS}) + b"x",
    "nested for ever": struct.pack("<Q", 100_000) + b"[" * 100_000,
    "two of a name": struct.pack("<Q", len(TWICE)) + TWICE + bytes(2),
}


@pytest.mark.parametrize("arrays", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_split_that_its_manifest_names_is_refused(workspace, arrays):
    stored(workspace, arrays)
    with pytest.raises(InputError, match=r"train\.safetensors: not what preprocess writes: damaged; .*preprocess`"):
        splits.load_split("train")


def test_a_manifest_without_the_split_is_refused(workspace):
    stored(workspace, {"images": U8, "labels": DIGITS})
    for described in ({}, {"validation": {}}, {"train": {}}, {"train": []}, [], 3):
        files.write_record(paths.MANIFEST, {"data": "mnist", "splits": described})
        with pytest.raises(InputError, match=r"train\.safetensors: not what preprocess writes: damaged"):
            splits.load_split("train")
