"""The state of an unfinished training, kept beside DVC's outputs so that the next run goes on from it."""

from __future__ import annotations

import hashlib
import io
import pickle
from types import TracebackType
from typing import Any

import torch
from filelock import FileLock, Timeout

from quartet.base import errors, files, paths
from quartet.training.record import TrainingRecord


class CheckpointFile:
    """The checkpoint of one training; leaving the block without an error deletes it.

    It names the fingerprint of its training; a damaged or foreign checkpoint is ignored with a warning.
    Entering the block waits for another process that is inside it under the same name, as one that a killed dvc left behind.
    """

    def __init__(self, record: TrainingRecord) -> None:
        self.name, self.fingerprint = record.name, record.fingerprint
        self.path, self.lock = paths.CHECKPOINTS / f"{self.name}.pt", FileLock(paths.CHECKPOINTS / f"{self.name}.lock")

    def __enter__(self) -> CheckpointFile:
        paths.CHECKPOINTS.mkdir(exist_ok=True)
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            errors.warn(f"{self.name}: another process trains it here (pgrep -f 'train.py {self.name}'); waiting for it")
            self.lock.acquire()
        files.remove_parts(self.path)
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None) -> None:
        if kind is None:
            self.path.unlink(missing_ok=True)
        self.lock.release()

    def load(self) -> dict[str, Any] | None:
        """Return the state of the last finished epoch, if there is one of this training."""
        if not self.path.exists():
            return None
        try:
            content = self.path.read_bytes()
            digest, content = content[:32], content[32:]
            # PyTorch does not notice a flipped bit.
            saved = torch.load(io.BytesIO(content), weights_only=True) if _digest(content) == digest else {}
            fingerprint, state = saved["fingerprint"], saved["state"]
            epochs = len(state["history"])
        except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, ValueError, OSError):
            errors.warn(f"{self.path}: damaged; ignored, {self.name} starts at epoch 1")
            return None
        if fingerprint != self.fingerprint:
            errors.warn(f"{self.path}: of other parameters, data or code; ignored, {self.name} starts at epoch 1")
            return None
        print(f"{self.name}: resumed after epoch {epochs}", flush=True)
        return dict(state)

    def save(self, state: dict[str, Any]) -> None:
        """Keep the state of an epoch just finished, in place of the one before."""
        content = io.BytesIO()
        torch.save({"fingerprint": self.fingerprint, "state": state}, content)
        files.write_bytes(self.path, _digest(content.getvalue()) + content.getvalue())


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
