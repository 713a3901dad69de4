"""What makes PyTorch compute the same bytes each time, and what makes that fast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def deterministic() -> Iterator[None]:
    """Use one thread and deterministic algorithms in the block; the thread count decides the order of sums.

    The debug mode sets the same switch as `torch.use_deterministic_algorithms`, which imports the compiler for seconds.
    Memory that is about to be written is not filled first: it costs a third of a step and changes no result.
    """
    threads, mode, fill = (
        torch.get_num_threads(),
        torch.get_deterministic_debug_mode(),
        fill_memory(),
    )
    torch.set_num_threads(1)
    torch.set_deterministic_debug_mode("error")
    fill_memory(False)
    try:
        yield
    finally:
        fill_memory(fill)
        torch.set_deterministic_debug_mode(mode)
        torch.set_num_threads(threads)


def keep_freed_memory() -> None:
    """Have glibc keep what each step frees for the next; elsewhere this does nothing.

    It returns free memory to the kernel above a threshold, and the kernel's clearing of the pages that come back costs up
    to a third of a step with batch norm. Freeing one large block raises the threshold to twice its size (mallopt(3)).
    """
    torch.empty(2**24, dtype=torch.uint8)


def fill_memory(fill: bool | None = None) -> bool:
    """Tell whether deterministic mode fills memory that is about to be written; set it if `fill` is given."""
    setting = torch.utils.deterministic
    was = bool(setting.fill_uninitialized_memory)  # type: ignore[attr-defined] # a property that the stub lacks
    if fill is not None:
        setting.fill_uninitialized_memory = fill  # type: ignore[attr-defined] # the same
    return was
