"""How far float32 arithmetic may be from the exact result, derived from the operations, whatever their order.

A sum of n products that is computed in any order, with or without fused multiply-adds, is within gamma(n) Σ|aᵢbᵢ| of the
exact sum, gamma(n) = n·u / (1 - n·u) and u = 2⁻²⁴ (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

U = 2.0**-24


def gamma(terms: int) -> float:
    return terms * U / (1 - terms * U)


def absolute(layer: nn.Module, bias: bool) -> nn.Module:
    """The layer in float64 with the absolute values of its weights, and of its bias or none."""
    positive = copy.deepcopy(layer).double()
    with torch.no_grad():
        positive.weight.abs_()
        positive.bias.abs_() if bias else positive.bias.zero_()
    return positive


@torch.no_grad()
def reference(network: nn.Sequential, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of a network in evaluation mode, in float64, and the bound of float32's distance from each of them.

    The pixels may have been rounded once, by the division by 255.
    """
    value = pixels.double()
    error = U * value.abs()
    for layer in network:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            terms = layer.weight[0].numel() + 1
            rounding = gamma(terms) * absolute(layer, bias=True)(value.abs() + error)
            error = absolute(layer, bias=False)(error) + rounding
        elif isinstance(layer, nn.BatchNorm2d):
            scale, mean, bias = (
                part.double().abs().view(-1, 1, 1)
                for part in (layer.weight / (layer.running_var + layer.eps).sqrt(), layer.running_mean, layer.bias)
            )
            # Five operations, or folded into one scale and one offset: eight roundings at most.
            error = scale * error + gamma(8) * (scale * (value.abs() + error + mean) + bias)
        elif isinstance(layer, nn.AvgPool2d):
            error = layer(error + gamma(5) * (value.abs() + error))
        elif isinstance(layer, nn.MaxPool2d | nn.Flatten):
            error = layer(error)
        else:
            assert isinstance(layer, nn.ReLU)
        value = copy.deepcopy(layer).double()(value)
    return value, error


def assert_within(found: Tensor, expected: tuple[Tensor, Tensor]) -> None:
    """Every float32 logit is within its bound, and the bound is small enough to tell a mistake."""
    value, bound = expected
    assert bound.max() < 0.05 * value.abs().max()
    assert ((found.double() - value).abs() <= bound).all()
