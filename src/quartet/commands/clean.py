"""`quartet clean`: remove what the pipeline made, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from quartet.base import errors, paths, process, stage
from quartet.base.errors import InputError

# Files of this project as a whole, and of the programs that it runs.
FOLDERS = (paths.CHECKPOINTS, Path("dvc_plots"), Path(".mypy_cache"), Path(".ruff_cache"))
DATABASE = ("mlflow.db", "mlflow.db-journal", "mlflow.db-shm", "mlflow.db-wal")
ARTIFACTS = Path("mlruns")


def remove_outputs() -> list[str]:
    """Remove each output that DVC has a copy of; return the others that are there: nobody could bring them back."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    kept = []
    try:
        with Repo() as repo, repo.lock:
            for out in repo.index.outs:
                if not out.use_cache or not Path(out.fs_path).exists():
                    continue  # the study's are in git, or made again from what is
                if stage.link_to_folder(Path(out.def_path)) or out.workspace_status() or out.changed_cache():
                    kept.append(str(out))
                else:
                    out.remove()
    except DvcException as error:
        raise InputError(f"DVC: {error}") from None
    return kept


def remove(path: Path) -> None:
    """Remove a file, a link or a folder; what a link leads to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def main(arguments: Sequence[str]) -> None:
    """Remove DVC's outputs, checkpoints and MLflow's store; keep DVC's cache, and all that is not the pipeline's."""
    process.Parser(prog="quartet clean", description=main.__doc__).parse_args(arguments)
    kept = remove_outputs()
    inside = () if ARTIFACTS.is_symlink() else ARTIFACTS.glob("*")
    for path in (*FOLDERS, *map(Path, DATABASE), *(path for path in inside if path.name != ".gitignore")):
        remove(path)
    for path in paths.TRAIN.glob("*"):  # DVC leaves empty folders
        if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
            path.rmdir()
    if kept:
        errors.tell(f"clean: kept, since DVC has no copy: {', '.join(kept)}")
