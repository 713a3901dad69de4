"""A trained model's weights and what they are, as safetensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as pack
from torch import Tensor, nn

from quartet.base import files, paths
from quartet.base.errors import InputError
from quartet.model.network import build


def save(path: Path, network: nn.Sequential, description: Mapping[str, Any]) -> None:
    """Write the weights as safetensors, with a JSON description and the SHA-256 of both in its header."""
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    header = json.dumps({"description": description, "sha256": _digest(tensors, description)}, sort_keys=True)
    files.write_bytes(path, pack(tensors, {"quartet": header}))


def load(path: Path, description: Mapping[str, Any]) -> nn.Sequential:
    """Read a file of `save` as a network in evaluation mode.

    InputError names the file if it is missing, damaged, or of a training that has another description.
    """
    advice = files.remake(paths.stage(path.parent.name))
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["quartet"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a dictionary
        found: dict[str, Any] = header["description"]
        if header["sha256"] != _digest(tensors, found):
            raise InputError(f"{path}: not the content whose SHA-256 its header names: damaged; {advice}")
        if found != description:
            names = f"'{description['variant']}'", f"'{found['variant']}'"
            which = f"those of {names[1]}" if names[0] != names[1] else "those of other settings or data"
            raise InputError(f"{path}: expected the weights of {names[0]}, found {which}; {advice}")
        unfinished = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
        if unfinished:
            raise InputError(f"{path}: {unfinished[0]} holds a value that is not finite; {advice}")
        network = build(len(found["groups"]), found["hyperparameters"]["bn"])
        network.load_state_dict(tensors)
    except FileNotFoundError:
        raise InputError(f"{path}: missing; `dvc repro` makes it") from None
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
        raise InputError(f"{path}: not a safetensors file of this project's weights; {advice}") from None
    return network.eval()


def _digest(tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {list(tensors[name].shape)}".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
