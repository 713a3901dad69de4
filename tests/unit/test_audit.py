"""The audit of DVC's records, in a real DVC project whose stages only pretend to train."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from project import PARAMS, replace, shipped, start_dvc
from quartet.base import files, paths
from quartet.base.errors import WorkError
from quartet.commands import audit, prepare

STAGES = {
    "plain": {"cmd": "cat in > plain", "deps": ["in"], "outs": ["plain"]},
    "train": {
        "foreach": ["ten", "four"],
        "do": {
            "cmd": "mkdir -p stages/train/${item} && cp noted-${item}.json stages/train/${item}/provenance.json",
            "deps": ["in"],
            "params": ["lr", "groups"],
            "outs": ["stages/train/${item}/provenance.json"],
        },
    },
}
NAMES = ("ten", "four")


def dvc(*command):
    return subprocess.run(["dvc", *command], check=True, capture_output=True, text=True).stdout


def stages():
    return yaml.safe_load(Path("dvc.lock").read_text(encoding="utf-8"))["stages"]


def cached():
    """The commands of the entries of the run cache."""
    return sorted(yaml.safe_load(path.read_bytes())["cmd"] for path in Path(".dvc/cache/runs").glob("??/*/*"))


def truth():
    lr, groups = (yaml.safe_load(paths.PARAMS.read_bytes())[key] for key in ("lr", "groups"))
    return {"params": {"params.yaml": {"groups": groups, "lr": lr}}, "deps": {"in": files.md5(Path("in"))}}


def note(name, content):
    files.write_record(Path(f"noted-{name}.json"), content)


@pytest.fixture(scope="module")
def true(made, tmp_path_factory):
    """The project after its stages have run and noted what they really began with."""
    root = tmp_path_factory.mktemp("true")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        shutil.copytree(made, root, dirs_exist_ok=True)
        repro()
    return root


@pytest.fixture
def repeated(workspace, true):
    shutil.copytree(true, workspace, dirs_exist_ok=True, symlinks=True)
    return workspace


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("audit")
    shutil.copy(PARAMS, root)
    replace(root / "params.yaml", f"\n{shipped('lr')}", "\nlr: 1.0e-05")
    (root / "in").write_text("a file", encoding="utf-8")
    start_dvc(root, STAGES)
    return root


@pytest.fixture
def project(workspace, made):
    shutil.copytree(made, workspace, dirs_exist_ok=True)
    return workspace


def repro(**noted):
    """Run the stages. Each notes what it really began with, or what `noted` has for it."""
    for name in NAMES:
        note(name, {"dvc": truth()} | noted.get(name, {}))
    dvc("repro")


def test_true_pairs_stay(repeated, capfd):
    before, runs = stages(), cached()
    assert "lr: 1e-05" in Path("dvc.lock").read_text(encoding="utf-8")  # PyYAML takes it for a string, and DVC does not
    audit.main([])
    assert (stages(), cached()) == (before, runs)
    assert capfd.readouterr() == ("", "")


FALSE = {
    "params.yaml: lr as 1e-05, but it was trained with 0.5": lambda noted: noted["params"]["params.yaml"].update(lr=0.5),
    "params.yaml: lr as 1e-05, but it was trained with None": lambda noted: noted["params"]["params.yaml"].pop("lr"),
    "another in than it was trained with": lambda noted: noted["deps"].update({"in": "0" * 32}),
    "another in than it was": lambda noted: noted["deps"].clear(),
}


@pytest.mark.parametrize(("said", "change"), FALSE.items())
def test_a_false_pair_is_removed_and_named(project, capfd, said, change):
    noted = truth()
    change(noted)
    repro(ten={"dvc": noted})
    before = stages()
    with pytest.raises(WorkError, match="something was edited just as train@ten ended; run `make` again"):
        audit.main([])
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"quartet: warning: train@ten: DVC recorded {said}")
    assert stages() == {name: entry for name, entry in before.items() if name != "train@ten"}
    assert ["noted-four" in command for command in cached()] == [False, True]
    assert len(cached()) == 2
    note("ten", {"dvc": truth()})
    assert "Running stage 'train@ten'" in dvc("repro")  # not restored; and DVC does not stumble over the gap
    audit.main([])
    assert stages() != before


def test_make_removes_it_before_it_begins(project, capfd, monkeypatch):
    monkeypatch.setattr("quartet.tracking.attempts.initialise", lambda: None)
    repro(four={"dvc": {"params": {}, "deps": {}}})
    prepare.main([])
    assert "train@four: DVC recorded" in capfd.readouterr().err
    assert sorted(stages()) == ["plain", "train@ten"]


def test_the_pair_of_a_lock_is_judged_by_its_own_file(repeated, capfd):
    """The file in the workspace may be of another training, as after a change of the branch: then DVC's cache has it."""
    other = {"dvc": {"params": {}, "deps": {}}}
    Path("stages/train/ten/provenance.json").unlink()
    files.write_record(paths.provenance("ten"), other)
    before = stages()
    audit.main([])
    assert stages() == before
    note("four", other)
    dvc("repro", "--force", "train@four")
    paths.provenance("four").unlink()
    with pytest.raises(WorkError, match="as train@four ended"):
        audit.main([])
    assert "train@four" not in stages()


@pytest.mark.parametrize("noted", [{"dvc": None}, {"dvc": {}}, {"dvc": {"params": {}}}, {"dvc": [1]}])
def test_nothing_is_said_of_what_noted_nothing(project, capfd, noted):
    repro(ten=noted)
    before = stages()
    audit.main([])
    assert stages() == before


def test_nothing_is_said_of_an_entry_without_a_hash(repeated):
    (entry,) = [path for path in Path(".dvc/cache/runs").glob("??/*/*") if "noted-ten" in path.read_text(encoding="utf-8")]
    content = yaml.safe_load(entry.read_bytes())
    del content["outs"][0]["md5"]
    entry.write_text(yaml.safe_dump(content), encoding="utf-8")
    audit.main([])


def test_nothing_is_said_of_what_is_lost_or_damaged(project, capfd):
    repro(ten={"dvc": {"params": {}, "deps": {}}})
    shutil.rmtree(".dvc/cache/files")
    paths.provenance("ten").unlink()
    paths.provenance("ten").write_bytes(b"{}")
    before = stages()
    audit.main([])
    assert stages() == before


@pytest.mark.parametrize("content", ["", "[]", "stages: [", "schema: '2.0'\nstages:\n  fetch:\n", "stages: {train@ten: 1}"])
def test_damaged_files_of_dvc_are_left_to_dvc(repeated, content):
    damaged = [Path("dvc.lock"), *Path(".dvc/cache/runs").glob("??/*/*")]
    for path in damaged:
        path.write_text(content, encoding="utf-8")
    audit.main([])
    assert {path.read_text(encoding="utf-8") for path in damaged} == {content}


def test_without_a_lock_or_a_project_there_is_nothing_to_audit(workspace, made):
    audit.main([])
    shutil.copytree(made, workspace, dirs_exist_ok=True)
    audit.main([])
