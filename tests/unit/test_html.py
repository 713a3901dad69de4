from __future__ import annotations

import base64
import io
import json
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

from quartet.base.params import TRIAL
from quartet.evaluation.recognition import Model
from quartet.model import network
from quartet.reporting import html
from trained import described, result, settings

GROUPS = [[0, 6], [1, 7], [2, 3, 5, 8], [4, 9]]
DIGITS = [0, 6, 1, 7, 2, 3, 4, 9]
CLAIM = {"says": "a <humongous> difference", "section": "4b", "verdict": "holds", "finding": "It is 2 points."}


def answered(name, predicted, data="sample", **changes):
    return result(described(name, settings(**changes), data), DIGITS, predicted)


def results(data="sample"):
    return {
        "ten": answered("ten", [0, 6, 7, 7, 2, 5, 4, 9], data),
        "four-bn": answered("four-bn", [0, 0, 1, 1, 2, 2, 3, 1], data, classes=4, bn=True),
        TRIAL: answered(TRIAL, DIGITS, data),
    }


def model(found):
    hyperparameters = found.record.hyperparameters
    torch.manual_seed(0)
    return Model(found.record, network.build(hyperparameters.classes, hyperparameters.bn).eval(), 0.9)


def images():
    return np.random.default_rng(0).integers(0, 256, (len(DIGITS), 28, 28), dtype=np.uint8)


def page(data="sample", verdicts=()):
    found = results(data)
    models = {name: model(it) for name, it in found.items()}
    return html.page(found, models, images(), GROUPS, verdicts).decode()


def data_of(text):
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', text)[1])


def test_the_values_of_a_network_are_in_its_layers_order():
    built = network.build(4, bn=True).eval()
    described_network = html.network(built)
    values = np.frombuffer(base64.b64decode(described_network["weights"]), dtype="<f4")
    kept = [tensor for name, tensor in built.state_dict().items() if not name.endswith("num_batches_tracked")]
    assert (values == torch.cat([tensor.flatten() for tensor in kept]).numpy()).all()
    assert [layer["type"] for layer in described_network["layers"]] == [type(layer).__name__ for layer in built]


def test_every_wrong_image_is_on_the_page_and_some_right_ones():
    shown = html.choose_images(results())
    assert shown.places == list(range(8))
    assert not shown.partial
    assert shown.cells["ten"] == {
        **{f"{digit},{digit}": [DIGITS.index(digit)] for digit in (0, 6, 7, 2, 4, 9)},
        "1,7": [2],
        "3,5": [5],
    }
    assert shown.cells["four-bn"] == {"0,0": [0, 1], "1,1": [2, 3], "2,2": [4, 5], "3,3": [6], "3,1": [7]}


def test_if_too_many_are_wrong_the_first_of_each_cell_are(monkeypatch):
    monkeypatch.setattr(html, "MOST_IMAGES", 1)
    monkeypatch.setattr(html, "EACH", 1)
    shown = html.choose_images({"four": answered("four", [1, 1, 0, 1, 2, 2, 3, 3], classes=4)})
    assert shown.partial
    assert shown.cells == {"four": {"0,1": [0], "1,0": [1], "1,1": [2], "2,2": [3], "3,3": [4]}}
    assert shown.places == [0, 2, 3, 4, 6]


def test_the_images_are_in_one_picture():
    shown = np.random.default_rng(0).integers(0, 256, (html.ABREAST + 1, 28, 28), dtype=np.uint8)
    with Image.open(io.BytesIO(base64.b64decode(html.sprite(shown)))) as picture:
        sheet = np.asarray(picture)
    assert sheet.shape == (56, 28 * html.ABREAST)
    assert (sheet[:28, 28:56] == shown[1]).all()
    assert (sheet[28:, :28] == shown[-1]).all()
    assert not sheet[28:, 28:].any()


def test_a_chart_has_every_value_at_its_place():
    (loss, accuracy, *_) = html.charts(results())
    assert [curve["name"] for curve in loss["curves"]] == ["ten, training", "ten, validation"]
    top, bottom = (math.log(value) for value in (0.9, 0.0631))
    height = html.HEIGHT - html.BOTTOM - html.EDGE
    expected = [html.EDGE + height * (top - math.log(value)) / (top - bottom) for value in (0.9, 0.0724)]
    found = [float(point.split(",")[1]) for point in loss["curves"][0]["points"].split()]
    assert found == pytest.approx(expected, abs=0.05)
    assert [epoch["said"] for epoch in accuracy["epochs"]] == ["epoch 1: ten 90.00", "epoch 2: ten 98.00"]
    assert all(html.EDGE <= tick["y"] <= html.HEIGHT - html.BOTTOM for it in (loss, accuracy) for tick in it["ticks"])
    assert min(len(it["ticks"]) for it in (loss, accuracy)) >= 2


def test_the_shares_of_a_matrix_are_of_its_largest_error():
    found = {it["name"]: it for it in html.matrices(results())}
    four = found["four-bn"]
    assert (four["wrong"], four["counts"][3]) == (1, [0, 1, 0, 1])
    assert four["shares"][3] == [0, 1, 0, 0]
    assert found[TRIAL]["wrong"] == 0
    assert not np.any(found[TRIAL]["shares"])


def test_the_diagram_has_every_layer_of_any_model():
    boxes = html.diagram(results())
    assert [box["name"] for box in boxes][:4] == ["image", "conv1", "norm1", "pool1"]
    assert [box["name"] for box in boxes if box["added"]] == ["norm1", "norm2", "norm3"]
    assert boxes[1]["shape"] == "28×28×16"
    assert (boxes[-1]["shape"], boxes[-1]["count"]) == ("10 or 4", "170 or 68")


def test_the_page_says_which_data_it_is_about():
    sample, mnist = page(), page("mnist")
    assert "These are results on UCI digits sample, not MNIST." in sample
    assert 'class="notice"' not in mnist
    assert "Beside the student's report" in mnist
    assert "Beside the student's report" not in sample


def test_the_verdicts_are_on_the_page_as_text():
    text = page("mnist", [CLAIM])
    assert "“a &lt;humongous&gt; difference” (section 4b)" in text
    assert re.search(r'class="words holds">holds</td><td class="words">It is 2 points\.<', text)
    assert "over many seeds" not in page()


def test_the_page_has_the_models_in_their_order():
    data = data_of(page())
    assert list(data["models"]) == ["ten", "four-bn", TRIAL]
    assert data["models"]["four-bn"]["classes"] == ["0·6", "1·7", "2·3·5·8", "4·9"]
    assert data["chosen"] == "ten"
    assert data["tiles"][2] == [2, 1]


def test_nothing_of_python_is_left_in_the_page():
    text = page("mnist", [CLAIM])
    assert not re.search(r"object at 0x|undefined|\bNone\b|np\.|\{\{|\{%", text.partition("<script>")[0])
