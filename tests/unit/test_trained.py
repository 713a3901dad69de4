from __future__ import annotations

import numpy as np
import pytest
import torch

from project import PARAMS
from quartet.base import params
from quartet.data import splits
from quartet.study import design, trained
from trained import settings

IMAGES = {"train": "0" * 64, "validation": "1" * 64, "test": "2" * 64}


def job(split_seed=0, **changes):
    hyperparameters = settings(epochs=1, batch_size=21, **changes)
    groups = params.load(PARAMS).class_groups(hyperparameters.classes)
    return design.Job(design.ARMS, "ten", 0, hyperparameters, groups, split_seed)


@pytest.fixture
def data(tiny):
    frozen = splits.Split(tiny.images.copy(), tiny.labels.copy())
    for array in (*vars(frozen).values(),):
        array.flags.writeable = False  # as Ray hands them out
    return trained.Data(frozen, frozen, 0.2)


def done(data, task, tmp_path, description=None):
    """A training, kept in a file and read again."""
    described = description or trained.describe(task, IMAGES, "code")
    path = tmp_path / "it.safetensors"
    path.write_bytes(trained.train(data, task, described))
    return trained.read(path, described)


def test_without_a_test_set_nothing_is_predicted_for_it(data, tmp_path):
    whole, without = done(data, job(), tmp_path), done(data._replace(test=None), job(), tmp_path)
    assert same(whole, without)
    assert without.validation.tolist() == whole.validation.tolist()
    assert len(without.test) == 0
    assert without.val_accuracy == 100 * whole.epochs[-1].val_accuracy
    assert sorted(data._replace(test=None).divided(0)) == ["train", "validation"]


def test_a_training_is_named_by_all_of_its_settings():
    """Those at their defaults too: a default may change."""
    named = trained.describe(job(), IMAGES, "code")["hyperparameters"]
    assert set(named) == set(params.Hyperparameters.model_fields) - {"seed"}
    assert (named["rotation"], named["weights_seed"], named["order_seed"]) == (10, 0, 0)


def same(one, other):
    return all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


def test_a_training_is_read_as_it_was_kept(data, tmp_path):
    found = done(data, job(), tmp_path)
    assert [epoch.epoch for epoch in found.epochs] == [1]
    assert (len(found.validation), len(found.test), found.diverged) == (42, 210, "")
    assert found.test.dtype == np.uint8
    assert found.seconds > 0
    assert found.test.max() < 10
    assert same(found, done(data, job(), tmp_path))


@pytest.mark.computes
def test_each_seed_changes_what_it_says(data, tmp_path):
    """The same weights at the start, or the same order: told by trainings of both seeds."""
    base = done(data, job(seed=0), tmp_path)
    assert same(base, done(data, job(seed=5, weights_seed=0, order_seed=0), tmp_path))
    assert same(done(data, job(seed=5), tmp_path), done(data, job(seed=0, weights_seed=5, order_seed=5), tmp_path))
    others = [job(weights_seed=1), job(order_seed=1), job(split_seed=1)]
    assert not any(same(base, done(data, other, tmp_path)) for other in others)


def test_the_order_seed_leaves_the_first_weights_alone(data, monkeypatch):
    first = []
    monkeypatch.setattr(trained.loop, "_train_epoch", lambda state, *_: first.append(state) or 0.5)
    for changes in ({}, {"order_seed": 1}, {"weights_seed": 1}):
        trained.train(data, job(**changes), trained.describe(job(**changes), IMAGES, "code"))
    weights = [dict(state.network.state_dict()) for state in first]
    orders = [state.generator.get_state() for state in first]
    assert torch.equal(weights[0]["conv1.weight"], weights[1]["conv1.weight"])
    assert not torch.equal(weights[0]["conv1.weight"], weights[2]["conv1.weight"])
    assert torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[1])


def test_a_training_that_diverges_is_a_result(data, tmp_path):
    task = job()
    absurd = task.hyperparameters.model_copy(update={"lr": 1e30, "epochs": 3})
    found = done(data, task._replace(hyperparameters=absurd), tmp_path, {"of": "it"})
    assert found.diverged.startswith("the training loss became ")
    assert found.val_accuracy == 0
    assert len(found.epochs) < 3
    assert (found.weights, len(found.test)) == ({}, 0)


def test_what_it_is_called_is_not_in_its_fingerprint():
    task = job()
    renamed = task._replace(question=design.WEIGHTS, arm="other", seed=7)
    other_seed = job(seed=9, weights_seed=0, order_seed=0)
    assert len({trained.path(trained.describe(it, IMAGES, "code")) for it in (task, renamed, other_seed)}) == 1


@pytest.mark.parametrize("changes", [{"lr": 0.002}, {"seed": 1}, {"order_seed": 1}, {"bn": True}, {"classes": 4}])
def test_all_that_a_result_follows_from_is_in_it(changes):
    before, after = trained.describe(job(), IMAGES, "code"), trained.describe(job(**changes), IMAGES, "code")
    assert trained.path(before) != trained.path(after)


def test_its_images_and_its_code_are_in_it():
    described = trained.describe(job(), IMAGES, "code")
    others = trained.describe(job(), {**IMAGES, "train": "3" * 64}, "code"), trained.describe(job(), IMAGES, "other")
    assert len({trained.path(it) for it in (described, *others)}) == 3


def cut(content):
    return content[: len(content) // 2]


def flipped(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    "damage", [cut, flipped, lambda _: b"", lambda _: b"\xff" * 100], ids=["cut", "bit", "empty", "other"]
)
def test_a_damaged_file_is_found_out(data, tmp_path, damage):
    described, path = trained.describe(job(), IMAGES, "code"), tmp_path / "it.safetensors"
    path.write_bytes(damage(trained.train(data, job(), described)))
    with pytest.raises(ValueError, match=r"damaged|not a safetensors file"):
        trained.read(path, described)


def test_a_file_of_another_training_is_found_out(data, tmp_path):
    path = tmp_path / "it.safetensors"
    path.write_bytes(trained.train(data, job(), trained.describe(job(), IMAGES, "other")))
    with pytest.raises(ValueError, match="of another training"):
        trained.read(path, trained.describe(job(), IMAGES, "code"))
    assert trained.read(tmp_path / "none", {}) is None
