"""Our training loop in float64, to compare what it computes with another loop apart from float32's rounding."""

from __future__ import annotations

# isort: off
from quartet.model import inference, network  # before PyTorch: it sets the numeric contract

# isort: on
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from torch import Tensor, nn

from quartet.training import loop


@contextmanager
def precision() -> Iterator[None]:
    """Have `loop.fit` build its networks in float64, from the same first weights, and feed them float64 pixels."""

    def doubled(classes: int, bn: bool) -> nn.Sequential:
        return network.build(classes, bn).double()

    def exact(images: Tensor) -> Tensor:
        return network.pixels(images).double().mul_(255).round_().div_(255)

    with (
        mock.patch.object(loop, "build", doubled),
        mock.patch.object(loop, "pixels", exact),
        mock.patch.object(inference, "pixels", exact),
    ):
        yield
