"""The training loop: the same bytes from the same hyperparameters, data and code."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from quartet import model
from quartet.errors import WorkError
from quartet.history import Epoch
from quartet.numerics import rounded
from quartet.params import Hyperparameters


class Examples(NamedTuple):
    """Images uint8 [n, 28, 28] and classes int64 [n]."""

    images: Tensor
    labels: Tensor


class DivergedError(WorkError):
    """The training loss is no longer a finite number."""


class Checkpoint(Protocol):
    """Where a training's state is kept between epochs."""

    def load(self) -> dict[str, Any] | None:
        """The state that was saved last, or None where there is none of this training."""

    def save(self, state: dict[str, Any]) -> None:
        """Keep this state in place of the one before."""


class Adam:
    """Adam (https://arxiv.org/abs/1412.6980), the mathematics of `torch.optim.Adam`, on all parameters as one vector.

    A step is six operations however many parameters there are; PyTorch's default takes seven times as long for ours, and
    imports the compiler for seconds. The parameters become views of the vector.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        last = [channels_last(parameter.detach()) for parameter in self.parameters]
        self.weights = torch.cat([part.flatten() for part in last])
        places = self.weights.split([part.numel() for part in last])
        for parameter, part, place in zip(self.parameters, last, places, strict=True):
            parameter.data = channels_first(place.view(part.shape))
        self.mean, self.square, self.steps = torch.zeros_like(self.weights), torch.zeros_like(self.weights), 0

    def step(
        self, gradients: Sequence[Tensor], lr: float, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8
    ) -> None:
        """Move each parameter down its gradient by about `lr`."""
        gradient = torch.cat([channels_last(part).flatten() for part in gradients])
        self.steps += 1
        self.mean.lerp_(gradient, 1 - beta1)
        self.square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        # NumPy's root is correctly rounded; PyTorch's is MKL's, which on some processors is not.
        root = torch.from_numpy(np.sqrt(self.square.numpy()))
        scale = root.div_(math.sqrt(1 - beta2**self.steps)).add_(epsilon)
        self.weights.addcdiv_(self.mean, scale, value=-lr / (1 - beta1**self.steps))


def channels_last(kernels: Tensor) -> Tensor:
    """A view of a convolution's weights with the channels as the last dimension; other parameters as they are.

    It is the order in which PyTorch computes and gives gradients where the images are channels-last: no copy is needed.
    """
    return kernels.permute(0, 2, 3, 1) if kernels.dim() == 4 else kernels


def channels_first(kernels: Tensor) -> Tensor:
    """The inverse of `channels_last`."""
    return kernels.permute(0, 3, 1, 2) if kernels.dim() == 4 else kernels


def one_cycle(step: int, steps: int) -> tuple[float, float]:
    """The share of the peak learning rate, and Adam's beta1, at `step` of 0 to `steps` - 1.

    As `torch.optim.lr_scheduler.OneCycleLR` has it: up for 30 % of the steps from a 25th, down to a 250,000th, along
    cosines; the momentum falls from 0.95 to 0.85 where the learning rate rises, and rises where it falls.
    """
    peak = 0.3 * steps - 1
    start, way = (1 / 25, step / peak) if step < peak else (1 / 250_000, 1 - (step - peak) / (steps - 1 - peak))
    height = (1 - math.cos(math.pi * way)) / 2
    return start + (1 - start) * height, 0.95 - 0.1 * height


@dataclass
class _State:
    """All that the next epoch depends on."""

    network: nn.Sequential
    adam: Adam
    generator: torch.Generator
    history: list[Epoch]

    def capture(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "adam": (self.adam.mean, self.adam.square, self.adam.steps),
            "generator": self.generator.get_state(),
            "history": [tuple(epoch) for epoch in self.history],
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.adam.mean, self.adam.square, self.adam.steps = state["adam"]
        self.generator.set_state(state["generator"])
        self.history[:] = [Epoch(*epoch) for epoch in state["history"]]


@contextmanager
def deterministic() -> Iterator[None]:
    """One thread and deterministic algorithms inside the block; the thread count decides the order of sums.

    The debug mode sets the same switch as `torch.use_deterministic_algorithms`, which imports the compiler for seconds.
    Memory that is about to be written is not filled first: it costs a third of a step and changes no result.
    """
    threads, mode, fill = (
        torch.get_num_threads(),
        torch.get_deterministic_debug_mode(),
        fill_memory(),
    )
    torch.set_num_threads(1)
    torch.set_deterministic_debug_mode("error")
    fill_memory(False)
    try:
        yield
    finally:
        fill_memory(fill)
        torch.set_deterministic_debug_mode(mode)
        torch.set_num_threads(threads)


def keep_freed_memory() -> None:
    """Have glibc keep what each step frees for the next; elsewhere this does nothing.

    It returns free memory to the kernel above a threshold, and the kernel's clearing of the pages that come back costs up
    to a third of a step with batch norm. Freeing one large block raises the threshold to twice its size (mallopt(3)).
    """
    torch.empty(2**24, dtype=torch.uint8)


def fill_memory(fill: bool | None = None) -> bool:
    """Whether deterministic mode fills memory that is about to be written; sets it where `fill` is given."""
    setting = torch.utils.deterministic
    was = bool(setting.fill_uninitialized_memory)  # type: ignore[attr-defined] # a property that the stub lacks
    if fill is not None:
        setting.fill_uninitialized_memory = fill  # type: ignore[attr-defined] # the same
    return was


def fit(
    hyperparameters: Hyperparameters,
    train: Examples,
    validation: Examples,
    *,
    on_step: Callable[[int, int], None] = lambda _epoch, _step: None,
    on_epoch: Callable[[Sequence[Epoch]], None] = lambda _history: None,
    checkpoint: Checkpoint | None = None,
) -> tuple[nn.Sequential, list[Epoch]]:
    """Train a network with Adam on softmax cross-entropy; returns the last epoch's network and the history.

    The weights, the order of images and their augmentation come from `hyperparameters.seed` alone. With a checkpoint the
    training goes on after the last epoch that it holds, bit for bit as if it had not been interrupted. `on_epoch` is called
    after each epoch with the history so far, `on_step` before each batch with the epoch and the step.

    Raises DivergedError, with the epoch and the step, at the first loss that is not finite.
    """
    keep_freed_memory()
    with deterministic(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(hyperparameters.seed)
        network = model.build(hyperparameters.classes, hyperparameters.bn)
        generator = torch.Generator().manual_seed(hyperparameters.seed)
        state = _State(network, Adam(network.parameters()), generator, history=[])
        if checkpoint and (saved := checkpoint.load()):
            state.restore(saved)
        for number in range(len(state.history) + 1, hyperparameters.epochs + 1):
            train_loss = _train_epoch(state, hyperparameters, train, on_step)
            measured = (train_loss, *evaluate(network, validation))
            state.history.append(Epoch(number, *map(rounded, measured)))
            if checkpoint:
                checkpoint.save(state.capture())
            on_epoch(tuple(state.history))
        trained = model.build(hyperparameters.classes, hyperparameters.bn)  # whose parameters are views of nothing
        trained.load_state_dict(network.state_dict())
        return trained.eval(), state.history


def _train_epoch(
    state: _State, hyperparameters: Hyperparameters, train: Examples, on_step: Callable[[int, int], None]
) -> float:
    """One pass over the shuffled training images; returns their mean loss, each taken as its batch was trained on."""
    state.network.train()
    order = torch.randperm(len(train.images), generator=state.generator)
    number, total = len(state.history) + 1, 0.0
    # Shuffled whole: one indexing of all images costs less than one of each batch.
    batches = [part[order].split(hyperparameters.batch_size) for part in train]
    for step, (batch, labels) in enumerate(zip(*batches, strict=True), start=1):
        on_step(number, step)
        images = model.pixels(batch)
        if hyperparameters.augment:
            images = augmented(images, state.generator)
        loss = functional.cross_entropy(state.network(images), labels)
        gradients = torch.autograd.grad(loss, state.adam.parameters)
        share, beta1 = 1.0, 0.9
        if hyperparameters.schedule == "onecycle":
            share, beta1 = one_cycle(state.adam.steps, hyperparameters.epochs * len(batches[0]))
        state.adam.step(gradients, hyperparameters.lr * share, beta1)
        value = loss.item()
        if not math.isfinite(value):
            raise DivergedError(
                f"the training loss became {value} in epoch {number}, step {step}; lower lr ({hyperparameters.lr})"
            )
        total += value * len(batch)
    return total / len(train.images)


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image float32 [n, 1, 28, 28] rotated by up to 10 degrees, scaled by up to 10 % and shifted by up to 2 pixels.

    Returns new images in channels-last memory format, as `model.pixels` does.
    """
    angle, scale, shift_x, shift_y = torch.rand(4, len(images), 1, 1, generator=generator).mul_(2).sub_(1)
    angle, scale = angle * math.radians(10), 1 + scale * 0.1
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    side = images.shape[-1]
    middle = (side - 1) / 2
    x = torch.arange(side) - middle  # of each pixel, from the image's middle
    y = x.view(-1, 1)
    moved = sampled(images, cosine * x - sine * y + (2 * shift_x + middle), sine * x + cosine * y + (2 * shift_y + middle))
    return moved.contiguous(memory_format=torch.channels_last)


def sampled(images: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """Square images float32 [n, 1, s, s] at these places, float32 [n, s, s] in pixels, by bilinear interpolation.

    Outside an image is black. The same as `torch.nn.functional.grid_sample`, whose AVX2 code QEMU 7.2 emulates wrongly: its
    bytes cannot be compared between processors. Those of plain indexing agree.
    """
    side, width = images.shape[-1], images.shape[-1] + 3
    framed = functional.pad(images, (1, 2, 1, 2)).flatten()
    columns, rows = (columns + 1).clamp_(0, side + 1), (rows + 1).clamp_(0, side + 1)  # in the framed image
    left, top = columns.floor(), rows.floor()
    right_share, lower_share = (columns - left).flatten(), (rows - top).flatten()
    starts = torch.arange(len(images), dtype=torch.int32).mul_(width * width).view(-1, 1, 1)
    corner = ((top * width + left).to(torch.int32) + starts).flatten()
    upper, upper_right, lower, lower_right = (framed.index_select(0, corner + offset) for offset in (0, 1, width, width + 1))
    upper += (upper_right - upper) * right_share
    lower += (lower_right - lower) * right_share
    return (upper + (lower - upper) * lower_share).view(images.shape)


def predict(network: nn.Sequential, images: Tensor) -> Tensor:
    """The logits float32 [n, classes] of images uint8 [n, 28, 28], in batches; the network must be in evaluation mode."""
    with torch.inference_mode():  # larger batches leave the cache, and take half as long again
        return torch.cat([network(model.pixels(batch)) for batch in images.split(200)])


def evaluate(network: nn.Sequential, examples: Examples) -> tuple[float, float]:
    """The mean cross-entropy and the accuracy 0 to 1 over all examples; leaves the network in evaluation mode."""
    logits = predict(network.eval(), examples.images)
    loss = functional.cross_entropy(logits, examples.labels).item()
    return loss, (logits.argmax(dim=1) == examples.labels).double().mean().item()
