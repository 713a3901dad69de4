from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent


class Project:
    """A copy of this checkout's files in a repository of its own, with commands run as a user would run them."""

    def __init__(self, root: Path, home: Path) -> None:
        self.root = root
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GIT_", "MLFLOW_", "QUARTET_"))
        }
        self.env = kept | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "GIT_CONFIG_NOSYSTEM": "1",
            "COLUMNS": "200",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def run(self, *command: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the project's root; its two outputs come back as one text."""
        done = subprocess.run(command, **self._surroundings(env), check=False)
        assert done.returncode == 0 or not check, done.stdout
        return done

    def start(self, *command: str, **env: str) -> subprocess.Popen[str]:
        """Start a command in the project's root, in a process group of its own; its two outputs come as one text."""
        return subprocess.Popen(command, **self._surroundings(env), start_new_session=True)

    def _surroundings(self, env: dict[str, str]) -> dict[str, Any]:
        return {
            "cwd": self.root,
            "env": self.env | env,
            "text": True,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
            "stdin": subprocess.DEVNULL,
        }

    def stage(self, script: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a stage's script as dvc.yaml does, without DVC."""
        return self.run("python", f"src/{script}.py", *arguments, check=False, **env)

    def quartet(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run the program `quartet` with this copy's code."""
        return self.run("quartet", *arguments, check=False, PYTHONPATH=str(self.root / "src"), **env)


def replace(path: Path, old: str, new: str) -> None:
    """Replace the first `old` in a file, which must hold it."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def start_dvc(root: Path, stages: dict[str, Any]) -> None:
    """Make a folder the root of a DVC project with these stages, without git."""
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    for command in (("init", "-q", "--no-scm"), ("config", "core.analytics", "false")):
        subprocess.run(["dvc", *command], check=True, cwd=root)


def clone(folder: Path) -> Project:
    """This checkout's files, tracked and new, committed to a new repository that uses the sample, without a git identity."""
    home, root = folder / "home", folder / "project"
    home.mkdir(parents=True)
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and name != "dvc.lock":
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    text = (root / "params.yaml").read_text(encoding="utf-8")
    (root / "params.yaml").write_text(text.replace("source: auto", "source: sample"), encoding="utf-8")
    (root / ".venv").symlink_to(sys.prefix)
    project = Project(root, home)
    project.run("git", "init", "-q")
    project.run("git", "add", "-A")
    project.run("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", "Start")
    return project
