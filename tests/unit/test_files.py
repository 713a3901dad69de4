from __future__ import annotations

import contextlib
import hashlib
import json
import os

import pytest

from quartet.base import files
from quartet.base.errors import InputError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    files.write_bytes(path, b"old")
    with files.replacing(path) as part:
        part.write(b"new")
        part.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["file"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_old_content_and_no_other_file(tmp_path, error):
    path = tmp_path / "file"
    files.write_bytes(path, b"old")

    def fail():
        with files.replacing(path) as part:
            part.write(b"half of the n")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_an_error_leaves_nothing_where_there_was_nothing(tmp_path):
    with pytest.raises(ValueError, match="no"), files.replacing(tmp_path / "file"):
        raise ValueError("no")
    assert names(tmp_path) == []


def test_only_what_was_half_written_of_these_files_is_removed(tmp_path):
    one, two, missing = tmp_path / "history.csv", tmp_path / "below" / "model", tmp_path / "no folder" / "file"
    killed = []
    for path in (one, two):
        with files.replacing(path):
            killed += path.parent.glob(".*")
    assert len(killed) == 2
    others = [".history.csv.part", "history.csv.ab12cd34.part", ".other.csv.ab12cd34.part", ".history.csv.ab12cd34.part.bak"]
    below = tmp_path / "below" / ".history.csv.ab12cd34.part"
    for path in (*killed, *(tmp_path / name for name in others), below):
        path.write_bytes(b"half")
    files.remove_parts(one, two, missing)
    assert names(tmp_path) == sorted([*others, "below", "history.csv"])
    assert names(tmp_path / "below") == [".history.csv.ab12cd34.part", "model"]
    files.remove_parts(one, two, missing)
    assert one.exists()


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path, mask):
    path = tmp_path / "file"
    before = os.umask(mask)
    try:
        files.write_bytes(path, b"")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_equal_values_are_equal_json_whatever_their_order(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    files.write_json(first, {"b": [1, 2.5], "a": {"d": None, "c": "2·3"}})
    files.write_json(second, {"a": {"c": "2·3", "d": None}, "b": [1, 2.5]})
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().endswith(b"}\n")
    assert "2·3" in first.read_text(encoding="utf-8")
    assert files.read_json(first) == {"a": {"c": "2·3", "d": None}, "b": [1, 2.5]}


def test_json_keeps_its_own_order_if_it_is_told_to(tmp_path):
    value = {"b": 1, "a": {"d": 2, "c": 3}}
    files.write_json(tmp_path / "file", value, sort_keys=False)
    assert list(files.read_json(tmp_path / "file")) == ["b", "a"]
    assert list(files.read_json(tmp_path / "file")["a"]) == ["d", "c"]
    files.write_json(tmp_path / "file", value)
    assert list(files.read_json(tmp_path / "file")) == ["a", "b"]


def test_numbers_survive_json_bit_for_bit(tmp_path):
    values = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, 2**53 + 1]
    files.write_json(tmp_path / "file", values)
    assert files.read_json(tmp_path / "file") == values


def test_rows_survive_csv(tmp_path):
    path = tmp_path / "rows.csv"
    rows = [{"name": "2·3·5·8", "value": 1 / 3}, {"name": 'a "b", c\nd', "value": 7}]
    files.write_csv(path, iter(rows))
    assert path.read_bytes().startswith("name,value\n2·3·5·8,0.3333333333333333\n".encode())
    assert b"\r" not in path.read_bytes()
    assert files.csv_bytes(iter(rows)) == path.read_bytes()
    assert files.read_csv(path) == [{key: str(value) for key, value in row.items()} for row in rows]


@pytest.mark.parametrize("read", [files.read_json, files.read_csv])
def test_a_missing_file_is_named_with_what_makes_it(tmp_path, read):
    with pytest.raises(InputError, match=r"no-file: missing; `dvc repro` makes it"):
        read(tmp_path / "no-file")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"{'a': 1}"])
def test_what_is_no_json_is_named(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json: not JSON"):
        files.read_json(path)


def test_a_record_is_read_back(tmp_path):
    content = {"b": [1, 1 / 3, None], "a": {"ü": "2·3"}}
    files.write_record(tmp_path / "record", content)
    assert files.read_record(tmp_path / "record", "fetch") == content


def test_a_record_with_any_bit_flipped_is_refused_or_the_same(tmp_path):
    path = tmp_path / "a.json"
    content = {"digit": 7, "loss": 0.125, "names": ["0·6"]}
    files.write_record(path, content)
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            with contextlib.suppress(InputError):  # what is read is the content: white space between values may be any
                assert files.read_record(path, "fetch") == content


@pytest.mark.parametrize("content", ["{}", "[]", "3", "null", '{"a": 1}', '{"content_sha256": 3}'])
def test_what_is_no_record_is_refused(tmp_path, content):
    """The message names the stage that makes it."""
    path = tmp_path / "a.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.json: not the content whose SHA-256 it names: .*--single-item evaluate`"):
        files.read_record(path, "evaluate")


def test_files_are_compared_with_their_digests(tmp_path):
    record, one, two, other = (tmp_path / name for name in ("record", "one", "two", "other"))
    for path in (one, two, other):
        path.write_text(path.name, encoding="utf-8")
    files.write_digests(record, [one, two])
    files.check_digests(record, [one, two], "evaluate")
    two.write_bytes(b"3")
    files.check_digests(record, [one], "evaluate")
    for changed in (two, other):  # the second was not described
        with pytest.raises(
            InputError, match=rf"{changed.name}: its SHA-256 is not the one in .*record: damaged; .*evaluate`"
        ):
            files.check_digests(record, [one, changed], "evaluate")
    two.unlink()
    with pytest.raises(InputError, match=r"two: missing; `dvc repro` makes it"):
        files.check_digests(record, [one, two], "evaluate")


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_json_of_endless_depth_is_refused_by_name(tmp_path, opening):
    path = tmp_path / "deep.json"
    path.write_text(opening * 100_000, encoding="utf-8")
    for read in (files.read_json, lambda path: files.read_record(path, "evaluate")):
        with pytest.raises(InputError, match=r"deep\.json: not JSON \("):
            read(path)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a,b\n" + b"1" * 200_000])
def test_what_is_no_csv_is_named(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.csv: not CSV"):
        files.read_csv(path)


@pytest.mark.parametrize("size", [0, 3, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_sha256_is_of_the_whole_file(tmp_path, size):
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    (tmp_path / "file").write_bytes(content)
    assert files.sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_sha256_agrees_with_a_published_value(tmp_path):
    # FIPS 180-2, appendix B.1.
    (tmp_path / "file").write_bytes(b"abc")
    assert files.sha256(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_md5_is_dvcs_name_of_a_file(tmp_path):
    # RFC 1321, appendix A.5.
    (tmp_path / "file").write_bytes(b"abc")
    assert files.md5(tmp_path / "file") == "900150983cd24fb0d6963f7d28e17f72"


def test_json_is_what_any_reader_reads(tmp_path):
    files.write_json(tmp_path / "file", {"a": [True, None, "ü"]})
    assert json.loads((tmp_path / "file").read_text(encoding="utf-8")) == {"a": [True, None, "ü"]}
