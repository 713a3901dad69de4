from __future__ import annotations

import numpy as np
import pytest

from quartet.base.errors import InputError
from quartet.evaluation import recognition
from trained import answering


@pytest.fixture
def models():
    ten = [0.0, 1.0, -3.0, 2.0, 0.5, -1.0, 0.0, 0.0, 0.0, 0.0]
    return {
        "four": answering("four", [0.0, -1.0, 2.0, 1.0], 0.99),
        "ten": answering("ten", ten, 0.97),
        "other": answering("other", ten[::-1], 0.98),
        "equal": answering("equal", ten, 0.98),
    }


def test_the_best_is_of_ten_classes_and_the_first_of_equals(models):
    assert recognition.best(models) == "other"
    with pytest.raises(InputError, match="expected one of ten classes, found four"):
        recognition.best({"four": models["four"]})


def test_an_answer_has_what_each_model_says(models):
    images = np.zeros((2, 28, 28), dtype=np.uint8)
    first, second = recognition.answers(recognition.readers(models), "ten", images)
    assert first == second
    sigmoid = {value: pytest.approx(1 / (1 + np.exp(-value)), rel=1e-5) for value in (1.0, 2.0)}
    assert (first["digit"], first["score"]) == (3, sigmoid[2.0])
    assert first["runner_up"] == {"digit": 1, "score": sigmoid[1.0]}
    assert first["variants"] == {
        "four": {"class": "2·3·5·8", "score": sigmoid[2.0]},
        "ten": {"class": "3", "score": sigmoid[2.0]},
        "other": {"class": "6", "score": sigmoid[2.0]},
        "equal": {"class": "3", "score": sigmoid[2.0]},
    }


def test_without_images_there_is_no_answer(models):
    assert list(recognition.answers(recognition.readers(models), "ten", np.empty((0, 28, 28), dtype=np.uint8))) == []
