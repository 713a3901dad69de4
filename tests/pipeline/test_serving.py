"""docs/model.md, by its own commands: the logged model predicts, and is served."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import time
import zipfile
from pathlib import Path

import pytest

from project import ROOT, free_port, runs
from quartet.tracking import store

# One worker runs all that shares the finished project.
pytestmark = pytest.mark.xdist_group("finished")

PAGE = (ROOT / "docs/model.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)


def block(holds: str) -> str:
    """The one block of code of the page that holds this."""
    (found,) = [content for _, content in BLOCKS if holds in content]
    return found


@pytest.fixture(scope="module")
def address(finished):
    """The address that the page's command prints of the model of ten-bn."""
    found = finished.run("sh", "-c", block("search_logged_models")).stdout.splitlines()[-1]
    assert found in {f"models:/{run['models'][0]}" for run in runs(finished) if run["name"] == "ten-bn"}
    return found


def expected(project, count: int) -> list[int]:
    with Path(project.root / "stages/evaluate/predictions.csv").open(encoding="utf-8") as file:
        return [int(row["prediction"]) for row in csv.DictReader(file) if row["training"] == "ten-bn"][:count]


def test_the_pages_python_predicts(finished, address):
    """Its own input example too."""
    code = block("load_model").replace("models:/m-…", address).replace("np.zeros((3, 1, 28, 28), np.float32)", "IMAGES")
    load = (
        "from safetensors.numpy import load_file\n"
        "IMAGES = (load_file('data/split/test.safetensors')['images'][:7, None] / 255).astype('float32')\n"
    )
    example = (
        "\nimport sys; from mlflow.models import Model\n"
        "example = Model.load(sys.argv[1]).load_input_example(mlflow.artifacts.download_artifacts(sys.argv[1]))\n"
        "print(model.predict(example).shape)"
    )
    done = finished.run("python", "-W", "ignore", "-c", load + code + example, address)
    predicted, shape = done.stdout.splitlines()[-2:]
    assert json.loads(predicted.replace(" ", ",")) == expected(finished, 7)
    assert shape == "(2, 10)"


def test_the_model_is_served_in_batches_of_any_size(finished, address):
    port = free_port()
    serve = block("models serve").strip().replace("models:/m-…", address).replace("5001", str(port))
    server = finished.start("sh", "-c", serve)
    try:
        for count in (3, 1, 100):
            *write, ask = block("-d @digits.json").strip().splitlines()
            finished.run("sh", "-c", "\n".join(write).replace("[:3, None]", f"[:{count}, None]"))
            deadline = time.monotonic() + 120
            while (done := finished.run("sh", "-c", ask.replace("5001", str(port)), check=False)).returncode:
                assert done.returncode == 7, done.stdout  # nothing listens yet: it starts
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.5)
            scores = json.loads(done.stdout)["predictions"]
            assert [row.index(max(row)) for row in scores] == expected(finished, count)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, 15)
        server.communicate()
        (finished.root / "digits.json").unlink(missing_ok=True)


def test_a_crafted_archive_is_refused_and_not_executed(finished, address, bomb):
    """PyTorch reads an archive's sample inputs as a pickle if they are one; see it do so, and see MLflow refuse."""
    import torch

    (archive,) = (finished.root / "mlruns").rglob(f"{address.partition('/')[2]}/artifacts/data/model.pt2")
    kept = archive.read_bytes()
    crafted = io.BytesIO()
    for allowed in ("true", "false"):
        with zipfile.ZipFile(archive) as old, zipfile.ZipFile(crafted := io.BytesIO(), "w") as new:
            for name in old.namelist():
                content = old.read(name)
                if name.endswith("sample_inputs/model.pt"):
                    torch.save(bomb, whole := io.BytesIO())
                    content = whole.getvalue()
                new.writestr(old.getinfo(name), content)
        try:
            archive.write_bytes(crafted.getvalue())
            code = "import mlflow, sys; mlflow.pytorch.load_model(sys.argv[1])"
            done = finished.run(
                "python", "-W", "ignore", "-c", code, address, check=False, MLFLOW_ALLOW_PICKLE_DESERIALIZATION=allowed
            )
        finally:
            archive.write_bytes(kept)
        assert bomb.executed == (allowed == "true"), done.stdout
        if bomb.executed:
            bomb.folder.rmdir()
    assert done.returncode != 0


def test_what_is_started_refuses_pickles(finished):
    done = finished.run("make", "-s", "--eval=print: ; @echo $$MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "print")
    assert done.stdout == "false\n"
    assert "export MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false" in PAGE
    assert store.SETTINGS["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
