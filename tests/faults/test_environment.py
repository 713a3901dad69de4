"""`environment.py`: a small project with one package to install, in places and with settings that are not ours."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from project import ROOT, replace

PYPROJECT = """
[build-system]
requires = ["flit_core"]
build-backend = "flit_core.buildapi"
[project]
name = "quartet"
version = "1"
description = "A small one"
"""
MAKING = "setup: making .venv"
OTHER_SYSTEM = "setup: PyTorch comes as its default build, which has no CUDA on this system"
LARGE = "PyTorch's default build takes 4.7 GB on disk, with CUDA"
SETTINGS = "setup: PyTorch comes from the index that your pip or uv settings name, in the build that it has"
TORCH_DEFAULT = f"setup: TORCH=default: {LARGE}"
INSTALLED = "setup: PyTorch {} is installed; .venv takes 0.0 GB"
WITH_PIP = "setup: installing the packages of requirements.txt with pip (a minute or two)"
WITH_UV = "setup: installing the packages of requirements.txt with uv"
PYTHON_TAG = f"cp{sys.version_info[0]}{sys.version_info[1]}"
CPU_WHEEL = f"torch-1.0+cpu-{PYTHON_TAG}-{PYTHON_TAG}{sys.abiflags}-manylinux_2_17_{platform.machine()}.whl"
linux = pytest.mark.skipif(platform.system() != "Linux", reason="elsewhere PyTorch has one build")

# What `python -m venv` makes, in a tenth of the time: it copies what that installs from an environment that has it.
QUICK_VENV = """
import shutil, sys, venv
from pathlib import Path
template, made = Path(sys.argv[1]), Path(sys.argv[2])
venv.create(made, symlinks=True)
(there,), (here,) = (list(root.glob("lib/python*/site-packages")) for root in (template, made))
shutil.copytree(there, here, dirs_exist_ok=True)
for pip in template.glob("bin/pip*"):
    shutil.copy(pip, made / "bin")
    (made / "bin" / pip.name).write_text(pip.read_text().replace(str(template), str(made)))
"""


def write_wheel(path: Path, files: dict[str, str | Path], scripts: str = "") -> None:
    """Write a wheel with these files: each is a text, or a file to copy."""
    name, version, *_, tag = path.stem.split("-", 2)
    about = f"{name}-{version}.dist-info"
    contents = {
        **files,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{about}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
        f"{about}/entry_points.txt": f"[console_scripts]\n{scripts}\n",
    }
    with zipfile.ZipFile(path, "w") as wheel:
        for file, content in contents.items():
            if isinstance(content, Path):
                wheel.write(content, file)
            else:
                wheel.writestr(file, content)
        wheel.writestr(f"{about}/RECORD", "".join(f"{file},,\n" for file in (*contents, f"{about}/RECORD")))


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """A folder with a package that has the modules which environment.py imports, and what installs the project."""
    folder = tmp_path_factory.mktemp("wheels")
    flit = {str(file): Path(file.locate()) for file in metadata.files("flit-core") if file.suffix == ".py"}
    for version, modules in {1: ("dvc", "psutil", "yaml"), 2: ("dvc", "psutil")}.items():
        files = flit | {f"{module}.py": "" for module in modules}
        write_wheel(folder / f"fake-{version}-py3-none-any.whl", files, scripts="fake = dvc:main")
    return folder


@pytest.fixture(scope="module")
def quick_venv(tmp_path_factory):
    """A program that makes an environment, and the environment that it copies: arguments for Python."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", folder / "template"], check=True)
    (folder / "quick.py").write_text(QUICK_VENV, encoding="utf-8")
    return str(folder / "quick.py"), str(folder / "template")


class Index(ThreadingHTTPServer):
    """Two package indexes: `simple`, the default one, and `cpu`. Pages below another name come as badly as it says."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), IndexHandler)
        self.folder = folder
        self.requests: list[str] = []
        self.hung_up = threading.Event()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def asked(self, name: str) -> list[str]:
        """All that was requested of an index since this was called last."""
        found = [request for request in self.requests if request.startswith(f"/{name}/")]
        self.requests = [request for request in self.requests if request not in found]
        return found

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: the clients under test hang up in the middle, and that is meant."""


class IndexHandler(BaseHTTPRequestHandler):
    server: Index
    timeout = 60

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        name, _, rest = unquote(self.path).lstrip("/").partition("/")
        path = self.server.folder / name / rest
        if name == "hang":
            self.wait()
        elif name == "drip":
            self.drip()
        elif name == "403":
            self.send_error(403)
        elif path.is_dir():
            links = "".join(f'<a href="{quote(file.name)}">{file.name}</a>' for file in sorted(path.iterdir()))
            self.reply(links.encode(), "text/html")
        elif path.is_file():
            self.reply(path.read_bytes(), "application/octet-stream")
        else:
            self.send_error(404)

    do_HEAD = do_GET  # noqa: N815 -- the name that Python's server looks for

    def reply(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def wait(self) -> None:
        """Answer nothing until the client hangs up."""
        if self.rfile.read(1) == b"":
            self.server.hung_up.set()

    def drip(self) -> None:
        """Answer a letter at a time until the client hangs up."""
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(600):
                self.wfile.write(b" ")
                time.sleep(0.1)
        except ConnectionError:
            self.server.hung_up.set()

    def log_message(self, *_: object) -> None:
        """Keep standard error for what the tests say."""


@pytest.fixture(scope="module")
def index(tmp_path_factory, wheels):
    """Both indexes, with PyTorch's builds for this Python; in `other` are those for others alone."""
    folder = tmp_path_factory.mktemp("index")
    for name, torch in {
        "simple": "torch-1.0-py3-none-any.whl",
        "cpu": CPU_WHEEL,
        "version": CPU_WHEEL.replace("1.0", "1.0.1"),
        "python": CPU_WHEEL.replace(PYTHON_TAG, "cp27"),
        "machine": CPU_WHEEL.replace(platform.machine(), "m68k"),
    }.items():
        (folder / name / "torch").mkdir(parents=True)
        write_wheel(folder / name / "torch" / torch, {"torch.py": f"BUILD = {name!r}\n"})
    (folder / "simple/fake").mkdir()
    shutil.copy(wheels / "fake-1-py3-none-any.whl", folder / "simple/fake")
    (folder / "cpu/fake").mkdir()  # an older version alone, as PyTorch's index has of some packages
    write_wheel(folder / "cpu/fake/fake-0-py3-none-any.whl", {})
    server = Index(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


class Small:
    """A project that has environment.py, and what surrounds it."""

    def __init__(self, root: Path, wheels: Path) -> None:
        self.root = root
        self.programs = root.parent / "programs"
        self.programs.mkdir(exist_ok=True)
        for name in ("git", "mkdir", "sh"):  # no uv, which the machine may have
            if not (self.programs / name).exists():
                (self.programs / name).symlink_to(shutil.which(name))
        ours = ("PIP_", "GIT_", "PYTHON", "TORCH", "UV_", "VIRTUAL_ENV")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(ours)} | {
            "PATH": str(self.programs),
            "HOME": str(root.parent),
            "XDG_CONFIG_HOME": str(root.parent / "config"),
            "XDG_CONFIG_DIRS": str(root.parent / "config dirs"),
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
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

    def make_quickly(self, quick_venv: tuple[str, str]) -> Small:
        """Let it make environments in a tenth of the time."""
        replace(self.root / "environment.py", '"-m", "venv"', ", ".join(map(repr, quick_venv)))
        return self

    def commit(self) -> Small:
        self.git("init", "-q")
        self.git("add", "-A")
        self.git("-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", "Start")
        return self

    def git(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(["git", *arguments], cwd=self.root, env=self.env, capture_output=True, text=True, check=check)
        return done.stdout

    def use(self, index: Index, cpu: str = "cpu", seconds: int = 60) -> Small:
        """Let it need PyTorch from these indexes, without settings of the user's, and wait a while for a busy machine."""
        (self.root / "requirements.txt").write_text("fake==1\ntorch==1.0\n", encoding="utf-8")
        script = self.root / "environment.py"
        replace(script, '"https://download.pytorch.org/whl/cpu"', repr(index.url(cpu)))
        replace(script, "SECONDS = 3\n", f"SECONDS = {seconds}\n")
        replace(script, 'HERE = (f"', f'HERE = ("--index-url={index.url("simple")}", f"')
        replace(script, 'UV = ("pip", "install", ', f'UV = ("pip", "install", "--default-index={index.url("simple")}", ')
        for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
            del self.env[name]
        index.requests.clear()
        return self

    def write_program(self, name: str, text: str) -> Path:
        """Write a shell script into the folder that PATH names."""
        program = self.programs / name
        program.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        program.chmod(0o755)
        return program

    def evaluate(self, code: str, **env: str) -> list[str]:
        """The lines that a function of environment.py's says, and what it returns."""
        done = subprocess.run(
            [sys.executable, "-c", f"import environment as made; print({code})"],
            cwd=self.root,
            env=self.env | env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def link(self) -> Small:
        """Let it have the environment that runs the tests, which it never changes: for what is not about installing."""
        (self.root / ".venv").symlink_to(sys.prefix)
        return self

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
def small(tmp_path, wheels, quick_venv):
    return Small(tmp_path / "project", wheels).make_quickly(quick_venv).commit()


def contents(folder: Path) -> dict[str, object]:
    """All that is in a folder: what each file holds, and when it was written."""
    return {str(path): (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def made(tmp_path_factory, wheels, quick_venv):
    """A project that was set up, and what its set-up said; each test that damages it has it made again."""
    small = Small(tmp_path_factory.mktemp("made") / "project", wheels).make_quickly(quick_venv).commit()
    small.write_program("uv", f": >'{small.root.parent / 'uv was called'}'")
    small.said = small.set_up().stdout
    return small


shares_made = pytest.mark.xdist_group("environment")


@shares_made
def test_other_packages_make_the_environment_again(made):
    """The same packages do not."""
    said = [MAKING, SETTINGS, WITH_PIP] if platform.system() == "Linux" else [MAKING, OTHER_SYSTEM, WITH_PIP]
    assert made.said.splitlines()[:3] == said
    assert made.works()
    assert not (made.root.parent / "uv was called").exists()  # it would not read pip's settings
    before = contents(made.root)
    assert (made.set_up().stdout, contents(made.root)) == ("", before)
    stray = made.root / ".venv/lib/stray"
    stray.touch()
    (made.root / "pyproject.toml").write_text(f'{PYPROJECT}scripts = {{ small = "quartet:main" }}\n', encoding="utf-8")
    assert made.set_up().stdout == ""
    assert made.works()
    assert (made.root / ".venv/bin/small").exists()
    assert stray.exists()
    (made.root / "requirements.txt").write_text("fake==1 # as before\n", encoding="utf-8")
    assert "installing" in made.set_up().stdout
    assert made.works()
    assert not stray.exists()


@shares_made
def test_a_project_that_was_moved_has_its_environment_made_again(made):
    made.root = made.root.rename(made.root.with_name("another name"))
    assert not made.works()
    environment = {"PATH": f"{made.root / '.venv/bin'}{os.pathsep}{made.env['PATH']}"}
    done = subprocess.run(  # by the environment's own Python, as `make` finds it
        ["python3", made.root / "environment.py"], env=made.env | environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert made.works()


@shares_made
def test_an_environment_whose_python_is_gone_is_made_again(made):
    for python in (made.root / ".venv/bin").glob("python*"):
        python.unlink()
        python.symlink_to("/nowhere/python")
    made.set_up()
    assert made.works()


def test_a_set_up_that_is_killed_is_made_up_for_by_the_next(tmp_path, wheels):
    """With `python -m venv` itself, which is what the kill hits."""
    small = Small(tmp_path / "project", wheels).commit()
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
        assert first.stdout.readline().startswith(MAKING)
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
    small.link().set_up()
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
    small.link().set_up()


def test_a_shallow_clone_is_warned_of(small, wheels):
    small.git("-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", "More", "--allow-empty")
    shallow = Small(small.root.with_name("shallow"), wheels)
    shutil.rmtree(shallow.root)
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{small.root}", shallow.root], env=small.env, check=True)
    warning = "setup: warning: in a shallow clone DVC loses queued and --temp experiments; git fetch --unshallow"
    assert shallow.link().set_up().stdout.splitlines()[0] == warning
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
    small.link().set_up()
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
    assert {program for program in programs if not program.startswith((".venv", "$(PYTHON)", "$(MAKE)"))} <= {
        *("[", "echo", "echo;", "find", "grep", "mv", "rm", "|")
    }


def installed(small: Small) -> dict[str, object]:
    """What pip lists, the names of the programs, and each file of the packages but what only says who installed it."""
    pip = [small.root / ".venv/bin/python", "-m", "pip", "list", "--format=json"]
    listed = subprocess.run(pip, env=small.env, capture_output=True, text=True, check=True)
    site = next((small.root / ".venv/lib").glob("python*/site-packages"))
    return {
        "packages": {package["name"]: package["version"] for package in json.loads(listed.stdout)},
        "programs": {path.name for path in (small.root / ".venv/bin").iterdir()},
        "files": {
            str(path.relative_to(site)): hashlib.sha256(path.read_bytes().replace(bytes(small.root), b"")).hexdigest()
            for path in site.rglob("*")
            if path.is_file()
            and path.name not in {"INSTALLER", "RECORD", "REQUESTED", "direct_url.json"}
            and "__pycache__" not in path.parts
        },
    }


def recorded(small: Small) -> str | None:
    return json.loads((small.root / ".venv/ready.json").read_bytes()).get("torch")


@pytest.fixture(scope="module")
def with_cpu(tmp_path_factory, wheels, index, quick_venv):
    """A project that was set up with the CPU build, and what its set-up said, asked for and installed."""
    small = Small(tmp_path_factory.mktemp("cpu") / "project", wheels).make_quickly(quick_venv).use(index).commit()
    small.said = small.set_up().stdout.splitlines()
    small.asked = index.asked("cpu")
    small.installed = installed(small)
    return small


shares_set_up = pytest.mark.xdist_group("cpu build")


@linux
@shares_set_up
def test_pytorchs_cpu_build_comes_from_its_own_index(with_cpu, index):
    build = f"setup: PyTorch's CPU build comes from {index.url('cpu')}, a download of 190 MB"
    said = [line for line in with_cpu.said if "git has no" not in line]
    assert said == [MAKING, build, WITH_PIP, INSTALLED.format("1.0+cpu")]
    assert with_cpu.asked[0] == "/cpu/torch/"
    assert f"/cpu/torch/{quote(CPU_WHEEL)}" in with_cpu.asked
    assert with_cpu.installed["packages"]["torch"] == "1.0+cpu"
    assert with_cpu.works()


@linux
@shares_set_up
def test_torch_default_replaces_the_cpu_build(with_cpu, index):
    ready = with_cpu.root / ".venv/ready.json"
    (with_cpu.root / "pyproject.toml").write_text(f"{PYPROJECT}# as before\n", encoding="utf-8")
    assert with_cpu.set_up().stdout == ""
    assert recorded(with_cpu) == "cpu"
    before = ready.read_bytes()
    known = json.loads(before)
    del known["torch"]  # as an earlier environment.py left it
    ready.write_text(json.dumps(known), encoding="utf-8")
    assert with_cpu.set_up(TORCH="default").stdout == ""
    ready.write_bytes(before)
    called = with_cpu.root.parent / "uv was called"
    own = with_cpu.write_program("uv", f": >'{called}'").rename(with_cpu.root / ".venv/bin/uv")
    index.requests.clear()
    done = with_cpu.set_up(TORCH="default", PATH=f"{own.parent}{os.pathsep}{with_cpu.env['PATH']}")
    assert done.stdout.splitlines() == [MAKING, TORCH_DEFAULT, WITH_PIP, INSTALLED.format("1.0")]
    assert not called.exists()
    assert index.asked("cpu") == []
    assert installed(with_cpu)["packages"]["torch"] == "1.0"
    assert with_cpu.works()
    assert recorded(with_cpu) == "default"
    for env in ({"TORCH": "default"}, {"TORCH": ""}, {}):
        assert with_cpu.set_up(**env).stdout == ""


@linux
@shares_set_up
def test_uv_installs_what_pip_installs(with_cpu, small, index, tmp_path):
    """Whatever else uv's variables, or settings in the folders above, would have it do."""
    small.use(index)
    (small.programs / "uv").symlink_to(Path(sys.prefix) / "bin/uv")
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "uv.toml").write_text(f'pip.target = "{elsewhere}"\n', encoding="utf-8")
    (tmp_path / "config/uv").mkdir(parents=True)
    (tmp_path / "config/uv/uv.toml").write_text('resolution = "lowest"\n', encoding="utf-8")
    (tmp_path / "other.txt").write_text("fake==2\n", encoding="utf-8")
    other = tmp_path / "other"  # not this Python's own environment, which a mistake would change
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", other], check=True)
    harmful = {
        "UV_SYSTEM_PYTHON": "1",
        "UV_PYTHON": str(other / "bin/python"),
        "VIRTUAL_ENV": str(other),
        "UV_PROJECT": str(tmp_path),
        "UV_WORKING_DIR": str(tmp_path),
        "UV_OVERRIDE": str(tmp_path / "other.txt"),
        "UV_EXCLUDE": str(tmp_path / "other.txt"),
        "UV_RESOLUTION": "lowest",
        "UV_LINK_MODE": "symlink",
    }
    done = small.set_up(UV_CACHE_DIR=str(tmp_path / "cache"), **harmful)
    build = f"setup: PyTorch's CPU build comes from {index.url('cpu')}, a download of 190 MB"
    assert done.stdout.splitlines()[:3] == [MAKING, build, WITH_UV]
    assert "uv failed" not in done.stdout
    assert small.works()
    assert not elsewhere.exists()
    assert not [path for path in (small.root / ".venv/lib").rglob("*.py") if path.is_symlink()]
    assert installed(small) == with_cpu.installed
    assert "torch.py" in with_cpu.installed["files"]
    assert recorded(small) == "cpu"


@linux
def test_pip_makes_up_for_a_uv_that_fails(small, index):
    small.use(index)
    site = "$(echo .venv/lib/python*/site-packages)"
    message = "error: ╰─▶ no http://user:pa55word@127.0.0.1/?key=s1gnature \033[2J"
    text = f"mkdir {site}/fake-1.dist-info; echo 'Name: fake\nVersion: 1' >{site}/fake-1.dist-info/METADATA"
    small.write_program("uv", f"{text}\nprintf 'warning: old\n{message}\n\nhint: none\n' >&2\nexit 2")
    done = small.set_up(TORCH="default", PYTHONIOENCODING="ascii")
    assert (done.stdout.splitlines()[:3], done.stderr) == ([MAKING, TORCH_DEFAULT, WITH_UV], "")
    failed = done.stdout.splitlines()[3]
    assert re.fullmatch(r"setup: uv failed \(error: \S+ no http://\S+ \S+\); installing with pip", failed)
    assert [secret for secret in ("pa55word", "s1gnature") if secret in failed] == []
    assert small.works()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("echo 'error: no cache' >&2; exit 2", "error: no cache"),
        ("exit 3", "status 3"),
        ("kill -9 $$", "status -9"),
        ("exit 0", "ModuleNotFoundError: No module named 'dvc'"),
    ],
)
def test_a_uv_that_installs_nothing_is_found_out(small, text, problem):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", small.root / ".venv"], check=True)
    uv = small.write_program("uv", text)
    assert small.evaluate(f"made.uv_problem({str(uv)!r})") == [problem]


def test_a_uv_that_cannot_start_is_found_out(small):
    assert small.evaluate(f"made.uv_problem({str(small.root)!r})")[0].startswith("[Errno 13] Permission denied")


@linux
@pytest.mark.parametrize(
    ("fault", "seconds", "problem"),
    [("hang", 3, "could not be read in 3 seconds"), ("drip", 1, "could not be read in 1 seconds")],
)
def test_an_index_that_does_not_end_is_not_waited_for(small, index, fault, seconds, problem):
    small.link().use(index, fault, seconds=seconds)
    index.hung_up.clear()
    said = [f"setup: PyTorch's CPU index {problem}; {LARGE}", "default"]
    assert small.evaluate("made.choose_build(settled=False)") == said
    assert index.hung_up.wait(30)  # it would not have ended


@linux
@pytest.mark.parametrize("fault", ["closed", "403", "version", "python", "machine"])
def test_an_index_without_the_cpu_build_is_left_out(small, index, fault):
    small.link().use(index, fault)
    if fault == "closed":
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        replace(small.root / "environment.py", index.url(fault), f"http://127.0.0.1:{port}")
    unread = "could not be read in 60 seconds" if fault in {"closed", "403"} else "has no 1.0 for this Python"
    said = [f"setup: PyTorch's CPU index {unread}; {LARGE}", "default"]
    assert small.evaluate("made.choose_build(settled=False)") == said
    assert index.asked(fault) == ([] if fault == "closed" else [f"/{fault}/torch/"])


def test_another_system_has_one_build(small, index):
    small.link().use(index)
    code = "[setattr(made.platform, 'system', lambda: 'Darwin'), made.choose_build(settled=False)][1]"
    assert small.evaluate(code) == [OTHER_SYSTEM, "default"]
    assert index.requests == []


KEYS = {"index-url": "http://127.0.0.1:1/", "extra-index-url": "http://127.0.0.1:1/", "no-index": "1", "find-links": "/"}
CHOICE = "made.choose_build(settled=made.choose_installer()[1])"


@linux
@pytest.mark.parametrize("key", KEYS)
def test_index_settings_of_pips_win(small, index, key):
    small.link().use(index)
    settings = small.root.parent / "pip.conf"
    section = "install" if key in {"index-url", "no-index"} else "global"
    settings.write_text(f"[{section}]\n{key} = {KEYS[key]}\n", encoding="utf-8")
    variable = f"PIP_{key.upper().replace('-', '_')}"
    for env in ({variable: KEYS[key]}, {"PIP_CONFIG_FILE": str(settings)}):
        assert small.evaluate(CHOICE, **env) == [SETTINGS, "default"]
    assert index.requests == []


@linux
def test_settings_that_name_no_index_leave_the_choice(small, index):
    small.link().use(index)
    small.write_program("uv", "")
    for name in ("uv", "pip"):
        (small.root.parent / "config" / name).mkdir(parents=True)
    (small.root.parent / "config/uv/uv.toml").write_text("native-tls = true # no index\n", encoding="utf-8")
    found = small.evaluate(CHOICE, PIP_INDEX_URL="", PIP_RETRIES="1", PIP_PROXY="", UV_INDEX="", UV_OFFLINE="1")
    assert found[-1] == "cpu"
    assert index.asked("cpu") == ["/cpu/torch/"]


@linux
def test_index_settings_of_uvs_win(small, index):
    """They count if there is a uv; it then installs, even if pip has settings too."""
    small.link().use(index)
    assert small.evaluate("made.find_uv()", UV_INDEX="http://127.0.0.1:1/") == ["('', False)"]
    uv = str(small.write_program("uv", ""))
    none, chosen, without = ["('', True)"], [str((uv, True))], [str((uv, False))]
    assert small.evaluate("made.choose_installer()", PIP_NO_INDEX="1") == none
    assert small.evaluate("made.choose_installer()", PIP_NO_INDEX="1", UV_FIND_LINKS="/") == chosen
    assert small.evaluate(CHOICE, UV_FIND_LINKS="/") == [SETTINGS, "default"]
    assert index.requests == []
    assert small.evaluate("made.find_uv()") == without
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_TORCH_BACKEND"):
        assert small.evaluate("made.find_uv()", **{name: "cpu"}) == chosen, name


@pytest.mark.parametrize("place", ["config/uv/uv.toml", "config dirs/uv/uv.toml", "my.toml"])
def test_uvs_files_of_settings_are_read_as_uv_does(small, place):
    uv = str(small.write_program("uv", ""))
    chosen, without = [str((uv, True))], [str((uv, False))]
    settings = small.root.parent / place
    settings.parent.mkdir(parents=True, exist_ok=True)
    env = {"UV_CONFIG_FILE": str(settings)} if place == "my.toml" else {}
    settings.write_text('[[index]]\nurl = "http://127.0.0.1:1/"\n', encoding="utf-8")
    assert small.evaluate("made.find_uv()", **env) == chosen
    assert small.evaluate("made.find_uv()", **env, UV_NO_CONFIG="1") == (chosen if env else without)
    assert small.evaluate("made.find_uv()", **env, UV_NO_CONFIG="0") == chosen
    assert small.evaluate("made.find_uv()", UV_CONFIG_FILE=os.devnull) == without
    for elsewhere in ("[pip]\ntarget='/tmp'", "pip.prefix = '/tmp'", "override-dependencies = ['fake==2']"):
        settings.write_text(f"{elsewhere}\nfind-links = ['/']\n", encoding="utf-8")
        assert small.evaluate("made.find_uv()", **env) == ["('', False)"], elsewhere


@pytest.mark.parametrize(
    ("build", "advice"), [("cpu", "\n`make TORCH=default` leaves PyTorch's own index out"), ("default", "")]
)
def test_a_failure_with_the_cpu_index_says_how_to_leave_it_out(small, build, advice):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", small.root / ".venv"], check=True)
    code = f"import environment as made\ntry: made.install_packages('', {build!r})\nexcept made.SetupError as e: print(e)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=small.root, env=small.env, capture_output=True, text=True, check=True
    )
    assert re.fullmatch(rf"{re.escape(WITH_PIP)}\npip failed:\n.*No module named pip{re.escape(advice)}\n", done.stdout)


@pytest.mark.parametrize("way", ["environment", "make"])
def test_another_torch_is_refused_before_any_change(small, way):
    shutil.copy(ROOT / "Makefile", small.root)
    if way == "make":
        make = [shutil.which("make"), "--no-print-directory", "setup", f"PYTHON={sys.executable}", "TORCH=cpu"]
        done = subprocess.run(make, cwd=small.root, env=small.env, capture_output=True, text=True, check=False)
    else:
        done = small.set_up(check=False, TORCH="cpu")
    assert done.returncode == (2 if way == "make" else 1)
    assert done.stderr.splitlines()[0] == "setup: error: TORCH: expected default, or nothing, found cpu"
    assert not (small.root / ".venv").exists()
    assert small.git("config", "--local", "user.name", check=False) == ""
