"""Make .venv, with the packages of requirements.txt and this project: what `make setup` does, by any Python from 3.10 on.

It uses Python's own library alone, since nothing else is installed yet. An environment that is right is left as it is.
"""

import fcntl
import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
READY = VENV / "ready.json"  # what .venv was made from, and where; empty until it works
OLDEST = (3, 10)
AUTHOR = {"user.name": "mnist-quartet", "user.email": "mnist-quartet@localhost"}
# Settings of pip, uv and Python that would install elsewhere, or install nothing or other packages.
HARMFUL = (
    *("PIP_DRY_RUN", "PIP_NO_DEPS", "PIP_PYTHON", "PIP_REQUIRE_VIRTUALENV", "PYTHONHOME", "PYTHONPATH"),
    *("UV_EXCLUDE", "UV_LINK_MODE", "UV_OVERRIDE", "UV_RESOLUTION", "UV_WORKING_DIR"),
)
# The same settings may be in a file. Only options on the command line override it.
HERE = (f"--prefix={VENV}", "--root=/", "--target=")
# --project=/ keeps uv from reading settings in this folder and those above.
UV = ("pip", "install", "--quiet", "--color=never", "--project=/", f"--python={PYTHON}", "--resolution=highest")
# Settings in uv's file that no option overrides.
UV_ELSEWHERE = re.compile(r"(target|prefix|python-version|python-platform)[\"']?\s*=|-dependencies|symlink")
# The sources of packages that the user has set: in the output of `pip config list`, and in uv's variables and files.
PIP_INDEX = re.compile(
    r"""^(global|install|:env:)\.(index-url|extra-index-url|no-index|find-links)=(['"]).+\3$""", re.MULTILINE
)
UV_INDEX = ("UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_TORCH_BACKEND")
UV_FILE_INDEX = re.compile(r"index|find-links|torch-backend")
# PyTorch's own index of its builds without CUDA, how long it may take to answer, and a program that reads a page of it.
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
SECONDS = 3
READ = (
    "import sys, urllib.request as web; request = web.Request(sys.argv[1], headers={'User-Agent': 'mnist-quartet'});"
    " sys.stdout.buffer.write(web.urlopen(request).read(1 << 24))"
)
# Tries imports with the environment's packages alone.
TRIAL = "import sys, {}; sys.exit(not dvc.__file__.startswith(sys.prefix))"
PACKAGES = "dvc, psutil, yaml"  # everything needs these
PROJECT = f"{PACKAGES}, quartet"
FOUND = "from importlib.metadata import version; list(map(version, {}))"
TORCH_VERSION = "from importlib.metadata import version; print(version('torch'))"  # "2.13.0+cpu" of the build without CUDA


class SetupError(Exception):
    """Something that the user can repair."""


def say(message: str) -> None:
    """Print a line, at once."""
    print(f"setup: {message}", flush=True)


def call(*command: str, seconds: "float | None" = None, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in the project's root, with these variables besides; return its status and what it printed."""
    kept = {name: value for name, value in os.environ.items() if name not in HARMFUL and not name.startswith("GIT_")}
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**kept, **variables},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds,
        check=False,
    )


def default_asked() -> bool:
    """Tell whether TORCH=default asks for PyTorch's default build; refuse another value."""
    value = os.environ.get("TORCH", "")
    if value not in ("", "default"):
        raise SetupError(f"TORCH: expected default, or nothing, found {value}")
    return value == "default"


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
    """Describe what the environment is for and made from: another place or other packages need another one."""
    digests = {
        name: hashlib.sha256((ROOT / name).read_bytes()).hexdigest() for name in ("requirements.txt", "pyproject.toml")
    }
    return {"path": str(VENV), **digests}


def differences() -> "set[str]":
    """Return what is different from `wanted`, with `Python` if that does not run; empty if the environment is ready."""
    try:
        found = json.loads(READY.read_bytes())
        different = {key for key, value in wanted().items() if found.get(key) != value}
        if default_asked() and found.get("torch") == "cpu":
            different.add("torch")
        return different if call(str(PYTHON), "-c", "").returncode == 0 else {*different, "Python"}
    except (OSError, ValueError, AttributeError):
        return {"Python"}


def works(packages: str) -> "tuple[bool, str]":
    """Tell whether these packages can be imported from the environment; return the error besides if not."""
    try:
        done = call(str(PYTHON), "-I", "-c", TRIAL.format(packages))
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


def uv_settings() -> str:
    """Read the files of settings that uv would read, without their comments."""
    folders = [Path(os.environ.get("XDG_CONFIG_HOME") or os.environ.get("HOME", "") + "/.config"), Path("/etc")]
    folders += map(Path, (os.environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep))
    if os.environ.get("UV_CONFIG_FILE"):
        files = [ROOT / os.environ["UV_CONFIG_FILE"]]
    elif os.environ.get("UV_NO_CONFIG", "").lower() in ("1", "on", "t", "true", "y", "yes"):
        files = []
    else:
        files = [folder / "uv/uv.toml" for folder in folders]
    text = ""
    for file in files:
        try:
            text += file.read_text(encoding="utf-8", errors="replace") + "\n"
        except OSError:
            continue  # most of these files do not exist
    return re.sub(r"#.*", "", text)


def find_uv() -> "tuple[str, bool]":
    """Return uv's path, or "" if there is none that would install here; and whether the user set an index for it."""
    uv = shutil.which("uv") or ""
    settings = uv_settings() if uv else ""
    if not uv or UV_ELSEWHERE.search(settings):
        return "", False
    return uv, bool(any(map(os.environ.get, UV_INDEX)) or UV_FILE_INDEX.search(settings))


def choose_installer() -> "tuple[str, bool]":
    """Return uv's path, or "" for pip; and whether the user has set sources of packages: those win.

    Uv does not read pip's settings: if only pip has some, pip installs.
    """
    uv, of_uv = find_uv()
    of_pip = bool(PIP_INDEX.search(call(str(PYTHON), "-m", "pip", "config", "list").stdout))
    return ("" if of_pip and not of_uv else uv), of_pip or of_uv


def cpu_index_problem() -> str:
    """Ask PyTorch's own index for its build without CUDA; return why that build cannot come from there, or ""."""
    pinned = re.search(r"^torch==([^\s;]+)", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    version = pinned[1] if pinned else ""
    try:
        page = call(str(PYTHON), "-I", "-c", READ, f"{CPU_INDEX}/torch/", seconds=SECONDS)
    except subprocess.TimeoutExpired:
        page = None
    if page is None or page.returncode:
        return f"PyTorch's CPU index could not be read in {SECONDS} seconds"
    python = "cp{}{}".format(*sys.version_info)
    wheel = rf"torch-{re.escape(version)}\+cpu-{python}-{python}{sys.abiflags}-[\w.]*_{re.escape(platform.machine())}\.whl"
    return "" if re.search(wheel, unquote(page.stdout)) else f"PyTorch's CPU index has no {version} for this Python"


def choose_build(*, settled: bool) -> str:
    """Say which build of PyTorch comes; return "cpu" if PyTorch's own index has to be named for it, else "default".

    `settled` tells that the user has set sources of packages.
    """
    default = "PyTorch's default build takes 4.7 GB on disk, with CUDA"
    if platform.system() != "Linux":
        say("PyTorch comes as its default build, which has no CUDA on this system")
    elif settled:
        say("PyTorch comes from the index that your pip or uv settings name, in the build that it has")
    elif default_asked():
        say(f"TORCH=default: {default}")
    else:
        problem = cpu_index_problem()
        say(f"{problem}; {default}" if problem else f"PyTorch's CPU build comes from {CPU_INDEX}, a download of 190 MB")
        return "default" if problem else "cpu"
    return "default"


def uv_problem(uv: str, *arguments: str) -> str:
    """Install the packages with uv; return why they are not there, or ""."""
    try:
        done = call(uv, *UV, "-r", "requirements.txt", *arguments)
    except OSError as problem:
        return str(problem)
    if done.returncode:
        said = done.stderr.strip().split("\n\n")[0].splitlines()  # uv prints hints after an empty line
        return said[-1].strip() if said else f"status {done.returncode}"
    working, error = works(PACKAGES)
    return "" if working else error


def make_empty() -> None:
    """Make the environment without packages, in the place of what is there."""
    VENV.mkdir(exist_ok=True)
    READY.write_text("", encoding="utf-8")
    for path in VENV.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != READY:
            path.unlink()
    # If this Python is the environment's own, its files are gone by now.
    python = getattr(sys, "_base_executable", None) or sys.executable
    done = call(python, "-m", "venv", str(VENV))
    if done.returncode:  # on Debian, the message names the package that is missing
        raise SetupError(f"{python} -m venv failed:\n{(done.stdout + done.stderr).strip()}")


def install_packages(uv: str, build: str) -> None:
    """Install the packages of requirements.txt with uv if there is one and it can, else with pip."""
    index = ("--extra-index-url", CPU_INDEX) if build == "cpu" else ()
    say(f"installing the packages of requirements.txt with {'uv' if uv else 'pip (a minute or two)'}")
    if uv:
        # By default uv uses only the first index that has a package; pip compares all of them.
        problem = uv_problem(uv, *index, *(("--index-strategy", "unsafe-best-match") if index else ()))
        if not problem:
            return
        say(f"uv failed ({shown(problem)}); installing with pip")
        make_empty()  # pip would mistake uv's leftovers for whole packages
    try:
        # --no-compile: Python compiles modules when they are imported; compiling all takes a minute.
        install("--no-compile", "-r", "requirements.txt", *index)
    except SetupError as error:
        if index:
            raise SetupError(f"{error}\n`make TORCH=default` leaves PyTorch's own index out") from error
        raise


def make() -> None:
    """Make the environment."""
    say("making .venv")
    make_empty()
    uv, settled = choose_installer()  # after make_empty, so that .venv's own uv is not chosen
    build = choose_build(settled=settled)
    install_packages(uv, build)
    install_project({"torch": build})
    version = call(str(PYTHON), "-I", "-c", TORCH_VERSION).stdout.strip()
    size = sum(path.lstat().st_size for path in VENV.rglob("*"))
    say(f"PyTorch {version} is installed; .venv takes {size / 1e9:.1f} GB")


def install_project(known: "dict[str, str]") -> None:
    """Install this project itself, and call the environment ready once an import from it has worked."""
    install("--no-deps", "--no-build-isolation", "--editable", ".")
    working, error = works(PROJECT)
    if not working:
        raise SetupError(f"the packages cannot be imported from .venv ({error}); `pip config list` shows pip's settings")
    READY.write_text(json.dumps({**known, **wanted()}), encoding="utf-8")


def add(extra: str) -> None:
    """Install what one command alone needs, the pinned packages of EXTRA/requirements.txt, unless they are there."""
    requirements = f"{extra}/requirements.txt"
    digest = hashlib.sha256((ROOT / requirements).read_bytes()).hexdigest()
    if VENV.is_symlink():
        names = re.findall(r"^([\w.-]+)==", (ROOT / requirements).read_text(encoding="utf-8"), re.MULTILINE)
        if call(str(PYTHON), "-I", "-c", FOUND.format(names)).returncode:
            raise SetupError(f".venv is a link to an environment without the packages of {requirements}; install them there")
        return
    known = json.loads(READY.read_bytes())
    if known.get(extra) != digest:
        say(f"installing the packages of {requirements} with pip")
        install("--no-compile", "-r", requirements, "-c", "requirements.txt")
        READY.write_text(json.dumps({**known, extra: digest}), encoding="utf-8")


def prepare() -> None:
    """Make the environment unless there is one that works. One that is not from here is never changed."""
    if VENV.is_symlink():
        working, error = works(PROJECT)
        if not working:
            raise SetupError(f".venv is a link to an environment without these packages ({error}); remove the link")
    elif VENV.exists() and not READY.exists() and (not VENV.is_dir() or any(VENV.iterdir())):
        raise SetupError(".venv was not made by `make setup`; move it away")
    elif different := differences():
        if different == {"pyproject.toml"}:
            install_project(json.loads(READY.read_bytes()))
        else:
            make()


def shown(message: str) -> str:
    """Make a message's parts from outside safe to print; an older Python cannot read the module that does that."""
    if sys.version_info < OLDEST:
        return message
    sys.path.insert(0, str(ROOT / "src"))
    from quartet.base import redaction

    return "\n".join(map(redaction.shown, message.splitlines()))


def main() -> None:
    """Check the place, then let one process at a time prepare the environment, with the extras that are asked for."""
    if sys.version_info < OLDEST:
        found = ".".join(map(str, sys.version_info[:3]))
        raise SetupError(f"Python 3.10 or newer is needed, this is {found}; name another: make PYTHON=python3.12")
    default_asked()
    check_place()
    with (ROOT / "requirements.txt").open("r+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is making .venv here; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        prepare()
        for extra in sys.argv[1:]:
            add(extra)
        name_author()


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # uv's messages may not fit the terminal's encoding
    try:
        main()
    except (SetupError, OSError) as error:
        sys.exit(f"setup: error: {shown(str(error))}")
    except KeyboardInterrupt:
        sys.exit(130)
