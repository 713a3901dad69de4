"""Run functions beside each other as Ray tasks: on this machine, or on the cluster that RAY_ADDRESS names."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from secrets import token_hex
from typing import Any

from quartet.base import numerics
from quartet.base.errors import InputError, WorkError

MEMORY = 1 << 30  # bytes that a task may need
RETRIES = 3  # of a task whose process or node is lost
STORE = 256 << 20  # bytes for what tasks share, on this machine
PACKAGES = ("torch", "numpy", "safetensors")  # whose versions must be the same everywhere
LOCAL, LOOPBACK = "local", "127.0.0.1"
PATIENCE = 120  # seconds for a node to say what it is
ADVICE = "install what requirements.txt names there, or take the node out"
# Defaults for Ray, which the user may override: it reports to nobody and says nothing about GPUs.
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def describe_node() -> Mapping[str, str]:
    """Describe what a node computes with: two nodes that have the same compute the same bytes."""
    versions = {name: version(name).partition("+")[0] for name in PACKAGES}
    departure = numerics.departure()
    return {"Python": platform.python_version(), **versions, "numeric contract": departure or "kept"}


def _work(expected: Mapping[str, str], work: Callable[..., bytes], shared: Any, arguments: Sequence[Any]) -> bytes:
    """Do one task, unless its node, which may have come late, is another one than `expected`."""
    if problem := _difference(expected, describe_node()):
        raise InputError(f"node {platform.node()}: {problem}; {ADVICE}")
    return work(shared, *arguments)


def _difference(expected: Mapping[str, str], found: Mapping[str, str]) -> str:
    """Say what a node has otherwise; nothing if it is as expected."""
    differing = [
        f"expected {key} {value}, found {found.get(key)}" for key, value in expected.items() if found.get(key) != value
    ]
    return "; ".join(differing)


@contextmanager
def cluster() -> Iterator[list[str]]:
    """Join the cluster that RAY_ADDRESS names, or start one that ends with the block and that only this machine can reach.

    The block gets the names of the nodes. A block within a block uses the same cluster. InputError if the cluster cannot be
    joined, if a node would not compute the same bytes, or if none has room for a task.
    """
    address = os.environ.get("RAY_ADDRESS") or LOCAL  # without an address Ray joins whatever runs on this machine
    own = address == LOCAL
    # With a token of its own, other users of this machine cannot reach it, and Ray writes none to the home directory.
    for name, value in {**SETTINGS, **({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token_hex(32)} if own else {})}.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise InputError("Ray is not installed; `make study` installs it") from None
    if ray.is_initialized():  # within another block of this kind
        yield _check_nodes()
        return
    _check_reachable(address)
    variables = {**numerics.variables(), **{name: os.environ[name] for name in (numerics.SWITCH,) if name in os.environ}}
    package = str(Path(__file__).parents[1])
    environment = {"env_vars": variables, "py_modules": [package], "excludes": ["**/__pycache__"]}
    handler = signal.getsignal(signal.SIGTERM)
    place: AbstractContextManager[dict[str, Any]] = _own_cluster() if own else nullcontext({})
    with place as options:
        try:
            try:
                ray.init(address, runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR, **options)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise InputError(f"RAY_ADDRESS: {address}: no cluster that this Ray can join: {_gist(error)}") from None
            signal.signal(signal.SIGTERM, handler)  # Ray has replaced it
            yield _check_nodes()
        finally:
            ray.shutdown()


@contextmanager
def _own_cluster() -> Iterator[dict[str, Any]]:
    """Yield the options of a cluster on this machine, which listens on loopback alone and leaves no files."""
    from ray._private import services

    services.resolve_ip_for_localhost = lambda host: host  # else Ray listens on this machine's address in the network
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # a socket's path has at most 107 bytes
    try:
        yield {
            "_node_ip_address": LOOPBACK,
            "_temp_dir": folder,
            "include_dashboard": False,
            "num_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "object_store_memory": STORE,
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_reachable(address: str) -> None:
    """Raise InputError if nothing listens at an address of the form host:port: Ray would try for many minutes."""
    host, _, port = address.rpartition(":")
    if host and "/" not in host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=PATIENCE / 10).close()
        except OSError as error:
            raise InputError(f"RAY_ADDRESS: {address}: no cluster there: {error.strerror or error}") from None


def _gist(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _check_nodes() -> list[str]:
    """Return the names of the nodes; InputError names one that is other than this one, or says that none has room."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"]]
    names = [f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})" for node in nodes]
    rooms = [(node["Resources"].get("CPU", 0), node["Resources"].get("memory", 0)) for node in nodes]
    if not any(cores >= 1 and memory >= MEMORY for cores, memory in rooms):
        pairs = zip(names, rooms, strict=True)
        found = "; ".join(f"{name} has {cores:g} and {memory / 2**30:.1f} GiB" for name, (cores, memory) in pairs)
        raise InputError(f"Ray: expected a node with a core and {MEMORY / 2**30:.1f} GiB of memory for a training; {found}")
    look, expected = ray.remote(num_cpus=0)(describe_node), describe_node()
    places = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
    answers = [look.options(scheduling_strategy=place).remote() for place in places]
    there = []
    for name, answer in zip(names, answers, strict=True):
        try:
            problem = _difference(expected, ray.get(answer, timeout=PATIENCE))
        except ray.exceptions.TaskUnschedulableError:
            continue  # the node was lost a moment ago
        except ray.exceptions.RayError as error:
            problem = _gist(error)
        if problem:
            raise InputError(f"node {name}: {problem}; {ADVICE}")
        there.append(name)
    return there


def run(work: Callable[..., bytes], shared: Any, tasks: Sequence[Sequence[Any]]) -> Iterator[tuple[int, bytes]]:
    """Do `work(shared, *arguments)` for each task's arguments, in a `cluster`; yield each number and result as it is done.

    `shared` is sent once. A task whose process or node is lost is done again, RETRIES times at most; WorkError after that,
    or if it raises; InputError if a node that came late would not compute the same bytes. What still runs then ends with the
    cluster, or with this program's part in it: Ray dies of `ray.cancel` if the task ends at that moment.
    """
    import ray

    task = ray.remote(num_cpus=1, memory=MEMORY, max_retries=RETRIES, retry_exceptions=False)(_work)
    expected, function, data = describe_node(), ray.put(work), ray.put(shared)
    waiting = {task.remote(expected, function, data, arguments): number for number, arguments in enumerate(tasks)}
    try:
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            number = waiting.pop(done)
            try:
                yield number, ray.get(done)
            except ray.exceptions.TaskCancelledError:  # Ctrl-C in a terminal reaches Ray's processes as well
                raise KeyboardInterrupt from None
            except ray.exceptions.RayTaskError as error:
                cause = error.cause
                told = isinstance(cause, (InputError, WorkError))
                raise cause if told else WorkError(f"a training failed: {cause!r}") from error
            except ray.exceptions.RayError as error:
                raise WorkError(f"a training was lost, with its process or node: {_gist(error)}; run again") from None
    except SystemError as error:  # how Ray's compiled code passes on the exception of a signal
        raise error.__cause__ or error from None
