from __future__ import annotations

import json
import math
import pickle
import struct

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from quartet.base.errors import InputError
from quartet.base.params import Hyperparameters
from quartet.model import weights
from quartet.model.inference import predict
from quartet.model.network import build, layer_table, pixels, with_scores
from quartet.training import loop
from rounding import U, assert_within, reference

pytestmark = pytest.mark.computes

SHAPES = {"ten": (10, False), "four": (4, False), "ten-bn": (10, True), "four-bn": (4, True)}


def seeded(classes, bn, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(classes, bn).eval()


def describe(name):
    classes, bn = SHAPES[name]
    return {"variant": name, "groups": [[0]] * classes, "hyperparameters": {"bn": bn}}


@pytest.fixture
def images(tiny):
    return torch.from_numpy(tiny.images)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "ten-bn" / "model.safetensors"
    weights.save(path, seeded(10, bn=True), describe("ten-bn"))
    return path


@pytest.mark.parametrize(("name", "expected"), [("ten", 4470), ("four", 4368), ("ten-bn", 4526), ("four-bn", 4424)])
def test_the_parameters_are_the_reports(name, expected):
    classes, bn = SHAPES[name]
    by_hand = (7 * 7 * 1 * 16 + 16) + (5 * 5 * 16 * 8 + 8) + (3 * 3 * 8 * 4 + 4) + (2 * 2 * 4 * classes + classes)
    scale_and_shift = mean_and_variance = 2 * (16 + 8 + 4) if bn else 0
    assert by_hand + scale_and_shift == expected
    network = seeded(classes, bn)
    rows = layer_table(network)
    assert sum(row["trainable"] for row in rows) == expected
    assert sum(row["non_trainable"] for row in rows) == mean_and_variance
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


@pytest.mark.parametrize(("classes", "bn"), SHAPES.values())
def test_each_layers_output_is_the_reports(classes, bn):
    rows = {row["layer"]: row["output_shape"] for row in layer_table(seeded(classes, bn))}
    convolutions = {"conv1": [16, 28, 28], "conv2": [8, 14, 14], "conv3": [4, 4, 4]}
    pools = {"pool1": [16, 14, 14], "pool2": [8, 7, 7], "pool3": [4, 2, 2]}
    relus = {"relu1": pools["pool1"], "relu2": pools["pool2"], "relu3": convolutions["conv3"]}
    norms = {f"norm{place}": convolutions[f"conv{place}"] for place in (1, 2, 3)} if bn else {}
    assert rows == {**convolutions, **pools, **relus, **norms, "flatten": [16], "output": [classes]}


def test_the_layer_table_leaves_the_network_as_it_was():
    network = seeded(10, bn=True).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    layer_table(network)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(("classes", "bn"), SHAPES.values())
def test_the_network_is_convolution_norm_relu_pool(classes, bn, images):
    network = seeded(classes, bn)
    inputs = pixels(images)
    with torch.no_grad():
        # Statistics and scales that matter, a negative scale among them.
        network.train()(inputs)
        for layer in network.eval():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.copy_(torch.linspace(-1, 2, len(layer.weight)))
                layer.bias.copy_(torch.linspace(-0.5, 0.5, len(layer.bias)))
        values = {name: value.double() for name, value in network.state_dict().items()}
        value = images.double().unsqueeze(1) / 255
        for place, (stride, padding) in enumerate([(1, 3), (1, 2), (2, 1)], start=1):
            value = functional.conv2d(
                value, values[f"conv{place}.weight"], values[f"conv{place}.bias"], stride=stride, padding=padding
            )
            if bn:
                norm = [values[f"norm{place}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
                value = functional.batch_norm(value, *norm)
            value = functional.relu(value)
            value = functional.max_pool2d(value, 2) if place < 3 else functional.avg_pool2d(value, 2)
        expected = value.flatten(1) @ values["output.weight"].T + values["output.bias"]
        _, bound = reference(network, inputs)
        assert_within(network(inputs), (expected, bound))


@pytest.mark.parametrize("bn", [False, True])
def test_an_image_scores_the_same_alone_and_in_a_batch(bn, images):
    network = seeded(10, bn)
    with torch.inference_mode():
        together = network(pixels(images[:20]))
        alone = torch.cat([network(pixels(image[None])) for image in images[:20]])
    exact = reference(network, pixels(images[:20]))
    assert_within(together, exact)
    assert_within(alone, exact)


def test_predictions_do_not_depend_on_how_images_are_batched(images):
    network = seeded(10, bn=False)
    images = images.repeat(5, 1, 1)[:1_010]
    logits = predict(network, images)
    assert logits.shape == (1_010, 10)
    exact, bound = reference(network, pixels(images))
    assert_within(logits, (exact, bound))
    assert_within(predict(network, images[:150]), (exact[:150], bound[:150]))
    assert_within(predict(network, images[1_000:]), (exact[1_000:], bound[1_000:]))


def test_pixels_are_scaled_from_0_to_1():
    images = torch.arange(2 * 28 * 28).remainder(256).to(torch.uint8).view(2, 28, 28)
    found = pixels(images)
    assert (found.shape, found.dtype) == ((2, 1, 28, 28), torch.float32)
    assert (found.min(), found.max()) == (0, 1)
    assert torch.equal(found.squeeze(1), torch.from_numpy(images.numpy().astype(np.float32) / np.float32(255)))
    assert images.dtype == torch.uint8


def test_scores_are_the_sigmoid_of_the_logits(images):
    """The same class wins."""
    network = seeded(10, bn=False)
    with torch.inference_mode():
        logits, scores = network(pixels(images)), with_scores(network)(pixels(images))
    # An exponential, a sum and a quotient, each within a few units of float32.
    torch.testing.assert_close(scores.double(), 1 / (1 + torch.exp(-logits.double())), rtol=16 * U, atol=0)
    assert scores.min() > 0
    assert scores.max() < 1
    assert torch.equal(scores.argmax(dim=1), logits.argmax(dim=1))


def test_the_reports_loss_needs_logits():
    """Cross-entropy on sigmoid outputs cannot be so small."""
    floor = -math.log(math.e / (math.e + 9))
    assert floor > 1.46
    right = torch.tensor([3])
    perfect = torch.full((1, 10), -50.0)
    perfect[0, 3] = 50.0
    assert functional.cross_entropy(torch.sigmoid(perfect), right).item() == pytest.approx(
        floor,
        abs=32 * U * math.log(math.e + 9),  # ten exponentials, their sum and its logarithm
    )
    logits = torch.randn(10_000, 10, generator=torch.Generator().manual_seed(0)) * 20
    assert functional.cross_entropy(torch.sigmoid(logits), logits.argmax(dim=1)).item() > floor
    assert functional.cross_entropy(perfect, right).item() < 0.0624


@pytest.mark.parametrize("name", SHAPES)
def test_weights_are_read_back_bit_for_bit(tmp_path, name, images):
    network = seeded(*SHAPES[name])
    with torch.inference_mode():
        network.train()(pixels(images))
    path = tmp_path / name / "model.safetensors"
    weights.save(path, network, describe(name))
    found = weights.load(path, describe(name))
    assert not found.training
    expected = network.state_dict()
    assert list(found.state_dict()) == list(expected)
    assert all(torch.equal(value, expected[key]) for key, value in found.state_dict().items())
    with torch.inference_mode():
        assert torch.equal(found(pixels(images)), network.eval()(pixels(images)))


def test_the_same_network_is_the_same_bytes_and_another_is_not(tmp_path, saved):
    again, other = tmp_path / "again", tmp_path / "other"
    weights.save(again, seeded(10, bn=True), describe("ten-bn"))
    weights.save(other, seeded(10, bn=True, seed=1), describe("ten-bn"))
    assert again.read_bytes() == saved.read_bytes()
    assert other.read_bytes() != saved.read_bytes()


def test_another_variants_weights_are_refused_by_name(saved):
    with pytest.raises(InputError, match=r"model\.safetensors: expected the weights of 'four', found those of 'ten-bn'"):
        weights.load(saved, describe("four"))


def test_weights_of_other_settings_are_refused(saved):
    with pytest.raises(InputError, match="expected the weights of 'ten-bn', found those of other settings or data; `chmod"):
        weights.load(saved, {**describe("ten-bn"), "data": "mnist"})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(saved, value):
    network = seeded(10, bn=True)
    with torch.no_grad():
        network.conv2.weight[3, 2, 1, 0] = value
    weights.save(saved, network, describe("ten-bn"))
    with pytest.raises(InputError, match=r"model\.safetensors: conv2\.weight holds a value that is not finite; `chmod"):
        weights.load(saved, describe("ten-bn"))


def test_a_flipped_bit_of_any_weight_is_found(saved):
    content = saved.read_bytes()
    start = 8 + struct.unpack("<Q", content[:8])[0]
    for place in (start, (start + len(content)) // 2, len(content) - 1):
        saved.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(InputError, match="not the content whose SHA-256 its header names: damaged"):
            weights.load(saved, describe("ten-bn"))


def test_a_changed_description_is_found(saved):
    content = saved.read_bytes()
    for old, new in ((b"[0]", b"[1]"), (b"true", b"null"), (b"ten-bn", b"ten-bm")):
        assert old in content
        saved.write_bytes(content.replace(old, new, 1))
        with pytest.raises(InputError, match="not the content whose SHA-256 its header names: damaged"):
            weights.load(saved, describe("ten-bn"))


def test_a_file_cut_short_or_empty_is_refused(saved):
    content = saved.read_bytes()
    for length in (0, 7, 100, len(content) - 1):
        saved.write_bytes(content[:length])
        with pytest.raises(InputError, match="not a safetensors file of this project's weights"):
            weights.load(saved, describe("ten-bn"))


def test_other_safetensors_files_are_refused(saved):
    header = json.dumps({"__metadata__": {"quartet": "[]"}}).encode()
    for content in (header, b"{}"):
        saved.write_bytes(struct.pack("<Q", len(content)) + content)
        with pytest.raises(InputError, match="not a safetensors file of this project's weights"):
            weights.load(saved, describe("ten-bn"))


def test_a_pickle_is_refused_and_not_executed(saved, bomb):
    saved.write_bytes(pickle.dumps(bomb))
    with pytest.raises(InputError, match="not a safetensors file"):
        weights.load(saved, describe("ten-bn"))
    torch.save({"weights": bomb}, saved)
    with pytest.raises(InputError, match="not a safetensors file"):
        weights.load(saved, describe("ten-bn"))
    assert not bomb.executed


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(InputError, match=r"model\.safetensors: missing; `dvc repro` makes it"):
        weights.load(tmp_path / "ten-bn/model.safetensors", describe("ten-bn"))


@pytest.mark.parametrize(("name", "stage"), [("ten-bn", "train@ten-bn"), ("trial", "trial")])
def test_damaged_weights_are_named_with_what_makes_them_again(tmp_path, name, stage):
    (tmp_path / name).mkdir()
    (tmp_path / name / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match=rf"model\.safetensors: .*; dvc repro --force --single-item {stage}`"):
        weights.load(tmp_path / name / "model.safetensors", {"variant": name})


def test_a_build_from_a_seed_is_the_same_and_from_another_is_not():
    first, again, other = (seeded(10, bn=False, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_a_training_fits_its_variants_file(tmp_path, images, tiny):
    shape = Hyperparameters(
        classes=10, bn=True, epochs=1, batch_size=20, lr=0.001, schedule="constant", augment=False, seed=0
    )
    examples = loop.Examples(images, torch.from_numpy(tiny.labels).long())
    network, _ = loop.fit(shape, examples, examples)
    path = tmp_path / "ten-bn" / "model.safetensors"
    weights.save(path, network, describe("ten-bn"))
    loaded = weights.load(path, describe("ten-bn"))
    assert torch.equal(predict(loaded, images), predict(network, images))
