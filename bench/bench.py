"""`make bench`: what this project's speed and memory are on this machine, beside the targets and the usual ways.

Prints a table and writes it to docs/benchmarks.md, between its markers. Every number of ours is measured through what users
run: `loop.fit`, `runs.live`, `dvc`. Times are medians of interleaved rounds.
"""

from __future__ import annotations

# isort: off
import quartet  # noqa: F401 -- before NumPy and PyTorch: it sets the numeric contract that they read

# isort: on
import argparse
import json
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml
from torch import Tensor
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

import usual
from quartet.base import numerics, params, paths
from quartet.commands import publish
from quartet.data import catalogue, idx, splits
from quartet.evaluation.report import REPORT
from quartet.model.network import build, pixels
from quartet.tracking import runs
from quartet.training import determinism, loop
from quartet.training.adam import Adam
from quartet.training.record import Epoch, TrainingRecord
from targets import PERCENT, RATIO, Row, markdown

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
PEERS = ROOT / ".venv-peers"
BATCH = 20
CORES = os.cpu_count() or 1
# Shipped, and chosen among a few by its validation accuracy alone.
FAST = {
    "epochs": 1,
    "bn": True,
    "batch_size": 64,
    "lr": 0.03,
    "augment": False,
    "weight_decay": 0,
    "label_smoothing": 0,
    "ema_decay": 0,
}
FORMS = {"without batch norm": False, "with batch norm": True}  # of the report's network, and its `bn`


def spread(values: Sequence[float], unit: str = "") -> str:
    """Return the median and the quartiles."""
    low, middle, high = (
        f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" for value in np.percentile(values, [25, 50, 75])
    )
    return f"{middle}{unit} ({low} to {high})"


def median_ratio(values: Sequence[float], others: Sequence[float]) -> float:
    """Return the median over the rounds, each value beside what was measured next to it."""
    return statistics.median(value / other for value, other in zip(values, others, strict=True))


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the function's value from a process of its own, whose threads and memory are nobody else's."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


@contextmanager
def unrestricted() -> Iterator[None]:
    """Start the processes of the block without the numeric contract: they may use all that the processor has."""
    kept = {name: os.environ.pop(name) for name in numerics.variables() if name in os.environ}
    os.environ[numerics.SWITCH] = "off"
    try:
        yield
    finally:
        del os.environ[numerics.SWITCH]
        os.environ.update(kept)


def side_by_side(function: Callable[..., Any], arguments: Iterable[Sequence[Any]]) -> list[Any]:
    """Return the function's value for each row of arguments, each in its own process, as many at once as there are cores."""
    with ThreadPoolExecutor(CORES) as pool:
        return list(pool.map(lambda row: apart(function, *row), arguments))


# Data


def prepare(folder: Path) -> str:
    """Write 60,000 training and 10,000 test images into `folder`; returns what they are."""
    raw = ROOT / paths.RAW
    if os.environ.get("QUARTET_MNIST"):
        shutil.copy(ROOT / paths.PARAMS, folder)
        subprocess.run([sys.executable, ROOT / "src" / "fetch.py"], cwd=folder, env=environment(ROOT), check=True)
        raw = folder / paths.RAW
    source = raw / paths.SOURCE.name
    if source.exists() and json.loads(source.read_text())["data"] == "mnist":
        title = "MNIST"
        pool, test = (splits.Split(*pair) for pair in idx.read_sets(raw))
    else:
        title = "random images of MNIST's shape"
        random = np.random.default_rng(0)
        pool, test = (
            splits.Split(random.integers(0, 256, (n, 28, 28), np.uint8), random.integers(0, 10, n, np.uint8))
            for n in (60_000, 10_000)
        )
    np.savez(folder / "pool.npz", images=pool.images, labels=pool.labels)
    np.savez(folder / "test.npz", images=test.images, labels=test.labels)
    return title


def examples(folder: Path, name: str, count: int | None = None, classes: int = 10) -> loop.Examples:
    with np.load(folder / f"{name}.npz") as archive:
        images, labels = archive["images"][:count], archive["labels"][:count]
    groups = params.load(ROOT / paths.PARAMS).class_groups(classes)
    return loop.Examples(torch.from_numpy(images), torch.from_numpy(splits.merge(labels, groups)))


def hyperparameters(**changes: Any) -> params.Hyperparameters:
    """Return the report's hyperparameters for one epoch, or what the changes make of them."""
    known = params.load(ROOT / paths.PARAMS).report.model_dump()
    return params.Hyperparameters(**{**known, "epochs": 1, **changes})


def environment(source: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DVC_", "GIT_"))}
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PATH": search, "PYTHONPATH": str(source / "src"), **more}


# One training: its step against the bare kernels of its convolutions


def kernels(bn: bool) -> Callable[[], None]:
    """Return a function that runs each convolution forward and backward on random values; with `bn`, each batch norm too."""
    layers = []
    for inputs, filters, kernel, stride, side in ((1, 16, 7, 1, 28), (16, 8, 5, 1, 14), (8, 4, 3, 2, 7)):
        images = torch.rand(BATCH, inputs, side, side).to(memory_format=torch.channels_last)
        weight = torch.rand(filters, inputs, kernel, kernel).to(memory_format=torch.channels_last)
        bias = torch.rand(filters)
        output = torch.conv2d(images, weight, bias, stride, kernel // 2)
        layers.append((images, weight, bias, stride, kernel // 2, output, torch.rand_like(output)))

    def run() -> None:
        for images, weight, bias, stride, padding, output, gradient in layers:
            torch.conv2d(images, weight, bias, stride, padding)
            needed = [images.shape[1] > 1, True, True]  # the images themselves need no gradient
            torch.ops.aten.convolution_backward(
                gradient, images, weight, [len(bias)], [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, needed
            )
            if bn:
                ones, zeros = torch.ones(len(bias)), torch.zeros(len(bias))
                _, mean, scale = torch.native_batch_norm(output, ones, bias, zeros, ones, True, 0.1, 1e-5)
                torch.ops.aten.native_batch_norm_backward(
                    gradient, output, ones, zeros, ones, mean, scale, True, 1e-5, [True] * 3
                )

    return run


def operations(bn: bool) -> Callable[[], None]:
    """Return a function that computes a step as PyTorch does, without autograd and Python's loop; weights do not change."""
    network = build(10, bn).train()
    adam = Adam(network.parameters())
    batch, labels = torch.randint(256, (BATCH, 28, 28), dtype=torch.uint8), torch.arange(BATCH) % 10
    names = dict(network.named_parameters())

    def loss_and_gradients(batch: Tensor, labels: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        values = dict(zip(names, weights, strict=True))
        loss = functional.cross_entropy(functional_call(network, values, pixels(batch)), labels)
        return loss, *torch.autograd.grad(loss, weights)

    recorded = make_fx(loss_and_gradients)(batch, labels, *adam.parameters)

    def run() -> None:
        with torch.no_grad():
            _, *gradients = recorded(batch, labels, *adam.parameters)
            adam.step(gradients, lr=0)

    return run


def step_times(folder: Path, bn: bool) -> tuple[list[float], ...]:
    """Milliseconds of a step of `fit`, of its bare kernels and of its bare operations, in turns of 50, 25 and 25 steps."""
    turn, recipe = 50, hyperparameters(bn=bn)
    bare = kernels(bn), operations(bn)
    times: tuple[list[float], ...] = ([], [], [])
    left = math.nan

    def clock(_epoch: int, step: int) -> None:
        nonlocal left
        if step % turn == 1:
            now = time.perf_counter()
            times[0].append((now - left) / turn * 1e3)
            for run, place in zip(bare, times[1:], strict=True):
                run()
                now = time.perf_counter()
                for _ in range(turn // 2):
                    run()
                place.append((time.perf_counter() - now) / (turn // 2) * 1e3)
            left = time.perf_counter()

    loop.fit(recipe, examples(folder, "pool", 450 * BATCH), examples(folder, "test", BATCH), on_step=clock)
    return tuple(values[2:] for values in times)  # the first turns warm up


def one_training(folder: Path) -> list[Row]:
    """Measure each in three processes at different times: a single one may be a tenth slower than the next."""
    rows = []
    rounds = [{form: apart(step_times, folder, bn) for form, bn in FORMS.items()} for _ in range(3)]
    for form, bn in FORMS.items():
        steps, floor, bare = ([time for found in rounds for time in found[form][place]] for place in range(3))
        ratio, least = median_ratio(steps, floor), median_ratio(bare, floor)
        what = "convolutions' and batch norms'" if bn else "convolutions'"
        detail = (
            f"{spread(steps, ' ms')} of {spread(floor, ' ms')}; {least:.2f} × for PyTorch's operations alone, without"
            " autograd and Python's loop"
        )
        rows.append(Row(f"A step {form}, one thread, against its {what} bare kernels", ratio, 1.5, RATIO, detail))
    return rows


# Four trainings against the usual loop and other libraries

all_ready: Barrier  # in a process of `at_once`: what it waits at before its clock starts


def at_once(function: Callable[..., Any], arguments: Sequence[Any]) -> list[Any]:
    """Return the function's value for each of the arguments, each in its own process; they wait for each other first."""
    context = get_context("spawn")
    barrier = context.Barrier(len(arguments))
    with ProcessPoolExecutor(len(arguments), context, initializer=share, initargs=(barrier,)) as pool:
        return list(pool.map(function, arguments))


def share(barrier: Barrier) -> None:
    """Keep the barrier in a process of `at_once`; it can be passed only when the process starts."""
    global all_ready  # noqa: PLW0603 -- a worker of a pool has no other place
    all_ready = barrier


def train_seconds(folder: Path, count: int, classes: int) -> float:
    """Return seconds of training a network of so many classes with batch norm, then one without."""
    recipes = [hyperparameters(classes=classes, bn=bn) for bn in (True, False)]
    sets = [(recipe, examples(folder, "pool", count, recipe.classes)) for recipe in recipes]
    recipe, train = sets[0]
    warm = loop.Examples(train.images[:400], train.labels[:400])
    loop.fit(recipe, warm, warm)
    all_ready.wait()
    start = time.perf_counter()
    for recipe, train in sets:
        loop.fit(recipe, train, warm)
    return time.perf_counter() - start


def operation_seconds(steps: int) -> float:
    """Return seconds of so many steps' bare operations without batch norm, and as many with it, on one thread."""
    both = [operations(bn) for bn in (False, True)]
    determinism.keep_freed_memory()
    with determinism.deterministic():
        for run in both:
            run()
        all_ready.wait()
        start = time.perf_counter()
        for _ in range(steps):
            for run in both:
                run()
        return time.perf_counter() - start


def ours_and_bare(folder: Path, count: int, classes: int) -> tuple[float, float]:
    """Return seconds of training both networks of so many classes, and of the bare operations of as many steps."""
    return train_seconds(folder, count, classes), operation_seconds(count // BATCH)


def four_ours(folder: Path, count: int) -> tuple[float, float]:
    """Return images a second of the report's four networks, two processes at once: of `fit`, and of its bare operations."""
    trained, bare = zip(*at_once(partial(ours_and_bare, folder, count), (10, 4)), strict=True)
    return 4 * count / max(trained), 4 * count / max(bare)


def four_usual(folder: Path, count: int) -> tuple[float, float]:
    """Return images a second of the usual loop on the same four networks, one after another: on one thread, and on two."""
    usual.train(usual.Images(*examples(folder, "pool", 400)), 10, False, 0)  # warm
    sets = [(usual.Images(*examples(folder, "pool", count, classes)), classes) for classes in (10, 4)]

    def rate(threads: int) -> float:
        torch.set_num_threads(threads)
        start = time.perf_counter()
        for images, classes in sets:
            for bn in (False, True):
                usual.train(images, classes, bn, 0)
        return 4 * count / (time.perf_counter() - start)

    return rate(1), rate(2)


def four_trainings(folder: Path) -> list[Row]:
    """Ours under the numeric contract, which allows no more than AVX2; the others, and ours once more, without it."""
    one, two, ours, bare, free = (list[float]() for _ in range(5))
    others: dict[str, list[float]] = {}
    spent = 0.0
    for _ in range(3):
        with unrestricted():
            # Two processes of it: one may be a quarter faster than the next.
            pair = zip(*(apart(four_usual, folder, 2_500) for _ in range(2)), strict=True)
            speeds = *map(statistics.mean, pair), four_ours(folder, 6_000)[0]
        for speed, place in zip((*speeds, *four_ours(folder, 6_000)), (one, two, free, ours, bare), strict=True):
            place.append(speed)
        start = time.perf_counter()
        with unrestricted():
            for name, speed in peers(folder).items():
                others.setdefault(name, []).append(speed)
        spent += time.perf_counter() - start
    others = {name: speeds for name, speeds in others.items() if len(speeds) == len(ours)}  # peers() said why
    usually = max(one, two, key=statistics.median)
    contract = "ours uses no more than AVX2, for the same bytes everywhere, and the others all that the processor has; "
    detail = (
        f"{spread(ours)} images/s against {spread(one)} on one thread, {spread(two)} on two; {contract}"
        f"{median_ratio(free, usually):.2f} × if ours does too: {spread(free)} images/s;"
        f" {median_ratio(bare, usually):.2f} × for the operations of ours alone"
    )
    what = "The report's four networks, two at a time, against the usual loop"
    rows = [Row(what, median_ratio(ours, usually), 3, RATIO, detail, least=True)]
    what = "The same against the best of other libraries, both cores"
    if others:
        theirs = ", ".join(f"{name}: {spread(speeds)}" for name, speeds in others.items())
        best = max(others.values(), key=statistics.median)
        detail = (
            f"{spread(ours)} images/s against {theirs}; {median_ratio(free, best):.2f} × if ours, too, uses all that the"
            f" processor has; {median_ratio(bare, best):.2f} × for the operations of ours alone;"
            f" {spent:.0f} s of the benchmark's time"
        )
        rows.append(Row(what, median_ratio(ours, best), 3.5, RATIO, detail, least=True))
    else:
        rows.append(Row(what, math.nan, 3.5, RATIO, "not there: `make bench-peers`", least=True))
    return rows


def peers(folder: Path) -> dict[str, float]:
    """Return images a second of each library that .venv-peers has, by its name and version."""
    python = PEERS / "bin" / "python"
    found: dict[str, float] = {}
    for name in ("lightning", "flax", "keras-jax", "keras-torch") if python.exists() else ():
        command = [python, ROOT / "bench" / "peers.py", name, folder / "pool.npz"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            print(f"bench: {name}: {(run.stderr.strip() or '?').splitlines()[-1]}", file=sys.stderr)
        else:
            speed, version = run.stdout.splitlines()[-1].split()
            found[f"{name} {version}"] = float(speed)
    return found


@contextmanager
def correct_roots() -> Iterator[None]:
    """Give PyTorch's Adam correctly rounded square roots, as ours has; MKL's differ on processors with AVX-512."""

    def root(tensor: Tensor) -> Tensor:
        return torch.from_numpy(np.sqrt(tensor.numpy()))

    with mock.patch.object(Tensor, "sqrt", root):
        yield


def losses(folder: Path, bn: bool) -> tuple[float, ...]:
    """Return the mean loss of 500 steps of `fit` and of the usual loop: with our layout and roots, as it is, in float64."""
    recipe, steps = hyperparameters(bn=bn), 500
    train = examples(folder, "pool", steps * BATCH)
    with mock.patch.object(loop, "rounded", float):
        _, [epoch] = loop.fit(recipe, train, examples(folder, "test", BATCH))
    order = torch.randperm(len(train.images), generator=torch.Generator().manual_seed(recipe.seed)).tolist()
    torch.set_num_threads(1)

    def usually(**form: Any) -> float:
        return usual.train(usual.Images(*train), 10, recipe.bn, recipe.seed, order, **form).double().mean().item()

    with correct_roots():
        alike = usually(memory_format=torch.channels_last)
    return epoch.train_loss, alike, usually(), usually(dtype=torch.float64)


def same_loss(folder: Path) -> list[Row]:
    """Rounding that tips one maximum of a pool changes all that follows: only the same kernels stay together for long."""
    rows = []
    found = side_by_side(losses, [(folder, bn) for bn in FORMS.values()])
    for form, (ours, alike, plain, exact) in zip(FORMS, found, strict=True):
        difference = abs(ours / alike - 1)
        detail = (
            f"relative difference ({ours:.6f} and {alike:.6f}), the usual loop's images channels-last and its roots"
            f" correctly rounded; {abs(ours / plain - 1):.1e} as it is, which is itself {abs(exact / plain - 1):.1e} from"
            " its own float64"
        )
        what = f"Mean loss of 500 steps {form}, ours against the usual loop's with our layout and roots"
        rows.append(Row(what, difference, 1e-6, "{:.0e}", detail))
    return rows


# MLflow


def mlflow_seconds() -> tuple[float, float]:
    """Return what a training of ten epochs spends in MLflow, its import included; what a second in the same process does."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        make = "from quartet.tracking import attempts; attempts.initialise()"
        subprocess.run([sys.executable, "-c", make], env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, check=True)
        settings = params.load(ROOT / paths.PARAMS)
        recipe = settings.report
        digests = {"train": "0" * 64, "validation": "1" * 64}
        history = [Epoch(number, 0.1, 0.1, 0.9) for number in range(1, recipe.epochs + 1)]
        seconds = []
        for code in ("2" * 64, "3" * 64):
            training = TrainingRecord(
                "bench", recipe, settings.class_groups(recipe.classes), catalogue.MNIST.source, digests, code
            )
            start = time.perf_counter()
            with runs.live(training, None) as log:
                for epoch in history:
                    log(runs.Outcome(history[: epoch.epoch]))
            seconds.append(time.perf_counter() - start)
        os.chdir(ROOT)
    return seconds[0], seconds[1]


def tracking_share(epoch_seconds: float) -> list[Row]:
    first, again = zip(*side_by_side(mlflow_seconds, [()] * 6), strict=True)
    whole = params.load(ROOT / paths.PARAMS).report.epochs * epoch_seconds + statistics.median(first)
    share = 100 * statistics.median(first) / whole
    detail = f"{spread(first, ' s')} of {whole:.0f} s; {spread(again, ' s')} if it is imported already"
    return [Row("MLflow's part of a training without batch norm", share, 2, PERCENT, detail)]


# Memory and time of one training


def cost(folder: Path, count: int, epochs: int) -> tuple[float, float]:
    """Megabytes at the peak, and the seconds of training, with a ninth as many images for validation as in the pipeline."""
    train, held_out = examples(folder, "pool", count), examples(folder, "test", count // 9)
    few = examples(folder, "test", 10 * BATCH)
    loop.fit(hyperparameters(), few, few)  # warm
    start = time.perf_counter()
    loop.fit(hyperparameters(epochs=epochs), train, held_out)
    seconds = time.perf_counter() - start
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, seconds


def memory(folder: Path) -> tuple[list[Row], float]:
    """Return the rows, and the seconds of an epoch of 54,000 images and its validation; a training on each core at once."""
    # In this order two cores end at the same time.
    jobs = [(60_000, 1), (40_000, 1), (10_000, 3), (20_000, 1), (10_000, 1)]
    rounds = [side_by_side(cost, [(folder, *job) for job in jobs]) for _ in range(2)]
    costs = dict(zip(jobs, zip(*rounds, strict=True), strict=True))
    counts = sorted(count for count, epochs in jobs if epochs == 1)
    megabytes = {count: max(size for size, _ in costs[count, 1]) for count in counts}
    seconds = {count: [took for _, took in costs[count, 1]] for count in counts}
    longer = max(size for size, _ in costs[10_000, 3])
    peak, grown = max(megabytes.values()), longer / megabytes[10_000]
    sizes = ", ".join(f"{count // 1000}k {size:.0f}" for count, size in megabytes.items())
    times = ", ".join(f"{count // 1000}k {spread(took, ' s')}" for count, took in seconds.items())
    rates = [count / statistics.median(took) for count, took in seconds.items()]
    uneven = max(rates) / min(rates)
    what = "Time linear in images: fastest against slowest rate"
    rows = [
        Row("Peak memory of a training", peak, 700, "{:.0f} MB", f"images: {sizes}"),
        Row("Peak memory of 3 epochs against 1", grown, 1.05, RATIO, f"{longer:.0f} MB"),
        Row(what, uneven, 1.25, RATIO, f"images: {times}; {CORES} at once"),
    ]
    return rows, 54_000 / statistics.median(rates)


# A good model fast


def fast_training(folder: Path) -> tuple[float, float, float]:
    """Return seconds of training, validation accuracy and test accuracy of the recipe FAST."""
    pool, settings = examples(folder, "pool"), params.load(ROOT / paths.PARAMS)
    kept, held_out = splits.split_indices(len(pool.images), settings.data.validation_fraction, settings.data.seed)
    train, validation = (loop.Examples(*(part[torch.from_numpy(places)] for part in pool)) for places in (kept, held_out))
    start = time.perf_counter()
    network, history = loop.fit(settings.hyperparameters(params.TRIAL).model_copy(update=FAST), train, validation)
    seconds = time.perf_counter() - start
    return seconds, history[-1].val_accuracy, loop.evaluate(network, examples(folder, "test"))[1]


def fast(folder: Path) -> list[Row]:
    seconds, validated, tested = apart(fast_training, folder)
    recipe = " ".join(f"-S {name}={json.dumps(value)}" for name, value in FAST.items())
    detail = f"`dvc exp run {recipe}`: validation {validated:.2%}, test {tested:.2%}"
    least = next(iter(REPORT.values())).test_accuracy
    what = f"Training to the report's {least} % on the test set, one core"
    return [Row(what, seconds if 100 * tested >= least else math.inf, 12, "{:.3g} s", detail)]


# DVC


def timed(command: Sequence[str], folder: Path, variables: dict[str, str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, env=variables, check=True, capture_output=True)
    return time.perf_counter() - start


def commit(folder: Path) -> None:
    """Commit all, as whoever runs this or as nobody."""
    identity = ("-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "add", "-A"], cwd=folder, check=True)
    subprocess.run(["git", *identity, "commit", "-qm", "bench", "--allow-empty"], cwd=folder, check=True)
    for key, value in (("user.name", "bench"), ("user.email", "bench@localhost")):
        subprocess.run(["git", "config", key, value], cwd=folder, check=True)


def made_by(stage: dict[str, Any]) -> list[str]:
    """Return the paths of a stage's outputs and metrics, without what dvc.yaml says of each."""
    return [out if isinstance(out, str) else next(iter(out)) for out in [*stage["outs"], *stage.get("metrics", [])]]


def without_code(pipeline: dict[str, Any]) -> dict[str, Any]:
    """Return a dvc.yaml's stages, outputs and parameters, with commands that only make the outputs.

    What no stage makes, such as code, is no dependency.
    """
    bodies = {name: stage.get("do", stage) for name, stage in pipeline["stages"].items()}
    made = [f"{out}/" for body in bodies.values() for out in made_by(body)]
    stages = {}
    for name, stage in pipeline["stages"].items():
        deps = [dep for dep in bodies[name].get("deps", []) if any(out.startswith(f"{dep}/") for out in made)]
        cmd = " && ".join(f"mkdir -p $(dirname {out}) && echo '{{}}' > {out}" for out in made_by(bodies[name]))
        body = {**bodies[name], "cmd": cmd, "deps": deps}
        stages[name] = {**stage, "do": body} if "do" in stage else body
    return {**pipeline, "stages": stages}


def pipeline() -> list[Row]:
    """Measure the pipeline on the sample, in a throw-away clone of what is committed."""
    with tempfile.TemporaryDirectory() as folder:
        project, plain = Path(folder, "project"), Path(folder, "plain")
        subprocess.run(["git", "clone", "-q", ROOT, project], check=True)
        variables = environment(project, MLFLOW_DISABLE_TELEMETRY="true")
        variables.pop("QUARTET_MNIST", None)
        settings = (project / paths.PARAMS).read_text().replace("source: auto", "source: sample")
        (project / paths.PARAMS).write_text(settings)
        (project / ".venv").symlink_to(sys.prefix)
        subprocess.run(["make"], cwd=project, env=variables, check=True, capture_output=True)
        commit(project)
        plain.mkdir()
        subprocess.run(["git", "init", "-q"], cwd=plain, check=True)
        subprocess.run(["dvc", "init", "-q"], cwd=plain, env=variables, check=True)
        subprocess.run(["dvc", "stage", "add", "-q", "-n", "only", "true"], cwd=plain, env=variables, check=True)
        shutil.copy(project / ".dvc" / "config", plain / ".dvc" / "config")
        codeless = Path(folder, "codeless")
        shutil.copytree(project / ".dvc", codeless / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
        shutil.copy(project / paths.PARAMS, codeless)
        subprocess.run(["git", "init", "-q"], cwd=codeless, check=True)
        (codeless / "dvc.yaml").write_text(yaml.safe_dump(without_code(yaml.safe_load((project / "dvc.yaml").read_text()))))
        subprocess.run(["dvc", "repro", "-q"], cwd=codeless, env=variables, check=True)
        ours: list[float] = []
        floor: list[float] = []
        bare: list[float] = []
        for _ in range(6):
            for seconds, place in ((ours, project), (floor, codeless), (bare, plain)):
                seconds.append(timed(["dvc", "repro"], place, variables))
        ratio, least = median_ratio(ours[1:], bare[1:]), median_ratio(floor[1:], bare[1:])
        detail = (
            f"{spread(ours[1:], ' s')} of {spread(bare[1:], ' s')};"
            f" {least:.2f} × for the same stages that do nothing and depend on no code"
        )
        # The second with another seed: the first is in DVC's cache.
        experiments = [
            timed(["dvc", "exp", "run", "-S", "bn=true", *more], project, variables) for more in ((), ("-S", "seed=1"))
        ]
    each = "trial, evaluate and plot; " + " and ".join(f"{experiment:.3g} s" for experiment in experiments)
    return [
        Row("`dvc repro` with nothing to do, against that of one stage `true`", ratio, 1.3, RATIO, detail),
        Row("`dvc exp run -S bn=true` on the sample", statistics.mean(experiments), 25, "{:.3g} s", each),
    ]


# The table


def table(rows: Sequence[Row], title: str, seconds: float) -> str:
    return (
        f"`{' '.join(['python', 'bench/bench.py', *sys.argv[1:]])}` on {publish.machine()}; {title}; float32, batches of"
        f" {BATCH}; ours on one thread a training; load {os.getloadavg()[0]:.1f}; median (quartiles); {seconds:.0f} s.\n\n"
        f"{markdown(rows)}\n"
    )


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    started = time.perf_counter()
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        title = prepare(folder)
        rows: list[Row] = []
        costs, epoch_seconds = memory(folder)
        for part in (
            lambda: one_training(folder),
            lambda: same_loss(folder),
            lambda: four_trainings(folder),
            pipeline,
            lambda: tracking_share(epoch_seconds),
            lambda: costs,
            lambda: fast(folder) if title == "MNIST" else [],
        ):
            for row in part():
                rows.append(row)
                print("bench: {}: {} ({}: {}); {}".format(*row.cells(), row.detail), flush=True)
    text = table(rows, title, time.perf_counter() - started)
    publish.quote("bench", text, PAGE)
    print(f"\n{text}")


if __name__ == "__main__":
    main()
