"""The numeric contract: the same bytes from every x86-64 processor that has AVX2 and FMA.

NumPy, PyTorch and the libraries below them choose their code by the processor, and each choice rounds differently. They
read these variables once, so `quartet/__init__.py` sets them before any module imports NumPy or PyTorch.
"""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

SWITCH = "QUARTET_NUMERIC_CONTRACT"  # `off` turns the contract off; for tests alone
CPUINFO = Path("/proc/cpuinfo")

TORCH = {
    "ATEN_CPU_CAPABILITY": "avx2",  # PyTorch's own loops
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # convolutions and batch norm; this excludes reduced precision too
    "MKL_CBWR": "COMPATIBLE",  # matrix products
}
# NumPy's features beyond AVX2, by its version's names; it warns about names that it does not know.
NUMPY = "X86_V4 AVX512_ICL AVX512_SPR"
NUMPY_BEFORE_2_4 = "AVX512F AVX512CD AVX512_KNL AVX512_KNM AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL"

SIGNIFICANT_DIGITS = 6


def variables() -> dict[str, str]:
    """Return the environment variables of the contract, for the installed NumPy."""
    numpy = tuple(int(part) for part in version("numpy").split(".")[:2])
    return {**TORCH, "NPY_DISABLE_CPU_FEATURES": NUMPY if numpy >= (2, 4) else NUMPY_BEFORE_2_4}


def apply() -> None:
    """Set the contract in this process's environment, whatever it says, if the processor can keep it."""
    if departure() is None:
        os.environ.update(variables())
        os.environ.pop("NPY_ENABLE_CPU_FEATURES", None)  # NumPy refuses both at once


def departure() -> str | None:
    """Return why this process does not compute the published bytes, or None if it does."""
    if os.environ.get(SWITCH) == "off":
        return f"{SWITCH} is off"
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return f"this processor is {platform.machine()}, not x86-64"
    if not CPUINFO.exists():
        return f"{platform.system()} does not tell whether this processor has AVX2 and FMA"
    missing = [name.upper() for name in ("avx2", "fma") if name not in processor_flags()]
    return f"this processor has no {' and no '.join(missing)}" if missing else None


def processor_flags() -> frozenset[str]:
    """Return what the processor can do, in the words of Linux; empty on other systems."""
    if CPUINFO.exists():
        with CPUINFO.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("flags"):
                    return frozenset(line.partition(":")[2].split())
    return frozenset()


def rounded(value: float) -> float:
    """Round `value` to six significant digits: what a person reads, without the noise of the last bits."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
