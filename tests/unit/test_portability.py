"""`make portability`, with a script in place of the emulator, which needs minutes; CI runs the real one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from project import ROOT, keep_ten_alone
from quartet.base import numerics, params, paths
from quartet.base.errors import WorkError
from quartet.commands import portability

QUARTET = Path(sys.executable).with_name("quartet")

pytestmark = pytest.mark.contract

# An emulator of a processor without AVX2.
EMULATOR = f"""#!/bin/sh
[ "$2" = help ] && echo "x86 Old" && exit
export {numerics.SWITCH}=off ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41
shift 2
exec "$@"
"""


def compare(workspace, *arguments, emulated=True):
    emulator = workspace / "bin" / "qemu-x86_64"
    system = ""
    if emulated:
        system = ":/usr/bin:/bin"
        emulator.parent.mkdir()
        emulator.write_text(EMULATOR, encoding="utf-8")
        emulator.chmod(0o755)
    return subprocess.run(
        [QUARTET, "portability", *arguments],
        cwd=workspace,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT / "src"),
            "PATH": f"{emulator.parent}{system}",
            "TMPDIR": str(workspace),
        },
        capture_output=True,
        text=True,
        check=False,
    )


def rows(output):
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in output.splitlines() if line.startswith("|")]
    return {path: others for path, _, *others in cells[2:]}


def test_every_output_of_every_training_is_compared(workspace):
    keep_ten_alone(paths.PARAMS)
    done = compare(workspace, "Old")
    assert (done.returncode, done.stderr) == (1, "quartet: error: 1 of 1 differ from this processor\n")
    found = rows(done.stdout)
    for name in params.load().trainings:
        for file in ("model.safetensors", "history.csv", "summary.json"):
            assert f"stages/train/{name}/{file}" in found
    assert {
        "data/split/train.safetensors",
        "stages/evaluate/history.csv",
        "stages/evaluate/metrics.json",
        "stages/evaluate/predictions.csv",
        "stages/plot/figures/loss-ten.png",
        "stages/plot/figures/confusion-trial.png",
        "stages/plot/results.md",
        "stages/page/index.html",
        "further/stages/train/trial/model.safetensors",
    } <= set(found)
    assert {old for path, (old,) in found.items() if path.endswith("model.safetensors")} == {"DIFFERS"}
    assert found["data/split/train.safetensors"] == ["same"]


@pytest.mark.parametrize(
    ("emulated", "argument", "problem"),
    [
        (False, "Old", "qemu-x86_64: not installed; on Debian and Ubuntu: apt-get install qemu-user"),
        (True, "Unknown", "Unknown: not a processor of qemu-x86_64; `qemu-x86_64 -cpu help` lists them"),
        (True, "/no/such/python", "/no/such/python: expected a Python interpreter"),
    ],
)
def test_what_cannot_be_compared_with_is_refused(workspace, emulated, argument, problem):
    done = compare(workspace, argument, emulated=emulated)
    assert done.returncode == 2
    assert done.stderr.startswith(f"quartet: error: {problem}")
    assert done.stderr.count("\n") == 1


def test_an_output_that_only_one_run_has_differs():
    assert rows(portability.table({"here": {"a": "1" * 64}, "there": {"a": "1" * 64, "b": "2" * 64}})) == {
        "a": ["same"],
        "b": ["DIFFERS"],
    }


def test_a_run_that_fails_is_told_with_its_last_words(workspace, tmp_path):
    emulator = tmp_path / "emulator"
    emulator.write_text("#!/bin/sh\necho warning: TCG doesn\\'t support >&2; echo no such instruction >&2; exit 132")
    emulator.chmod(0o755)
    endless = tmp_path / "endless"
    endless.write_text("#!/bin/sh\nexec sleep 1000")
    endless.chmod(0o755)
    problem = f"{emulator} -cpu Known: status 132: no such instruction"
    # The other run would take for ever: it is ended.
    with pytest.raises(WorkError, match=problem), portability.ShortRuns() as runs:
        runs.all({"endless": [str(endless)], "bad": [str(emulator), "-cpu", "Known"]}, tmp_path / "run")


@pytest.mark.parametrize("crashes", [1, 2])
def test_a_run_that_crashes_is_done_once_more(workspace, tmp_path, capfd, crashes):
    emulator, count = tmp_path / "emulator", tmp_path / "count"
    emulator.write_text(
        f"#!/bin/sh\necho x >> {count}\n[ $(wc -l < {count}) -gt {crashes} ] || kill -SEGV $$\nmkdir -p stages/plot\n"
        "echo done > stages/plot/results.md\n"
    )
    emulator.chmod(0o755)
    with portability.ShortRuns() as runs:
        if crashes == 1:
            found = runs.all({"it": [str(emulator)]}, tmp_path / "run")["it"]
            assert "stages/plot/results.md" in found
        else:
            with pytest.raises(WorkError, match=f"{emulator}: status -11"):
                runs.all({"it": [str(emulator)]}, tmp_path / "run")
    assert count.read_text().count("x") == 2
    assert capfd.readouterr().err == f"quartet: warning: {emulator}: crashed; it is run once more\n"
