from __future__ import annotations

import pytest

from quartet import files, history, paths
from quartet.errors import InputError
from quartet.history import Epoch

HEADER = b"epoch,train_loss,val_loss,val_accuracy\n"
EPOCHS = [Epoch(1, 0.1 + 0.2, 1 / 3, 0.9), Epoch(2, 1e-17, 2.5, 1.0)]


def write(name, epochs):
    history.write(name, epochs)
    files.write_record(paths.summary(name), {"history_sha256": files.sha256(paths.history(name))})


def test_a_history_is_read_back_bit_for_bit(workspace):
    write("ten-bn", EPOCHS)
    assert history.read("ten-bn") == EPOCHS


def test_the_file_is_a_line_for_each_epoch(workspace):
    history.write("ten", EPOCHS)
    assert paths.history("ten").read_text(encoding="utf-8").splitlines() == [
        "epoch,train_loss,val_loss,val_accuracy",
        "1,0.30000000000000004,0.3333333333333333,0.9",
        "2,1e-17,2.5,1.0",
    ]


def test_a_provenance_belongs_to_the_summary_beside_it(workspace):
    settings = {"variant": "ten", "data": "sample"}
    files.write_record(paths.summary("ten"), {**settings, "history_sha256": "any"})
    files.write_record(paths.provenance("ten"), {**settings, "code": "any"})
    assert history.read_provenance("ten") == {**settings, "code": "any"}
    files.write_record(paths.provenance("ten"), {**settings, "data": "mnist", "code": "any"})
    with pytest.raises(InputError, match=r"provenance\.json: not of the training .* --single-item train@ten`"):
        history.read_provenance("ten")


def test_a_missing_history_is_named(workspace):
    with pytest.raises(InputError, match=r"stages/train/ten/history\.csv: missing"):
        history.read("ten")


@pytest.mark.parametrize("content", [b"", b"epoch,train_loss\n1,0.5\n", b"\xff", HEADER + b"1,0.5,0.5,0.6\n"])
@pytest.mark.parametrize(("name", "stage"), [("ten", "train@ten"), ("trial", "trial")])
def test_a_history_that_is_not_the_one_of_the_summary_is_named_with_the_stage_that_makes_it(workspace, content, name, stage):
    write(name, [Epoch(1, 0.5, 0.5, 0.5)])
    files.write_bytes(paths.history(name), content)
    with pytest.raises(InputError, match=rf"history\.csv: .*dvc repro --force --single-item {stage}`|not CSV"):
        history.read(name)
