"""Make .venv, with the packages of requirements.txt and this project: what `make setup` does, by any Python from 3.10 on.

It uses Python's own library alone, since nothing else is installed yet. An environment that is right is left as it is.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
READY = VENV / "ready.json"  # what the environment was made for and from; empty until it works
OLDEST = (3, 10)
AUTHOR = {"user.name": "mnist-quartet", "user.email": "mnist-quartet@localhost"}
# These settings of pip's and Python's would put packages elsewhere, or none anywhere.
HARMFUL = ("PIP_DRY_RUN", "PIP_NO_DEPS", "PIP_PYTHON", "PIP_REQUIRE_VIRTUALENV", "PYTHONHOME", "PYTHONPATH")
# A file of settings may say the same. Only the options of a command win against it.
HERE = (f"--prefix={VENV}", "--root=/", "--target=")
# In the environment alone, without what the user has elsewhere: packages that everything needs, and this project.
TRIAL = "import sys, dvc, psutil, yaml, quartet; sys.exit(not dvc.__file__.startswith(sys.prefix))"


class SetupError(Exception):
    """Something that the user can repair."""


def say(message: str) -> None:
    """Print a line, at once."""
    print(f"setup: {message}", flush=True)


def call(*command: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in the project's root, with these variables besides; return its status and what it printed."""
    kept = {name: value for name, value in os.environ.items() if name not in HARMFUL and not name.startswith("GIT_")}
    return subprocess.run(
        command, cwd=ROOT, env={**kept, **variables}, capture_output=True, text=True, errors="replace", check=False
    )


def check_place() -> None:
    """Refuse a path that does not work, and a folder that is not the root of a git repository; warn of a shallow clone."""
    for letter, what in ((os.pathsep, "PATH"), ("%", "MLflow's migrations")):
        if letter in str(ROOT):
            raise SetupError(f"{ROOT}: the path has '{letter}', which {what} cannot hold; rename that folder")
    if not shutil.which("git"):
        raise SetupError("git is not installed; DVC needs it")
    asked = call("git", "rev-parse", "--show-toplevel", LC_ALL="C")
    if "dubious ownership" in asked.stderr:
        raise SetupError(
            f"git does not trust {ROOT}, which another user owns; git config --global --add safe.directory '{ROOT}'"
        )
    top = asked.stdout.strip()
    if not (top and Path(top).is_dir() and Path(top).samefile(ROOT)):
        found = f"it is within that of {top}" if top else "as if unpacked from a zip file"
        raise SetupError(
            f"{ROOT} is not a git repository of its own ({found}), and DVC needs one;"
            " git init && git add -A && git commit -m Start"
        )
    if call("git", "rev-parse", "--is-shallow-repository").stdout.strip() == "true":
        say("warning: in a shallow clone DVC loses queued and --temp experiments; git fetch --unshallow")


def name_author() -> None:
    """Give this repository a name and an address for commits if git has none: `dvc exp run` commits."""
    for key, value in AUTHOR.items():
        if not call("git", "config", key).stdout.strip():
            done = call("git", "config", "--local", key, value)
            if done.returncode:
                raise SetupError(f"git has no {key}, which dvc exp run needs, and cannot set it: {done.stderr.strip()}")
            say(f'git has no {key}: set to "{value}" in this repository, since dvc exp run needs one')


def wanted() -> "dict[str, str]":
    """What the environment is for and from: another place or other packages need another one."""
    digests = {
        name: hashlib.sha256((ROOT / name).read_bytes()).hexdigest() for name in ("requirements.txt", "pyproject.toml")
    }
    return {"path": str(VENV), **digests}


def differences() -> "set[str]":
    """What the environment is not that it should be, of what `wanted` names and its Python: empty if it is ready."""
    try:
        found = json.loads(READY.read_bytes())
        different = {key for key, value in wanted().items() if found.get(key) != value}
        return different if call(str(PYTHON), "-c", "").returncode == 0 else {*different, "Python"}
    except (OSError, ValueError, AttributeError):
        return {"Python"}


def works() -> "tuple[bool, str]":
    """Whether the packages can be imported from the environment, and the error if not."""
    try:
        done = call(str(PYTHON), "-I", "-c", TRIAL)
    except OSError as error:
        return False, str(error)
    return done.returncode == 0, (done.stderr.strip().splitlines() or ["they are imported from elsewhere"])[-1]


def install(*arguments: str) -> None:
    """Install with pip. Its warnings, as about the user's settings, are not shown; its errors are."""
    command = (str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *HERE, *arguments)
    done = call(*command, PIP_USER="0")
    if done.returncode:
        lines = [
            line for line in (done.stdout + done.stderr).splitlines() if not line.startswith(("WARNING", "DEPRECATION"))
        ]
        raise SetupError("pip failed:\n" + "\n".join(lines[-20:]))


def make() -> None:
    """Make the environment."""
    say("installing the packages of requirements.txt into .venv (a minute or two)")
    VENV.mkdir(exist_ok=True)
    READY.write_text("", encoding="utf-8")
    for path in VENV.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != READY:
            path.unlink()
    # Not this Python itself if that is the environment's, which is gone by now.
    python = getattr(sys, "_base_executable", None) or sys.executable
    done = call(python, "-m", "venv", str(VENV))
    if done.returncode:  # Debian's Python needs a package more, and says which
        raise SetupError(f"{python} -m venv failed:\n{(done.stdout + done.stderr).strip()}")
    # --no-compile: Python compiles what is imported when it is; compiling all of it takes a minute.
    install("--no-compile", "-r", "requirements.txt")
    install_project()


def install_project() -> None:
    """Install this project itself, and call the environment ready once an import from it has worked."""
    install("--no-deps", "--no-build-isolation", "--editable", ".")
    working, error = works()
    if not working:
        raise SetupError(f"the packages cannot be imported from .venv ({error}); `pip config list` shows pip's settings")
    READY.write_text(json.dumps(wanted()), encoding="utf-8")


def prepare() -> None:
    """Make the environment unless there is one that works. One that is not from here is never changed."""
    if VENV.is_symlink():
        working, error = works()
        if not working:
            raise SetupError(f".venv is a link to an environment without these packages ({error}); remove the link")
    elif VENV.exists() and not READY.exists() and (not VENV.is_dir() or any(VENV.iterdir())):
        raise SetupError(".venv was not made by `make setup`; move it away")
    elif different := differences():
        install_project() if different == {"pyproject.toml"} else make()


def shown(message: str) -> str:
    """A message whose parts from outside are safe to print; an older Python cannot read what does that."""
    if sys.version_info < OLDEST:
        return message
    sys.path.insert(0, str(ROOT / "src"))
    from quartet.base import redaction

    return "\n".join(map(redaction.shown, message.splitlines()))


def main() -> None:
    """Check the place, then let one process at a time prepare the environment."""
    if sys.version_info < OLDEST:
        found = ".".join(map(str, sys.version_info[:3]))
        raise SetupError(f"Python 3.10 or newer is needed, this is {found}; name another: make PYTHON=python3.12")
    check_place()
    with (ROOT / "requirements.txt").open("r+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is making .venv here; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        prepare()
    name_author()


if __name__ == "__main__":
    try:
        main()
    except (SetupError, OSError) as error:
        sys.exit(f"setup: error: {shown(str(error))}")
    except KeyboardInterrupt:
        sys.exit(130)
