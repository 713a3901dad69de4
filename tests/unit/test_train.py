from __future__ import annotations

import contextlib
import sys

import pytest

import train
from project import replace, shipped
from quartet.base import files, params, paths
from quartet.base.errors import InputError, WorkError
from quartet.data import catalogue, splits
from quartet.model import network, weights
from quartet.tracking import runs
from quartet.training import record


@pytest.fixture
def prepared(workspace, tiny):
    """What preprocess leaves."""
    splits.save_all(dict.fromkeys(splits.SPLITS, tiny), catalogue.SAMPLE.source)
    return workspace


def edit(old, new):
    replace(paths.PARAMS, old, new)


@pytest.fixture
def start(monkeypatch):
    """A function that runs the stage, and returns what it told MLflow's run."""

    def run(*arguments):
        told = []

        @contextlib.contextmanager
        def live(training, colour):
            told.append((training, colour))
            yield lambda outcome: told.append((list(outcome.epochs), outcome.weights))

        monkeypatch.setattr(runs, "live", live)
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        train.main()
        return told

    return run


@pytest.mark.parametrize("arguments", [[], ["five"], ["ten", "four"], ["train@ten"]])
def test_another_model_than_the_five_is_refused(workspace, start, arguments):
    with pytest.raises(
        InputError, match=f"expected one of ten, ten-bn, four, four-bn, trial, found '{' '.join(arguments)}'"
    ):
        start(*arguments)


@pytest.mark.parametrize(
    ("name", "old", "new", "key"),
    [
        ("trial", shipped("batch_size"), "batch_size: 211", "batch_size"),
        ("ten", "batch_size: 20", "batch_size: 211", "report.batch_size"),
        ("ten", "ten: {}", "ten: {batch_size: 211}", "variants.ten.batch_size"),
    ],
)
def test_a_batch_larger_than_the_training_set_is_refused(prepared, start, name, old, new, key):
    edit(old, new)
    with pytest.raises(InputError, match=rf"params\.yaml: {key}: expected at most the 210 training images, found 211"):
        start(name)
    assert not paths.TRAIN.exists()


@pytest.mark.computes
@pytest.mark.parametrize("name", ["four-bn", "trial"])
def test_a_training_leaves_its_four_files_and_nothing_else(prepared, start, capsys, name):
    edit("epochs: 10", "epochs: 2")
    edit("report:\n  classes: 10\n  bn: false\n  epochs: 10", "report:\n  classes: 10\n  bn: false\n  epochs: 2")
    half = paths.model(name).with_name(".model.safetensors.k3pt_9ab.part")
    half.parent.mkdir(parents=True)
    half.write_bytes(b"half")
    settings = params.load()
    expected = record.describe(name, settings, splits.load_manifest())
    (training, colour), *outcomes = start(name)

    folder = paths.TRAIN / name
    written = ["history.csv", "model.safetensors", "provenance.json", "summary.json"]
    assert sorted(path.name for path in folder.iterdir()) == written
    assert [path.name for path in paths.TRAIN.iterdir()] == [name]
    assert training == record.read(name) == expected
    assert colour == settings.colour(name)
    trained = weights.load(paths.model(name), expected.description)
    assert record.read_summary(name)["layers"] == network.layer_table(trained)
    history = record.read_history(name)
    digest = files.sha256(paths.model(name))
    assert outcomes == [(history[:1], ""), (history, ""), (history, digest)]
    assert not prepared.joinpath(f".checkpoints/{name}.pt").exists()
    assert [line.split()[:3] for line in capsys.readouterr().out.splitlines()] == [
        [name, "epoch", "1/2"],
        [name, "epoch", "2/2"],
    ]


@pytest.mark.computes
def test_a_training_stopped_in_its_last_epoch_tells_its_history(prepared, start, monkeypatch):
    edit("epochs: 10", "epochs: 1")
    with monkeypatch.context() as broken:

        def fail(*_):
            raise WorkError("no")

        broken.setattr(weights, "save", fail)
        with pytest.raises(WorkError, match="no"):
            start("trial")
    assert not paths.provenance("trial").exists()
    assert prepared.joinpath(".checkpoints/trial.pt").exists()
    _, *outcomes = start("trial")
    assert outcomes == [(record.read_history("trial"), files.sha256(paths.model("trial")))]
    assert len(outcomes[0][0]) == 1
