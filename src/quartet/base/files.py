"""Files: written whole or not at all, and identified by their SHA-256."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from quartet.base.errors import InputError

SEAL = "content_sha256"  # the key of a record's own SHA-256


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside `path` for writing and rename it to `path` once the block succeeds.

    Whoever reads `path` sees the old content or the new, never a part. On any error the new file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def remove_parts(*written: Path) -> None:
    """Remove what a process that was killed while it wrote one of these files left half-written."""
    for path in written:
        for part in path.parent.glob(f".{path.name}.{'[a-z0-9_]' * 8}.part"):  # as mkstemp names them
            part.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    with replacing(path) as file:
        file.write(content)


def write_json(path: Path, value: Any, *, sort_keys: bool = True) -> None:
    """Write `value` as indented JSON with sorted keys, so that equal values are equal bytes; or in its own order."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=sort_keys, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file; InputError names the file if it is missing or is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: missing; `dvc repro` makes it") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); delete it and run `dvc repro`") from None


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping as JSON with the SHA-256 of its content, by which `read_record` knows it again."""
    write_json(path, {**content, SEAL: content_digest(content)})


def read_record(path: Path, stage: str) -> dict[str, Any]:
    """Read a file of `write_record`; InputError if it is missing or damaged, with the stage that makes it."""
    record = read_json(path)
    if not isinstance(record, dict) or record.pop(SEAL, None) != content_digest(record):
        raise InputError(f"{path}: not the content whose SHA-256 it names: damaged; {remake(stage)}")
    return record


def write_digests(path: Path, described: Iterable[Path]) -> None:
    """Write a record of the SHA-256 of each of the files."""
    write_record(path, {file.as_posix(): sha256(file) for file in described})


def check_digests(path: Path, described: Iterable[Path], stage: str) -> None:
    """Compare files with the record that `write_digests` made of them; InputError for one that is missing or damaged."""
    digests = read_record(path, stage)
    for file in described:
        try:
            found = sha256(file)
        except FileNotFoundError:
            raise InputError(f"{file}: missing; `dvc repro` makes it") from None
        if found != digests.get(file.as_posix()):
            raise InputError(f"{file}: its SHA-256 is not the one in {path}: damaged; {remake(stage)}")


def content_digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a mapping, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def csv_bytes(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Write rows of equal keys as CSV, with a header line and Unix line ends."""
    rows = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows of equal keys as CSV with a header line and Unix line ends."""
    write_bytes(path, csv_bytes(rows))


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read a CSV file with a header line as a dictionary of strings for each row; InputError as `read_json`."""
    try:
        return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
    except FileNotFoundError:
        raise InputError(f"{path}: missing; `dvc repro` makes it") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not CSV ({error}); delete it and run `dvc repro`") from None


def remake(stage: str) -> str:
    """Say how to repair a damaged output of a stage: DVC trusts read-only objects in its cache, so make them writable."""
    return f"`chmod -R u+w .dvc/cache; dvc repro --force --single-item {stage}` makes it and DVC's copy again"


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    return _digest(path, hashlib.sha256())


def md5(path: Path) -> str:
    """Return the MD5 of a file's content, in hexadecimal: DVC's name for it."""
    return _digest(path, hashlib.md5(usedforsecurity=False))


def _digest(path: Path, digest: hashlib._Hash) -> str:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
