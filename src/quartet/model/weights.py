"""A trained model's weights and what they are, as safetensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as safetensors
from torch import Tensor, nn

from quartet.base import files, paths
from quartet.base.errors import InputError
from quartet.model.network import build


def save(path: Path, network: nn.Sequential, description: Mapping[str, Any]) -> None:
    """Write the weights as safetensors, with a JSON description and the SHA-256 of both in its header."""
    files.write_bytes(path, pack(network.state_dict(), description))


def pack(tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> bytes:
    """Return tensors as safetensors, with a JSON description and the SHA-256 of both in the header."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    header = json.dumps({"description": description, "sha256": _digest(contiguous, description)}, sort_keys=True)
    return safetensors(contiguous, {"quartet": header})


def unpack(content: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the description of what `pack` made; ValueError if it is damaged, or something else."""
    try:
        size = int.from_bytes(content[:8], "little")
        header = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["quartet"])
        tensors, description = load_tensors(content), dict(header["description"])
        intact = header["sha256"] == _digest(tensors, description)
    except (SafetensorError, KeyError, TypeError, ValueError, OverflowError, RuntimeError):
        raise ValueError("not a safetensors file of this project's weights") from None
    if not intact:
        raise ValueError("not the content whose SHA-256 its header names: damaged")
    return tensors, description


def load(path: Path, description: Mapping[str, Any]) -> nn.Sequential:
    """Read a file of `save` as a network in evaluation mode.

    InputError names the file if it is missing, damaged, or of a training that has another description.
    """
    advice = files.remake(paths.stage(path.parent.name))
    try:
        tensors, found = unpack(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: missing; `dvc repro` makes it") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}; {advice}") from None
    if found != description:
        names = f"'{description['variant']}'", f"'{found.get('variant')}'"
        which = f"those of {names[1]}" if names[0] != names[1] else "those of other settings or data"
        raise InputError(f"{path}: expected the weights of {names[0]}, found {which}; {advice}")
    unfinished = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if unfinished:
        raise InputError(f"{path}: {unfinished[0]} holds a value that is not finite; {advice}")
    network = build(len(found["groups"]), found["hyperparameters"]["bn"])
    try:
        network.load_state_dict(tensors)
    except RuntimeError:
        raise InputError(f"{path}: not a safetensors file of this project's weights; {advice}") from None
    return network.eval()


def _digest(tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {list(tensors[name].shape)}".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
