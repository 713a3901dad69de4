"""A stage as DVC tracks it, and whether any of that changed while the stage ran.

DVC hashes what a stage depends on after its command has ended. So DVC would record a change that was made meanwhile as what
the stage used, and restore that pair from its run cache ever after.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from quartet import STARTED
from quartet.base import paths
from quartet.base.errors import InputError, WorkError
from quartet.base.params import Params

if TYPE_CHECKING:
    from dvc.stage import Stage

SOURCE = Path(__file__).resolve().parents[2]
PIPELINE = "dvc.yaml"


class Tracked(NamedTuple):
    """What DVC tracks for a stage: the values of parameters by file and key, DVC's hash of each dependency by its path."""

    stage: str
    params: dict[str, dict[str, Any]]
    deps: dict[str, str | None]
    outs: tuple[str, ...] = ()  # DVC removes them before the stage makes them
    file: str = PIPELINE


def in_dvc_project() -> bool:
    """Tell whether the working directory is the root of a DVC project: a script may run in a copy of a few files."""
    return Path(".dvc").is_dir() and Path("dvc.yaml").is_file()


def link_to_folder(path: Path) -> Path | None:
    """Return the part of a path, relative to the project's root, that is a link to a folder; None if there is none.

    A link to a file does no harm: DVC makes them if it is told to, and a file that is written replaces the link.
    """
    parts = [*reversed(path.parents), path]
    return next((part for part in parts if part.is_symlink() and (part.is_dir() or part != path)), None)


def refuse_links(outs: Iterable[str]) -> None:
    """Refuse to write outputs through a link to a folder: it would be elsewhere, and DVC removes the old ones first.

    InputError names the link.
    """
    for out in outs:
        if link := link_to_folder(Path(out)):
            raise InputError(
                f"{link}: a link to {link.resolve()}; outputs are written in the project itself, and DVC removes the old"
                " ones first; remove the link"
            )


def outputs() -> list[str]:
    """Return the outputs that DVC removes before it makes them, of all stages; none outside of a DVC project."""
    if not in_dvc_project():
        return []
    with _stages(PIPELINE, PIPELINE) as stages:
        return [out for name in stages for out in _outs(stages[name])]


def note(stage: str, settings: Params, file: str = PIPELINE) -> Tracked:
    """Note what DVC tracks for a stage of a file that has read its settings and its inputs, and begins to work.

    WorkError if what the stage has read is not what is there now: then nobody could say what it works with. InputError if
    it would write through a link. Outside of a DVC project there is nothing to note.
    """
    tracked = _look(stage, file)
    refuse_links(tracked.outs)
    params = [
        f"{paths.PARAMS}: {key}"
        for key, value in tracked.params.get(paths.PARAMS.as_posix(), {}).items()
        if settings.value(key) != value
    ]
    _fail_if_any([*params, *filter(_is_edited, tracked.deps)], f"{stage} was starting")
    return tracked


def check(before: Tracked, doing: str = "running") -> None:
    """Compare what `note` noted with what is there now; WorkError names what changed. Call it before outputs are written."""
    now = _look(before.stage, before.file)
    params = [
        f"{file}: {key}"
        for file, values in before.params.items()
        for key, value in values.items()
        if key not in now.params.get(file, {}) or now.params[file][key] != value
    ]
    deps = [path for path, found in before.deps.items() if now.deps.get(path) != found]
    _fail_if_any([*params, *deps], f"{before.stage} was {doing}")


def _fail_if_any(changed: list[str], when: str) -> None:
    if changed:
        raise WorkError(f"{', '.join(changed)} changed while {when}; run again")


def _is_edited(path: str) -> bool:
    """Tell whether code of this process, or the file of parameters, was written since the process began to read them.

    An edit that was taken back meanwhile leaves the same hash, but the process may have read what was there between.
    """
    file = Path(path)
    if file != paths.PARAMS and not file.resolve().is_relative_to(SOURCE):
        return False
    return any(found.stat().st_ctime_ns > STARTED for found in [*file.rglob("*.py"), *([file] if file.is_file() else [])])


def _look(name: str, file: str) -> Tracked:
    if not in_dvc_project():
        return Tracked(name, {}, {}, file=file)
    from dvc.dependency import ParamsDependency

    params: dict[str, dict[str, Any]] = {}
    deps: dict[str, str | None] = {}
    with _stages(f"stage {name}", file) as stages:
        for dep in stages[name].deps:
            if isinstance(dep, ParamsDependency):
                params[dep.def_path] = dep.read_params()
            else:
                deps[dep.def_path] = dep.get_hash().value if dep.exists else None
        return Tracked(name, params, deps, tuple(_outs(stages[name])), file)


def _outs(found: Stage) -> list[str]:
    return [out.def_path for out in found.outs if not out.persist]


@contextmanager
def _stages(what: str, file: str) -> Iterator[Mapping[str, Stage]]:
    """DVC's stages of a file by name; InputError, which says of what, if DVC cannot read them or what they depend on."""
    from dvc.dvcfile import ProjectFile
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            pipeline = ProjectFile(repo, repo.fs.abspath(file))
            # Does not read dvc.lock, which another stage's DVC may be writing.
            yield pipeline.LOADER(pipeline, pipeline.contents)
    except (DvcException, OSError) as error:
        raise InputError(f"{what}: DVC cannot read what it depends on: {error}") from None
