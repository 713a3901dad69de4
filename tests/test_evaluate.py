from __future__ import annotations

import pytest

from quartet import data, evaluate, files, paths
from quartet.errors import InputError


def test_a_damaged_test_set_is_refused_before_any_model_is_read(workspace, tiny):
    data.save_split("test", tiny)
    files.write_record(paths.MANIFEST, {"data": "sample", "splits": {"test": {"sha256": "another"}}})
    with pytest.raises(InputError, match=r"test\.npz: its SHA-256 is not the one"):
        evaluate.main()
