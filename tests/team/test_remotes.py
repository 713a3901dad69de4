"""What the pipeline made goes to a DVC remote, and from there to a colleague."""

from __future__ import annotations

from pathlib import Path

import pytest

from project import TRAININGS, colleagues, copy_of, outs, ran, runs
from quartet.base import files

pytestmark = [pytest.mark.team, pytest.mark.xdist_group("remotes")]


@pytest.fixture(params=["folder", "ssh", "s3"])
def remote(request):
    return request.getfixturevalue(f"{request.param}_remote")


@pytest.fixture
def shared(finished, remote, tmp_path):
    """The finished project, with this remote as the default of all clones."""
    project = copy_of(finished, tmp_path / "ada")
    remote.add(project)
    project.run("git", "commit", "-qam", "Name the remote")
    remote.sign_in(project, remote.local)
    return project


def contents(root: Path) -> dict[str, str]:
    folders = ("data/raw", "data/split", "stages")
    paths = [
        path for folder in folders for path in (root / folder).rglob("*") if path.is_file() and path.name != ".gitignore"
    ]
    return {str(path.relative_to(root)): files.sha256(path) for path in paths}


def test_a_colleague_pulls_and_runs_nothing(shared, remote, tmp_path):
    """Somebody who may not come in is told so in one line, and nothing is changed."""
    local, env = remote.stranger
    if remote.refusal:
        remote.sign_in(shared, local)
        refused(shared, "push", remote, env)
        remote.sign_in(shared, remote.local)
    pushed = shared.run("dvc", "push", **remote.env)
    assert "files pushed" in pushed.stdout
    colleague = colleagues(shared, tmp_path / "bob")
    before = contents(colleague.root)
    if remote.refusal:
        remote.sign_in(colleague, local)
        refused(colleague, "pull", remote, env)
        assert contents(colleague.root) == before
        remote.sign_in(colleague, remote.local)
    colleague.run("dvc", "pull", **remote.env)
    assert contents(colleague.root) == contents(shared.root)
    assert ran(colleague.run("dvc", "repro").stdout) == []
    assert colleague.run("git", "status", "--porcelain").stdout == ""
    done = colleague.quartet("sync")
    assert done.returncode == 0, done.stdout
    assert sorted(run["name"] for run in runs(colleague)) == sorted(TRAININGS)
    assert all("test_accuracy" in run["metrics"] for run in runs(colleague))


def refused(project, command: str, remote, env: dict[str, str]) -> None:
    done = project.run("dvc", command, check=False, **env)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if remote.refusal in line]
    assert line.startswith("ERROR: ")


def test_a_remote_that_lost_a_file_says_which_is_missing(finished, folder_remote, tmp_path):
    project = copy_of(finished, tmp_path / "ada")
    folder_remote.add(project)
    project.run("git", "commit", "-qam", "Name the remote")
    project.run("dvc", "push")
    model = outs(project)["stages/train/ten/model.safetensors"]
    (Path(folder_remote.url) / f"files/md5/{model[:2]}/{model[2:]}").unlink()
    colleague = colleagues(project, tmp_path / "bob")
    done = colleague.run("dvc", "pull", check=False)
    assert done.returncode != 0
    assert "stages/train/ten/model.safetensors" in done.stdout
    # What can be had is there; the rest is made again, to the same bytes.
    assert set(ran(colleague.run("dvc", "repro").stdout)) == {"train@ten"}
    assert colleague.run("git", "status", "--porcelain").stdout == ""
