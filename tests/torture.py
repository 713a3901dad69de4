"""`make torture`: kill -9 the pipeline at random moments until it is through, again and again; it must end as undisturbed.

A kill takes the stage's process, dvc alone (its stage is left an orphan, beside which the next run starts at once), or both.
"""

from __future__ import annotations

import argparse
import contextlib
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
from pathlib import Path

# isort: off
from quartet.base import params  # before MLflow, which imports NumPy

# isort: on
import mlflow
import psutil

from project import Project, clone
from test_pipeline import runs

# A dvc that is killed in the instant in which it writes one of these files of its own leaves it cut short, and the next dvc
# says so. What docs/reliability.md advises is done.
CUT = {
    "Unable to read RWLock-file": ".dvc/tmp/rwlock",
    "dvc.lock' validation failed": "dvc.lock",
    "dvc.lock', YAML file structure is corrupted": "dvc.lock",
}


def reset(root: Path) -> None:
    """Take away all that a run leaves."""
    for name in ("dvc.lock", "mlflow.db", "mlflow.db-wal", "mlflow.db-shm"):
        (root / name).unlink(missing_ok=True)
    for name in (".dvc/cache", ".dvc/tmp", ".checkpoints", "data/raw", "data/split", "mlruns/1"):
        shutil.rmtree(root / name, ignore_errors=True)
    for folder in ("train", "evaluate", "plot"):
        shutil.rmtree(root / "stages" / folder, ignore_errors=True)


def victims(dvc: int, kind: str) -> list[psutil.Process]:
    """The processes to kill: `stage`, `dvc` or `both`."""
    process = psutil.Process(dvc)
    stages = [
        child
        for child in process.children(recursive=True)
        if any(word.startswith(("src/", "quartet.")) for word in child.cmdline())
    ]
    return {"stage": stages, "dvc": [process], "both": [process, *stages]}[kind]


def attempt(project: Project, chance: random.Random, longest: float) -> tuple[bool, str, str, str]:
    """`dvc repro`, killed within `longest` seconds unless it is through: whether it is through, stage, kind, and output."""
    process = project.start("dvc", "repro")
    lines: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(target=lines.extend, args=(process.stdout,), daemon=True)
    reader.start()
    kind, killed = chance.choice(["stage", "dvc", "both"]), False
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=0.2 + chance.uniform(0, longest) * chance.random())  # rather soon, for the short stages
    while process.poll() is None and not killed:  # between two stages there is none to kill
        with contextlib.suppress(psutil.NoSuchProcess):
            found = victims(process.pid, kind)
            for victim in found:
                victim.kill()
            killed = bool(found)
        time.sleep(0.05)
    process.wait()
    reader.join(None if kind != "dvc" else 0.3)  # an orphan holds the pipe until it stops
    output = "".join(lines)
    started = re.findall(r"Running stage '(.+?)'", output)
    stage = started[-1] if started else "before the first stage"
    if own := {file for words, file in CUT.items() if words in output}:
        for file in own:
            (project.root / file).unlink()
    elif not killed and process.returncode:
        raise SystemExit(f"torture: dvc repro failed without a kill:\n{output}")
    return process.returncode == 0, stage, kind if killed else "", output


def faults(project: Project, expected: str) -> list[str]:
    """What is not as after an undisturbed run."""
    root = project.root
    found = []
    if (root / "dvc.lock").read_text(encoding="utf-8") != expected:
        found.append("dvc.lock differs")
    project.quartet("sync")
    models = runs(project)
    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    settings = params.load(root / "params.yaml")
    if sorted(run["name"] for run in models) != sorted(settings.trainings):
        found.append(f"MLflow's runs: {[run['name'] for run in models]}")
    found += [
        f"MLflow's run {run['name']}: {run['status']}, {json.dumps(run['steps'])}"
        for run in models
        if run["status"] != "FINISHED"
        or any(
            sorted(steps) != list(range(1, settings.hyperparameters(run["name"]).epochs + 1))
            for steps in run["steps"].values()
        )
    ]
    logged = client.search_logged_models([client.get_experiment_by_name("mnist-quartet").experiment_id])
    if [str(model.status) for model in logged] != ["READY"] * len(settings.trainings):
        found.append(f"MLflow's models: {[str(model.status) for model in logged]}")
    found += [f"MLflow's run {run['name']}: {run['artifacts']}" for run in models if len(run["artifacts"]) != 4]
    left = [*root.glob(".checkpoints/*.pt"), *root.glob(".checkpoints/.*.part")]
    left += [*root.glob("data/*/.*.part"), *root.glob("stages/**/.*.part")]
    return found + [f"{path.relative_to(root)} is left" for path in left]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, started = random.Random(options.seed), time.monotonic()
    kinds, stages, resumed, rounds, cut = Counter[str](), Counter[str](), [], 0, Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        project = clone(Path(folder))
        project.run("dvc", "repro")
        longest = (time.monotonic() - started) / 3  # enough for dvc's start and two or three of the stages
        expected = (project.root / "dvc.lock").read_text(encoding="utf-8")
        while kinds.total() < options.kills:
            reset(project.root)
            done = False
            while not done:
                done, stage, kind, output = attempt(project, chance, longest)
                resumed += [int(number) for number in re.findall(r"resumed after epoch (\d+)", output)]
                cut.update(file for words, file in CUT.items() if words in output)
                if kind:
                    kinds[kind] += 1
                    stages[stage.split("@")[0]] += 1
                    print(f"torture: kill {kinds.total()}: {kind}, {stage}", flush=True)
            rounds += 1
            if found := faults(project, expected):
                sys.exit(f"torture: seed {options.seed}, round {rounds}: " + "; ".join(found))
    print(
        f"torture: {kinds.total()} kills in {rounds} rounds and {time.monotonic() - started:.0f} s, seed {options.seed}\n"
        f"  killed: {', '.join(f'{kind} {count}' for kind, count in kinds.most_common())}\n"
        f"  during: {', '.join(f'{stage} {count}' for stage, count in stages.most_common())}\n"
        f"  trainings resumed: {len(resumed)}, with {sum(resumed)} epochs that were not trained again\n"
        f"  files of DVC's own that a killed dvc left cut short, and that were removed: {dict(cut) or 'none'}\n"
        "  dvc.lock: equal to the undisturbed one after every round; MLflow: a whole run for each training, no step twice"
    )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.environ.pop("DVC_STAGE", None)
    main()
