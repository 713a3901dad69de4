"""`quartet clean`, in a real DVC project of a few files, beside what a user may keep there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from project import ROOT, start_dvc
from quartet.commands import clean

STAGES = {
    "make": {
        "cmd": "mkdir -p figures data/raw && touch a data/raw/b figures/c",
        "outs": ["a", "figures", {"data/raw/b": {"persist": True}}],
    }
}
OURS = (".checkpoints/ten.pt", "dvc_plots/index.html", ".mypy_cache/x", ".ruff_cache/x", "mlflow.db", "mlruns/1/model")
THEIRS = ("data/own/x", "data/raw/notes", "data/raw/b.gz", "mlflow.db.bak", "stages/train/ten/notes", "mlruns/.gitignore")


def write(path: Path, text: str = "x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def left(root: Path) -> set[str]:
    """The files that are there, those of DVC's own aside."""
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    return {name for name in files if not name.startswith((".dvc", "dvc."))}


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start_dvc(tmp_path, STAGES)
    subprocess.run(["dvc", "repro", "-q"], check=True)
    for name in (*OURS, *THEIRS):
        write(tmp_path / name)
    return tmp_path


def test_what_the_pipeline_made_goes_and_what_is_the_users_stays(project, capfd):
    clean.main([])
    assert left(project) == set(THEIRS)
    assert capfd.readouterr() == ("", "")
    subprocess.run(["dvc", "checkout", "-q"], check=True)
    assert left(project) == {*THEIRS, "a", "data/raw/b", "figures/c"}


def test_an_output_that_dvc_has_no_copy_of_stays(project, capfd):
    (project / "a").unlink()  # it may be a link into DVC's cache
    write(project / "a", "edited")
    write(project / "figures/mine")
    clean.main([])
    assert left(project) == {*THEIRS, "a", "figures/c", "figures/mine"}
    assert capfd.readouterr() == ("clean: kept, since DVC has no copy: a, figures\n", "")


def test_what_is_behind_a_link_stays(project, tmp_path_factory, capfd):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name in ("figures", "mlruns", ".checkpoints", "raw"):
        place = project / ("data/raw" if name == "raw" else name)
        place.rename(elsewhere / name)
        place.symlink_to(elsewhere / name)
    before = left(elsewhere)
    clean.main([])
    assert left(elsewhere) == before
    assert "figures" in capfd.readouterr().out
    assert not (project / ".checkpoints").is_symlink()
    assert (project / "mlruns").is_symlink()


def test_without_outputs_there_is_nothing_to_clean(project):
    clean.main([])
    clean.main([])
    assert left(project) == set(THEIRS)


@pytest.mark.parametrize("kind", ["own", "link", "another"])
def test_make_clean_removes_its_own_environment_alone(tmp_path, kind):
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    write(project / "Makefile", (ROOT / "Makefile").read_text(encoding="utf-8"))
    for place in (project / ".venv" if kind != "link" else elsewhere,):
        write(place / ("pyvenv.cfg" if kind == "another" else "ready.json"))
    if kind == "link":
        (project / ".venv").symlink_to(elsewhere)
    subprocess.run(["make", "-C", project, "clean"], check=True, capture_output=True)
    assert (project / ".venv").exists() == (kind == "another")
    assert elsewhere.exists() == (kind == "link")
