"""`make portability`: a short run of every training here and under emulated processors, its outputs compared by SHA-256.

Arguments: names of processors that `qemu-x86_64 -cpu help` lists, and paths of other Python interpreters that have this
project's packages; by default PROCESSORS.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path

from tabulate import tabulate

from quartet import data, errors, files, idx, numerics, params, paths, published, sample
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
    shipped = params.load()
    content = {
        **shipped.model_dump(by_alias=True),
        **settings,
        "epochs": EPOCHS,
        "batch_size": min(shipped.batch_size, TRAIN),
    }
    content["report"] = {
        **shipped.report.model_dump(),
        "epochs": EPOCHS,
        "batch_size": min(shipped.report.batch_size, TRAIN),
    }
    pool = TRAIN + VALIDATION
    content["data"] = {"source": "sample", "validation_fraction": VALIDATION / pool, "seed": 0}
    files.write_json(folder / paths.PARAMS, content)  # YAML contains JSON
    for name, array in sample.digits().items():
        files.write_bytes(folder / paths.RAW / name, idx.encode(array[: pool if name.startswith("train") else TEST]))
    digests = {path.name: files.sha256(path) for path in sorted((folder / paths.RAW).iterdir())}
    files.write_record(folder / paths.SOURCE, {"data": "sample", "sha256": digests})


def run(trainings: Sequence[str]) -> None:
    """Preprocess, train, evaluate and plot in the working directory, in one process and without MLflow."""
    from quartet import plot, preprocess, scoring, train, training

    preprocess.main()
    settings, manifest = params.load(), data.load_manifest()
    for name in trainings:
        train.train_and_save(name, settings, train.describe(name, settings, manifest), train.load_both(name, settings))
    with training.deterministic():
        for name in trainings:
            scoring.evaluate_one(name, data.load_split("test"), data.TITLES["sample"])
    if set(trainings) == set(params.TRAININGS):
        plot.main()


class ShortRuns:
    """Short runs beside each other; leaving the block ends those that still run."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[str]] = []
        self.futures: list[Future[dict[str, str]]] = []
        self.pool = ThreadPoolExecutor(os.cpu_count())

    def __enter__(self) -> ShortRuns:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
        while not all(future.done() for future in self.futures):  # one that is being prepared starts a process yet
            for process in self.processes:
                process.kill()
            time.sleep(0.1)

    def all(self, commands: Mapping[str, Sequence[str]], folder: Path) -> dict[str, dict[str, str]]:
        """Return the outputs of a short run by each command line; WorkError as soon as one fails."""
        for number, command in enumerate(commands.values()):
            self.futures.append(self.pool.submit(self.outputs, command, folder / str(number)))
        ended, _ = wait(self.futures, return_when=FIRST_EXCEPTION)
        for future in ended:
            future.result()  # raises what went wrong
        return {name: future.result() for name, future in zip(commands, self.futures, strict=True)}

    def outputs(self, command: Sequence[str], folder: Path) -> dict[str, str]:
        """Return the SHA-256 of each output of a short run by Python, called as `command` says; WorkError if it fails."""
        prepare({}, folder)
        prepare({"augment": True}, folder / AUGMENTED)
        process = subprocess.Popen(
            [*command, "-m", "quartet.portability", RUN],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "QUARTET_PROGRESS": "lines"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        said = [line for line in process.communicate()[1].splitlines() if "TCG doesn't support" not in line]
        if process.returncode:
            raise WorkError(f"{' '.join(command)}: status {process.returncode}: {' '.join(said[-2:])}")
        return published.outputs(folder, [*published.FOLDERS, *(AUGMENTED / place for place in published.FOLDERS)])


def commands(wanted: Sequence[str]) -> dict[str, list[str]]:
    """Return the command line of each processor or interpreter that is compared, by its name, this one first."""
    found = {"this processor": [sys.executable]}
    for name in wanted:
        if os.sep in name:
            if not os.access(name, os.X_OK):
                raise InputError(f"{name}: expected a Python interpreter")
            found[name] = [str(Path(name).absolute())]
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
    """Make a line for each output: the beginning of its SHA-256 by the first command line, and whether the others agree."""
    first, *others = found
    rows = []
    for path in dict.fromkeys(path for outputs in found.values() for path in outputs):
        digest = found[first].get(path)
        same = ["same" if found[name].get(path) == digest else "DIFFERS" for name in others]
        rows.append([path, digest[:12] if digest else "(missing)", *same])
    return tabulate(rows, headers=["output", first, *others], tablefmt="github", disable_numparse=True)


def main() -> None:
    """Compare, and exit with status 1 if any output differs."""
    if sys.argv[1:] == [RUN]:
        run(params.TRAININGS)
        os.chdir(AUGMENTED)
        run([params.TRIAL])
        return
    if departure := numerics.departure():
        raise WorkError(f"{departure}: only x86-64 processors with AVX2 and FMA make the same bytes")
    lines = commands(sys.argv[1:] or PROCESSORS)
    print(f"portability: {TRAIN} training images, {EPOCHS} epochs, on {', '.join(lines)} (some minutes)", flush=True)
    with tempfile.TemporaryDirectory() as folder, ShortRuns() as runs:
        found = runs.all(lines, Path(folder))
    print(table(found), flush=True)
    first, *others = found.values()
    differing = sum(bool(published.differences(first, other)) for other in others)
    if differing:
        raise WorkError(f"{differing} of {len(others)} differ from this processor")
    print(f"portability: all {len(first)} outputs are the same on {', '.join(found)}")


if __name__ == "__main__":
    errors.run(main)
