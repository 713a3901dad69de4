"""`quartet retest`, with a QMNIST made for the test: 10,000 images in the place of MNIST's, and 20 more."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import struct

import numpy as np
import pytest

from misbehaving_server import idx_file, serving
from quartet.base.errors import InputError, WorkError
from quartet.commands import retest
from quartet.data import catalogue, download
from quartet.data.catalogue import Known
from quartet.evaluation import predictions, recognition
from trained import answering

MORE = 20


@pytest.fixture
def qmnist(workspace, monkeypatch):
    """The files of the data set, packed; its entry is in the real one's place."""
    images = np.zeros((retest.FURTHER + MORE, 28, 28), dtype=np.uint8)
    labels = np.zeros((len(images), 8), dtype=">i4")
    labels[:, 0] = np.arange(len(labels)) % 10
    labels[:, 1:] = np.random.default_rng(0).integers(0, 300_000, (len(labels), 7))
    contents = (bytes([0, 0, 12, 2]) + struct.pack(">2I", *labels.shape) + labels.tobytes(), idx_file(images))
    files = {name: gzip.compress(content, mtime=0) for name, content in zip(catalogue.QMNIST.files, contents, strict=True)}
    known = {
        name: Known(len(content), "", len(files[name]), hashlib.sha256(files[name]).hexdigest())
        for name, content in zip(files, contents, strict=True)
    }
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("QUARTET_QMNIST", raising=False)
    monkeypatch.setattr(download, "RETRIES", 0)
    with serving({f"{name}.gz": content for name, content in files.items()}) as server:
        entry = dataclasses.replace(catalogue.QMNIST, files=known, mirrors=("http://127.0.0.1:9/", server.url()))
        monkeypatch.setattr(catalogue, "QMNIST", entry)
        yield files


@pytest.fixture
def models(monkeypatch):
    """A model that answers everything with 3, and one of four classes that says the group of 2, 3, 5 and 8."""

    def use(data):
        found = {"ten": answering("ten", [0, 0, 0, 1, *[0.0] * 6]), "four": answering("four", [0.0, 0.0, 1.0, 0.0])}
        source = catalogue.DATA_SETS[data].source
        found = {
            name: dataclasses.replace(model, training=dataclasses.replace(model.training, source=source))
            for name, model in found.items()
        }
        monkeypatch.setattr(recognition, "load", lambda names: found)
        monkeypatch.setattr(predictions, "read_metrics", lambda: {name: {"accuracy": 0.5} for name in found})

    return use


def rows(said):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in said.splitlines() if line.startswith("|")][2:]


def test_the_images_after_mnists_own_are_counted(qmnist, models, capsys):
    models("mnist")
    retest.main([])
    said = capsys.readouterr().out
    assert "retest: 20 digits of QMNIST that MNIST's test set lacks" in said
    # Two of twenty are a 3, eight in the group; statsmodels' Wilson intervals.
    assert rows(said) == [["ten", "50.00", "10.00", "2.79 to 30.10"], ["four", "50.00", "40.00", "21.88 to 61.34"]]


def test_a_folder_has_them_too(qmnist, models, tmp_path, monkeypatch, capsys):
    models("mnist")
    for name, content in qmnist.items():
        (tmp_path / f"{name}.gz").write_bytes(content)
    monkeypatch.setenv("QUARTET_QMNIST", str(tmp_path))
    retest.main([])
    assert len(rows(capsys.readouterr().out)) == 2
    name = next(iter(qmnist))
    (tmp_path / f"{name}.gz").write_bytes(qmnist[name][:-1])
    with pytest.raises(WorkError, match=f"^QMNIST cannot be had: .*{name}: another file: .*Set QUARTET_QMNIST"):
        retest.main([])


def test_models_of_other_data_are_refused(qmnist, models):
    models("sample")
    with pytest.raises(InputError, match=r"^ten: expected a model of MNIST, found one of UCI digits sample"):
        retest.main([])
