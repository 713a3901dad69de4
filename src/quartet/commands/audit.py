"""`quartet audit`: compare what DVC recorded for each training with what the training itself noted at its start.

DVC hashes what a stage depends on after its command. The stage compares that with its start as late as it can; a change in
the tenth of a second that remains is recorded as what the training used, in dvc.lock and in DVC's run cache, and DVC would
restore that pair. Each training notes in provenance.json what it began with, so a false pair can be told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from quartet.base import errors, files, paths, process, stage
from quartet.base.errors import InputError, WorkError

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

    lock, false = Path("dvc.lock"), {}
    try:
        with Repo(_wait_for_lock=True) as repo:
            for path in Path(repo.stage_cache.cache_dir).glob("??/*/*"):
                entry = _read(path, COMPILED_LOCK_FILE_STAGE_SCHEMA)
                if why := _falsehood(repo, entry):
                    false[paths.stage(_training(entry))] = why
                    path.unlink(missing_ok=True)
                    with suppress(OSError):  # another entry is in it; an empty folder would stop DVC
                        path.parent.rmdir()
            with repo.lock:
                content = _read(lock, COMPILED_LOCKFILE_SCHEMA)
                stages = content.get("stages", {})
                found = {name: why for name, entry in stages.items() if (why := _falsehood(repo, entry))}
                if found:
                    kept = {name: entry for name, entry in stages.items() if name not in found}
                    files.write_bytes(lock, dumps_yaml({**content, "stages": kept}).encode())
    except DvcException as error:
        raise InputError(f"DVC: {error}") from None
    false |= found
    for name, why in false.items():
        errors.warn(f"{name}: {why}; taken out of dvc.lock and DVC's run cache, so `dvc repro` trains it again")
    return list(false)


def _read(path: Path, schema: Callable[[Any], Any]) -> dict[str, Any]:
    """A file of DVC's; empty if it is missing or damaged, of which DVC tells when it needs the file."""
    from dvc.exceptions import DvcException
    from dvc.utils.serialize import load_yaml
    from dvc.utils.strictyaml import validate

    try:
        content = load_yaml(path)
        validate(content, schema)
        return dict(content)
    except (DvcException, OSError):
        return {}


def _training(entry: Mapping[str, Any]) -> str:
    """The training that an entry of dvc.lock or of the run cache is about; empty if it is another stage's."""
    places = (PurePosixPath(out["path"]) for out in entry.get("outs", ()))
    return next((place.parent.name for place in places if place == PurePosixPath(paths.provenance(place.parent.name))), "")


def _falsehood(repo: Repo, entry: Mapping[str, Any]) -> str:
    """What an entry says of a training that the training's own provenance.json denies; empty if nothing can be said."""
    name = _training(entry)
    noted = _noted(repo, entry, name) if name else None
    if noted is None:
        return ""
    params, deps = noted
    for file, values in (entry.get("params") or {}).items():
        for key, value in values.items():
            used = params.get(file, {}).get(key)
            if used != value:
                return f"DVC recorded {file}: {key} as {value}, but it was trained with {used}"
    for dep in entry.get("deps", ()):
        if deps.get(dep["path"]) != dep.get("md5"):
            return f"DVC recorded another {dep['path']} than it was trained with"
    return ""


def _noted(repo: Repo, entry: Mapping[str, Any], name: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The parameters and dependencies that an entry's training noted, if its provenance.json is here or in DVC's cache."""
    place = paths.provenance(name)
    digest = next(out.get("md5") for out in entry["outs"] if out["path"] == place.as_posix())
    for path in (place, Path(repo.cache.local.oid_to_path(digest))) if digest else ():
        try:
            if files.md5(path) == digest:
                noted = files.read_record(path, paths.stage(name))["dvc"]
                return dict(noted["params"]), dict(noted["deps"])
        except (OSError, InputError, LookupError, TypeError, ValueError):
            continue  # not there, or of a version of this project that noted nothing
    return None


def main(arguments: Sequence[str]) -> None:
    """Compare dvc.lock and DVC's run cache with what each training noted; status 1 if one of them was false."""
    process.Parser(prog="quartet audit", description=main.__doc__).parse_args(arguments)
    if removed := remove_false():
        raise WorkError(f"something was edited just as {', '.join(removed)} ended; run `make` again")
