"""`environment.py`: a small project with one package to install, in places and with settings that are not ours."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from project import ROOT

PYPROJECT = """
[build-system]
requires = ["flit_core"]
build-backend = "flit_core.buildapi"
[project]
name = "quartet"
version = "1"
description = "A small one"
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """A folder with a package that has the modules which environment.py imports, and what installs the project."""
    folder = tmp_path_factory.mktemp("wheels")
    for version, modules in {1: ("dvc", "psutil", "yaml"), 2: ("dvc", "psutil")}.items():
        with zipfile.ZipFile(folder / f"fake-{version}-py3-none-any.whl", "w") as wheel:
            for module in modules:
                wheel.writestr(f"{module}.py", "")
            for file in metadata.files("flit-core"):
                if file.suffix == ".py":
                    wheel.write(file.locate(), str(file))
            about = f"fake-{version}.dist-info"
            wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: fake\nVersion: {version}\n")
            wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{about}/RECORD", "")
    return folder


class Small:
    """A project that has environment.py, and what surrounds it."""

    def __init__(self, root: Path, wheels: Path) -> None:
        self.root = root
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "GIT_", "PYTHON"))}
        self.env = kept | {
            "HOME": str(root.parent),
            "XDG_CONFIG_HOME": str(root.parent),
            "GIT_CONFIG_NOSYSTEM": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(wheels),
        }
        (root / "src/quartet/base").mkdir(parents=True)
        for package in ("src/quartet", "src/quartet/base"):
            (root / package / "__init__.py").write_text('"""A package."""\n', encoding="utf-8")
        shutil.copy(ROOT / "src/quartet/base/redaction.py", root / "src/quartet/base")
        (root / "requirements.txt").write_text("fake==1\n", encoding="utf-8")
        (root / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
        (root / ".gitignore").write_text("/.venv\n", encoding="utf-8")
        shutil.copy(ROOT / "environment.py", root)

    def commit(self) -> Small:
        self.git("init", "-q")
        self.git("add", "-A")
        self.git("-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", "Start")
        return self

    def git(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(["git", *arguments], cwd=self.root, env=self.env, capture_output=True, text=True, check=check)
        return done.stdout

    def command(self) -> list[str]:
        return [sys.executable, str(self.root / "environment.py")]

    def set_up(self, *, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(self.command(), env=self.env | env, capture_output=True, text=True, check=False)
        assert done.returncode == 0 or not check, done.stderr
        assert "Traceback" not in done.stderr
        return done

    def works(self) -> bool:
        """Whether the environment is of this place, and all that it needs is in it."""
        code = "import sys, dvc, quartet; print(sys.prefix, dvc.__file__, quartet.__file__, sep='\\n')"
        done = subprocess.run(
            [self.root / ".venv/bin/python", "-I", "-c", code], capture_output=True, text=True, check=False
        )
        places = done.stdout.splitlines()
        script = (self.root / ".venv/bin/pip").read_text(encoding="utf-8")
        return (
            len(places) == 3
            and all(Path(place).is_relative_to(self.root) for place in places)
            and str(self.root / ".venv/bin/python") in script
        )


@pytest.fixture
def small(tmp_path, wheels):
    return Small(tmp_path / "project", wheels).commit()


def contents(folder: Path) -> dict[str, object]:
    """All that is in a folder: what each file holds, and when it was written."""
    return {str(path): (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in folder.rglob("*")}


def test_the_environment_is_made_once_and_again_for_other_packages(small):
    done = small.set_up()
    assert done.stdout.splitlines()[0] == "setup: installing the packages of requirements.txt into .venv (a minute or two)"
    assert small.works()
    before = contents(small.root)
    assert (small.set_up().stdout, contents(small.root)) == ("", before)
    stray = small.root / ".venv/lib/stray"
    stray.touch()
    (small.root / "pyproject.toml").write_text(f'{PYPROJECT}scripts = {{ small = "quartet:main" }}\n', encoding="utf-8")
    assert small.set_up().stdout == ""
    assert small.works()
    assert (small.root / ".venv/bin/small").exists()
    assert stray.exists()
    (small.root / "requirements.txt").write_text("fake==1 # as before\n", encoding="utf-8")
    assert "installing" in small.set_up().stdout
    assert small.works()
    assert not stray.exists()


def test_a_project_that_was_moved_has_its_environment_made_again(small):
    small.set_up()
    small.root = small.root.rename(small.root.with_name("another name"))
    assert not small.works()
    environment = {"PATH": f"{small.root / '.venv/bin'}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(  # by the environment's own Python, as `make` finds it
        ["python3", small.root / "environment.py"], env=small.env | environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert small.works()


def test_an_environment_whose_python_is_gone_is_made_again(small):
    small.set_up()
    for python in (small.root / ".venv/bin").glob("python*"):
        python.unlink()
        python.symlink_to("/nowhere/python")
    small.set_up()
    assert small.works()


def test_a_set_up_that_is_killed_is_made_up_for_by_the_next(small):
    with subprocess.Popen(small.command(), env=small.env, stdout=subprocess.DEVNULL, start_new_session=True) as killed:
        while not (small.root / ".venv/bin/python").exists():
            time.sleep(0.01)
        os.killpg(killed.pid, signal.SIGKILL)
    small.set_up()
    assert small.works()


@pytest.mark.parametrize("place", ["environment", "file"])
def test_pips_own_settings_lead_nowhere_else(small, tmp_path, place):
    elsewhere = tmp_path / "elsewhere"
    found = {"user": "1", "target": str(elsewhere), "prefix": str(elsewhere), "root": str(elsewhere)}
    settings = tmp_path / "pip.conf"
    settings.write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in found.items()), encoding="utf-8")
    variables = {f"PIP_{key.upper()}": value for key, value in found.items()}
    done = small.set_up(**variables if place == "environment" else {"PIP_CONFIG_FILE": str(settings)})
    assert done.stderr == ""
    assert [line for line in done.stdout.splitlines() if not line.startswith("setup:")] == []
    assert small.works()
    assert not elsewhere.exists()


def test_an_environment_is_not_ready_before_an_import_has_worked(small, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/yaml.py").touch()
    (small.root / "requirements.txt").write_text("fake==2\n", encoding="utf-8")
    done = small.set_up(check=False, PYTHONPATH=str(tmp_path / "elsewhere"))
    assert done.returncode == 1
    assert done.stderr == (
        "setup: error: the packages cannot be imported from .venv (ModuleNotFoundError: No module named 'yaml');"
        " `pip config list` shows pip's settings\n"
    )
    assert not is_ready(small)


def is_ready(small: Small) -> bool:
    return (small.root / ".venv/ready.json").read_bytes() != b""


def test_what_pip_cannot_do_is_said_without_its_warnings(small):
    done = small.set_up(check=False, PIP_FIND_LINKS=str(small.root / "nowhere"))
    assert done.returncode == 1
    assert done.stderr.startswith("setup: error: pip failed:\nERROR: ")
    assert "No matching distribution found for fake==1" in done.stderr
    assert "WARNING" not in done.stderr
    assert not is_ready(small)
    index = {"PIP_NO_INDEX": "", "PIP_INDEX_URL": "nosuch://user:pa55word@127.0.0.1/?key=s1gnature\x1b[2J"}
    done = small.set_up(check=False, **index, PIP_FIND_LINKS="", PIP_RETRIES="0")
    assert done.returncode == 1
    assert all(line.isprintable() for line in done.stderr.splitlines())
    assert not [secret for secret in ("pa55word", "s1gnature") if secret in done.stdout + done.stderr]
    small.set_up()
    assert small.works()


def test_two_set_ups_at_once_make_one_environment(small):
    first = subprocess.Popen(small.command(), env=small.env, stdout=subprocess.PIPE, text=True)
    with first:
        assert first.stdout.readline().startswith("setup: installing")
        second = small.set_up()
        first.communicate()
    assert second.stdout == "setup: another process is making .venv here; waiting for it\n"
    assert first.returncode == 0
    assert small.works()


def test_an_environment_behind_a_link_is_used_and_never_changed(small, tmp_path):
    small.set_up()
    (small.root / ".venv").rename(tmp_path / "environment")
    (small.root / ".venv").symlink_to(tmp_path / "environment")
    before = contents(tmp_path / "environment")
    assert small.set_up().stdout == ""
    site = next((tmp_path / "environment").rglob("psutil.py"))
    site.rename(tmp_path / "psutil.py")
    done = small.set_up(check=False)
    (tmp_path / "psutil.py").rename(site)
    assert done.returncode == 1
    assert done.stderr == (
        "setup: error: .venv is a link to an environment without these packages"
        " (ModuleNotFoundError: No module named 'psutil'); remove the link\n"
    )
    assert {path: found[1] for path, found in contents(tmp_path / "environment").items()} == {
        path: found[1] for path, found in before.items()
    }


@pytest.mark.parametrize("kind", ["environment", "file"])
def test_what_is_in_the_way_of_the_environment_stays(small, kind):
    venv = small.root / ".venv"
    if kind == "file":
        venv.write_text("mine", encoding="utf-8")
    else:
        venv.mkdir()
        (venv / "pyvenv.cfg").write_text("mine", encoding="utf-8")
    before = contents(small.root)
    done = small.set_up(check=False)
    assert (done.returncode, done.stderr) == (1, "setup: error: .venv was not made by `make setup`; move it away\n")
    assert contents(small.root) == before


@pytest.mark.parametrize("surroundings", ["none", "another repository"])
def test_without_a_repository_of_its_own_nothing_is_installed(tmp_path, wheels, surroundings):
    small = Small(tmp_path / "project", wheels)
    config = tmp_path / ".git/config"
    if surroundings != "none":
        subprocess.run(["git", "init", "-q", tmp_path], env=small.env, check=True)
    before = config.exists() and config.read_bytes()
    done = small.set_up(check=False)
    assert done.returncode == 1
    found = "as if unpacked from a zip file" if surroundings == "none" else f"it is within that of {tmp_path}"
    advice = "git init && git add -A && git commit -m Start"
    assert done.stderr == (
        f"setup: error: {small.root} is not a git repository of its own ({found}), and DVC needs one; {advice}\n"
    )
    assert not (small.root / ".venv").exists()
    assert (config.exists() and config.read_bytes()) == before
    for command in advice.split(" && "):
        small.git("-c", "user.name=test", "-c", "user.email=test@localhost", *command.split()[1:])
    small.set_up()
    assert (config.exists() and config.read_bytes()) == before


def test_git_is_asked_for_first(small, tmp_path):
    (tmp_path / "bin").mkdir()
    done = small.set_up(check=False, PATH=str(tmp_path / "bin"))
    assert (done.returncode, done.stderr) == (1, "setup: error: git is not installed; DVC needs it\n")
    assert not (small.root / ".venv").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_repository_of_another_user_is_named_to_git(small):
    for path in (small.root, small.root / ".git"):
        os.chown(path, 12_345, 12_345)
    done = small.set_up(check=False)
    assert done.returncode == 1
    command = re.fullmatch(r"setup: error: git does not trust \S+, which another user owns; (git .*)\n", done.stderr)
    assert command, done.stderr
    assert not (small.root / ".venv").exists()
    subprocess.run(["sh", "-c", command[1]], env=small.env, check=True)
    small.set_up()
    assert small.works()


def test_a_shallow_clone_is_warned_of(small, wheels):
    small.git("-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", "More", "--allow-empty")
    shallow = Small(small.root.with_name("shallow"), wheels)
    shutil.rmtree(shallow.root)
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{small.root}", shallow.root], env=small.env, check=True)
    warning = "setup: warning: in a shallow clone DVC loses queued and --temp experiments; git fetch --unshallow"
    assert shallow.set_up().stdout.splitlines()[0] == warning
    shallow.git("fetch", "-q", "--unshallow")
    assert "warning" not in shallow.set_up().stdout


@pytest.mark.parametrize(("letter", "what"), [(":", "PATH"), ("%", "MLflow's migrations")])
def test_a_path_that_a_tool_cannot_hold_is_refused(tmp_path, wheels, letter, what):
    small = Small(tmp_path / f"a{letter}20b", wheels)
    done = small.set_up(check=False)
    assert done.returncode == 1
    problem = f"the path has '{letter}', which {what} cannot hold; rename that folder"
    assert done.stderr == f"setup: error: {small.root}: {problem}\n"


def test_an_author_is_named_only_if_git_has_none(small):
    small.set_up()
    assert small.git("config", "--local", "user.name") == "mnist-quartet\n"
    assert small.git("config", "--local", "user.email") == "mnist-quartet@localhost\n"
    small.git("config", "--local", "--unset", "user.name")
    small.git("config", "--local", "--unset", "user.email")
    (small.root.parent / ".gitconfig").write_text("[user]\nname = A\nemail = a@example.org\n", encoding="utf-8")
    assert small.set_up().stdout == ""
    assert small.git("config", "--local", "user.name", check=False) == ""


def test_an_older_python_is_refused(small):
    code = (
        "import runpy, sys; sys.version_info = (3, 9, 6, 'final', 0); sys.argv = sys.argv[1:];"
        " runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", code, str(small.root / "environment.py")]
    done = subprocess.run(command, env=small.env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "setup: error: Python 3.10 or newer is needed, this is 3.9.6; name another: make PYTHON=python3.12\n"
    )


def test_recipes_name_their_programs():
    """make 3.81, macOS's, looks for them along the PATH that it was started with."""
    recipes = [line.strip().lstrip("@") for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("\t")]
    programs = {re.split(r"[ ;]", re.sub(r"^(PYTHONPATH=\S+ |\$\(if \S+,)", "", recipe))[0] for recipe in recipes}
    assert {program for program in programs if not program.startswith((".venv", "$(PYTHON)"))} <= {
        *("[", "echo", "echo;", "find", "grep", "mv", "rm", "uv", "|")
    }
