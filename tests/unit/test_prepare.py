"""`quartet prepare`: what `make` does before the pipeline."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from project import shipped, start_dvc
from quartet.base import files
from quartet.base.errors import InputError
from quartet.commands import prepare
from quartet.tracking import store


@pytest.fixture
def place(workspace, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    # MLflow sets it to the store in use, which is this test's own.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    return workspace


def test_the_store_is_made_once(place, capfd):
    prepare.main([])
    client = store.client()
    experiment = client.get_experiment_by_name(store.EXPERIMENT)
    assert experiment.artifact_location == (place / "mlruns").as_uri()
    made = files.sha256(place / "mlflow.db")
    prepare.main([])
    assert files.sha256(place / "mlflow.db") == made
    assert capfd.readouterr().err == ""


def test_a_store_that_is_there_is_not_touched(place):
    (place / "mlflow.db").write_bytes(b"whatever it is")
    prepare.main([])
    assert (place / "mlflow.db").read_bytes() == b"whatever it is"


def test_wrong_parameters_are_refused_before_a_store_is_made(place):
    text = (place / "params.yaml").read_text(encoding="utf-8")
    (place / "params.yaml").write_text(text.replace(f"\n{shipped('lr')}", "\nlr: -1"), encoding="utf-8")
    with pytest.raises(InputError, match=r"lr: expected more than 0\.0, found -1"):
        prepare.main([])
    assert [path.name for path in place.iterdir()] == ["params.yaml"]


def test_an_output_behind_a_link_is_refused_before_anything_runs(place, tmp_path_factory, capfd):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "model").write_text("mine", encoding="utf-8")
    outs = ["stages/train/ten/model", {"data/raw/file": {"persist": True}}]
    start_dvc(place, {"work": {"cmd": "false", "outs": outs}})
    (place / "stages/train").mkdir(parents=True)
    (place / "stages/train/ten").symlink_to(elsewhere)
    with pytest.raises(InputError) as refused:
        prepare.main([])
    assert str(refused.value) == (
        f"stages/train/ten: a link to {elsewhere}; outputs are written in the project itself, and DVC removes the old ones"
        " first; remove the link"
    )
    assert (elsewhere / "model").read_text(encoding="utf-8") == "mine"
    (place / "stages/train/ten").unlink()
    prepare.main([])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("data", ["mnist", "sample"])
def test_lost_mnist_comes_back_from_dvcs_cache(place, data):
    """All of its files or none: what somebody put there meanwhile stays. The sample does not: MNIST may be had now."""
    files.write_record(Path("record"), {"data": data})
    outs = [{f"data/raw/{name}": {"persist": True}} for name in ("images", "source.json")]
    start_dvc(
        place, {"fetch": {"cmd": "mkdir -p data/raw; cp record data/raw/source.json; echo 1 >data/raw/images", "outs": outs}}
    )
    subprocess.run(["dvc", "repro", "-q"], check=True)

    def left() -> list[str]:
        prepare.main([])
        return sorted(path.name for path in Path("data/raw").glob("[a-z]*"))

    Path("data/raw/source.json").unlink()
    assert left() == ["images"]
    Path("data/raw/images").unlink()
    assert left() == (["images", "source.json"] if data == "mnist" else [])
    shutil.rmtree("data/raw")
    shutil.rmtree(".dvc/cache")
    assert left() == []


def test_the_store_that_the_user_names_is_made_instead(place, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/other.db")
    prepare.main([])
    assert store.client().get_experiment_by_name(store.EXPERIMENT) is not None
    assert (place / "other.db").exists()
    assert not (place / "mlflow.db").exists()


def test_a_store_that_cannot_be_made_is_one_warning(place, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    prepare.main([])
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("quartet: warning: MLflow (http://127.0.0.1:9) failed: ")
