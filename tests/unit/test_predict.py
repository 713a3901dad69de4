from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from PIL import Image

from pictures import encoded, written
from quartet.base.errors import InputError
from quartet.commands import predict
from quartet.data import idx
from quartet.evaluation import recognition
from trained import answering

LOGITS = [0.0, 1.0, -3.0, 2.0, 0.5, -1.0, 0.0, 0.0, 0.0, 0.0]


@pytest.fixture
def run(workspace, monkeypatch, capsys):
    """`quartet predict` with models that answer everything with 3."""
    models = {"ten": answering("ten", LOGITS, 0.9), "four": answering("four", [0.0, -1.0, 2.0, 1.0])}
    monkeypatch.setattr(recognition, "load", lambda names: models)

    def call(*arguments):
        predict.main([str(argument) for argument in arguments])
        return capsys.readouterr().out.splitlines()

    return call


@pytest.fixture
def three(workspace):
    path = workspace / "three.png"
    path.write_bytes(encoded(written("3")))
    return path


def test_a_line_for_each_picture(run, three):
    title, line, again = run(three, three)
    assert title == "predict: the digit is what ten says, trained on UCI digits sample, not MNIST"
    assert line == f"{three}: 3  (score 0.88; next 1 with 0.73; ten 3, four 2·3·5·8)"
    assert again == line


def test_json_is_an_object_for_each_picture(run, three):
    (line,) = run("--json", three)
    answer = json.loads(line)
    assert list(answer) == ["file", "digit", "score", "runner_up", "variants"]
    assert (answer["file"], answer["digit"], answer["runner_up"]["digit"]) == (str(three), 3, 1)


def test_what_the_models_saw_is_kept(run, three, workspace):
    run("--save", workspace / "seen", three)
    (saved,) = (workspace / "seen").iterdir()
    assert saved.name == "three.png.png"
    with Image.open(saved) as picture:
        image = np.asarray(picture)
    assert (image == dict(predict.images(three))[str(three)]).all()


def test_images_of_an_idx_file_are_taken_as_they_are(run, workspace):
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    (workspace / "images").write_bytes(idx.encode(images))
    found = list(predict.images(workspace / "images"))
    assert [name for name, _ in found] == [f"{workspace}/images#{number}" for number in range(3)]
    assert (np.stack([image for _, image in found]) == images).all()
    assert len(run(workspace / "images")) == 4
    (workspace / "packed.gz").write_bytes(gzip.compress(idx.encode(images)))
    assert (np.stack([image for _, image in predict.images(workspace / "packed.gz")]) == images).all()


def test_labels_are_no_images(workspace):
    (workspace / "labels").write_bytes(idx.encode(np.zeros(3, dtype=np.uint8)))
    with pytest.raises(InputError, match=r"labels: expected the IDX magic 00000803 .*; expected an IDX file of images$"):
        list(predict.images(workspace / "labels"))


def test_larger_images_of_an_idx_file_are_pictures(workspace):
    (workspace / "large").write_bytes(idx.encode(np.stack([written("3")])))
    ((_, image),) = predict.images(workspace / "large")
    assert image.shape == (28, 28)


def test_one_bad_picture_is_one_line(run, workspace):
    with pytest.raises(InputError, match=r"^none\.png: no such file"):
        run("none.png")


def test_of_several_the_good_ones_are_read(run, three, workspace, capsys):
    (workspace / "blank.png").write_bytes(encoded(np.full((50, 50), 255, dtype=np.uint8)))
    with pytest.raises(InputError, match=r"^1 of 2 files were not read"):
        run("blank.png", three)
    said = capsys.readouterr()
    assert f"{three}: 3" in said.out
    assert said.err.startswith("quartet: error: blank.png: blank")


def test_without_a_file_one_is_asked_for(workspace):
    with pytest.raises(InputError, match=r"^quartet predict: expected files, found none"):
        predict.main([])


def test_another_model_is_chosen_by_name(run, three):
    assert run("--model", "ten", three)[0].startswith("predict: the digit is what ten says")
    with pytest.raises(InputError, match=r"^--model: expected a training of ten classes \(ten\), found 'four'"):
        run("--model", "four", three)
