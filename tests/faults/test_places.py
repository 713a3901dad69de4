"""Odd places and damaged ones: what surrounds the pipeline, on copies of the project whose pipeline has run."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from project import STAGES, TRAININGS, Project, answers, copy_of, free_port, lock, outs, ran, runs, shipped, small_disk
from quartet.base import files

# One worker runs all that shares the finished project.
pytestmark = pytest.mark.xdist_group("finished")


@pytest.fixture(scope="module")
def moved(finished, tmp_path_factory):
    """The finished project, moved: MLflow's store still names the old place."""
    return copy_of(finished, tmp_path_factory.mktemp("it's #1, näïve"))


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): files.sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_pipeline_runs_in_a_path_with_special_characters(finished):
    """URLs and shells would read them otherwise. Then `make` has nothing to do."""
    assert set('"?; $') <= set(str(finished.root.resolve()))
    assert sorted(ran(finished.output)) == sorted(STAGES)
    assert "quartet: " not in finished.output
    done = finished.run("make", "CORES=2")
    assert ran(done.stdout) == []
    assert "quartet: " not in done.stdout
    found = [run for run in runs(finished) if "dvc.exp.name" not in run["tags"]]
    assert {(run["status"], len(run["models"]), len(run["artifacts"])) for run in found} == {("FINISHED", 1, 4)}
    assert sorted(run["name"] for run in found) == sorted(TRAININGS)


def test_a_path_that_dvc_cannot_push_to_has_no_copies(moved):
    """DVC refuses an experiment in a copy."""
    assert "#" in str(moved.root)
    before = contents(moved.root / "stages"), lock(moved)
    done = moved.run("dvc", "exp", "run", "--temp", "-S", "epochs=1", check=False)
    assert done.returncode != 0
    assert "ERROR: unexpected error" in done.stdout
    assert (contents(moved.root / "stages"), lock(moved)) == before


def test_a_project_may_have_spaces_and_letters_in_its_path(moved):
    assert set(" #'") <= set(str(moved.root))
    assert not str(moved.root).isascii()
    assert ran(moved.run("dvc", "repro", "--force", "--single-item", "plot").stdout) == ["plot"]
    assert ran(moved.run("dvc", "repro").stdout) == []


def test_a_moved_project_is_told_and_set_right_by_sync(moved, finished, within):
    """A training tells it."""
    before = contents(moved.root / "stages/train/ten")
    done = moved.stage("train", "ten")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("quartet: warning:") == 1
    assert "the project moved" in done.stdout
    assert "make sync" in done.stdout
    assert contents(moved.root / "stages/train/ten") == before
    assert "MLflow now finds its artifacts in" in moved.quartet("sync").stdout
    here = moved.root / "mlruns"
    assert [run["artifacts"] for run in runs(moved)] == [run["artifacts"] for run in runs(finished)]
    model = next(run for run in runs(moved) if run["name"] == "four-bn")["models"][0]
    old = finished.root.resolve()
    hidden = old.with_name("hidden")
    old.rename(hidden)
    try:
        within(moved, answers, model)
    finally:
        hidden.rename(old)
    assert here.is_dir()


def test_the_same_bytes_come_of_odd_surroundings(finished, tmp_path):
    """What a user has put beside the outputs is neither deleted nor taken for one."""
    places = ("data/raw", "data/split", "stages/train/four", "stages/evaluate", "stages/plot", "stages/page")
    own = [finished.root / place / "notes.txt" for place in places]
    for path in own:
        path.write_text("mine", encoding="utf-8")
    home = tmp_path / "home"
    without_utf8 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    without_home = {"HOME": str(home), "XDG_CONFIG_HOME": "", "XDG_CACHE_HOME": "", "MPLCONFIGDIR": ""}
    without_display = {"DISPLAY": ":99", "MPLBACKEND": "TkAgg"}
    before = outs(finished)
    with small_disk(home, "4k", "ro"):
        done = finished.run(
            *("dvc", "repro", "--force", "--single-item"),
            *("fetch", "preprocess", "train@four", "evaluate", "plot", "page"),
            **without_utf8,
            **without_home,
            **without_display,
        )
    assert "Traceback" not in done.stdout
    assert ran(done.stdout) == ["fetch", "preprocess", "train@four", "evaluate", "plot", "page"]
    assert outs(finished) == before
    assert [path.read_text(encoding="utf-8") for path in own] == ["mine"] * len(own)
    for path in own:
        path.unlink()
    finished.run("git", "checkout", "-q", "dvc.lock")  # preprocess depends on the folder data/raw/


def test_make_asks_no_login_shell(finished):
    """DVC runs stages by $SHELL, which for some users is one that runs nothing."""
    done = finished.run("make", "-s", "--eval=shell: ; @echo $$SHELL", "shell", SHELL="/usr/sbin/nologin")
    assert done.stdout == "/bin/sh\n"
    done = finished.run("dvc", "repro", "--force", "--single-item", "plot", check=False, SHELL="/bin/false")
    assert done.returncode != 0
    assert "failed to reproduce 'plot'" in done.stdout
    finished.run("dvc", "checkout", "-q")


def test_a_damaged_object_in_dvcs_cache_is_not_trained_on(moved):
    before = lock(moved)
    split = moved.root / "data/split/train.safetensors"
    digest = hashlib.md5(split.read_bytes()).hexdigest()
    stored = moved.root / f".dvc/cache/files/md5/{digest[:2]}/{digest[2:]}"
    content = bytearray(stored.read_bytes())
    content[len(content) // 2] ^= 1
    stored.chmod(0o644)
    stored.write_bytes(content)
    stored.chmod(0o444)
    shutil.rmtree(split.parent)
    moved.run("dvc", "checkout", check=False)
    done = moved.run("dvc", "repro", "--force", "--single-item", "train@ten", check=False)
    assert done.returncode != 0
    assert "data/split/train.safetensors: its SHA-256 is not the one in data/split/manifest.json: damaged" in done.stdout
    assert "Traceback" not in done.stdout
    advice = re.search(r"`(chmod .+?)`", done.stdout)
    assert advice
    moved.run("sh", "-c", advice[1])
    assert hashlib.md5(stored.read_bytes()).hexdigest() == digest
    moved.run("dvc", "repro")
    assert lock(moved) == before


def test_a_pickle_among_the_splits_is_refused_and_not_executed(moved, tmp_path, bomb):
    copy = tmp_path / "project"
    for name in ("data/split", "stages/train/ten"):
        shutil.copytree(moved.root / name, copy / name)
    shutil.copy(moved.root / "params.yaml", copy)
    (copy / "data/split/train.safetensors").write_bytes(pickle.dumps(bomb))
    manifest = copy / "data/split/manifest.json"
    record = files.read_record(manifest, "preprocess")
    record["splits"]["train"]["sha256"] = files.sha256(copy / "data/split/train.safetensors")
    files.write_record(manifest, record)
    before = contents(copy / "stages")
    done = Project(copy, tmp_path).run("python", str(moved.root / "src/train.py"), "ten", check=False)
    assert done.returncode == 2
    assert done.stdout.count("\n") == 1
    assert "data/split/train.safetensors" in done.stdout
    assert contents(copy / "stages") == before
    assert not bomb.executed


def test_a_loss_that_is_not_finite_ends_as_failed(moved):
    """The model before comes back."""
    before = contents(moved.root / "stages")
    # Within its limits lr cannot be so high that a loss overflows.
    params = moved.root / "src/quartet/base/params.py"
    params.write_text(params.read_text(encoding="utf-8").replace("gt=0, le=1)", "gt=0)"), encoding="utf-8")
    text = (moved.root / "params.yaml").read_text(encoding="utf-8")
    (moved.root / "params.yaml").write_text(text.replace(shipped("lr"), "lr: 1e30").replace("onecycle #", "constant #"))
    done = moved.run("dvc", "repro", "--single-item", "trial", check=False)
    assert "quartet: error: the training loss became" in done.stdout
    assert "in epoch 1, step" in done.stdout
    assert "Traceback" not in done.stdout
    (failed,) = runs(moved, "attributes.status = 'FAILED'")
    assert failed["params"]["lr"] == "1e+30"
    moved.run("git", "checkout", "params.yaml", "src")
    moved.run("dvc", "checkout")
    assert contents(moved.root / "stages") == before


def test_a_full_disk_leaves_no_truncated_file(finished, tmp_path):
    root = tmp_path / "disk"
    stages, source = finished.root / "src", {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    with small_disk(root, "2200k"):
        small = Project(root, tmp_path)
        shutil.copy(finished.root / "params.yaml", root)
        shutil.copytree(finished.root / "data/raw", root / "data/raw", copy_function=shutil.copyfile)
        done = small.run("python", str(stages / "preprocess.py"), check=False, **source)
        assert (done.returncode, done.stdout.count("\n")) == (1, 1), done.stdout
        assert "No space left on device" in done.stdout
        assert contents(root / "data/split") == {}
        shutil.rmtree(root / "data/raw")
        shutil.copytree(finished.root / "data/split", root / "data/split", copy_function=shutil.copyfile, dirs_exist_ok=True)
        shutil.copytree(finished.root / "stages/train/ten", root / "stages/train/ten", copy_function=shutil.copyfile)
        (root / "stages/train/ten/history.csv").write_text("what was there before", encoding="utf-8")
        (root / ".checkpoints").mkdir()
        for name in ("ten.lock", "mlflow.lock"):
            (root / ".checkpoints" / name).touch()
        before = contents(root)
        filler = root / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        done = small.run("python", str(stages / "train.py"), "ten", check=False, **source)
        assert done.returncode == 1
        assert done.stdout.splitlines()[-1].endswith("No space left on device")
        assert done.stdout.count("quartet: ") == 1
        filler.unlink()
        assert contents(root) == before
        small.run("python", str(stages / "train.py"), "ten", **source)
        made, expected = (contents(place / "stages/train/ten") for place in (root, finished.root))
        del made["provenance.json"], expected["provenance.json"]  # DVC tracks nothing here that it could name
        assert made == expected


def test_mlflows_pages_are_for_this_machine_alone(finished):
    port = free_port()
    process = subprocess.Popen(
        ["mlflow", "ui", "--port", str(port), "--workers", "1"],
        cwd=finished.root,
        env=finished.env | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
                    assert answer.status == 200
                    break
            except urllib.error.URLError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.5)
        asked = json.dumps({"experiment_ids": ["1"]}).encode()
        search = urllib.request.Request(f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/search", asked)
        search.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(search, timeout=30) as answer:
            assert {run["info"]["run_name"] for run in json.load(answer)["runs"]} >= set(TRAININGS)
        foreign = urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"Host": "example.org"})
        with pytest.raises(urllib.error.HTTPError, match="403") as refused:
            urllib.request.urlopen(foreign, timeout=10)
        refused.value.close()
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        listening = {
            connection.laddr.ip
            for member in family
            for connection in member.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        process.wait()
