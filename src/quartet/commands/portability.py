"""`quartet portability`: a short run of every training here and under emulated processors, compared by SHA-256."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path

from tabulate import tabulate

from quartet.base import errors, files, numerics, params, paths, process, stage
from quartet.base.errors import InputError, WorkError
from quartet.commands import outputs
from quartet.data import catalogue, idx, sample, splits

EMULATOR = "qemu-x86_64"
# AMD, Intel's first with AVX2 and FMA, and Hygon: libraries choose code by the vendor's name.
PROCESSORS = ("EPYC-Rome", "Haswell", "Dhyana")
TRAIN, VALIDATION, TEST, EPOCHS = 100, 40, 40, 2
# The folder of a second trial, with what the committed settings may leave out, and its settings.
FURTHER = Path("further")
SETTINGS = {"augment": True, "elastic": 1, "ema_decay": 0.9, "weight_decay": 0.1, "label_smoothing": 0.1}
RUN = "--run"


def prepare(settings: Mapping[str, object], folder: Path) -> None:
    """Write params.yaml and data/raw/ of a short run below `folder`: the embedded sample's first images."""
    shipped, pool = params.load(), TRAIN + VALIDATION
    short = {"epochs": EPOCHS, "batch_size": min(shipped.batch_size, TRAIN)}
    content = {
        **shipped.model_dump(),
        **settings,
        **short,
        "report": shipped.report.model_dump(),
        "variants": {
            name: {**variant.model_dump(), "epochs": EPOCHS, "batch_size": min(variant.batch_size, TRAIN)}
            for name, variant in shipped.variants.items()
        },
        "data": {"source": "sample", "validation_fraction": VALIDATION / pool, "seed": 0},
    }
    files.write_json(folder / paths.PARAMS, content, sort_keys=False)  # YAML contains JSON
    for name, array in sample.digits().items():
        files.write_bytes(folder / paths.RAW / name, idx.encode(array[: pool if name.startswith("train") else TEST]))
    idx.record(catalogue.SAMPLE.source, folder)


def run(trainings: Sequence[str], *, draw: bool) -> None:
    """Do what the stages from preprocess on do in the working directory, in one process and without MLflow."""
    import torch

    from quartet.evaluation import metrics, predictions, recognition
    from quartet.model import inference, network, weights
    from quartet.reporting import gallery, html, tables
    from quartet.training import determinism, loop, record

    settings = params.load()
    pool, held_out = (splits.Split(*pair) for pair in idx.read_sets(paths.RAW))
    splits.save_all(splits.divide(pool, held_out, settings.data.validation_fraction, settings.data.seed), idx.check())
    test, scores = splits.load_split("test"), {}
    for name in trainings:
        training = record.describe(name, settings, splits.load_manifest())
        examples = (loop.load_examples(split, training.groups) for split in ("train", "validation"))
        trained, epochs = loop.fit(training.hyperparameters, *examples)
        weights.save(paths.model(name), trained, training.description)
        record.write(training, epochs, network.layer_table(trained), stage.note(paths.stage(name), settings))
        with determinism.deterministic():
            logits = inference.predict(trained, torch.from_numpy(test.images))
            scores[name] = metrics.score(logits, test.labels, training.groups, training.class_names)
    predictions.write(scores, test.labels)
    if draw:
        results, title = predictions.read(trainings), splits.load_source().title
        pictures = gallery.draw_all(results, test.images, title)
        for name, picture in pictures.items():
            files.write_bytes(paths.FIGURES / name, picture)
        page = tables.page(results, title, settings.groups, list(pictures), comparable=False)
        files.write_bytes(paths.RESULTS, page.encode())
        content = html.page(results, recognition.load(trainings), test.images, settings.groups, [])
        files.write_bytes(paths.PAGE, content)


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
        while not all(future.done() for future in self.futures):  # a run in preparation may still start a process
            for started in self.processes:
                started.kill()
            time.sleep(0.1)

    def all(self, commands: Mapping[str, Sequence[str]], folder: Path) -> dict[str, dict[str, str]]:
        """Return the outputs of a short run by each command line; WorkError as soon as one fails."""
        for number, command in enumerate(commands.values()):
            self.futures.append(self.pool.submit(self.hashes, command, folder / str(number)))
        ended, _ = wait(self.futures, return_when=FIRST_EXCEPTION)
        for future in ended:
            future.result()  # raises what went wrong
        return {name: future.result() for name, future in zip(commands, self.futures, strict=True)}

    def hashes(self, command: Sequence[str], folder: Path) -> dict[str, str]:
        """Return the SHA-256 of each output of a short run by Python, called as `command` says; WorkError if it fails.

        A run that crashes is done once more: qemu-user does so now and then.
        """
        prepare({}, folder)
        prepare(SETTINGS, folder / FURTHER)
        status, said = self.call(command, folder)
        if status == -signal.SIGSEGV:
            errors.warn(f"{' '.join(command)}: crashed; it is run once more")
            status, said = self.call(command, folder)
        if status:
            raise WorkError(f"{' '.join(command)}: status {status}: {' '.join(said[-2:])}")
        return outputs.hashes(folder, [*outputs.FOLDERS, *(FURTHER / place for place in outputs.FOLDERS)])

    def call(self, command: Sequence[str], folder: Path) -> tuple[int, list[str]]:
        """Do a short run in a folder; return its exit status and the lines of its standard error."""
        started = subprocess.Popen(
            [*command, "-m", "quartet.commands.portability", RUN],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "QUARTET_PROGRESS": "lines"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(started)
        said = [line for line in started.communicate()[1].splitlines() if "TCG doesn't support" not in line]
        return started.returncode, said


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
    for path in dict.fromkeys(path for hashes in found.values() for path in hashes):
        digest = found[first].get(path)
        same = ["same" if found[name].get(path) == digest else "DIFFERS" for name in others]
        rows.append([path, digest[:12] if digest else "(missing)", *same])
    return tabulate(rows, headers=["output", first, *others], tablefmt="github", disable_numparse=True)


def main(arguments: Sequence[str]) -> None:
    """Compare the outputs of a short run, and exit with status 1 if any differs."""
    parser = process.Parser(prog="quartet portability", description=main.__doc__)
    parser.add_argument(
        "what",
        nargs="*",
        default=PROCESSORS,
        help=f"processors of `{EMULATOR} -cpu help`, or paths of Python interpreters that have this project's packages"
        f" (default: {' '.join(PROCESSORS)})",
    )
    wanted = parser.parse_args(arguments).what
    if departure := numerics.departure():
        raise WorkError(f"{departure}: only x86-64 processors with AVX2 and FMA make the same bytes")
    lines = commands(wanted)
    print(f"portability: {TRAIN} training images, {EPOCHS} epochs, on {', '.join(lines)} (some minutes)", flush=True)
    with tempfile.TemporaryDirectory() as folder, ShortRuns() as runs:
        found = runs.all(lines, Path(folder))
    print(table(found), flush=True)
    first, *others = found.values()
    differing = sum(bool(outputs.differences(first, other)) for other in others)
    if differing:
        raise WorkError(f"{differing} of {len(others)} differ from this processor")
    print(f"portability: all {len(first)} outputs are the same on {', '.join(found)}")


def emulated() -> None:
    """Make the short runs whose outputs are compared, in the working directory."""
    run(params.load().trainings, draw=True)
    os.chdir(FURTHER)
    run([params.TRIAL], draw=False)


if __name__ == "__main__" and sys.argv[1:] == [RUN]:
    process.run(emulated)
