"""The training loop: the same bytes from the same hyperparameters, data and code."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from quartet.base.errors import WorkError
from quartet.base.numerics import rounded
from quartet.base.params import Groups, Hyperparameters
from quartet.data import splits
from quartet.model.inference import predict
from quartet.model.network import build, pixels
from quartet.training.adam import Adam
from quartet.training.augment import augmented
from quartet.training.averaging import Average, averaged
from quartet.training.determinism import deterministic, keep_freed_memory
from quartet.training.record import Epoch


class Examples(NamedTuple):
    """Images uint8 [n, 28, 28] and classes int64 [n]."""

    images: Tensor
    labels: Tensor


def examples(split: splits.Split, groups: Groups) -> Examples:
    """Turn a split into tensors, its digits into the classes of `groups`."""
    return Examples(torch.from_numpy(split.images), torch.from_numpy(splits.merge(split.labels, groups)))


def load_examples(split: str, groups: Groups) -> Examples:
    """Read the split of that name as tensors."""
    return examples(splits.load_split(split), groups)


class DivergedError(WorkError):
    """The training loss is no longer a finite number."""


class Checkpoint(Protocol):
    """Keeps a training's state between epochs."""

    def load(self) -> dict[str, Any] | None:
        """Return the state that was saved last, or None if there is none of this training."""

    def save(self, state: dict[str, Any]) -> None:
        """Keep this state in place of the one before."""


def one_cycle(step: int, steps: int) -> tuple[float, float]:
    """Return the share of the peak learning rate, and Adam's beta1, at `step` of 0 to `steps` - 1.

    As `torch.optim.lr_scheduler.OneCycleLR` has it: up for 30 % of the steps from a 25th, down to a 250,000th, along
    cosines; the momentum falls from 0.95 to 0.85 while the learning rate rises, and rises while it falls.
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
    average: Average
    generator: torch.Generator
    history: list[Epoch]

    def capture(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "adam": (self.adam.mean, self.adam.square, self.adam.steps),
            "average": self.average.values,
            "generator": self.generator.get_state(),
            "history": [tuple(epoch) for epoch in self.history],
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.adam.mean, self.adam.square, self.adam.steps = state["adam"]
        self.average.values = state["average"]
        self.generator.set_state(state["generator"])
        self.history[:] = [Epoch(*epoch) for epoch in state["history"]]


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

    With `ema_decay`, the network that is evaluated after each epoch and returned has the average of the weights. The
    training loss is always that of the weights themselves, and with `label_smoothing` that of the smoothed labels.

    The weights, the order of images and their augmentation come from the seeds of `hyperparameters` alone. With a checkpoint
    the training goes on after the last epoch that it holds, bit for bit as if it had not been interrupted. `on_epoch` is
    called after each epoch with the history so far, `on_step` before each batch with the epoch and the step.

    Raises DivergedError, with the epoch and the step, at the first loss that is not finite.
    """
    keep_freed_memory()
    with deterministic(), torch.random.fork_rng(devices=[]):
        seeds = hyperparameters.seeds()
        torch.manual_seed(seeds["weights_seed"])
        network = build(hyperparameters.classes, hyperparameters.bn)
        generator = torch.Generator().manual_seed(seeds["order_seed"])
        adam = Adam(network.parameters())
        state = _State(network, adam, averaged(adam.weights, network, hyperparameters.ema_decay), generator, history=[])
        if checkpoint and (saved := checkpoint.load()):
            state.restore(saved)
        for number in range(len(state.history) + 1, hyperparameters.epochs + 1):
            train_loss = _train_epoch(state, hyperparameters, train, on_step)
            with state.average.in_place():
                measured = (train_loss, *evaluate(network, validation))
            state.history.append(Epoch(number, *map(rounded, measured)))
            if checkpoint:
                checkpoint.save(state.capture())
            on_epoch(tuple(state.history))
        trained = build(hyperparameters.classes, hyperparameters.bn)  # its parameters are not views of a larger tensor
        with state.average.in_place():
            trained.load_state_dict(network.state_dict())
        return trained.eval(), state.history


def _train_epoch(
    state: _State, hyperparameters: Hyperparameters, train: Examples, on_step: Callable[[int, int], None]
) -> float:
    """Train on each of the shuffled training images once; return their mean loss, each as its batch was trained on."""
    state.network.train()
    order = torch.randperm(len(train.images), generator=state.generator)
    number, total = len(state.history) + 1, 0.0
    # Indexing all images at once is faster than indexing each batch.
    batches = [part[order].split(hyperparameters.batch_size) for part in train]
    for step, (batch, labels) in enumerate(zip(*batches, strict=True), start=1):
        on_step(number, step)
        images = pixels(batch)
        if hyperparameters.augment:
            images = augmented(images, state.generator, **hyperparameters.sizes())
        loss = functional.cross_entropy(state.network(images), labels, label_smoothing=hyperparameters.label_smoothing)
        gradients = torch.autograd.grad(loss, state.adam.parameters)
        share, beta1 = 1.0, 0.9
        if hyperparameters.schedule == "onecycle":
            share, beta1 = one_cycle(state.adam.steps, hyperparameters.epochs * len(batches[0]))
        state.adam.step(gradients, hyperparameters.lr * share, beta1, decay=hyperparameters.weight_decay)
        state.average.step()
        value = loss.item()
        if not math.isfinite(value):
            raise DivergedError(
                f"the training loss became {value} in epoch {number}, step {step}; lower lr ({hyperparameters.lr})"
            )
        total += value * len(batch)
    return total / len(train.images)


def evaluate(network: nn.Sequential, examples: Examples) -> tuple[float, float]:
    """Compute the mean cross-entropy and the accuracy 0 to 1 over all examples; leave the network in evaluation mode."""
    logits = predict(network.eval(), examples.images)
    loss = functional.cross_entropy(logits, examples.labels).item()
    return loss, (logits.argmax(dim=1) == examples.labels).double().mean().item()
