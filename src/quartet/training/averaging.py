"""The moving average of a network's weights, which is often better than the last weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn


class Average:
    """An exponential moving average of tensors, as `torch.optim.swa_utils.get_ema_multi_avg_fn` has it.

    A step keeps the share `decay` of the average; 0 is no average. The first step's tensors begin it.
    """

    def __init__(self, tensors: Sequence[Tensor], decay: float) -> None:
        self.tensors, self.decay = tensors, decay
        self.values: list[Tensor] = []

    def step(self) -> None:
        """Add the tensors as they are now."""
        if not self.decay:
            return
        if not self.values:
            self.values = [tensor.clone() for tensor in self.tensors]
        for value, tensor in zip(self.values, self.tensors, strict=True):
            value.lerp_(tensor, 1 - self.decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the tensors have the average's values in the block, if there are any, and their own afterwards."""
        own = [tensor.clone() for tensor in self.tensors]
        _copy(self.values, self.tensors)
        try:
            yield
        finally:
            _copy(own, self.tensors)


def averaged(weights: Tensor, network: nn.Module, decay: float) -> Average:
    """Average a network's `weights`, one vector, and the statistics of its batch norms."""
    return Average([weights, *(buffer for buffer in network.buffers() if buffer.is_floating_point())], decay)


def _copy(values: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    if values:
        for value, tensor in zip(values, tensors, strict=True):
            tensor.copy_(value)
