from __future__ import annotations

import hashlib
import io
import pickle

import pytest
import torch

from quartet.base.params import Hyperparameters
from quartet.data import catalogue
from quartet.training.checkpoint import CheckpointFile
from quartet.training.record import TrainingRecord

SETTINGS = Hyperparameters(
    classes=10, bn=False, epochs=2, batch_size=20, lr=0.001, schedule="constant", augment=False, seed=0
)
STATE = {"history": [(1, 0.5, 0.4, 0.9), (2, 0.4, 0.3, 0.95)], "weights": torch.arange(1_000.0)}


def of(name="ten", code="mine"):
    """The checkpoint of a training of this name, by this code."""
    return CheckpointFile(TrainingRecord(name, SETTINGS, ((0,),), catalogue.SAMPLE.source, {}, code))


@pytest.fixture
def checkpoint(workspace):
    kept = of()
    kept.save(STATE)
    return kept


def ignored(checkpoint, capsys):
    """Whether load() gave nothing and one warning that names the file; returns the warning."""
    assert checkpoint.load() is None
    out, error = capsys.readouterr()
    assert out == ""
    assert len(error.splitlines()) == 1
    assert error.startswith(f"quartet: warning: {checkpoint.path}: ")
    assert error.endswith("ignored, ten starts at epoch 1\n")
    return error


def test_a_state_is_loaded_as_it_was_saved(checkpoint, capsys):
    found = of().load()
    assert found["history"] == STATE["history"]
    assert torch.equal(found["weights"], STATE["weights"])
    assert capsys.readouterr() == ("ten: resumed after epoch 2\n", "")


def test_without_a_file_there_is_no_state_and_no_word(workspace, capsys):
    assert of().load() is None
    assert capsys.readouterr() == ("", "")


def test_another_trainings_checkpoint_is_ignored(checkpoint, capsys):
    assert "other parameters, data or code" in ignored(of(code="another"), capsys)


def test_trainings_have_checkpoints_of_their_own(checkpoint):
    assert of("four").load() is None


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04", b"\x80\x04.", pickle.dumps([1, 2]), b"\0" * 1_000])
def test_garbage_is_ignored(checkpoint, capsys, content):
    checkpoint.path.write_bytes(content)
    assert "damaged" in ignored(checkpoint, capsys)


def test_a_file_cut_short_is_ignored(checkpoint, capsys):
    content = checkpoint.path.read_bytes()
    for length in range(1, len(content), len(content) // 20):
        checkpoint.path.write_bytes(content[:length])
        assert "damaged" in ignored(checkpoint, capsys)


def test_a_flipped_bit_anywhere_is_found(checkpoint, capsys):
    content = checkpoint.path.read_bytes()
    for place in range(0, len(content), 13):
        checkpoint.path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert "damaged" in ignored(checkpoint, capsys)


def seal(checkpoint, content):
    """Write a file whose digest is right, whoever made it."""
    checkpoint.path.write_bytes(hashlib.sha256(content).digest() + content)


def saved(value):
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


@pytest.mark.parametrize("value", [[], {"state": {}}, {"fingerprint": "mine"}, {"fingerprint": "mine", "state": {}}, 3])
def test_a_file_of_another_form_is_ignored(checkpoint, capsys, value):
    seal(checkpoint, saved(value))
    assert "damaged" in ignored(checkpoint, capsys)


def test_a_malicious_pickle_is_ignored_and_not_executed(checkpoint, bomb, capsys):
    for content in (pickle.dumps(bomb, protocol=2), saved({"fingerprint": checkpoint.fingerprint, "state": bomb})):
        checkpoint.path.write_bytes(content)
        ignored(checkpoint, capsys)
        seal(checkpoint, content)
        ignored(checkpoint, capsys)
    assert not bomb.executed


def test_it_is_removed_after_the_work_and_kept_after_an_error(checkpoint):
    with pytest.raises(KeyboardInterrupt), checkpoint:
        raise KeyboardInterrupt
    assert checkpoint.path.exists()
    with checkpoint:
        pass
    assert not checkpoint.path.exists()
    with checkpoint:
        pass


def test_saving_replaces_the_state_and_leaves_no_other_file(checkpoint):
    checkpoint.save({"history": [(1, 0.5, 0.4, 0.9)]})
    assert len(checkpoint.load()["history"]) == 1
    assert [path.name for path in checkpoint.path.parent.iterdir()] == ["ten.pt"]


def test_what_a_killed_training_left_half_saved_is_removed(checkpoint):
    half, others = (checkpoint.path.with_name(f".{name}.pt.k3pt_9ab.part") for name in ("ten", "four"))
    for path in (half, others):
        path.write_bytes(b"half")
    with checkpoint:
        assert not half.exists()
        assert checkpoint.load()["history"] == STATE["history"]
    assert others.read_bytes() == b"half"
