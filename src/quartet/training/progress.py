"""Show how far a training is, or how many are done: a bar if it owns the terminal, else lines."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from datetime import timedelta

from tqdm import tqdm

from quartet.training.record import Epoch

VARIABLE = "QUARTET_PROGRESS"


def _shared() -> bool:
    """Tell whether others write to this terminal, or nobody looks at it."""
    return os.environ.get(VARIABLE) == "lines" or not sys.stderr.isatty()


class Progress:
    """Reports one training; lines if QUARTET_PROGRESS is `lines` or standard error is not a terminal."""

    def __init__(self, name: str, epochs: int, steps: int) -> None:
        self.name, self.epochs, self.steps = name, epochs, steps
        bar_format = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
        self.bar = tqdm(total=epochs * steps, disable=_shared(), bar_format=bar_format, dynamic_ncols=True, miniters=20)

    def step(self, epoch: int, step: int) -> None:
        """Note that a batch of `epoch` is about to be trained on; the first one after a resume may be any."""
        if self.bar.disable:
            return
        if step == 1:
            self.bar.set_description_str(f"{self.name} epoch {epoch}/{self.epochs}", refresh=False)
            self.bar.n = (epoch - 1) * self.steps
        self.bar.update()

    def epoch(self, done: Epoch) -> None:
        """Show the losses and the validation accuracy of an epoch that is done."""
        train, val, accuracy = f"{done.train_loss:.4f}", f"{done.val_loss:.4f}", f"{done.val_accuracy:.2%}"
        if self.bar.disable:
            epoch = f"epoch {done.epoch:>{len(str(self.epochs))}}/{self.epochs}"
            print(f"{self.name:<8} {epoch}  train loss {train}  val loss {val}  val acc {accuracy}", flush=True)
        else:
            self.bar.set_postfix_str(f"train loss {train}  val acc {accuracy}")  # fits 80 columns

    def close(self) -> None:
        """Leave the terminal's last line as it is."""
        self.bar.close()


class ManyProgress:
    """Reports how many trainings are done: lines or a bar, as Progress."""

    def __init__(self, total: int, done: int, nodes: Sequence[str]) -> None:
        self.nodes = f"{len(nodes)} node{'s'[: len(nodes) - 1]}"
        self.bar = tqdm(
            total=total,
            initial=done,
            unit="training",
            disable=_shared(),
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n}/{total} [{elapsed}<{remaining}, {rate_inv_fmt}{postfix}]",
            dynamic_ncols=True,
            desc="study",
            postfix=self.nodes,
        )
        self.total, self.first, self.done, self.begun = total, done, done, time.monotonic()

    def __enter__(self) -> ManyProgress:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal's last line as it is."""
        self.bar.close()

    def one_more(self) -> None:
        """Note that a training is done."""
        self.done += 1
        self.bar.update()
        if self.bar.disable:
            seconds = (time.monotonic() - self.begun) / (self.done - self.first)
            left = timedelta(seconds=round(seconds * (self.total - self.done)))
            print(f"study: {self.done}/{self.total} trainings, {seconds:.1f} s each, {left} left, {self.nodes}", flush=True)
