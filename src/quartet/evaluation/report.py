"""The report's own numbers, typed from it: what the variants of these names are compared with."""

from __future__ import annotations

from typing import NamedTuple


class Reported(NamedTuple):
    """A model of the report: trainable parameters, losses after 10 epochs, accuracies in percent; None if it has none."""

    trainable: int | None = None
    train_loss: float | None = None
    val_loss: float | None = None
    first_val_accuracy: float | None = None
    last_val_accuracy: float | None = None
    test_accuracy: float | None = None


UNREPORTED = Reported()


SOURCE = 'R. K. Tiwari, "Assignment 1: Deep Learning", sections 3 and 4b'

# Experiments 1 and 2 are `ten` and `four`, without and then with batch norm; it gives no parameter counts with it.
REPORT = {
    "ten": Reported(4_470, 0.0624, 0.0731, 93.08, 97.70, 97.93),
    "four": Reported(4_368, 0.0278, 0.0327, 96.52, 99.00, 98.94),
    "ten-bn": Reported(None, 0.0354, 0.0532, 97.2, 98.48, 98.33),
    "four-bn": Reported(None, 0.0191, 0.0344, 98.03, 99.00, 99.18),
}
