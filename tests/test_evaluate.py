from __future__ import annotations

import pytest

from quartet import data, evaluate, files, numerics, paths
from quartet.errors import InputError


def test_a_damaged_test_set_is_refused_before_any_model_is_read(workspace, tiny):
    data.save_split("test", tiny)
    files.write_record(paths.MANIFEST, {"data": "sample", "splits": {"test": {"sha256": "another"}}})
    with pytest.raises(InputError, match=r"test\.safetensors: its SHA-256 is not the one"):
        evaluate.main()


def test_a_processor_that_makes_other_bytes_is_told_once(workspace, monkeypatch, capsys):
    monkeypatch.setattr(numerics, "departure", lambda: "this processor has no FMA")
    with pytest.raises(InputError, match="missing"):
        evaluate.main()
    expected = (
        "quartet: warning: this processor has no FMA: the results are as good as the published ones, but not the same to"
    )
    assert capsys.readouterr().err == f"{expected} the byte\n"
