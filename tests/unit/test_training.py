from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from torch import nn
from torch.nn import functional
from torch.optim import swa_utils

import double
from quartet.base import numerics
from quartet.base.params import Hyperparameters
from quartet.data import catalogue, splits
from quartet.model import inference
from quartet.model.network import pixels
from quartet.training import loop
from quartet.training.adam import Adam
from quartet.training.augment import CONTROL, augmented, bent, sampled, splines
from quartet.training.checkpoint import CheckpointFile
from quartet.training.determinism import deterministic, fill_memory
from quartet.training.record import TrainingRecord
from rounding import U, reference

pytestmark = pytest.mark.computes

RECIPE = Hyperparameters(classes=10, bn=False, epochs=2, batch_size=20, lr=0.001, schedule="constant", augment=False, seed=7)


# The history holds six significant digits: half a unit of the last is at most 5e-6 of the value.
SIX_DIGITS = 6e-6


def recipe(**changes):
    return Hyperparameters(**{**RECIPE.model_dump(), **changes})


@pytest.fixture
def examples(tiny):
    """150 for training, 60 for validation."""
    images, labels = torch.from_numpy(tiny.images), torch.from_numpy(tiny.labels).long()
    return loop.Examples(images[:150], labels[:150]), loop.Examples(images[150:], labels[150:])


def same(first, second):
    (network, history), (other, other_history) = first, second
    weights, other_weights = network.state_dict(), other.state_dict()
    assert list(weights) == list(other_weights)
    return history == other_history and all(torch.equal(value, other_weights[name]) for name, value in weights.items())


@pytest.mark.parametrize("bn", [False, True])
@pytest.mark.parametrize("augment", [False, True])
def test_a_training_is_the_same_from_the_same_seed(examples, bn, augment):
    """Whatever random numbers were drawn before."""
    hyperparameters = recipe(bn=bn, augment=augment)
    first = loop.fit(hyperparameters, *examples)
    torch.rand(3)
    assert same(first, loop.fit(hyperparameters, *examples))
    assert not same(first, loop.fit(recipe(bn=bn, augment=augment, seed=8), *examples))


def test_the_process_is_left_as_it_was(examples):
    def state():
        return (
            torch.get_rng_state().tolist(),
            torch.get_num_threads(),
            torch.get_deterministic_debug_mode(),
            fill_memory(),
            torch.are_deterministic_algorithms_enabled(),
        )

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        before, inside = state(), []
        loop.fit(RECIPE, *examples, on_epoch=lambda _: inside.append(torch.get_num_threads()))
        assert inside == [1, 1]
        assert state() == before
        with pytest.raises(loop.DivergedError):
            loop.fit(RECIPE.model_copy(update={"lr": 1e30}), *examples)
        assert state() == before
    finally:
        torch.set_num_threads(threads)


def test_the_images_are_left_as_they_were(examples):
    before = [tensor.clone() for part in examples for tensor in part]
    loop.fit(recipe(augment=True), *examples)
    assert all(
        torch.equal(tensor, copy) for tensor, copy in zip((t for part in examples for t in part), before, strict=True)
    )


@pytest.mark.parametrize("bn", [False, True])
@pytest.mark.parametrize(
    "more", [{}, {"weight_decay": 0.1, "label_smoothing": 0.1, "ema_decay": 0.8}], ids=["plain", "more"]
)
def test_a_plain_pytorch_loop_trains_the_same(examples, bn, more):
    train, validation = examples
    settings = recipe(bn=bn, **more)
    with double.precision():
        network, (first, second) = loop.fit(settings, train, validation)

    def block(convolution, filters, pool):
        return [convolution, *([nn.BatchNorm2d(filters)] if bn else []), nn.ReLU(), pool]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        plain = nn.Sequential(
            *block(nn.Conv2d(1, 16, 7, padding=3), 16, nn.MaxPool2d(2)),
            *block(nn.Conv2d(16, 8, 5, padding=2), 8, nn.MaxPool2d(2)),
            *block(nn.Conv2d(8, 4, 3, stride=2, padding=1), 4, nn.AvgPool2d(2)),
            nn.Flatten(),
            nn.Linear(16, 10),
        ).double()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.001, weight_decay=settings.weight_decay)
    average = swa_utils.AveragedModel(
        plain, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(settings.ema_decay), use_buffers=True
    )
    shuffle = torch.Generator().manual_seed(7)
    inputs = train.images[:, None].double() / 255
    losses, validations = [], []
    # Plain PyTorch's own threads would compete with those of whatever else runs.
    with deterministic():
        for _ in range(2):
            plain.train()
            order = torch.randperm(150, generator=shuffle)
            total = 0.0
            for start in range(0, 150, 20):
                chosen = order[start : start + 20]
                optimizer.zero_grad()
                each = functional.cross_entropy(
                    plain(inputs[chosen]), train.labels[chosen], reduction="none", label_smoothing=settings.label_smoothing
                )
                each.mean().backward()
                optimizer.step()
                average.update_parameters(plain)
                total += each.sum().item()
            losses.append(total / 150)
            final = (average.module if settings.ema_decay else plain).eval()
            with torch.no_grad():
                logits = final(validation.images[:, None].double() / 255)
            validations.append(functional.cross_entropy(logits, validation.labels).item())

    # A gradient sums at most 20·784 products of values below 10: it is within 20·784·10·2⁻⁵³ = 2e-11 of the exact one. A
    # step moves a weight by at most lr/ε = 1e5 times what its gradient differs, 2e-6, and there are 16. A mistake in the
    # loop shows in whole steps, of lr = 1e-3.
    assert [first.train_loss, second.train_loss] == pytest.approx(losses, rel=SIX_DIGITS)
    assert [first.val_loss, second.val_loss] == pytest.approx(validations, rel=SIX_DIGITS)
    for ours, theirs in zip(network.parameters(), final.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=16 * 2e-6, check_stride=False)


def test_fake_digits_are_learned(examples):
    _, history = loop.fit(recipe(bn=True, lr=0.01, epochs=15), *examples)
    assert [epoch.epoch for epoch in history] == list(range(1, 16))
    assert history[-1].train_loss < 0.5 * history[0].train_loss
    assert history[-1].val_accuracy > 0.9


@pytest.mark.parametrize(("count", "sizes"), [(150, [40, 40, 40, 30]), (121, [40, 40, 40, 1]), (40, [40]), (1, [1])])
def test_every_image_is_trained_on_in_each_epoch(examples, monkeypatch, count, sizes):
    """Those of the last, smaller batch too."""
    train, validation = examples
    # An image's first pixel is its number.
    images = train.images[:count].clone()
    images[:, 0, 0] = torch.arange(count)
    batches = []
    for module in (loop, inference):
        monkeypatch.setattr(module, "pixels", lambda batch: batches.append(batch[:, 0, 0].tolist()) or pixels(batch))
    steps = []
    loop.fit(
        recipe(batch_size=40, epochs=1),
        loop.Examples(images, train.labels[:count]),
        validation,
        on_step=lambda epoch, step: steps.append((epoch, step)),
    )
    trained, validated = batches[:-1], batches[-1]
    assert [len(batch) for batch in trained] == sizes
    assert sorted(number for batch in trained for number in batch) == list(range(count))
    assert len(validated) == 60
    assert steps == [(1, step) for step in range(1, len(sizes) + 1)]


@pytest.mark.parametrize("schedule", ["constant", "onecycle"])
def test_a_last_batch_of_one_image_trains_with_batch_norm(examples, schedule):
    train, validation = examples
    odd = loop.Examples(train.images[:41], train.labels[:41])
    hyperparameters = recipe(bn=True, batch_size=20, schedule=schedule)
    first = loop.fit(hyperparameters, odd, validation)
    assert all(math.isfinite(value) for epoch in first[1] for value in epoch)
    assert same(first, loop.fit(hyperparameters, odd, validation))


def test_a_training_of_a_single_step_works_on_either_schedule(examples):
    for schedule in ("constant", "onecycle"):
        network, history = loop.fit(recipe(schedule=schedule, batch_size=150, epochs=1), *examples)
        assert len(history) == 1
        assert all(parameter.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 7, 31, 2700])
def test_one_cycle_is_pytorchs(steps):
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=0.02)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=steps)
    for step in range(steps):
        group = optimizer.param_groups[0]
        share, beta1 = loop.one_cycle(step, steps)
        # In Python's floats; near the end the cosine's last bits are those of 1, and the rate is a 250,000th of it.
        assert (0.02 * share, beta1) == pytest.approx((group["lr"], group["betas"][0]), rel=250_000 * 2**-49)
        optimizer.step()
        if step < steps - 1:
            scheduler.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adam_is_pytorchs(dtype):
    shapes = [(16, 1, 7, 7), (16,), (10, 16)]
    random = torch.Generator().manual_seed(0)
    ours, theirs = ([nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in shapes] for _ in range(2))
    adam, optimizer = Adam(ours), torch.optim.Adam(theirs, lr=0.01)
    for _ in range(8):
        # From nothing to a million: Adam's steps are of the same size for all but the smallest.
        gradients = [
            torch.randn(shape, generator=random, dtype=dtype) * 10.0 ** torch.randint(-12, 7, shape, generator=random)
            for shape in shapes
        ]
        adam.step(gradients, lr=0.01)
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    # Eight steps of at most lr/(1 - beta1) = 0.1. Each implementation rounds fewer than 20 times a step.
    bound = 8 * 0.1 * 2 * 20 * torch.finfo(dtype).eps / 2
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=bound, check_stride=False)


def test_adams_root_is_correctly_rounded():
    # The root of a square of float32, taken in float64, is rounded to the nearest float32 without a second error.
    gradient = torch.rand(100_000, generator=torch.Generator().manual_seed(0))
    adam = Adam([nn.Parameter(torch.zeros(100_000))])
    adam.step([gradient], lr=1.0, beta1=0.0, beta2=0.0, epsilon=0.0)
    square = (gradient * gradient).double().numpy()
    expected = gradient / torch.from_numpy(np.sqrt(square).astype(np.float32))
    assert torch.equal(-adam.weights, expected)


def blob(count, height, width):
    """Images of one smooth spot in the middle, of these standard deviations in pixels."""
    place = torch.arange(28) - 13.5
    spot = torch.exp(-((place[:, None] / height) ** 2 + (place[None, :] / width) ** 2) / 2)
    return spot.expand(count, 1, 28, 28).clone()


def moments(images):
    place = torch.arange(28) - 13.5
    mass = images.sum(dim=(1, 2, 3))
    down = (images * place[:, None]).sum(dim=(1, 2, 3)) / mass
    right = (images * place).sum(dim=(1, 2, 3)) / mass
    vertical, horizontal = place[None, :, None] - down[:, None, None], place[None, None, :] - right[:, None, None]
    image = images[:, 0] / mass[:, None, None]
    along, across = (image * horizontal**2).sum(dim=(1, 2)), (image * vertical**2).sum(dim=(1, 2))
    both = (image * horizontal * vertical).sum(dim=(1, 2))
    return mass, down, right, torch.rad2deg(torch.atan2(2 * both, along - across) / 2)


def test_sampling_is_pytorchs():
    random = torch.Generator().manual_seed(0)
    images = torch.rand(5, 1, 28, 28, generator=random)
    columns, rows = torch.rand(2, 5, 28, 28, generator=random) * 60 - 16
    grid = (torch.stack((columns, rows), dim=-1) * 2 + 1) / 28 - 1
    expected = functional.grid_sample(images.double(), grid.double(), align_corners=False)
    # A place of up to 44 pixels is rounded a few times on its way into the grid, and a pixel is a place's error times a
    # difference of two pixels, each way; then come three interpolations.
    torch.testing.assert_close(sampled(images, columns, rows).double(), expected, rtol=0, atol=2 * 6 * 44 * U + 9 * U)


def test_augmentation_stays_within_its_bounds_and_uses_them():
    """It rotates, scales and shifts."""
    images = blob(500, 1.5, 4)
    found = augmented(images, torch.Generator().manual_seed(0))
    assert (found.shape, found.dtype) == (images.shape, torch.float32)
    assert found.min() >= 0
    assert found.max() <= 1
    before, *_ = moments(images[:1])
    mass, down, right, angle = moments(found)
    size = (mass / before).sqrt()
    # Sampling between pixels and the frame's edge blur each a little.
    assert 1 / 1.1 - 0.02 < size.min() < 0.93
    assert 1.07 < size.max() < 1 / 0.9 + 0.02
    assert 9 < angle.abs().max() < 10.3
    assert 2 < torch.hypot(down, right).max() < math.hypot(2, 2) / 0.9
    for offsets in (down, right, angle):
        assert abs(offsets.mean()) < 4 * offsets.std() / math.sqrt(500)


def test_augmentation_comes_from_its_generator():
    """It leaves black black."""
    images = blob(5, 2, 4)
    first, again, other = (augmented(images, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])
    assert augmented(torch.zeros(3, 1, 28, 28), torch.Generator().manual_seed(0)).abs().max() == 0


def test_an_elastic_field_is_a_cubic_b_spline():
    """SciPy's, on the same control points; between the least and the greatest of their values."""
    places = np.linspace(1, CONTROL - 2, 28)
    # A cubic basis function has five knots, here one apart; its control point is the one in the middle.
    expected = [BSpline.basis_element(np.arange(-2, 3) + point, extrapolate=False)(places) for point in range(CONTROL)]
    # A cube, a square and their sum, of numbers below 2.
    np.testing.assert_allclose(splines(28), np.nan_to_num(np.array(expected)).T, rtol=0, atol=16 * U)
    field = bent(200, 28, torch.Generator().manual_seed(0))
    assert field.shape == (2, 200, 28, 28)
    assert 0.7 < field.abs().max() <= 1 + 64 * U
    steps = field.diff(dim=-1).abs().max()
    assert 0 < steps < 0.2  # neighbours move nearly alike: 5 of 28 pixels from one control point to the next


def test_sizes_of_zero_change_no_image():
    images, none = blob(5, 2, 4), {"rotation": 0, "scaling": 0, "shift": 0}
    assert torch.equal(augmented(images, torch.Generator().manual_seed(0), **none), images)
    moved = augmented(images, torch.Generator().manual_seed(0), **none, elastic=2)
    assert not torch.equal(moved, images)
    _, down, right, _ = moments(moved)
    assert torch.hypot(down, right).max() < math.hypot(2, 2)


def test_elastic_is_how_far_a_pixel_moves():
    """A ramp's values say where each pixel came from."""
    ramp = torch.arange(28.0).expand(5, 1, 28, 28)

    def moves(elastic):
        moved = augmented(ramp, torch.Generator().manual_seed(0), rotation=0, scaling=0, shift=0, elastic=elastic)
        return (moved - ramp)[..., 2:-2, 2:-2]

    assert 0.5 < moves(1).abs().max() <= 1 + 64 * U
    torch.testing.assert_close(moves(2), 2 * moves(1), rtol=0, atol=8 * 28 * U)  # of numbers up to 28


@pytest.mark.parametrize("size", ["rotation", "scaling", "shift", "elastic"])
def test_each_size_changes_what_is_trained(examples, size):
    changed = recipe(augment=True, **{size: 0.5})
    assert not same(loop.fit(changed, *examples), loop.fit(recipe(augment=True), *examples))


def test_examples_are_a_splits_images_and_classes(workspace, tiny):
    splits.save_all({"train": tiny}, catalogue.SAMPLE.source)
    images, labels = loop.load_examples("train", ((0, 6), (1, 7), (2, 3, 5, 8), (4, 9)))
    np.testing.assert_array_equal(images.numpy(), tiny.images)
    classes = np.array([0, 1, 2, 2, 3, 2, 0, 1, 2, 3])
    np.testing.assert_array_equal(labels.numpy(), classes[tiny.labels])


def test_a_training_with_augmentation_differs(examples):
    """It validates on the images as they are."""
    train, validation = examples
    network, history = loop.fit(recipe(augment=True), train, validation)
    assert not same((network, history), loop.fit(RECIPE, train, validation))
    # Batches of the same images; only the layout of the weights in memory, and so the order of sums, may differ.
    _, bound = reference(network, pixels(validation.images))
    loss, accuracy = loop.evaluate(network, validation)
    assert loss == pytest.approx(history[-1].val_loss, rel=SIX_DIGITS, abs=4 * bound.max().item())
    assert numerics.rounded(accuracy) == history[-1].val_accuracy


def test_a_loss_that_is_not_finite_stops_the_training(examples):
    """The message names the epoch and the step."""
    # Beyond what params.yaml allows: Adam's steps are of the size of lr, so a good lr does not overflow float32 soon.
    boundless = RECIPE.model_copy(update={"lr": 1e30})
    done = []
    with pytest.raises(loop.DivergedError, match=r"became (nan|inf) in epoch 1, step 2; lower lr \(1e\+30\)"):
        loop.fit(boundless, *examples, on_epoch=done.append)
    assert done == []


class StoppedError(Exception):
    pass


def trial(hyperparameters):
    """The checkpoint of a training of these."""
    return CheckpointFile(TrainingRecord("trial", hyperparameters, ((0,),), catalogue.SAMPLE.source, {}, "code"))


@pytest.mark.parametrize("bn", [False, True])
@pytest.mark.parametrize("schedule", ["constant", "onecycle"])
def test_a_training_stopped_after_each_epoch_ends_the_same(examples, workspace, capsys, bn, schedule):
    hyperparameters = recipe(bn=bn, schedule=schedule, epochs=4, augment=True, elastic=1, ema_decay=0.9, weight_decay=0.1)
    whole = loop.fit(hyperparameters, *examples)

    def stop(history):
        trained.append(len(history))
        if len(history) < 4:
            raise StoppedError

    trained, result = [], None
    while result is None:
        try:
            with trial(hyperparameters) as checkpoint:
                torch.rand(1)
                result = loop.fit(hyperparameters, *examples, on_epoch=stop, checkpoint=checkpoint)
        except StoppedError:
            assert checkpoint.path.exists()
    assert trained == [1, 2, 3, 4]
    assert same(whole, result)
    assert not checkpoint.path.exists()
    assert capsys.readouterr().out.splitlines() == [f"trial: resumed after epoch {number}" for number in (1, 2, 3)]


def test_a_stop_within_an_epoch_goes_on_from_the_one_before(examples, workspace):
    hyperparameters = recipe(bn=True, epochs=3)
    whole = loop.fit(hyperparameters, *examples)

    def stop(epoch, step):
        if (epoch, step) == (3, 4):
            raise StoppedError

    with pytest.raises(StoppedError), trial(hyperparameters) as checkpoint:
        loop.fit(hyperparameters, *examples, on_step=stop, checkpoint=checkpoint)
    with trial(hyperparameters) as checkpoint:
        assert same(whole, loop.fit(hyperparameters, *examples, checkpoint=checkpoint))


class Fixed(nn.Sequential):
    """Answers with the logits that it was given."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, images):
        return self.logits


def test_an_evaluation_is_the_mean_loss_and_the_accuracy():
    third = math.log(3)
    network = Fixed([[third, 0.0], [third, 0.0], [0.0, 0.0], [0.0, third]]).train()
    loss, accuracy = loop.evaluate(
        network, loop.Examples(torch.zeros(4, 28, 28, dtype=torch.uint8), torch.tensor([0, 1, 1, 1]))
    )
    # Softmax gives the true classes 3/4, 1/4, 1/2 and 3/4; a tie goes to the first class.
    # A logit, an exponential, a sum, a logarithm and a mean of four: each within a few units of float32.
    assert loss == pytest.approx(-math.log(3 / 4 * 1 / 4 * 1 / 2 * 3 / 4) / 4, rel=32 * U)
    assert accuracy == 0.5
    assert not network.training
