"""What a stage notes of what DVC tracks for it, in a real DVC project of a few files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from project import PARAMS, ROOT, replace, shipped, start_dvc
from quartet.base import params, stage
from quartet.base.errors import InputError, WorkError
from quartet.base.stage import Tracked

STAGES = {
    "work": {
        "cmd": "cat in folder/one folder/two > out",
        "deps": ["in", "folder"],
        "params": ["lr", "variants.ten", {"other.yaml": ["deep.key"]}],
        "outs": ["out"],
    }
}


def write(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("stage")
    shutil.copy(PARAMS, root)
    write(root / "in", "a file")
    write(root / "folder/one", "1")
    write(root / "folder/two", "2")
    write(root / "other.yaml", "deep: {key: [1, 0.5]}\nelse: 1\n")
    start_dvc(root, STAGES)
    shutil.copy(ROOT / ".dvcignore", root)
    subprocess.run(["dvc", "repro", "-q"], check=True, cwd=root)
    return root


@pytest.fixture
def project(workspace, made):
    shutil.copytree(made, workspace, dirs_exist_ok=True)
    return workspace


def note():
    return stage.note("work", params.load())


@pytest.mark.parametrize("linked", ["made", "made/out", "made/folder"])
def test_a_stage_does_not_write_through_a_link_to_a_folder(workspace, tmp_path_factory, linked):
    outs = ["made/out", "made/folder"]
    start_dvc(workspace, {"work": {"cmd": "true", "outs": outs}})
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (workspace / linked).parent.mkdir(exist_ok=True)
    (workspace / linked).symlink_to(elsewhere)
    with pytest.raises(InputError, match=f"^{linked}: a link to {elsewhere};"):
        note()


def test_an_output_may_be_a_link_to_a_file(workspace, tmp_path):
    """As DVC makes them with `cache.type symlink`, and as they are if the cache has lost the file."""
    start_dvc(workspace, {"work": {"cmd": "true", "outs": ["made/out", "made/lost"]}})
    (workspace / "made").mkdir()
    (workspace / "made/out").symlink_to(workspace / "params.yaml")
    (workspace / "made/lost").symlink_to(workspace / "nowhere")
    assert note().outs == ("made/out", "made/lost")


def test_a_note_is_what_dvc_writes_into_its_lock_file(project):
    tracked = note()
    lock = yaml.safe_load((project / "dvc.lock").read_text(encoding="utf-8"))["stages"]["work"]
    assert tracked.params == lock["params"]
    assert tracked.params["other.yaml"] == {"deep.key": [1, 0.5]}
    assert tracked.deps == {dep["path"]: dep["md5"] for dep in lock["deps"]}
    stage.check(tracked)


LR = shipped("lr")
CHANGES = {
    "params.yaml: lr": lambda root: replace(root / "params.yaml", f"\n{LR}", "\nlr: 0.02"),
    "params.yaml: variants.ten": lambda root: replace(root / "params.yaml", "ten: {}", "ten: {seed: 3}"),
    "other.yaml: deep.key": lambda root: replace(root / "other.yaml", "0.5", "0.25"),
    "in": lambda root: write(root / "in", "another"),
    "folder": lambda root: write(root / "folder/three", "3"),
}
GONE = {
    "params.yaml: lr": lambda root: replace(root / "params.yaml", f"\n{LR}", "\n"),
    "in": lambda root: (root / "in").unlink(),
    "folder": lambda root: shutil.rmtree(root / "folder"),
}


@pytest.mark.parametrize(("changed", "change"), [*CHANGES.items(), *GONE.items()])
def test_what_changed_is_named(project, changed, change):
    tracked = note()
    change(project)
    with pytest.raises(WorkError) as caught:
        stage.check(tracked, "training")
    assert str(caught.value) == f"{changed} changed while work was training; run again"


def test_all_that_changed_is_named(project):
    tracked = note()
    for change in CHANGES.values():
        change(project)
    with pytest.raises(WorkError) as caught:
        stage.check(tracked)
    named, _, rest = str(caught.value).partition(" changed while ")
    assert sorted(named.split(", ")) == sorted(CHANGES)
    assert rest == "work was running; run again"


def test_what_dvc_does_not_track_may_change(project):
    tracked = note()
    replace(project / "params.yaml", "\nseed: 0", "\nseed: 1")
    replace(project / "params.yaml", "four: {", "four: {seed: 2, ")
    replace(project / "other.yaml", "else: 1", "else: 2")
    write(project / "folder/.gitignore", "whatever")
    write(project / "new", "new")
    (project / "in").touch()
    stage.check(tracked)


def test_a_change_that_was_taken_back_counts_for_nothing(project):
    tracked = note()
    replace(project / "params.yaml", f"\n{LR}", "\nlr: 0.02")
    replace(project / "params.yaml", "\nlr: 0.02", f"\n{LR}")
    stage.check(tracked)


def test_settings_that_are_not_those_of_the_file_are_named(project):
    settings = params.load()
    replace(project / "params.yaml", f"\n{LR}", "\nlr: 0.02")
    with pytest.raises(WorkError) as caught:
        stage.note("work", settings)
    assert str(caught.value) == "params.yaml: lr changed while work was starting; run again"


@pytest.mark.parametrize("file", ["dvc.yaml", "other.yaml", "params.yaml"])
def test_a_file_that_dvc_cannot_read_is_one_line(project, file):
    tracked = note()
    write(project / file, "stages: [")
    with pytest.raises(InputError, match="stage work: DVC cannot read what it depends on") as caught:
        stage.check(tracked)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("content", ["schema: '2.0'\nstages:\n  work:\n", ""])
def test_the_lock_file_may_be_half_written(project, content):
    """As by the DVC of a stage that ends beside this one."""
    write(project / "dvc.lock", content)
    stage.check(note())


def test_outside_of_a_dvc_project_there_is_nothing_to_note(workspace):
    tracked = note()
    assert tracked == Tracked("work", {}, {})
    replace(workspace / "params.yaml", f"\n{LR}", "\nlr: 0.02")
    stage.check(tracked)


BEGINS = """
import sys, time
from pathlib import Path
from quartet.base import params, stage
from quartet.base.errors import WorkError
settings = params.load()
text = Path(sys.argv[1]).read_text()
if sys.argv[2] == "edited":
    Path(sys.argv[1]).write_text(text + "\\n")
    Path(sys.argv[1]).write_text(text)
try:
    stage.note("begin", settings)
    print("noted")
except WorkError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("file", "tracked"),
    [("src/quartet/base/errors.py", "src/quartet/base"), ("src/train.py", "src/train.py"), ("params.yaml", "params.yaml")],
)
@pytest.mark.parametrize("how", ["edited", "untouched"])
def test_code_written_while_it_is_read_is_named(project, file, tracked, how):
    """The process may have read what was there between; the file as it is now tells nothing of that."""
    shutil.copytree(ROOT / "src", project / "src", ignore=shutil.ignore_patterns("__pycache__"))
    deps = ["src/quartet/base", "src/train.py", "params.yaml"]
    pipeline = {"stages": {"begin": {"cmd": "true", "deps": deps, "outs": ["begun"]}}}
    write(project / "dvc.yaml", yaml.safe_dump(pipeline))
    done = subprocess.run(
        [sys.executable, "-c", BEGINS, file, how],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    said = f"{tracked} changed while begin was starting; run again" if how == "edited" else "noted"
    assert (done.stdout, done.stderr) == (f"{said}\n", "")


def test_a_note_can_be_written_as_json(project):
    tracked = note()
    assert json.loads(json.dumps([tracked.params, tracked.deps])) == [tracked.params, tracked.deps]
    assert all(not Path(path).is_absolute() for path in tracked.deps)
