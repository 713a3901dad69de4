"""The table of data sets, and what is fetched by it: from servers and folders that hold files made for the test."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

import fetch
from misbehaving_server import idx_file, serving
from quartet.base import paths
from quartet.base.errors import InputError, WorkError
from quartet.data import catalogue, download, idx
from quartet.data.catalogue import Archive, Known

REAL = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package dataset-fashion-mnist
ALL = {**catalogue.DATA_SETS, "qmnist": catalogue.QMNIST}


@pytest.mark.parametrize("name", ALL)
def test_an_entry_is_whole(name):
    data_set = ALL[name]
    assert data_set.name == name
    assert len(set(data_set.classes)) == 10
    assert data_set.title
    assert data_set.tried
    assert data_set.licence
    for known in data_set.files.values():
        assert known.sha256 or known.gz_sha256
        assert all(re.fullmatch("[0-9a-f]{64}|", digest) for digest in (known.sha256, known.gz_sha256))
        assert known.size > 0
    if data_set.files:
        assert data_set.citation
        assert data_set.hashes
        assert all(url.endswith("/") for url in data_set.mirrors)


def test_no_two_files_have_a_hash_in_common():
    digests = [
        digest for it in ALL.values() for known in it.files.values() for digest in (known.sha256, known.gz_sha256) if digest
    ]
    assert len(set(digests)) == len(digests)


def test_the_files_are_those_of_data_raw():
    for name, data_set in catalogue.DATA_SETS.items():
        assert {*data_set.files} == (set() if name in ("own", "sample") else {*idx.FILES})


def test_a_data_set_that_is_not_in_the_table_is_named():
    known = "auto, mnist, fashion-mnist, kmnist, emnist-digits, own, sample"
    with pytest.raises(InputError, match=f"^params.yaml: data.source: expected one of {known}, found 'mnits'$"):
        catalogue.chosen("mnits")


@pytest.mark.skipif(not REAL.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
@pytest.mark.parametrize("name", catalogue.FASHION.files)
def test_the_table_is_that_of_the_real_fashion_mnist(name):
    content = gzip.decompress((REAL / f"{name}.gz").read_bytes())
    known = catalogue.FASHION.files[name]
    assert (len(content), hashlib.sha256(content).hexdigest()) == (known.size, known.sha256)


# A data set whose files are tiny. ######################################################################################


@pytest.fixture
def tiny_files():
    rng = np.random.default_rng(1)
    made = {}
    for part, count in (("t10k", 20), ("train", 30)):
        made[f"{part}-labels-idx1-ubyte"] = rng.permutation(np.arange(count) % 10).astype(np.uint8)
        made[f"{part}-images-idx3-ubyte"] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    return {name: idx_file(made[name]) for name in catalogue.MNIST.files}


def packed(content):
    return gzip.compress(content, mtime=0)


def known(content, *, unpacked=True, name=""):
    pack, digest = packed(content), hashlib.sha256(content).hexdigest() if unpacked else ""
    return Known(len(content), digest, len(pack), hashlib.sha256(pack).hexdigest(), name)


@pytest.fixture
def chosen(workspace, monkeypatch):
    """Put an entry into the table, and have params.yaml choose it."""

    def choose(data_set):
        monkeypatch.setitem(catalogue.DATA_SETS, data_set.name, data_set)
        text = paths.PARAMS.read_text(encoding="utf-8")
        paths.PARAMS.write_text(re.sub("source: [a-z-]+", f"source: {data_set.name}", text, count=1), encoding="utf-8")
        monkeypatch.delenv(data_set.variable, raising=False)
        return data_set

    monkeypatch.delenv(catalogue.MNIST.variable, raising=False)  # the sample refuses it
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "RETRIES", 0)  # pooch waits a second before each
    return choose


def raw():
    return {name: (paths.RAW / name).read_bytes() for name in idx.FILES}


def test_an_entry_is_all_that_a_new_data_set_needs(chosen, tiny_files, capsys):
    names = tuple("abcdefghij")
    entry = {name: known(content) for name, content in tiny_files.items()}
    with serving({f"{name}.gz": packed(content) for name, content in tiny_files.items()}) as server:
        mirrors = ("http://127.0.0.1:9/", server.url())
        letters = chosen(catalogue.DataSet("letters", "Ten letters", names, files=entry, mirrors=mirrors))
        fetch.main()
    assert raw() == tiny_files
    assert idx.check() == letters.source == ("letters", "Ten letters", names)
    said = capsys.readouterr()
    assert "fetch: Ten letters in data/raw/, verified" in said.out
    assert "Connection refused" in said.err


def test_files_whose_packed_hash_alone_is_known_are_had(chosen, tiny_files, tmp_path, monkeypatch):
    """As KMNIST's: from a server, from a folder, and again without either."""
    entry = {name: known(content, unpacked=False) for name, content in tiny_files.items()}
    with serving({f"{name}.gz": packed(content) for name, content in tiny_files.items()}) as server:
        data_set = chosen(dataclasses.replace(catalogue.KMNIST, files=entry, mirrors=(server.url(),)))
        fetch.main()
        asked = len(server.requests)
        fetch.main()
    assert len(server.requests) == asked
    assert raw() == tiny_files
    for name in idx.FILES:
        (paths.RAW / name).unlink()
        (tmp_path / f"{name}.gz").write_bytes(packed(tiny_files[name]))
    monkeypatch.setenv("QUARTET_KMNIST", str(tmp_path))
    fetch.main()
    assert raw() == tiny_files
    first = next(iter(tiny_files))
    (paths.RAW / first).write_bytes(b"damaged")
    (tmp_path / f"{first}.gz").unlink()
    (tmp_path / first).write_bytes(tiny_files[first])
    with pytest.raises(WorkError, match=f"KMNIST cannot be had: .*{first}: unpacked, but the SHA-256 of the"):
        fetch.main()
    assert data_set.title == "KMNIST"


@pytest.fixture
def emnist(chosen, tiny_files):
    """A tiny EMNIST: its archive, and the entry that knows it."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("gzip/emnist-digits-mapping.txt", "0 48\n")
        for name, known_name in ((name, it.name) for name, it in catalogue.EMNIST.files.items()):
            archive.writestr(f"gzip/{known_name}.gz", packed(tiny_files[name]))
    whole = content.getvalue()
    entry = {name: known(tiny_files[name], unpacked=False, name=it.name) for name, it in catalogue.EMNIST.files.items()}
    archive = Archive("gzip.zip", len(whole), hashlib.sha256(whole).hexdigest(), "gzip/")
    return chosen(dataclasses.replace(catalogue.EMNIST, files=entry, archive=archive)), whole


def upright(files):
    """The files with the rows and columns of each image exchanged, one image after the other."""
    found = {}
    for name, content in files.items():
        found[name] = content
        if "images" in name:
            images = np.frombuffer(content[16:], dtype=np.uint8).reshape(-1, 28, 28)
            found[name] = content[:16] + b"".join(image.T.tobytes() for image in images)
    return found


def test_members_of_an_archive_are_had_and_turned(emnist, tiny_files, chosen):
    data_set, whole = emnist
    with serving({"gzip.zip": whole}) as server:
        chosen(dataclasses.replace(data_set, mirrors=(server.url(),)))
        fetch.main()
        assert server.requests == ["gzip.zip"]
        fetch.main()
        assert server.requests == ["gzip.zip"]
    assert raw() == upright(tiny_files)
    assert idx.check().title == "EMNIST Digits"


@pytest.mark.parametrize("kind", ["archive", "members"])
def test_an_archive_or_its_members_in_a_folder_are_taken(emnist, tiny_files, tmp_path, monkeypatch, kind):
    data_set, whole = emnist
    folder = tmp_path / "of mine"
    folder.mkdir()
    if kind == "archive":
        (folder / "download (1).zip").write_bytes(whole)
    else:
        for name, it in data_set.files.items():
            (folder / f"{it.name}.gz").write_bytes(packed(tiny_files[name]))
    monkeypatch.setenv("QUARTET_EMNIST_DIGITS", str(folder))
    fetch.main()
    assert raw() == upright(tiny_files)


@pytest.mark.parametrize("problem", ["flipped", "member missing", "member damaged"])
def test_a_bad_archive_is_named(emnist, chosen, problem):
    data_set, whole = emnist
    if problem == "flipped":
        whole = whole[:99] + bytes([whole[99] ^ 1]) + whole[100:]
    else:  # as its hash says, but not as it should be
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            for it in list(data_set.files.values())[problem == "member missing" :]:
                archive.writestr(f"gzip/{it.name}.gz", b"no gzip")
        whole = content.getvalue()
        found = Archive("gzip.zip", len(whole), hashlib.sha256(whole).hexdigest(), "gzip/")
        data_set = dataclasses.replace(data_set, archive=found)
    with serving({"gzip.zip": whole}) as server:
        chosen(dataclasses.replace(data_set, mirrors=(server.url(),)))
        with pytest.raises(WorkError, match="EMNIST Digits cannot be had: ") as refused:
            fetch.main()
    expected = {"flipped": "SHA-256", "member missing": "There is no item named", "member damaged": "not a whole gzip file"}
    assert expected[problem] in str(refused.value)
    assert not paths.SOURCE.exists()


def test_another_data_set_replaces_what_was_there(chosen, tiny_files, capsys):
    with serving({f"{name}.gz": packed(content) for name, content in tiny_files.items()}) as server:
        entry = {name: known(content) for name, content in tiny_files.items()}
        chosen(catalogue.SAMPLE)
        fetch.main()
        before = raw()
        chosen(dataclasses.replace(catalogue.FASHION, files=entry, mirrors=(server.url(),)))
        fetch.main()
    assert raw() == tiny_files != before
    assert idx.check() == catalogue.FASHION.source
    chosen(catalogue.SAMPLE)
    fetch.main()
    assert raw() == before


def test_another_data_sets_failure_is_no_reason_for_the_sample(chosen):
    chosen(dataclasses.replace(catalogue.FASHION, mirrors=("http://127.0.0.1:9/",)))
    with pytest.raises(WorkError, match=r"^Fashion-MNIST cannot be had: .*QUARTET_FASHION_MNIST"):
        fetch.main()
    assert not paths.SOURCE.exists()
