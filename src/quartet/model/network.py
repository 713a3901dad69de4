"""The report's network: three convolutions and an output layer, with batch norm or without."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn


def build(classes: int, bn: bool) -> nn.Sequential:
    """Build the network, with weights from PyTorch's global generator: float32 [n, 1, 28, 28] to logits [n, classes].

    Max pooling comes before ReLU: both keep order, so the result is the same and ReLU sees a quarter of the values.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for place, (inputs, filters, kernel, stride) in enumerate(((1, 16, 7, 1), (16, 8, 5, 1), (8, 4, 3, 2)), start=1):
        layers[f"conv{place}"] = nn.Conv2d(inputs, filters, kernel, stride, padding=kernel // 2)
        if bn:
            layers[f"norm{place}"] = nn.BatchNorm2d(filters)
        if place < 3:
            layers[f"pool{place}"] = nn.MaxPool2d(2)
        layers[f"relu{place}"] = nn.ReLU()
    layers["pool3"] = nn.AvgPool2d(2)
    layers["flatten"] = nn.Flatten()
    layers["output"] = nn.Linear(16, classes)
    return nn.Sequential(layers)


def pixels(images: Tensor) -> Tensor:
    """Turn images uint8 [n, 28, 28] into the network's input: float32 [n, 1, 28, 28], scaled to 0 to 1.

    The memory format is channels-last, for which the CPU's kernels are faster; each layer passes it on to the next.
    """
    return images.unsqueeze(1).to(torch.float32, memory_format=torch.channels_last).div_(255)


def with_scores(network: nn.Sequential) -> nn.Sequential:
    """Add the sigmoid that the report has at prediction: it gives each class a score from 0 to 1."""
    return nn.Sequential(network, nn.Sigmoid())


def layer_table(network: nn.Sequential) -> list[dict[str, Any]]:
    """List each layer's name, type, output shape for one image, and numbers of trainable and non-trainable values.

    Non-trainable are batch norm's running means and variances. Their count of batches seen is not a model value.
    """
    rows = []
    value = torch.zeros(2, 1, 28, 28)
    training = network.training
    network.eval()
    with torch.inference_mode():
        for name, layer in network.named_children():
            value = layer(value)
            rows.append(
                {
                    "layer": name,
                    "type": type(layer).__name__,
                    "output_shape": list(value.shape[1:]),
                    "trainable": sum(parameter.numel() for parameter in layer.parameters()),
                    "non_trainable": sum(buffer.numel() for buffer in layer.buffers() if buffer.is_floating_point()),
                }
            )
    network.train(training)
    return rows
