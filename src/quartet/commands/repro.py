"""`quartet repro`: `dvc repro`, with the stages that do not need each other side by side.

It knows DVC and nothing of this project: the stages and what each needs come from DVC, and each runs as
`dvc repro --single-item`, so that DVC decides whether it must run, and records it.
"""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, TextIO

from quartet.base import errors, files, process
from quartet.base.errors import InputError, WorkError
from quartet.base.redaction import shown

RECORD = "quartet-seconds.json"  # in DVC's temporary folder: the seconds of each stage's last run
# DVC prints these after every command; once per stage, they would drown the stages' own lines.
HINTS = re.compile(
    r"\s*$|To track the changes with git, run:|\tgit add |To enable auto staging, run:|\tdvc config core\.autostage "
    r"|Use `dvc push` to send|(Updating|Generating) lock file '|Data and pipelines are up to date\."
)
RUNS = re.compile(r"Running stage '")
# Signals to stop a stage with, and the seconds to wait after each. After SIGINT it may finish its step.
PATIENCE = ((signal.SIGINT, 20), (signal.SIGTERM, 10), (signal.SIGKILL, 10))


class Step(NamedTuple):
    """A stage: its name in DVC's commands, the stages that must be done before it, and its parameters by file and key."""

    name: str
    needs: frozenset[str]
    params: Mapping[str, Mapping[str, Any]] = {}


class Plan(NamedTuple):
    """The stages in DVC's order, the lock files with the order of the stages in each, and the file of past seconds."""

    steps: list[Step]
    locks: dict[Path, list[str]]
    record: Path


def plan(targets: Sequence[str]) -> Plan:
    """Find what `dvc repro` with these targets would go through: by default, the stages of dvc.yaml and all that they need.

    InputError if DVC cannot read its files or does not know a target.
    """
    from dvc.dependency import ParamsDependency
    from dvc.dvcfile import LOCK_FILE, PROJECT_FILE
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro

    try:
        with Repo() as repo:
            graph = get_active_graph(repo.index.graph)
            order = plan_repro(graph, collect_stages(repo, targets or [PROJECT_FILE]))
            locks: dict[Path, list[str]] = {}
            for stage in repo.index.stages:
                if Path(stage.path).name == PROJECT_FILE:
                    locks.setdefault(Path(stage.path).with_name(LOCK_FILE), []).append(stage.name)
            steps = [
                Step(
                    stage.addressing,
                    frozenset(need.addressing for need in graph.successors(stage)),
                    {dep.fs_path: dep.read_params() for dep in stage.deps if isinstance(dep, ParamsDependency)},
                )
                for stage in order
            ]
            return Plan(steps, locks, Path(repo.tmp_dir or ".") / RECORD)
    except DvcException as error:
        raise InputError(f"DVC: {error}") from None


def priorities(steps: Iterable[Step], seconds: Mapping[str, float]) -> dict[str, float]:
    """Return for each stage the seconds from its beginning to the end of the longest chain of stages that wait for it.

    A stage that never ran counts as the mean of those that did. `steps` come in an order in which they can run.
    """
    usual = sum(seconds.values()) / len(seconds) if seconds else 1.0
    chains: dict[str, float] = {}
    for step in reversed(list(steps)):
        chains[step.name] = chains.get(step.name, 0.0) + seconds.get(step.name, usual)
        for need in step.needs:
            chains[need] = max(chains.get(need, 0.0), chains[step.name])
    return chains


class Running:
    """A stage that runs in a process group of its own; its lines come out with its name before them."""

    def __init__(self, name: str, width: int, ended: queue.SimpleQueue[str], *, force: bool) -> None:
        self.name, self.ran, self.begun = name, False, time.monotonic()
        self.prefix = f"{name:<{width}} | "
        training = name.rpartition("@")[2]
        self.repeated = re.compile(rf"^{re.escape(training)}(: | +(?=epoch ))")  # the prefix says it already
        self.process = subprocess.Popen(
            ["dvc", "--wait-for-lock", "repro", "--single-item", *(["--force"] if force else []), name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
            start_new_session=True,
        )
        streams = ((self.process.stdout, sys.stdout), (self.process.stderr, sys.stderr))
        self.readers = [threading.Thread(target=self._copy, args=pair, daemon=True) for pair in streams]
        for reader in self.readers:
            reader.start()
        threading.Thread(target=self._await, args=(ended,), daemon=True).start()

    def _copy(self, source: IO[str], target: TextIO) -> None:
        for line in source:
            self.ran = self.ran or RUNS.match(line) is not None
            if not HINTS.match(line):
                with suppress(OSError):  # nobody reads; the stage must go on all the same
                    told = self.repeated.sub("", line.rstrip("\n").expandtabs())
                    print(self.prefix + shown(told), file=target, flush=True)

    def _await(self, ended: queue.SimpleQueue[str]) -> None:
        if self.process.wait():
            self.signal(signal.SIGTERM)  # children of a DVC that was killed
        self.join()
        ended.put(self.name)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to DVC and to all that it started."""
        with suppress(ProcessLookupError):  # already ended
            os.killpg(self.process.pid, number)

    def join(self) -> None:
        """Wait until its last lines are out."""
        for reader in self.readers:
            reader.join(timeout=5)  # a process that outlives the stage may keep its streams open


def stop(running: Collection[Running]) -> None:
    """End these stages, politely at first, and wait for them; if this is interrupted, end them at once."""
    try:
        for number, seconds in PATIENCE:
            for stage in running:
                stage.signal(number)
            deadline = time.monotonic() + seconds
            while any(stage.process.poll() is None for stage in running):
                if time.monotonic() > deadline:
                    break
                time.sleep(0.05)
            else:
                break
        for stage in running:
            stage.join()
    except BaseException:
        for stage in running:
            stage.signal(signal.SIGKILL)
        raise


def run(steps: Sequence[Step], jobs: int, seconds: Mapping[str, float], *, force: bool = False) -> dict[str, float]:
    """Run the steps, at most `jobs` at once, the one with the longest chain behind it first; all of them if `force`.

    Returns the seconds of those that ran. WorkError names the stage that failed, or the parameter that changed before its
    stage began; what runs beside is stopped.
    """
    chains = priorities(steps, seconds)
    width = max((len(step.name) for step in steps), default=0)
    waiting = sorted(steps, key=lambda step: -chains[step.name])
    done: set[str] = set()
    took: dict[str, float] = {}
    running: dict[str, Running] = {}
    ended: queue.SimpleQueue[str] = queue.SimpleQueue()
    try:
        while waiting or running:
            for step in [step for step in waiting if step.needs <= done][: jobs - len(running)]:
                if changed := changed_params(step):
                    raise WorkError(f"{', '.join(changed)} changed before {step.name} began; run again")
                waiting.remove(step)
                running[step.name] = Running(step.name, width, ended, force=force)
            stage = running.pop(ended.get())
            if stage.process.returncode:
                raise WorkError(
                    f"{stage.name} failed: `dvc repro --single-item {stage.name}` {_how(stage.process.returncode)}"
                )
            done.add(stage.name)
            if stage.ran:
                took[stage.name] = round(time.monotonic() - stage.begun, 2)
    finally:
        stop(running.values())
    return took


def _how(status: int) -> str:
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def changed_params(step: Step) -> list[str]:
    """List the parameters of a stage, as `file: key`, that have changed since the stage was planned."""
    from dvc.dependency.param import read_param_file
    from dvc.exceptions import DvcException
    from dvc.fs import LocalFileSystem

    changed = []
    for file, values in step.params.items():
        try:
            now = read_param_file(LocalFileSystem(), file, list(values), flatten=True) if values else {}
        except (DvcException, OSError):  # half-written or gone
            now = {}
        changed += [f"{os.path.relpath(file)}: {key}" for key in values if key not in now or now[key] != values[key]]
    return changed


def put_in_order(locks: Mapping[Path, Sequence[str]]) -> None:
    """Put the stages of each dvc.lock in the order of its dvc.yaml; they come in the order in which they ended."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.utils.serialize import dumps_yaml, load_yaml

    try:
        with Repo(_wait_for_lock=True) as repo, repo.lock:
            for lock, names in locks.items():
                content = load_yaml(lock) if lock.exists() else {}
                stages = content.get("stages") or {}
                ordered = sorted(stages, key=lambda name: names.index(name) if name in names else len(names))
                if ordered != list(stages):
                    whole = dumps_yaml({**content, "stages": {name: stages[name] for name in ordered}})
                    files.write_bytes(lock, whole.encode())
    except DvcException as error:  # e.g. a killed dvc cut dvc.lock short; DVC's next command reports it
        errors.warn(f"DVC: {error}")


def past_seconds(record: Path) -> dict[str, float]:
    """Read the seconds of earlier runs: a hint, so what is missing or damaged counts as unknown."""
    with suppress(OSError, ValueError, AttributeError):
        return {name: float(value) for name, value in json.loads(record.read_bytes()).items()}
    return {}


def main(arguments: Sequence[str]) -> None:
    """Reproduce what the command line names, with the stages that do not need each other side by side."""
    parser = process.Parser(prog="quartet repro", description=main.__doc__)
    parser.add_argument("targets", nargs="*", help="as for `dvc repro`; by default the stages of dvc.yaml")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1, help="stages at once (default: cores)")
    parser.add_argument("-f", "--force", action="store_true", help="run stages that did not change, too")
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        raise InputError(f"--jobs: expected at least 1, found {options.jobs}")
    steps, locks, record = plan(options.targets)
    seconds = past_seconds(record)
    took: dict[str, float] = {}
    try:
        took = run(steps, options.jobs, seconds, force=options.force)
    finally:
        put_in_order(locks)
    if took:
        files.write_json(record, {**seconds, **took})
    print(f"repro: up to date; ran {len(took)} of {len(steps)} stages", flush=True)
