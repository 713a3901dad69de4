from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from quartet import files, history, model, paths, scoring
from quartet.errors import InputError
from quartet.history import Epoch
from quartet.numerics import rounded
from rounding import U

pytestmark = pytest.mark.computes

# Of four images of class 0, three of class 1 and one of class 2, none is taken for class 2.
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2])
GUESSES = np.array([0, 0, 0, 1, 1, 1, 0, 0])


def test_a_score_is_counted_by_hand():
    # Softmax gives the guessed class 3/5 and each other 1/5; five guesses are right.
    logits = torch.log(torch.tensor(3.0)) * torch.nn.functional.one_hot(torch.from_numpy(GUESSES), 3).float()
    found = scoring.score(logits, LABELS)
    assert found["loss"] == pytest.approx(
        -(5 * math.log(3 / 5) + 3 * math.log(1 / 5)) / 8,
        rel=32 * U + 5e-6,  # float32's steps, then six significant digits
    )
    assert found["accuracy"] == 5 / 8
    # F1 is 2·right / (guessed + true): 6/9, 4/6 and 0/1.
    assert found["macro_f1"] == rounded((6 / 9 + 4 / 6 + 0) / 3)


def test_each_class_is_counted_by_hand():
    assert scoring.per_class(LABELS, GUESSES, ["a", "b", "c", "d"]) == [
        {
            "class": "a",
            "precision": rounded(3 / 5),
            "recall": rounded(3 / 4),
            "f1": rounded(6 / 9),
            "images": 4,
        },
        {
            "class": "b",
            "precision": rounded(2 / 3),
            "recall": rounded(2 / 3),
            "f1": rounded(4 / 6),
            "images": 3,
        },
        {"class": "c", "precision": 0, "recall": 0, "f1": 0, "images": 1},
        {"class": "d", "precision": 0, "recall": 0, "f1": 0, "images": 0},
    ]


@pytest.fixture
def trained(workspace):
    """A network of four classes that has learned nothing, and an epoch that it never had."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = model.build(4, bn=True).eval()
    groups = [[0, 6], [1, 7], [2, 3, 5, 8], [4, 9]]
    model.save_weights(
        paths.model("four-bn"), network, {"variant": "four-bn", "groups": groups, "hyperparameters": {"bn": True}}
    )
    history.write("four-bn", [Epoch(1, 1.5, 1.4, 0.3)])
    files.write_record(paths.summary("four-bn"), {"history_sha256": files.sha256(paths.history("four-bn"))})
    return network


def test_a_model_is_evaluated_on_every_test_image(trained, tiny, capsys):
    scoring.evaluate_one("four-bn", tiny, "fake data")
    with torch.inference_mode():
        logits = trained(torch.from_numpy(tiny.images)[:, None] / 255)
    names = np.array(["0·6", "1·7", "2·3·5·8", "4·9"])
    guesses = names[logits.argmax(dim=1).numpy()]
    truth = np.array([next(name for name in names if str(digit) in name) for digit in tiny.labels])
    rows = files.read_csv(paths.EVALUATE / "four-bn" / "predictions.csv")
    assert [row["image"] for row in rows] == [str(place) for place in range(210)]
    assert [row["digit"] for row in rows] == [str(digit) for digit in tiny.labels]
    assert [row["actual"] for row in rows] == truth.tolist()
    assert [row["predicted"] for row in rows] == guesses.tolist()
    metrics = files.read_json(paths.metrics("four-bn"))
    assert metrics["accuracy"] == rounded((guesses == truth).mean())
    assert f"test accuracy {metrics['accuracy']:.2%}" in capsys.readouterr().out
    per_class = files.read_csv(paths.EVALUATE / "four-bn" / "per_class.csv")
    assert [(row["class"], row["images"]) for row in per_class] == [
        ("0·6", "42"),
        ("1·7", "42"),
        ("2·3·5·8", "84"),
        ("4·9", "42"),
    ]


def test_the_same_model_leaves_the_same_bytes(trained, tiny):
    def content():
        scoring.evaluate_one("four-bn", tiny, "fake data")
        return {path.name: path.read_bytes() for path in paths.EVALUATE.rglob("*") if path.is_file()}

    first = content()
    assert set(first) == {"four-bn.json", "per_class.csv", "predictions.csv", "loss.png", "confusion.png", "sha256.json"}
    described = files.read_record(paths.digests("four-bn"), "evaluate")
    assert {Path(name).name: digest for name, digest in described.items()} == {
        name: hashlib.sha256(whole).hexdigest() for name, whole in first.items() if name != "sha256.json"
    }
    assert content() == first


def test_a_missing_model_is_named(workspace, tiny):
    with pytest.raises(InputError, match=r"stages/train/ten/model\.safetensors: missing; `dvc repro` makes it"):
        scoring.evaluate_one("ten", tiny, "fake data")
