from __future__ import annotations

import hashlib
import json
import struct
import tracemalloc

import numpy as np
import pytest

from quartet.base import paths
from quartet.base.errors import InputError
from quartet.data import catalogue, idx

IMAGES = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2, 2, 3) + bytes(range(12))


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "a-file"
        path.write_bytes(content)
        return path

    return write


def test_hand_built_bytes_are_read_in_order(file):
    found = idx.read(file(IMAGES), 3)
    assert found.dtype == np.uint8
    assert found.tolist() == [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]
    assert idx.read(file(bytes([0, 0, 8, 1, 0, 0, 0, 2, 255, 7])), 1).tolist() == [255, 7]


def test_a_set_of_no_images_is_read(file):
    assert idx.read(file(bytes([0, 0, 8, 3]) + struct.pack(">3I", 0, 28, 28)), 3).shape == (0, 28, 28)


def test_encode_writes_the_bytes_that_the_format_describes():
    assert idx.encode(np.arange(12, dtype=np.uint8).reshape(2, 2, 3)) == IMAGES


@pytest.mark.parametrize("shape", [(1,), (300,), (3, 28, 28), (2, 1, 5)])
def test_what_is_encoded_is_read_back(file, shape):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    found = idx.read(file(idx.encode(array)), len(shape))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "expected the IDX magic 00000803 .* found nothing"),
        (b"\x1f\x8b\x08\x00" + IMAGES[4:], "expected the IDX magic 00000803 .* found 1f8b0800"),
        (b"\x00\x00\x0d\x03" + IMAGES[4:], "expected the IDX magic 00000803 .* found 00000d03"),
        (b"\x00\x00\x08\x01" + IMAGES[4:], "expected the IDX magic 00000803 .* found 00000801"),
        (IMAGES[:2], "expected the IDX magic 00000803 .* found 0000"),
        (IMAGES[:11], "the header ends after 11 bytes of 16"),
        (IMAGES[:16], "promises 2 x 2 x 3 items of a byte, the file holds 0"),
        (IMAGES[:-1], "promises 2 x 2 x 3 items of a byte, the file holds 11"),
        (IMAGES + b"\0", "promises 2 x 2 x 3 items of a byte, the file holds 13"),
    ],
)
def test_another_header_or_length_is_refused(file, content, problem):
    with pytest.raises(InputError, match=f"a-file: .*{problem}"):
        idx.read(file(content), 3)


def test_a_header_that_promises_too_much_is_refused(file):
    """Before memory is asked for."""
    path = file(bytes([0, 0, 8, 3]) + b"\xff" * 12 + b"pixels")
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="promises 4294967295 x 4294967295 x 4294967295 items"):
            idx.read(path, 3)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.fixture
def recorded(tmp_path):
    """A project's root, not the working directory, with four files that a record describes as MNIST's."""
    (tmp_path / "root" / paths.RAW).mkdir(parents=True)
    for name in idx.FILES:
        (tmp_path / "root" / paths.RAW / name).write_bytes(name.encode())
    idx.record(catalogue.MNIST.source, tmp_path / "root")
    return tmp_path / "root"


def test_the_record_says_which_data_and_identifies_each_file(recorded, monkeypatch):
    written = json.loads((recorded / paths.SOURCE).read_text(encoding="utf-8"))
    assert written["data"] == "mnist"
    assert written["sha256"] == {name: hashlib.sha256(name.encode()).hexdigest() for name in idx.FILES}
    monkeypatch.chdir(recorded)
    assert idx.check() == catalogue.MNIST.source


@pytest.mark.parametrize("name", [*idx.FILES, "source.json"])
def test_a_file_that_was_changed_after_the_record_is_named(recorded, name, monkeypatch):
    path = recorded / paths.RAW / name
    path.write_bytes(path.read_bytes().replace(b"t", b"T", 1))
    monkeypatch.chdir(recorded)
    with pytest.raises(InputError, match=rf"data/raw/{name}: .*: damaged; .*single-item fetch`"):
        idx.check()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing-here: missing; `dvc repro` fetches it"):
        idx.read(tmp_path / "nothing-here", 3)
