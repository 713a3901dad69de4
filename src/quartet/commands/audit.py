"""`quartet audit`: compare what DVC recorded for each training with what the training itself noted at its start.

DVC hashes what a stage depends on after its command. The stage compares that with its start as late as it can; a change in
the tenth of a second that remains is recorded as what the training used, in dvc.lock and in DVC's run cache, and DVC would
restore that pair. Each training notes in provenance.json what it began with, so a false pair can be told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quartet.base import errors, files, paths, process, stage
from quartet.base.errors import InputError, WorkError
from quartet.base.stage import Tracked

if TYPE_CHECKING:
    from dvc.repo import Repo


def remove_false() -> list[str]:
    """Remove false pairs from dvc.lock and from DVC's run cache, with a warning for each; return their stages.

    InputError if DVC cannot read its files.
    """
    if not stage.in_dvc_project():
        return []
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.schema import COMPILED_LOCK_FILE_STAGE_SCHEMA, COMPILED_LOCKFILE_SCHEMA
    from dvc.utils.serialize import dumps_yaml

    lock, false = Path("dvc.lock"), dict[str, str]()
    try:
        with Repo(_wait_for_lock=True) as repo:
            for path in Path(repo.stage_cache.cache_dir).glob("??/*/*"):
                entry = _read(path, COMPILED_LOCK_FILE_STAGE_SCHEMA)
                if judged := _judge(repo, entry):
                    false |= judged
                    path.unlink(missing_ok=True)
                    with suppress(OSError):  # not empty; DVC fails on an empty folder
                        path.parent.rmdir()
            with repo.lock:
                content = _read(lock, COMPILED_LOCKFILE_SCHEMA)
                stages = content.get("stages", {})
                found = {name: judged for name, entry in stages.items() if (judged := _judge(repo, entry))}
                if found:
                    kept = {name: entry for name, entry in stages.items() if name not in found}
                    files.write_bytes(lock, dumps_yaml({**content, "stages": kept}).encode())
    except DvcException as error:
        raise InputError(f"DVC: {error}") from None
    for judged in found.values():
        false |= judged
    for name, why in false.items():
        errors.warn(f"{name}: {why}; taken out of dvc.lock and DVC's run cache, so `dvc repro` trains it again")
    return list(false)


def _read(path: Path, schema: Callable[[Any], Any]) -> dict[str, Any]:
    """Read a file of DVC's; empty if it is missing or damaged, which DVC reports itself when it reads the file."""
    from dvc.exceptions import DvcException
    from dvc.utils.serialize import load_yaml
    from dvc.utils.strictyaml import validate

    try:
        content = load_yaml(path)
        validate(content, schema)
        return dict(content)
    except (DvcException, OSError):
        return {}


def _judge(repo: Repo, entry: Mapping[str, Any]) -> dict[str, str]:
    """Compare an entry of dvc.lock or of the run cache with what its training noted: what is false in it, by the stage."""
    noted = _noted(repo, entry)
    if noted is None:
        return {}
    for file, values in (entry.get("params") or {}).items():
        for key, value in values.items():
            used = noted.params.get(file, {}).get(key)
            if used != value:
                return {noted.stage: f"DVC recorded {file}: {key} as {value}, but it was trained with {used}"}
    for dep in entry.get("deps", ()):
        if noted.deps.get(dep["path"]) != dep.get("md5"):
            return {noted.stage: f"DVC recorded another {dep['path']} than it was trained with"}
    return {}


def _noted(repo: Repo, entry: Mapping[str, Any]) -> Tracked | None:
    """Read what the training of an entry noted, from its provenance.json here or in DVC's cache; None if it is not there."""
    for out in entry.get("outs", ()):
        place, digest = Path(out["path"]), out.get("md5")
        name = place.parent.name
        if place != paths.provenance(name) or not digest:
            continue
        for path in (place, Path(repo.cache.local.oid_to_path(digest))):
            try:
                if files.md5(path) == digest:
                    noted = files.read_record(path, paths.stage(name))["dvc"]
                    return Tracked(paths.stage(name), dict(noted["params"]), dict(noted["deps"]))
            except (OSError, InputError, LookupError, TypeError, ValueError):
                continue  # missing, or made by an older version that noted nothing
    return None


def main(arguments: Sequence[str]) -> None:
    """Compare dvc.lock and DVC's run cache with what each training noted; status 1 if one of them was false."""
    process.Parser(prog="quartet audit", description=main.__doc__).parse_args(arguments)
    if removed := remove_false():
        raise WorkError(f"something was edited just as {', '.join(removed)} ended; run `make` again")
