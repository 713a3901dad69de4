"""Adam on all parameters at once, with correctly rounded roots."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn


class Adam:
    """Adam (https://arxiv.org/abs/1412.6980), the mathematics of `torch.optim.AdamW`, on all parameters as one vector.

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
        self,
        gradients: Sequence[Tensor],
        lr: float,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        *,
        decay: float = 0,
    ) -> None:
        """Move each parameter by about `lr` down its gradient; before that, shrink it by the share `lr` * `decay`.

        The latter is decoupled weight decay (https://arxiv.org/abs/1711.05101).
        """
        gradient = torch.cat([channels_last(part).flatten() for part in gradients])
        self.steps += 1
        self.mean.lerp_(gradient, 1 - beta1)
        self.square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        # NumPy rounds square roots correctly; PyTorch uses MKL, which on some processors does not.
        root = torch.from_numpy(np.sqrt(self.square.numpy()))
        scale = root.div_(math.sqrt(1 - beta2**self.steps)).add_(epsilon)
        if decay:
            self.weights.mul_(1 - lr * decay)
        self.weights.addcdiv_(self.mean, scale, value=-lr / (1 - beta1**self.steps))


def channels_last(kernels: Tensor) -> Tensor:
    """Return a view of a convolution's weights with the channels last; other parameters as they are.

    PyTorch computes and gives gradients in this order if the images are channels-last, so no copy is needed.
    """
    return kernels.permute(0, 2, 3, 1) if kernels.dim() == 4 else kernels


def channels_first(kernels: Tensor) -> Tensor:
    """Undo `channels_last`."""
    return kernels.permute(0, 3, 1, 2) if kernels.dim() == 4 else kernels
