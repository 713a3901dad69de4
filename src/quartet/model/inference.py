"""A trained network's answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quartet.model.network import pixels


def predict(network: nn.Sequential, images: Tensor) -> Tensor:
    """Compute logits float32 [n, classes] of images uint8 [n, 28, 28] in batches, with a network in evaluation mode."""
    with torch.inference_mode():  # larger batches do not fit the processor's cache: 1.5 times as slow
        return torch.cat([network(pixels(batch)) for batch in images.split(200)])
