"""Our training loop in float64, to compare what it computes with another loop apart from float32's rounding."""

from __future__ import annotations

# isort: off
from quartet import model  # before PyTorch: it sets the numeric contract

# isort: on
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from torch import Tensor, nn


@contextmanager
def precision() -> Iterator[None]:
    """Have `training.fit` build its networks in float64, from the same first weights, and feed them float64 pixels."""
    build, pixels = model.build, model.pixels

    def doubled(classes: int, bn: bool) -> nn.Sequential:
        return build(classes, bn).double()

    def exact(images: Tensor) -> Tensor:
        return pixels(images).double().mul_(255).round_().div_(255)

    with mock.patch.object(model, "build", doubled), mock.patch.object(model, "pixels", exact):
        yield
