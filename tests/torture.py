"""`make torture`: disturb the pipeline at random moments until it is through, again and again; it must end as undisturbed.

`--kills` uses kill -9 alone. A kill hits the stage's process, dvc alone (its stage is left an orphan, beside which the next
run starts at once), or both. `--disturb` also edits params.yaml and the source for a while, and runs `quartet sync` and
`dvc exp run` beside the pipeline. DVC hashes what a stage depends on after its command, so an edit may end up in its records
as what the stage used.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import difflib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# isort: off
from quartet.base import files, params, paths  # before MLflow, which imports NumPy

# isort: on
import mlflow
import psutil
import yaml

from project import Project, clone, runs, shipped

# A dvc that is killed in the instant in which it writes one of these files of its own leaves it cut short, and the next dvc
# says so. What docs/reliability.md advises is done.
CUT = {
    "Unable to read RWLock-file": ".dvc/tmp/rwlock",
    "dvc.lock' validation failed": "dvc.lock",
    "dvc.lock', YAML file structure is corrupted": "dvc.lock",
}
# What else than a kill a disturbed command may fail with, by the words that the summary has for it.
KNOWN = {
    "changed while it was starting": r"changed while \S+ was starting; run again",
    "changed while it was running": r"changed while \S+ was (training|running); run again",
    "changed before it began": r"changed before \S+ began; run again",
    "found false by the audit": r"something was edited just as .+ ended; run `make` again",
    "busy or locked": r" is busy, it is being blocked by|Unable to acquire lock",
    "outputs taken away by the checkout of dvc exp run": r"failed to reproduce '\S+': output '\S+' does not exist",
    "no whole outputs yet": r"stages/\S+: missing; `dvc repro` makes it|written while it was read; run `make sync` again",
}
# Where Python is when it is interrupted before this project's code can catch that: in DVC's own command, and
# in what a stage imports. `quartet repro` interrupts the other stages when one fails.
INTERRUPTED = r'.*/bin/dvc"|.*/src/\w+\.py", line \d+, in <module>\n.*\b(from|import) (.*\n)*?.*\bKeyboardInterrupt$'
REPRO, MAKE = ("dvc", "repro"), ("make", "CORES=2")
LR = shipped("lr")
# Edits of params.yaml: by their names the text before, the text after, and the trainings whose settings they change.
EDITS = {
    "lr=0.02": (f"\n{LR} ", "\nlr: 0.02 ", ["trial"]),
    "lr=0.05": (f"\n{LR} ", "\nlr: 0.05 ", ["trial"]),
    "report.epochs=5": ("\n  epochs: 6\n", "\n  epochs: 5\n", ["ten", "four-bn"]),
    "variants.four-bn.lr=0.002": ("{classes: 4, bn: true}", "{classes: 4, bn: true, lr: 0.002}", ["four-bn"]),
}
SOURCES = ("src/quartet/training/loop.py", "src/quartet/model/network.py")
# A round's disturbances: what, and when. `start` is after DVC has said that it runs a stage, `end` just after a training has
# written its last file and before DVC hashes what it depends on, `once` beside the beginning of the pipeline.
ROUND = [
    *[("kill", "any"), ("kill", "start"), ("sync", "any"), ("source", "any"), ("source", "end")],
    *[("params", "any"), ("params", "start"), ("params", "end"), ("params", "end")],
]


class Wrong(Exception):  # noqa: N818 -- it is the project that is wrong
    """Something that is not as it should be, in words."""


@dataclass
class Torture:
    """A torture: what is disturbed, what its commands may say, and what happened so far."""

    project: Project
    chance: random.Random
    commands: list[tuple[str, ...]]
    known: dict[str, str]
    longest: float = 12  # seconds until a disturbance at any moment
    tally: Counter[str] = field(default_factory=Counter)
    done: list[str] = field(default_factory=list)


def reset(root: Path) -> None:
    """Take away all that a run leaves."""
    for name in ("dvc.lock", "mlflow.db", "mlflow.db-wal", "mlflow.db-shm"):
        (root / name).unlink(missing_ok=True)
    for name in (".dvc/cache", ".dvc/tmp", ".checkpoints", "data/raw", "data/split", "mlruns/1"):
        shutil.rmtree(root / name, ignore_errors=True)
    for folder in ("train", "evaluate", "plot", "page"):
        shutil.rmtree(root / "stages" / folder, ignore_errors=True)


def victims(pipeline: int, kind: str, chance: random.Random) -> list[psutil.Process]:
    """Find the processes to kill: `stage`, `dvc` or `both`. In a make, any `dvc repro` or the `quartet repro` is the dvc."""
    process = psutil.Process(pipeline)
    below = {child: child.cmdline() for child in process.children(recursive=True)}
    stages = [child for child, line in below.items() if any(word.startswith(("src/", "quartet.")) for word in line)]
    if process.name() == "make":
        process = chance.choice([child for child, line in below.items() if "repro" in line] or [process])
    return {"stage": stages, "dvc": [process], "both": [process, *stages]}[kind]


def kill(process: subprocess.Popen[str], chance: random.Random) -> str:
    """Kill some of a pipeline as soon as that is there, and name it; empty if the pipeline ended before."""
    kind = chance.choice(["stage", "dvc", "both"])
    while process.poll() is None:  # between two stages there is nothing to kill
        with contextlib.suppress(psutil.NoSuchProcess):
            found = victims(process.pid, kind, chance)
            for victim in found:
                victim.kill()
            if found:
                return f"kill {kind}"
        time.sleep(0.05)
    return ""


def judge(torture: Torture, what: str, output: str, status: int, *, killed: bool = False) -> None:
    """Count what a disturbed command said; Wrong if it failed or warned with what nothing explains."""
    tally = torture.tally
    resumed = [int(number) for number in re.findall(r"resumed after epoch (\d+)", output)]
    tally.update({"trainings resumed": len(resumed), "epochs that were not trained again": sum(resumed)})
    tally["false pairs removed"] += output.count("taken out of dvc.lock and DVC's run cache")
    known = [words for words, pattern in torture.known.items() if re.search(pattern, output)]
    cut = [file for words, file in CUT.items() if words in output]
    for file in cut:
        (torture.project.root / file).unlink(missing_ok=True)
    tally.update([*(f"failed: {words}" for words in known), *(f"cut short by a kill and removed: {file}" for file in cut)])
    explained = [*torture.known.values(), r"error: \S+ failed: `dvc repro"]  # what failed says why
    said = [line for line in output.splitlines() if re.search(r"quartet: error: |MLflow.* (failed: |ended with )", line)]
    strange = [line for line in said if not any(re.search(pattern, line) for pattern in explained)]
    if not (killed or cut):
        strange += ["it failed without a reason"] if status and not known else []
        if strange:
            raise Wrong(f"{what} ended with status {status}: {strange}\n{output}")
    if re.search(rf'(?m)Traceback.*\n.*File "(?!{INTERRUPTED})', output):
        raise Wrong(f"{what} ended with status {status} and a traceback:\n{output}")


def written(root: Path) -> dict[str, int]:
    """When each training wrote its last file."""
    found = {}
    for path in root.glob("stages/train/*/provenance.json"):
        with contextlib.suppress(FileNotFoundError):  # DVC takes an old one away
            found[path.parent.name] = path.stat().st_mtime_ns
    return found


def wait_for(torture: Torture, when: str, process: subprocess.Popen[str], lines: list[str]) -> str:
    """Wait for a moment of the pipeline: the training that just ended, or `any`; empty if the pipeline ended before."""
    chance, root = torture.chance, torture.project.root
    more = {"once": 0.0, "start": chance.uniform(0, 3), "end": chance.choice([0, 0, 0.1])}
    before, begun, found = written(root), len(lines), "any" if when in ("once", "any") else ""
    skipped = chance.choice([0, 0, 1, 2])  # trainings whose end is let pass
    while not found and process.poll() is None:
        time.sleep(0.005)
        if when == "end":
            found = next((name for name, stamp in written(root).items() if before.get(name) != stamp), "")
            if found and (skipped or not any(f"src/train.py {found}\n" in line for line in lines)):  # DVC restored it
                before, found, skipped = written(root), "", max(skipped - 1, 0)
        elif any("Running stage '" in line for line in lines[begun:]):
            found = "any"
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=more.get(when, 0.2 + chance.uniform(0, torture.longest) * chance.random()))  # rather soon
    return found if process.poll() is None else ""


def edited(text: str, *edits: str) -> str:
    """The text of params.yaml with these of EDITS."""
    for name in edits:
        before, after, _ = EDITS[name]
        assert text.count(before) == 1, name
        text = text.replace(before, after)
    return text


def edit(path: Path, text: str, seconds: float) -> None:
    """Write another text to a file, whole as an editor does, and take that back after so many seconds."""
    before, part = path.read_text(encoding="utf-8"), path.with_name(f".{path.name}.part")  # which .dvcignore names
    for content, after in ((text, seconds), (before, 0)):
        part.write_text(content, encoding="utf-8")
        part.replace(path)
        time.sleep(after)


def disturb(torture: Torture, process: subprocess.Popen[str], what: str, training: str) -> str:
    """Make one disturbance of the running pipeline, and name it; empty if the pipeline ended before."""
    project, chance = torture.project, torture.chance
    short = [0.0, chance.uniform(0, 1)] if training == "any" else []  # at the end until DVC has looked
    seconds = chance.choice([*short, chance.uniform(1, 5), chance.uniform(1, 5)])
    if what == "kill":
        return kill(process, chance)
    if what == "sync":
        done = project.quartet("sync")
        judge(torture, "sync", done.stdout, done.returncode)
        return f"sync, status {done.returncode}"
    if what == "exp run":
        name = chance.choice([name for name, (*_, trainings) in EDITS.items() if trainings == ["trial"]])
        done = project.run("dvc", "exp", "run", "-S", name, check=False)
        project.run("git", "checkout", "-q", "params.yaml")
        judge(torture, "dvc exp run", done.stdout, done.returncode)
        return f"exp run {name}, status {done.returncode}"
    name = chance.choice([name for name, (*_, trainings) in EDITS.items() if training in ("any", *trainings)])
    file = project.root / (chance.choice(SOURCES) if what == "source" else paths.PARAMS)
    text = file.read_text(encoding="utf-8")
    edit(file, f"{text}# A comment.\n" if what == "source" else edited(text, name), seconds)
    return f"{what} {file.name if what == 'source' else name} for {seconds:.2f} s"


def run(torture: Torture, cards: list[tuple[str, str]], *, again: bool = False) -> bool:
    """Run the pipeline once, `again` if it is up to date, and disturb it as the cards say; whether it came through."""
    command = (*REPRO, "--force") if again else torture.chance.choice(torture.commands)
    process, lines, killed = torture.project.start(*command), list[str](), False
    assert process.stdout is not None
    reader = threading.Thread(target=lines.extend, args=(process.stdout,), daemon=True)
    reader.start()
    while cards and process.poll() is None:
        what, when = cards[-1]
        training = wait_for(torture, when, process, lines)
        name = training and disturb(torture, process, what, training)
        if not name:
            torture.chance.shuffle(cards)
            break
        cards.pop()
        killed = killed or what == "kill"
        started = re.findall(r"Running stage '(.+?)'", "".join(lines))
        moment = f"end of {training}" if when == "end" else f"after {started[-1]} began" if started else "at the beginning"
        torture.done.append(f"{name} ({moment}; {command[0]})")
        torture.tally.update([name if what == "kill" else what, f"moment: {moment}"])
        print(f"torture: {len(torture.done)}: {torture.done[-1]}", flush=True)
    process.wait()
    reader.join(0.5 if killed else None)  # an orphan holds the pipe until it stops
    judge(torture, command[0], "".join(lines), process.returncode, killed=killed)
    torture.tally[f"{command[0]} {'failed' if process.returncode else 'came through'}"] += 1
    return process.returncode == 0


def settle(root: Path) -> None:
    """Wait for the end of what a killed dvc left running."""
    deadline = time.monotonic() + 60
    while left := [found.info for found in psutil.process_iter(["pid", "cwd", "cmdline"]) if found.info["cwd"] == str(root)]:
        if time.monotonic() > deadline:
            raise Wrong(f"still running: {left}")
        time.sleep(0.2)


def wrong_runs(project: Project) -> list[str]:
    """What of MLflow, and of the files that a training leaves for the next one, is not as it should be."""
    root, models = project.root, runs(project)
    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    pairs = Counter((run["tags"]["fingerprint"], run["tags"].get("weights", run["id"])) for run in models)
    found = [f"{count} runs of {pair}" for pair, count in pairs.items() if count > 1]
    found += [f"run {run['id']} of {run['name']} is RUNNING" for run in models if run["status"] == "RUNNING"]
    twice = [run for run in models if any(len(set(steps)) != len(steps) for steps in run["steps"].values())]
    found += [f"run {run['id']} of {run['name']} has a step twice" for run in twice]
    logged = client.search_logged_models([experiment.experiment_id for experiment in client.search_experiments()])
    settings = params.load(root / "params.yaml")
    for name in settings.trainings:
        record = files.read_record(root / paths.provenance(name), name)
        fingerprint = files.content_digest({key: value for key, value in record.items() if key != "dvc"})
        own = [run for run in models if run["tags"]["fingerprint"] == fingerprint]
        if len(own) != 1:
            found.append(f"{name} has the runs {own}")
            continue
        with (root / paths.history(name)).open(encoding="utf-8") as file:
            losses = {int(row["epoch"]): float(row["val_loss"]) for row in csv.DictReader(file)}
        (run,), epochs = own, settings.hyperparameters(name).epochs
        right = {
            "status": run["status"] == "FINISHED",
            "weights": run["tags"].get("weights") == files.sha256(root / paths.model(name)),
            "steps": all(sorted(steps) == list(range(1, epochs + 1)) for steps in run["steps"].values()),
            "losses": {step.step: step.value for step in client.get_metric_history(run["id"], "val_loss")} == losses,
            "models": [str(model.status) for model in logged if model.source_run_id == run["id"]] == ["READY"],
            "artifacts": len(run["artifacts"]) == 4,
        }
        found += [f"{what} of the run of {name}: {run}" for what, is_right in right.items() if not is_right]
    left = [*root.glob(".checkpoints/.*.part"), *root.glob("data/*/.*.part"), *root.glob("stages/**/.*.part")]
    ends = Counter[str]()  # when DVC recorded the last training of a name
    for path in root.glob(".dvc/cache/runs/??/*/*"):
        for name in re.findall(r"path: stages/train/(.+)/model", path.read_text(encoding="utf-8")):
            ends[name] = max(ends[name], path.stat().st_mtime_ns)
    left += [path for path in root.glob(".checkpoints/*.pt") if path.stat().st_mtime_ns < ends[path.stem]]
    return found + [f"{path.relative_to(root)} is left" for path in left]


def small(folder: Path) -> Project:
    """A clone that has two variants and few epochs as committed."""
    project = clone(folder, epochs=6)
    file = project.root / "params.yaml"
    text = file.read_text(encoding="utf-8").replace("epochs: 10", "epochs: 6")
    file.write_text(re.sub(r"\n  (ten-bn|four): .*", "", text), encoding="utf-8")
    project.run("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qam", "Make it small")
    return project


def lock(project: Project) -> str:
    return (project.root / "dvc.lock").read_text(encoding="utf-8")


def key(name: str, entry: dict[str, Any]) -> str:
    """Name a training and what an entry of dvc.lock or of the run cache says that it was trained with."""
    return json.dumps([name, entry["params"]], sort_keys=True)


def trained(project: Project) -> dict[str, dict[str, str]]:
    """The SHA-256 and the MD5 of each training's model and history, by what dvc.lock says that it was trained with."""
    found = {}
    for stage, entry in yaml.safe_load(lock(project))["stages"].items():
        name = stage.removeprefix("train@")
        both = [project.root / paths.model(name), project.root / paths.history(name)]
        if stage.startswith(("train@", "trial")):
            found[key(name, entry)] = {f"{it.name} {by.__name__}": by(it) for it in both for by in (files.sha256, files.md5)}
    return found


def ground_truth(project: Project) -> tuple[str, dict[str, dict[str, str]]]:
    """Train undisturbed with all settings: dvc.lock with the committed ones, and what was `trained` with any."""
    project.run(*MAKE)
    committed, expected, truth = (project.root / "params.yaml").read_text(encoding="utf-8"), lock(project), trained(project)
    stages = [paths.stage(name) for name in params.load(project.root / "params.yaml").trainings]
    for edits in (("lr=0.02", "report.epochs=5"), ("lr=0.05", "variants.four-bn.lr=0.002")):
        (project.root / "params.yaml").write_text(edited(committed, *edits), encoding="utf-8")
        done = project.quartet("repro", "--jobs", "2", *stages)
        assert done.returncode == 0, done.stdout
        truth |= trained(project)
    return expected, truth


def wrong_records(project: Project, truth: dict[str, dict[str, str]]) -> list[str]:
    """What of DVC's run cache, and of what DVC restores from it, is not what an undisturbed training makes."""
    root, found, file = project.root, [], project.root / "params.yaml"
    committed = file.read_text(encoding="utf-8")
    for name, text in {**{name: edited(committed, name) for name in EDITS}, "the committed settings": committed}.items():
        files.write_bytes(file, text.encode())
        project.run("dvc", "repro", "--single-item", *map(paths.stage, params.load(file).trainings))
        found += [f"with {name}: {training}" for training, made in trained(project).items() if made != truth.get(training)]
    for path in root.glob(".dvc/cache/runs/??/*/*"):
        entry = yaml.safe_load(path.read_text(encoding="utf-8"))
        for out in entry["outs"]:
            _, folder, name, *rest = *Path(out["path"]).parts, ""
            if folder == "train" and rest[0] in ("model.safetensors", "history.csv"):
                right = truth.get(key(name, entry), {}).get(f"{rest[0]} md5")
                found += [f"{path.relative_to(root)}: {out['path']}: {entry}"] if out["md5"] != right else []
    return found


def different(project: Project, expected: str) -> list[str]:
    """How dvc.lock differs from the expected one."""
    lines = list(difflib.unified_diff(expected.splitlines(), lock(project).splitlines(), "undisturbed", "dvc.lock", n=1))
    return ["\n".join(lines)] if lines else []


def torture_with_kills(torture: Torture, wanted: int) -> None:
    """Kill `dvc repro` until it is through without a kill, again and again; then all must be as after an undisturbed run."""
    project, begun = torture.project, time.monotonic()
    project.run(*REPRO)
    torture.longest = (time.monotonic() - begun) / 2  # enough for dvc's start and three or four of the stages
    expected, count = lock(project), len(params.load(project.root / "params.yaml").trainings)
    while len(torture.done) < wanted:
        torture.tally["rounds"] += 1
        reset(project.root)
        while not run(torture, [("kill", "any")]):
            pass
        sync = project.quartet("sync")
        judge(torture, "sync", sync.stdout, sync.returncode)
        others = ["MLflow has other runs too"] if len(runs(project)) != count else []
        if found := [*different(project, expected), *wrong_runs(project), *others]:
            raise Wrong("; ".join(found))


def torture_with_edits(torture: Torture, wanted: int, clean: Project) -> None:
    """Disturb the pipeline, ten times in a round; then one `make` must bring all to what it is after an undisturbed run."""
    project, chance = torture.project, torture.chance
    expected, truth = ground_truth(clean)
    while len(torture.done) < wanted:
        torture.tally["rounds"] += 1
        reset(project.root)
        cards = [*ROUND, ("exp run", chance.choice(["once", "any"]))]
        cards, through = chance.sample(cards, min(len(cards), wanted - len(torture.done))), False
        while cards or not through:
            through = run(torture, cards, again=through)
        settle(project.root)
        for command in (MAKE, ("make", "sync")):
            done = project.run(*command, check=False)
            judge(torture, "the last make", done.stdout, done.returncode)
            if done.returncode:
                raise Wrong(f"the last make failed:\n{done.stdout}")
        if found := [*different(project, expected), *wrong_runs(project), *wrong_records(project, truth)]:
            raise Wrong("; ".join(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=0, help="at least so many")
    parser.add_argument("--disturb", type=int, default=0, help="so many disturbances, kills among them")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for kind in filter(vars(options).get, ("kills", "disturb")):
        with tempfile.TemporaryDirectory() as folder:
            begun, make = time.monotonic(), clone if kind == "kills" else small
            commands, known = ([REPRO], {}) if kind == "kills" else ([REPRO, MAKE], KNOWN)
            torture = Torture(make(Path(folder, kind)), random.Random(options.seed), commands, known)
            try:
                if kind == "kills":
                    torture_with_kills(torture, options.kills)
                else:
                    torture_with_edits(torture, options.disturb, small(Path(folder, "clean")))
            except Wrong as error:
                kept = shutil.copytree(torture.project.root, Path(tempfile.mkdtemp(), "project"), symlinks=True)
                where = f"seed {options.seed}, round {torture.tally['rounds']}, after {torture.done[-3:]}, kept in {kept}"
                sys.exit(f"torture: {where}: {error}")
        took = f"{time.monotonic() - begun:.0f} s"
        print(f"torture: all is as undisturbed after {len(torture.done)} disturbances in {took}, seed {options.seed}")
        print("".join(f"  {count:3} {words}\n" for words, count in sorted(torture.tally.items())), end="", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.environ.pop("DVC_STAGE", None)
    main()
