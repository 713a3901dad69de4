"""The parallel repro, on small DVC projects that have nothing of this one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from project import ROOT, start_dvc
from quartet.commands import repro
from quartet.commands.repro import Step

# Each of two stages waits until the other has begun: one after the other they fail.
MEET = "touch {mine}.begun; for n in $(seq 300); do [ -e {other}.begun ] && break; sleep 0.1; done; [ -e {other}.begun ]"


def stage(name, *deps, cmd=None, **more):
    """A stage that joins its dependencies into a file of its name."""
    join = f"cat {' '.join(deps)} /dev/null > {name} && echo {name} >> {name}"
    return {"cmd": f"{cmd} && {join}" if cmd else join, "deps": list(deps), "outs": [name], **more}


DIAMOND = {
    "top": stage("top"),
    "left": stage("left", "top", cmd=MEET.format(mine="left", other="right")),
    "right": stage("right", "top", cmd=MEET.format(mine="right", other="left")),
    "bottom": stage("bottom", "left", "right"),
}


class Pipeline:
    def __init__(self, root, stages):
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GIT_"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.env = {**kept, "PYTHONPATH": str(ROOT / "src"), "PATH": path, "HOME": str(root)}
        start_dvc(root, stages)

    def write(self, stages, folder=""):
        (self.root / folder).mkdir(exist_ok=True)
        (self.root / folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False), encoding="utf-8")

    def call(self, *command):
        return subprocess.run(command, cwd=self.root, env=self.env, capture_output=True, text=True, check=False)

    def start(self, *arguments):
        command = ["quartet", "repro", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.root, env=self.env, stdout=pipe, stderr=pipe, text=True)

    def repro(self, *arguments):
        return self.call("quartet", "repro", *arguments)

    def lock(self):
        return (self.root / "dvc.lock").read_text(encoding="utf-8")

    def ran(self, output):
        return sorted(re.findall(r"Running stage '(.+?)'", output))


@pytest.fixture
def pipeline(tmp_path):
    return lambda stages, name="project": Pipeline(tmp_path / name, stages)


def wait_for(path):
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.1)
    raise AssertionError(path)


def test_a_diamond_is_run_side_by_side_to_dvcs_own_lock(pipeline):
    ours = pipeline(DIAMOND)
    done = ours.repro("--jobs", "2")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert ours.ran(done.stdout) == sorted(DIAMOND)
    assert done.stdout.splitlines()[-1] == "repro: up to date; ran 4 of 4 stages"
    assert all(re.match(r"(top|left|right|bottom) +\| ", line) for line in done.stdout.splitlines()[:-1])
    assert (ours.root / "bottom").read_text().split() == ["top", "left", "top", "right", "bottom"]
    theirs = pipeline(DIAMOND, "dvc")
    for name in ("left.begun", "right.begun"):
        (theirs.root / name).touch()
    assert theirs.call("dvc", "repro").returncode == 0
    assert ours.lock() == theirs.lock()
    again = ours.repro("--jobs", "2")
    assert ours.ran(again.stdout) == []
    assert again.stdout.splitlines()[-1] == "repro: up to date; ran 0 of 4 stages"
    assert ours.lock() == theirs.lock()


def test_one_job_is_one_stage_at_a_time(pipeline):
    slow = {name: stage(name, cmd="mkdir busy && sleep 0.3 && rmdir busy") for name in ("one", "two", "three")}
    done = pipeline(slow).repro("-j", "1")
    assert done.returncode == 0, done.stderr


def test_a_failure_is_named_and_the_rest_is_stopped(pipeline):
    slow = stage("slow", cmd="touch slow.begun && sleep 100")
    bad = stage("bad", cmd="until [ -e slow.begun ] && grep -qs good: dvc.lock; do sleep 0.1; done; exit 7")
    ours = pipeline({"good": stage("good"), "slow": slow, "bad": bad, "last": stage("last", "bad")})
    begun = time.monotonic()
    done = ours.repro("--jobs", "3")
    assert time.monotonic() - begun < 60
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "quartet: error: bad failed: `dvc repro --single-item bad` ended with status 255"
    )
    assert "bad" in done.stderr
    assert "exited with 7" in done.stderr
    assert "last" not in ours.ran(done.stdout)
    assert list(yaml.safe_load(ours.lock())["stages"]) == ["good"]
    ours.write({"good": stage("good"), "slow": stage("slow"), "bad": stage("bad"), "last": stage("last", "bad")})
    done = ours.repro("--jobs", "3")
    assert ours.ran(done.stdout) == ["bad", "last", "slow"]
    assert list(yaml.safe_load(ours.lock())["stages"]) == ["good", "slow", "bad", "last"]


def test_a_stage_whose_dvc_is_killed_is_named(pipeline):
    ours = pipeline({"slow": stage("slow", cmd="touch slow.begun && sleep 100")})
    process = ours.start()
    wait_for(ours.root / "slow.begun")
    (dvc,) = [child for child in psutil.Process(process.pid).children() if "--single-item" in child.cmdline()]
    dvc.kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.splitlines()[-1] == "quartet: error: slow failed: `dvc repro --single-item slow` was killed by SIGKILL"


@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM"), (signal.SIGHUP, 129, "SIGHUP")],
)
def test_a_signal_stops_every_stage(pipeline, number, status, word):
    names = ("one", "two")
    ours = pipeline({name: stage(name, cmd=f"touch {name}.begun && sleep 100") for name in names})
    process = ours.start("--jobs", "2")
    for name in names:
        wait_for(ours.root / f"{name}.begun")
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert errors.splitlines()[-1] == f"quartet: stopped by {word}"
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    assert not (ours.root / "one").exists()


def test_a_second_ctrl_c_ends_stages_that_do_not_listen(pipeline):
    ours = pipeline({"deaf": stage("deaf", cmd="trap '' INT TERM && touch deaf.begun && sleep 100")})
    process = ours.start()
    wait_for(ours.root / "deaf.begun")
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


def test_the_lock_that_a_killed_dvc_cut_short_is_reported(pipeline):
    ours = pipeline({"only": stage("only", cmd="printf 'schema: [' > dvc.lock && exit 7")})
    done = ours.repro()
    assert done.returncode == 1
    assert "quartet: warning: DVC: " in done.stderr
    assert done.stderr.splitlines()[-1].startswith("quartet: error: only failed: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("content", ["{", "[]", '{"only": "soon"}'])
def test_damaged_seconds_count_as_unknown(tmp_path, content):
    (tmp_path / repro.RECORD).write_text(content, encoding="utf-8")
    assert repro.past_seconds(tmp_path / repro.RECORD) == {}


def test_a_frozen_stage_needs_nothing(pipeline):
    ours = pipeline({"first": stage("first"), "second": stage("second", "first"), "third": stage("third", "second")})
    assert ours.repro().returncode == 0
    ours.write(
        {
            "first": stage("first", cmd="true"),
            "second": stage("second", "first", frozen=True),
            "third": stage("third", "second", cmd="true"),
        }
    )
    done = ours.repro("third")
    assert done.returncode == 0, done.stderr
    assert ours.ran(done.stdout) == ["third"]


def test_foreach_and_another_folders_stages_are_known(pipeline):
    each = {"foreach": ["a", "b"], "do": stage("out-${item}", "data/raw")}
    ours = pipeline({"each": each, "sum": stage("sum", "out-a", "out-b")})
    ours.write({"fetch": stage("raw"), "other": stage("unneeded")}, "data")
    done = ours.repro("--jobs", "2")
    assert done.returncode == 0, done.stderr
    # By default what dvc.yaml needs of the other folder, as `dvc repro` has it.
    assert ours.ran(done.stdout) == ["data/dvc.yaml:fetch", "each@a", "each@b", "sum"]
    assert (ours.root / "sum").read_text().split() == ["raw", "out-a", "raw", "out-b", "sum"]
    assert list(yaml.safe_load(ours.lock())["stages"]) == ["each@a", "each@b", "sum"]
    assert ours.ran(ours.repro("data/dvc.yaml").stdout) == ["data/dvc.yaml:other"]


def test_a_line_does_not_repeat_the_stages_name(pipeline):
    said = ("a  epoch 1/2  loss 0.1", "a: b", "a b", "say a: b", "a epochs", "a:b")
    ours = pipeline({"train": {"foreach": ["a"], "do": stage("a", cmd="; ".join(f"echo '{line}'" for line in said))}})
    lines = [line.partition(" | ")[2] for line in ours.repro().stdout.splitlines()]
    assert lines[2:8] == ["epoch 1/2  loss 0.1", "b", *said[2:]]


def test_the_seconds_of_each_stage_are_kept(pipeline):
    ours = pipeline({"first": stage("first"), "second": stage("second", "first", cmd="sleep 0.3")})
    assert ours.repro().returncode == 0
    record = ours.root / ".dvc/tmp" / repro.RECORD
    before = json.loads(record.read_text())
    assert before.keys() == {"first", "second"}
    assert before["second"] > 0.3
    assert ours.repro().returncode == 0
    assert json.loads(record.read_text()) == before


EDITS = {
    "lr: 0.5\ndeep: {key: 1}\nelse: 1\n": ["params.yaml: lr"],
    "deep: {key: 1}\nelse: 1\n": ["params.yaml: lr"],
    "lr: 0.1\ndeep: {key: [1]}\nelse: 1\n": ["params.yaml: deep.key"],
    "lr: [": ["params.yaml: lr", "params.yaml: deep.key"],
    "": ["params.yaml: lr", "params.yaml: deep.key"],
    "lr: 0.1\ndeep: {key: 1}\nelse: 2\n": [],
}


@pytest.mark.parametrize(("text", "changed"), EDITS.items())
def test_a_stage_whose_parameters_changed_is_not_begun(pipeline, text, changed):
    wait = "touch first.begun && until [ -e go ]; do sleep 0.1; done"
    stages = {
        "first": stage("first", cmd=wait),
        "second": stage("second", "first", params=["lr", "deep.key"]),
        "third": stage("third", "second"),
    }
    ours = pipeline(stages)
    params = ours.root / "params.yaml"
    params.write_text("lr: 0.1\ndeep: {key: 1}\nelse: 1\n", encoding="utf-8")
    process = ours.start()
    wait_for(ours.root / "first.begun")
    params.write_text(text, encoding="utf-8")
    (ours.root / "go").touch()
    output, said = process.communicate(timeout=60)
    if changed:
        assert process.returncode == 1
        assert sorted(said.partition(" changed ")[0].removeprefix("quartet: error: ").split(", ")) == sorted(changed)
        assert said.endswith(" changed before second began; run again\n")
        assert said.count("\n") == 1
        assert ours.ran(output) == ["first"]
    else:
        assert (process.returncode, said) == (0, ""), output


def test_the_longest_chain_is_first():
    steps = [
        Step("fetch", frozenset()),
        *(Step(name, frozenset({"fetch"})) for name in "abc"),
        Step("end", frozenset("abc")),
    ]
    chains = repro.priorities(steps, {"fetch": 1, "a": 5, "b": 9, "c": 2, "end": 3})
    assert chains == {"end": 3, "a": 8, "b": 12, "c": 5, "fetch": 13}
    # One that never ran counts as the mean.
    assert repro.priorities([Step("new", frozenset())], {"a": 2, "b": 4}) == {"new": 3}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--jobs", "0"], "quartet: error: --jobs: expected at least 1, found 0"),
        (["nosuch"], "quartet: error: DVC: Stage 'nosuch' not found inside 'dvc.yaml' file"),
        (["--jobs", "two"], "argument -j/--jobs: invalid int value: 'two'"),
    ],
)
def test_a_bad_command_line_is_refused(pipeline, arguments, problem):
    done = pipeline({"only": stage("only")}).repro(*arguments)
    assert done.returncode == 2
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


def test_a_dvc_yaml_that_dvc_cannot_read_is_refused(pipeline):
    ours = pipeline({"only": stage("only")})
    (ours.root / "dvc.yaml").write_text("stages: {only: {cmd: [", encoding="utf-8")
    done = ours.repro()
    assert done.returncode == 2
    assert done.stderr.startswith("quartet: error: DVC: ")
    assert done.stderr.count("\n") == 1


def test_force_runs_what_did_not_change(tmp_path):
    pipeline = Pipeline(tmp_path, {"first": stage("first"), "second": stage("second", "first"), "other": stage("other")})
    pipeline.repro()
    before = pipeline.lock()
    assert pipeline.ran(pipeline.repro().stdout) == []
    assert pipeline.ran(pipeline.repro("--force", "second").stdout) == ["first", "second"]
    assert pipeline.lock() == before
