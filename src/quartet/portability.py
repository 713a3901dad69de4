"""`make portability`: a short run of every training here and under emulated processors, its outputs compared by SHA-256.

Takes the names of processors that `qemu-x86_64 -cpu help` lists, and paths of other Python interpreters that have this
project's packages; without arguments, PROCESSORS.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tabulate import tabulate

from quartet import data, errors, files, idx, params, paths, published, sample
from quartet.errors import InputError, WorkError

EMULATOR = "qemu-x86_64"
# AMD's, Intel's first with AVX2 and FMA, and Hygon's: three vendors, by whose names libraries choose their code.
PROCESSORS = ("EPYC-Rome", "Haswell", "Dhyana")
TRAIN, VALIDATION, TEST, EPOCHS = 100, 40, 40, 2
# Where a second trial is trained, with augmentation, which the committed settings do without.
AUGMENTED = Path("augmented")
RUN = "--run"


def prepare(settings: Mapping[str, object], folder: Path) -> None:
    """Write params.yaml and data/raw/ of a short run below `folder`: the embedded sample's first images."""
    report = {**params.load().report.model_dump(), "epochs": EPOCHS}
    pool = TRAIN + VALIDATION
    split = {"source": "sample", "validation_fraction": VALIDATION / pool, "seed": 0}
    content = {**params.load().model_dump(by_alias=True), **settings, "epochs": EPOCHS, "report": report, "data": split}
    # As JSON, which YAML contains: whatever version of PyYAML is there lays it out the same.
    files.write_json(folder / paths.PARAMS, content)
    for name, array in sample.digits().items():
        files.write_bytes(folder / paths.RAW / name, idx.encode(array[: pool if name.startswith("train") else TEST]))
    digests = {path.name: files.sha256(path) for path in sorted((folder / paths.RAW).iterdir())}
    files.write_record(folder / paths.SOURCE, {"data": "sample", "sha256": digests})


def run() -> None:
    """Preprocess, train, evaluate and plot in the working directory, in one process and without MLflow."""
    from quartet import plot, preprocess, scoring, train, training

    preprocess.main()
    trainings = (params.TRIAL,) if Path.cwd().name == AUGMENTED.name else params.TRAININGS
    settings, manifest = params.load(), data.load_manifest()
    for name in trainings:
        train.train_and_save(name, settings, train.describe(name, settings, manifest), train.load_both(name, settings))
    with training.deterministic():
        for name in trainings:
            scoring.evaluate_one(name, data.load_split("test"), data.TITLES["sample"])
    if trainings == params.TRAININGS:
        plot.main()


def short_run(command: Sequence[str], folder: Path) -> dict[str, str]:
    """The SHA-256 of each output of a short run by Python, called as `command` says; WorkError if it fails."""
    for place, settings in ((folder, {}), (folder / AUGMENTED, {"augment": True})):
        prepare(settings, place)
    variables = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "QUARTET_PROGRESS": "lines"}
    done = subprocess.run(
        [*command, "-m", "quartet.portability", RUN], cwd=folder, env=variables, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if "TCG doesn't support" not in line]
        raise WorkError(f"{' '.join(command)}: status {done.returncode}: {' '.join(last[-2:])}")
    augmented = {f"{AUGMENTED}/{name}": digest for name, digest in published.outputs(folder / AUGMENTED).items()}
    return {**published.outputs(folder), **augmented}


def commands(wanted: Sequence[str]) -> dict[str, list[str]]:
    """The command line of each processor or interpreter that is compared, by its name, this one first."""
    found = {"this processor": [sys.executable]}
    for name in wanted:
        if os.sep in name:
            if not os.access(name, os.X_OK):
                raise InputError(f"{name}: expected a Python interpreter")
            found[name] = [name]
        else:
            emulator = shutil.which(EMULATOR)
            if emulator is None:
                raise InputError(
                    f"{EMULATOR}: not installed; on Debian and Ubuntu: apt-get install qemu-user; on Fedora: dnf install"
                    " qemu-user"
                )
            known = subprocess.run([emulator, "-cpu", "help"], capture_output=True, text=True, check=False).stdout.split()
            if name not in known:
                raise InputError(f"{name}: not a processor of {EMULATOR}; `{EMULATOR} -cpu help` lists them")
            found[name] = [emulator, "-cpu", name, sys.executable]
    return found


def table(found: Mapping[str, Mapping[str, str]]) -> str:
    """A line for each output: the beginning of its SHA-256 by the first command line, and whether the others agree."""
    first, *others = found
    rows = [
        [path, digest[:12], *("same" if found[name].get(path) == digest else "DIFFERS" for name in others)]
        for path, digest in found[first].items()
    ]
    return tabulate(rows, headers=["output", first, *others], tablefmt="github", disable_numparse=True)


def main() -> None:
    """Compare, and exit with status 1 if any output differs."""
    if sys.argv[1:] == [RUN]:
        run()
        os.chdir(AUGMENTED)
        return run()
    lines = commands(sys.argv[1:] or PROCESSORS)
    print(f"portability: {TRAIN} training images, {EPOCHS} epochs, on {', '.join(lines)} (some minutes)", flush=True)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        running = {
            name: pool.submit(short_run, command, Path(folder, str(number)))
            for number, (name, command) in enumerate(lines.items())
        }
        found = {name: future.result() for name, future in running.items()}
    print(table(found))
    first, *others = found.values()
    differing = sum(bool(published.differences(first, other)) for other in others)
    if differing:
        raise WorkError(f"{differing} of {len(others)} made other bytes than this processor")
    print(f"portability: all {len(first)} outputs are the same on {', '.join(found)}")
    return None


if __name__ == "__main__":
    errors.run(main)
