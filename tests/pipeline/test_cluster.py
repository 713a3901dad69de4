"""The study on a cluster that others started: nodes that have neither this project's code nor its numeric contract."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest
from test_study import KEPT, outputs, set_study, train

from project import Project, clone, free_port, read_until, started
from quartet.base import files, paths
from quartet.study import engine

pytestmark = pytest.mark.cluster

ENTER = """
import os, signal, sys
from quartet.study import engine
engine.MEMORY = int(sys.argv[1])
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with engine.cluster() as nodes:
    import ray
    from ray._common.usage import usage_lib
    reports = usage_lib.usage_stats_enabled()
    print(len(nodes), ray.get_runtime_context().gcs_address, signal.getsignal(signal.SIGTERM).name, reports)
"""


class Cluster:
    """Nodes of Ray on this machine, each made as a user makes one: by `ray start`, with a Python that lacks this project."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "bare"], check=True)
        (site,) = (folder / "bare").glob("lib/python*/site-packages")
        # The packages, but not what .pth files among them add: an editable install of this project.
        (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
        self.python = str(folder / "bare/bin/python")
        self.temporary = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
        self.address = f"127.0.0.1:{free_port()}"
        ours = ("RAY_", "PYTHON", "QUARTET_", "ATEN_", "ONEDNN_", "MKL_", "NPY_")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self.token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

    def start(self, *options: str, **env: str) -> None:
        command = [self.python, "-m", "ray.scripts.scripts", "start", "--num-cpus=1", "--disable-usage-stats", *options]
        settings = self.env | self.token | {"RAY_worker_niceness": "0"} | env
        done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def start_head(self) -> None:
        port = self.address.rpartition(":")[2]
        here = ("--node-ip-address=127.0.0.1", f"--temp-dir={self.temporary}", "--include-dashboard=false")
        self.start("--head", f"--port={port}", *here)

    def join(self, **env: str) -> psutil.Process:
        """Add a node, and return the process that it lives by."""
        before = set(self.raylets())
        self.start(f"--address={self.address}", "--node-ip-address=127.0.0.1", **env)
        (raylet,) = set(self.raylets()) - before
        return raylet

    def raylets(self) -> list[psutil.Process]:
        return [process for process in self.processes() if process.name() == "raylet"]

    def processes(self) -> list[psutil.Process]:
        running = psutil.process_iter(["cmdline"])
        return [process for process in running if self.temporary in " ".join(process.info["cmdline"] or ())]

    def end(self) -> None:
        for process in self.processes():
            process.kill()
        shutil.rmtree(self.temporary, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        made.start_head()
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project whose study has trained on this machine alone, and the outputs that came of it."""
    project = clone(tmp_path_factory.mktemp("study"), epochs=1)
    project.run("dvc", "repro", "fetch")
    set_study(project)
    project.env["RAY_worker_niceness"] = "0"
    train(project)
    project.expected = outputs(project)
    return project


def enter(project: Project, memory: int = 1 << 30, **env: str) -> subprocess.CompletedProcess[str]:
    return project.run("python", "-c", ENTER, str(memory), check=False, PYTHONPATH="src", **env)


def test_the_nodes_lack_the_project(cluster):
    done = subprocess.run([cluster.python, "-c", "import torch, quartet"], env=cluster.env, capture_output=True, check=False)
    assert b"No module named 'quartet'" in done.stderr


def test_a_node_that_is_lost_changes_no_byte(project, cluster):
    """The same bytes as on one machine: the nodes get the code and the contract from the study."""
    raylet = cluster.join()
    shutil.rmtree(project.root / KEPT)
    with started(project, "python", "src/study.py", "trainings", RAY_ADDRESS=cluster.address, **cluster.token) as process:
        output = read_until(process, "study: 4/19")
        assert "2 nodes" in output
        raylet.kill()
        output = process.communicate()[0]
    assert process.returncode == 0, output
    assert outputs(project) == project.expected
    rows = files.read_csv(project.root / paths.STUDY_TRAININGS)
    assert {path.stem for path in (project.root / KEPT).glob("*")} == {row["fingerprint"] for row in rows}


def test_without_an_address_the_cluster_is_left_alone(project, cluster):
    done = enter(project)
    assert done.returncode == 0, done.stdout
    nodes, address, handler, reports = done.stdout.split()
    assert (nodes, handler) == ("1", "SIG_IGN")  # Ray would have replaced the handler
    assert reports == "False"  # to its makers
    assert address != cluster.address


def test_room_that_no_node_has_is_named(project, cluster):
    """Ray would wait for ever."""
    done = enter(project, 1 << 50, RAY_ADDRESS=cluster.address, **cluster.token)
    assert done.returncode == 1
    expected = r"InputError: Ray: expected a node with a core and 1048576\.0 GiB of memory .*\(\S+\) has 1 and"
    assert re.search(expected, done.stdout)


def test_a_node_without_the_contract_is_refused_by_name(project, cluster):
    raylet = cluster.join(QUARTET_NUMERIC_CONTRACT="off")
    next((project.root / KEPT).iterdir()).unlink()
    done = project.stage("study", "trainings", RAY_ADDRESS=cluster.address, **cluster.token)
    raylet.kill()
    assert done.returncode == 2
    assert_refused(done, "expected numeric contract kept, found QUARTET_NUMERIC_CONTRACT is off")


def assert_refused(done: subprocess.CompletedProcess[str], problem: str) -> None:
    line = done.stdout.splitlines()[-1]
    assert re.fullmatch(rf"quartet: error: node \S+ \(\S+\): {re.escape(problem)}; {engine.ADVICE}", line), done.stdout


def test_a_node_with_another_version_is_refused_by_name(project, cluster):
    """The nodes' own safetensors is another one, by what a package says of itself."""
    (site,) = Path(cluster.python).parent.parent.glob("lib/python*/site-packages")
    other = site / "safetensors-0.0.1.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: safetensors\nVersion: 0.0.1\n", encoding="utf-8")
    next((project.root / KEPT).iterdir()).unlink()
    done = project.stage("study", "trainings", RAY_ADDRESS=cluster.address, **cluster.token)
    shutil.rmtree(other)
    assert done.returncode == 2
    assert_refused(done, f"expected safetensors {version('safetensors')}, found 0.0.1")


def test_an_address_without_a_cluster_is_one_line(project):
    shutil.rmtree(project.root / KEPT)
    done = project.stage("study", "trainings", RAY_ADDRESS="127.0.0.1:9")
    assert done.returncode == 2
    assert done.stdout.splitlines()[-1].startswith("quartet: error: RAY_ADDRESS: 127.0.0.1:9: ")
