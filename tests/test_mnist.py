"""The results on MNIST, where the four files are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from project import ROOT
from quartet import data, fetch, params, preprocess, train, training

FOLDER = Path(os.environ.get("QUARTET_MNIST") or ROOT.parent / "shared/mnist")

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs MNIST's four files: set QUARTET_MNIST to their directory")


def test_one_epoch_of_ten_is_in_the_known_band(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUARTET_MNIST", str(FOLDER.resolve()))
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    fetch.main()
    preprocess.main()
    assert [data.load_manifest()["splits"][name]["images"] for name in data.SPLITS] == [54_000, 6_000, 10_000]
    settings = params.load()
    hyperparameters = settings.hyperparameters("ten").model_copy(update={"epochs": 1})
    groups = [list(group) for group in settings.class_groups(10)]
    splits = [train.load_examples(name, groups) for name in ("train", "validation", "test")]
    network, history = training.fit(hyperparameters, splits[0], splits[1])
    # The report's first epoch ends at 93.08 % on its own split and seed.
    assert 0.91 < history[0].val_accuracy < 0.96
    assert 0.30 < history[0].train_loss < 0.48
    loss, accuracy = training.evaluate(network, splits[2])
    assert accuracy > 0.91
    assert torch.isfinite(torch.tensor(loss))
