"""The report's network: three convolutions and an output layer, with batch norm or without."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from quartet import files, paths
from quartet.errors import InputError


def build(classes: int, bn: bool) -> nn.Sequential:
    """The network with fresh weights from PyTorch's global generator: float32 [n, 1, 28, 28] to logits [n, classes].

    Max pooling stands before ReLU: both keep order, so the result is the same and ReLU sees a quarter of the values.
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
    """Images uint8 [n, 28, 28] as the network's input: float32 [n, 1, 28, 28], scaled to 0 to 1.

    The memory format is channels-last, for which the CPU's kernels are faster; each layer passes it on to the next.
    """
    return images.unsqueeze(1).to(torch.float32, memory_format=torch.channels_last).div_(255)


def with_scores(network: nn.Sequential) -> nn.Sequential:
    """The network as the report has it at prediction: a sigmoid after the output layer gives each class a score 0 to 1."""
    return nn.Sequential(network, nn.Sigmoid())


def layer_table(network: nn.Sequential) -> list[dict[str, Any]]:
    """Each layer's name, type, output shape for one image, and numbers of trainable and non-trainable values.

    Non-trainable are batch norm's running means and variances. Their count of batches seen is no model value.
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


def save_weights(path: Path, network: nn.Sequential, description: Mapping[str, Any]) -> None:
    """Write the weights as safetensors, with a JSON description and the SHA-256 of both in its header."""
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    header = json.dumps({"description": description, "sha256": _digest(tensors, description)}, sort_keys=True)
    files.write_bytes(path, save(tensors, {"quartet": header}))


def load_weights(path: Path, variant: str) -> tuple[nn.Sequential, dict[str, Any]]:
    """Read a file of `save_weights` as a network in evaluation mode, and its description.

    InputError names the file where it is missing, damaged, or another variant's.
    """
    advice = files.remake(paths.stage(path.parent.name))
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["quartet"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a dictionary
        description: dict[str, Any] = header["description"]
        if header["sha256"] != _digest(tensors, description):
            raise InputError(f"{path}: not the content whose SHA-256 its header names: damaged; {advice}")
        if description["variant"] != variant:
            raise InputError(
                f"{path}: expected the weights of '{variant}', found those of '{description['variant']}'; {advice}"
            )
        network = build(len(description["groups"]), description["hyperparameters"]["bn"])
        network.load_state_dict(tensors)
    except FileNotFoundError:
        raise InputError(f"{path}: missing; `dvc repro` makes it") from None
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
        raise InputError(f"{path}: not a safetensors file of this project's weights; {advice}") from None
    return network.eval(), description


def _digest(tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {list(tensors[name].shape)}".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
