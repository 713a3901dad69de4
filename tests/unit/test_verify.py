"""`make verify`: what it says of outputs; that they are the published ones on MNIST is for CI to see."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from project import ROOT
from quartet.base import files, params, paths
from quartet.commands import outputs
from quartet.commands.verify import surroundings

QUARTET = Path(sys.executable).with_name("quartet")

pytestmark = pytest.mark.contract


@pytest.fixture
def project(workspace):
    files.write_record(paths.SOURCE, {"data": "mnist"})
    for name in params.load().trainings:
        for path in (paths.model(name), paths.history(name), paths.summary(name)):
            files.write_bytes(path, f"{name} {path.name}".encode())
    for path in (paths.METRICS, paths.PREDICTIONS, paths.FIGURES / "loss-ten.png", paths.RESULTS, paths.PAGE):
        files.write_bytes(path, path.name.encode())
    outs = [{"path": path} for path in outputs.hashes()]
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"all": {"outs": outs}}}), encoding="utf-8")
    outputs.write(outputs.hashes())
    return workspace


def verify(folder, *arguments):
    return subprocess.run(
        [QUARTET, "verify", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_outputs_that_are_the_published_ones_are_identical(project):
    done = verify(project, "--here")
    assert (done.returncode, done.stderr) == (0, "")
    names = params.load().trainings
    assert done.stdout.splitlines() == [
        "data                 identical (1 files)",
        *(f"{name:<20} identical (3 files)" for name in names),
        "evaluation           identical (2 files)",
        "figures and tables   identical (2 files)",
        "page                 identical (1 files)",
        f"verify: all {1 + 3 * len(names) + 2 + 2 + 1} outputs are the published ones, byte for byte",
    ]


def test_one_changed_byte_of_a_published_hash_is_named(project):
    path = "stages/train/four/model.safetensors"
    record = outputs.read()
    digest = record["outputs"][path]
    changed = ("1" if digest[0] == "0" else "0") + digest[1:]
    record["outputs"][path] = changed
    record["made_on"]["processor"] = "another processor"
    outputs.FILE.write_text(json.dumps(record), encoding="utf-8")
    done = verify(project, "--here")
    assert done.returncode == 1
    assert done.stderr == "quartet: error: this is not what was published, see above\n"
    lines = done.stdout.splitlines()
    assert f"{'four':<20} differs in 1 files, first {path}" in lines
    assert sum("identical" in line for line in lines) == len(list(outputs.parts(params.load().trainings))) - 1
    assert f"verify: the first difference is {path}: SHA-256 {digest}, published {changed}" in lines
    assert any("published on another processor" in line for line in lines)
    assert any(f"this is      {outputs.machine()['processor']}" in line for line in lines)


def test_a_changed_figure_is_told_with_the_figures_and_tables(project):
    (paths.FIGURES / "loss-ten.png").write_bytes(b"another")
    done = verify(project, "--here")
    assert done.returncode == 1
    assert "figures and tables   differs in 1 files, first stages/plot/figures/loss-ten.png" in done.stdout.splitlines()
    assert "evaluation           identical (2 files)" in done.stdout.splitlines()


def test_a_missing_output_is_named(project):
    paths.RESULTS.unlink()
    done = verify(project, "--here")
    assert done.returncode == 1
    assert "the first difference is stages/plot/results.md: SHA-256 (missing), published " in done.stdout


@pytest.mark.parametrize(
    ("named", "seen"),
    [
        ("mnist", "{here}/mnist"),
        ("/data/mnist", "/data/mnist"),
        ("https://example.org/mnist/", "https://example.org/mnist/"),
        ("", "{here}/data/raw"),
    ],
)
def test_the_clone_finds_mnist_where_the_user_names_it(project, monkeypatch, named, seen):
    (paths.RAW / "train-images-idx3-ubyte").touch()
    monkeypatch.setenv("QUARTET_MNIST", named)
    monkeypatch.setenv("GIT_DIR", "elsewhere")
    found = surroundings(project.resolve(), project)
    assert found["QUARTET_MNIST"] == seen.format(here=project.resolve())
    assert "GIT_DIR" not in found


def test_a_command_is_stopped_with_the_one_that_runs_it(tmp_path):
    code = f"""
from pathlib import Path
from quartet.base import process
from quartet.commands import verify
process.run(lambda: verify.call("sh", "-c", "touch begun; exec sleep 100", folder=Path({str(tmp_path)!r}), variables={{}}))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "begun").exists():
        assert process.poll() is None
    (child,) = psutil.Process(process.pid).children()
    process.terminate()
    assert process.communicate(timeout=60)[1] == "quartet: stopped by SIGTERM\n"
    assert process.returncode == 143
    assert not child.is_running()


def test_other_data_than_mnist_is_refused(project):
    files.write_record(paths.SOURCE, {"data": "sample"})
    done = verify(project, "--here")
    assert done.returncode == 1
    assert done.stderr.startswith("quartet: error: data/raw/source.json: expected mnist, found sample")
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)


@pytest.mark.parametrize(("arguments", "other"), [(["--there"], "--there"), (["--here", "again"], "again")])
def test_other_arguments_are_refused(project, arguments, other):
    done = verify(project, *arguments)
    assert done.returncode == 2
    assert (
        done.stderr.strip()
        == f"quartet: error: quartet verify: unrecognized arguments: {other}; `quartet verify --help` explains it"
    )
    assert done.stdout == ""


def test_a_clone_in_which_a_step_fails_is_told_in_one_line(project):
    done = verify(project)
    assert done.returncode == 1
    assert "quartet: error: `git clone" in done.stderr
    assert "Traceback" not in done.stderr
