from __future__ import annotations

import gzip
import re

import numpy as np
import pytest

import fetch
from misbehaving_server import idx_file
from quartet.base import paths
from quartet.base.errors import InputError
from quartet.data import idx, own

DIGITS = tuple("0123456789")


def arrays(side=28, train=30, test=20):
    rng = np.random.default_rng(0)
    made = {}
    for part, count in (("train", train), ("test", test)):
        shape = (count, *((side, side) if isinstance(side, int) else side))
        made[part] = rng.integers(0, 256, shape, dtype=np.uint8), rng.permutation(np.arange(count) % 10).astype(np.uint8)
    return made


def put(folder, made, names=("train-images", "train-labels", "test-images", "test-labels"), pack=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(names, (*made["train"], *made["test"]), strict=True):
        content = idx_file(array)
        (folder / name).write_bytes(gzip.compress(content) if pack else content)
    return folder


def same(found, made):
    train, test = made["train"], made["test"]
    expected = dict(zip(idx.FILES, (*train, *test), strict=True))
    return all(np.array_equal(found[name], expected[name]) for name in idx.FILES)


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize(
    "names",
    [
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
        ("x.idx", "y.idx", "Test_X", "Test_Y"),
        ("b", "d", "a", "c"),  # by the header and the number of images
        ("training", "zlabels", "validation", "validation labels"),
    ],
)
def test_files_are_told_apart(tmp_path, names, pack):
    made = arrays()
    folder = put(tmp_path / "own", made, names, pack)
    (folder / "README.md").write_text("read me", encoding="utf-8")
    found, source = own.read(folder)
    assert same(found, made)
    assert source == ("own", "own data", DIGITS)


def test_small_images_are_framed(tmp_path):
    made = arrays(side=(20, 9))
    found, _ = own.read(put(tmp_path / "own", made))
    images = found["train-images-idx3-ubyte"]
    assert images.shape == (30, 28, 28)
    assert np.array_equal(images[:, 4:24, 9:18], made["train"][0])
    assert images.sum(dtype=int) == made["train"][0].sum(dtype=int)


def test_a_hidden_file_is_not_one_of_the_four(tmp_path):
    """MacOS leaves such a file in each folder that it shows."""
    made = arrays()
    put(tmp_path / "own", made)
    (tmp_path / "own/.DS_Store").write_bytes(b"Bud1")
    found, _ = own.read(tmp_path / "own")
    assert same(found, made)
    own.check_free(tmp_path / "own", [path.name for path in (tmp_path / "own").glob("[!.]*")])


def test_classes_have_the_names_of_the_file(tmp_path):
    folder = put(tmp_path / "own", arrays())
    (folder / "classes.txt").write_text("Hut\nBaum\n" + "".join(f"{n}\n" for n in range(8)), encoding="utf-8")
    _, source = own.read(folder)
    assert source.classes == ("Hut", "Baum", *"01234567")


def too_large(folder):
    put(folder, arrays(side=29))


def no_tell(folder):
    put(folder, arrays(train=20), ("a", "b", "c", "d"))


def labels_missing(folder):
    made = arrays()
    put(folder, {"train": (made["train"][0], made["train"][1][:-1]), "test": made["test"]})


def label_too_large(folder):
    made = arrays()
    made["test"][1][3] = 10
    put(folder, made)


def only_three(folder):
    put(folder, arrays())
    (folder / "test-labels").unlink()


def five(folder):
    put(folder, arrays())
    (folder / "more").write_bytes(idx_file(np.zeros(3, dtype=np.uint8)))


def no_idx(folder):
    put(folder, arrays())
    (folder / "test-labels").write_bytes(b"<html>")


def cut(folder):
    put(folder, arrays())
    (folder / "test-labels").write_bytes((folder / "test-labels").read_bytes()[:-1])


def damaged_gzip(folder):
    put(folder, arrays(), pack=True)
    (folder / "test-labels").write_bytes((folder / "test-labels").read_bytes()[:-9])


def nine_names(folder):
    put(folder, arrays())
    (folder / "classes.txt").write_text("a\nb\nc\nd\ne\nf\ng\nh\ni\n", encoding="utf-8")


def odd_name(folder):
    put(folder, arrays())
    (folder / "classes.txt").write_text("a|b\nb\nc\nd\ne\nf\ng\nh\ni\nj\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda folder: None, "own: expected two IDX files of images and two of labels, found 0 and 0"),
        (too_large, "train-images: expected images of 28x28 at most, found 29x29"),
        (no_tell, "own: a and c have as many images, so nothing tells which is for testing; expected `test` in the name"),
        (labels_missing, "own: expected a label for each of 30 images (train), found 29"),
        (label_too_large, "own: expected labels 0 to 9 (t10k), found 10 at item 3"),
        (only_three, "own: expected two IDX files of images and two of labels, found 2 and 1"),
        (five, "own: expected two IDX files of images and two of labels, found 2 and 3"),
        (no_idx, "test-labels: expected the IDX magic"),
        (cut, "test-labels: the header promises 20 items of a byte, the file holds 19"),
        (damaged_gzip, "test-labels: cannot be read: "),
        (nine_names, "classes.txt: expected ten names of classes, all different, found a, b"),
        (odd_name, "classes.txt: expected names of classes without · | and commas, found 'a|b'"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_written(workspace, make, problem, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    make(workspace / "data/own")
    text = paths.PARAMS.read_text(encoding="utf-8")
    paths.PARAMS.write_text(text.replace("source: auto", "source: own"), encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(problem)) as refused:
        fetch.main()
    assert len(str(refused.value).splitlines()) == 1
    assert not paths.RAW.exists()


def test_they_become_the_data_by_their_hashes(workspace, monkeypatch, capsys):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    made = arrays()
    put(workspace / "data/own", made)
    text = paths.PARAMS.read_text(encoding="utf-8")
    paths.PARAMS.write_text(text.replace("source: auto", "source: own"), encoding="utf-8")
    fetch.main()
    assert idx.check().title == "own data"
    (images, labels), (test_images, test_labels) = idx.read_sets(paths.RAW)
    assert same(dict(zip(idx.FILES, (images, labels, test_images, test_labels), strict=True)), made)
    assert "fetch: own data in data/raw/" in capsys.readouterr().out
    monkeypatch.setenv("QUARTET_OWN", str(put(workspace / "elsewhere", arrays(train=40))))
    fetch.main()
    assert len(idx.read_sets(paths.RAW)[0][0]) == 40
