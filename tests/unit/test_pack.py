from __future__ import annotations

import numpy as np
import pytest

from pictures import encoded, written
from quartet.base.errors import InputError
from quartet.commands import pack
from quartet.data import own, photo

WORDS = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay")


@pytest.fixture
def sorted_pictures(tmp_path, monkeypatch):
    """Pictures of digits in folders: two a class for training, one for testing."""
    monkeypatch.chdir(tmp_path)

    def make(names):
        for digit, name in enumerate(names):
            for part, inks in (("train", (0, 60)), ("test", (30,))):
                folder = tmp_path / "sorted" / part / name
                folder.mkdir(parents=True)
                for ink in inks:
                    (folder / f"{ink}.png").write_bytes(encoded(written(str(digit), ink=ink)))
        return tmp_path / "sorted"

    return make


def test_pictures_become_what_predict_sees(sorted_pictures, capsys):
    folder = sorted_pictures("0123456789")
    (folder / "train/.DS_Store").write_bytes(b"")
    (folder / "train/3/.hidden").write_bytes(b"")
    pack.main([str(folder)])
    found, source = own.read(own.FOLDER)
    assert source.classes == tuple("0123456789")
    assert found["train-labels-idx1-ubyte"].tolist() == [label for label in range(10) for _ in range(2)]
    assert found["t10k-labels-idx1-ubyte"].tolist() == list(range(10))
    expected = photo.normalise(photo.read(folder / "train/7/60.png"), "")
    assert np.array_equal(found["train-images-idx3-ubyte"][15], expected)
    assert "pack: data/own/: 20 images for training, 10 for testing" in capsys.readouterr().out


def test_folders_with_words_name_the_classes(sorted_pictures):
    pack.main([str(sorted_pictures(WORDS)), "--out", "mine"])
    assert own.read(own.Path("mine"))[1].classes == WORDS
    again = own.Path("mine")
    before = {path.name: path.read_bytes() for path in again.iterdir()}
    pack.main(["sorted", "--out", "mine"])
    assert {path.name: path.read_bytes() for path in again.iterdir()} == before


def test_every_refused_picture_is_named(sorted_pictures, capsys):
    folder = sorted_pictures("0123456789")
    (folder / "train/3/blank.png").write_bytes(encoded(np.full((40, 40), 255, dtype=np.uint8)))
    (folder / "test/4/notes.txt").write_text("no picture", encoding="utf-8")
    (folder / "test/5/more").mkdir()
    with pytest.raises(InputError, match=r"^3 pictures were refused, so nothing was written; `--skip` leaves out what"):
        pack.main([str(folder)])
    said = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[2:4] for line in said] == [
        [f"{folder}/train/3/blank.png", "blank"],
        [f"{folder}/test/4/notes.txt", "expected a picture as PNG or JPEG, found something else"],
        [f"{folder}/test/5/more", "cannot be read"],
    ]
    assert not own.FOLDER.exists()
    pack.main([str(folder), "--skip"])
    assert "20 images for training, 10 for testing, 3 left out" in capsys.readouterr().out


def nine(folder):
    for part in ("train", "test"):
        for path in (folder / part / "9").iterdir():
            path.unlink()
        (folder / part / "9").rmdir()


def other_folder(folder):
    (folder / "test/9").rename(folder / "test/nine")


def empty_class(folder):
    (folder / "test/9/30.png").unlink()


def nowhere(folder):
    folder.rename("elsewhere")


def other_files(folder):
    own.FOLDER.mkdir(parents=True)
    (own.FOLDER / "digits.idx").write_bytes(b"mine")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (nowhere, "sorted: no such directory; expected one that has train/ and test/"),
        (nine, "sorted/train: expected ten folders of pictures, one for each class, found 9: 0, 1, 2"),
        (other_folder, "sorted/test: expected the same folders as in train, found it without: 9; besides: nine"),
        (empty_class, "expected pictures that can be read in each folder, found none in sorted/test/9"),
        (other_files, "data/own: has other files: digits.idx; move them away"),
    ],
)
def test_folders_that_make_no_data_set_are_named(sorted_pictures, change, problem):
    change(sorted_pictures("0123456789"))
    before = sorted(own.FOLDER.glob("*"))
    with pytest.raises(InputError, match=problem):
        pack.main(["sorted"])
    assert sorted(own.FOLDER.glob("*")) == before


def test_without_a_folder_one_is_asked_for():
    with pytest.raises(InputError, match=r"^quartet pack: expected a folder"):
        pack.main([])
