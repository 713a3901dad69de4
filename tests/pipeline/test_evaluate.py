from __future__ import annotations

import json
import shutil

import pytest

import evaluate
from project import Project, keep_ten_alone, runs
from quartet.base import files, numerics, params, paths
from quartet.base.errors import InputError
from quartet.data import splits
from trained import write_manifest


def test_a_damaged_test_set_is_refused_before_any_model_is_read(workspace, tiny):
    splits.save_split("test", tiny)
    write_manifest(test="another")
    with pytest.raises(InputError, match=r"test\.safetensors: its SHA-256 is not the one"):
        evaluate.main()


def test_a_processor_that_makes_other_bytes_is_told_once(workspace, monkeypatch, capsys):
    monkeypatch.setattr(numerics, "departure", lambda: "this processor has no FMA")
    with pytest.raises(InputError, match="missing"):
        evaluate.main()
    expected = (
        "quartet: warning: this processor has no FMA: the results are as good as the published ones, but not the same to"
    )
    assert capsys.readouterr().err == f"{expected} the byte\n"


@pytest.fixture
def trained(finished, tmp_path):
    """The finished project's files without DVC: one variant and the trial. MLflow's store is yet to be made."""
    root, home = tmp_path / "project", tmp_path / "home"
    home.mkdir()
    for name in ("src", "data/split", "stages/train", "stages/evaluate"):
        shutil.copytree(finished.root / name, root / name)
    shutil.copy(finished.root / "params.yaml", root)
    keep_ten_alone(root / "params.yaml")
    return Project(root, home)


def left_by_evaluate(project):
    """The files of stages/evaluate/ by their names, but for what Git sees there."""
    folder = project.root / paths.EVALUATE
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".gitignore"}


@pytest.mark.xdist_group("finished")
def test_damaged_weights_leave_no_evaluation_in_mlflow(finished, trained):
    names = [*params.load(trained.root / "params.yaml").trainings]
    damaged = names[1]
    weights = trained.root / paths.model(damaged)
    whole = weights.read_bytes()
    weights.chmod(0o644)
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    done = trained.stage("evaluate")
    assert done.returncode == 2
    assert [line for line in done.stdout.splitlines() if line.startswith("quartet: ")] == [
        f"quartet: error: {paths.model(damaged)}: not the content whose SHA-256 its header names: damaged;"
        f" {files.remake(paths.stage(damaged))}"
    ]
    assert left_by_evaluate(trained) == left_by_evaluate(finished)
    before = {run["name"]: run for run in runs(trained)}
    assert sorted(before) == names[:1]
    for run in before.values():
        assert [key for key in run["metrics"] if key.startswith("test_")] == run["artifacts"] == []
        assert "evaluation" not in run["tags"]
    weights.write_bytes(whole)
    shutil.rmtree(trained.root / paths.EVALUATE)
    done = trained.stage("evaluate")
    assert done.returncode == 0, done.stdout
    assert "quartet: " not in done.stdout
    scores, expected = (json.loads((project.root / paths.SCORES).read_bytes()) for project in (trained, finished))
    assert scores == {name: expected[name] for name in names}
    after = {run["name"]: run for run in runs(trained)}
    assert sorted(after) == sorted(names)
    for name, run in after.items():
        assert "evaluation" in run["tags"]
        assert len(run["artifacts"]) == 4
        assert len(run["models"]) == 1
        assert name not in before or (run["id"], run["models"]) == (before[name]["id"], before[name]["models"])
