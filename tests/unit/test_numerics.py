from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest

from project import ROOT
from quartet.base import numerics

# Each of these changes a training's result in plain PyTorch, on some processor.
HOSTILE = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "DNNL_MAX_CPU_ISA": "SSE41",
    "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
    "DNNL_DEFAULT_FPMATH_MODE": "ANY",
    "MKL_CBWR": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "NPY_ENABLE_CPU_FEATURES": "X86_V3",
    "OMP_NUM_THREADS": "2",
    "TORCH_MKLDNN_ENABLED": "0",
    "PYTHONHASHSEED": "7",
}
TRAIN = """
import hashlib
from quartet.base.params import Hyperparameters
from quartet.training import loop
import torch
random = torch.Generator().manual_seed(0)
images = torch.randint(0, 256, (130, 28, 28), dtype=torch.uint8, generator=random)
examples = loop.Examples(images, torch.arange(130) % 10)
digest = hashlib.sha256()
for augment in (False, True):
    network, history = loop.fit(
        Hyperparameters(classes=10, bn=True, epochs=1, batch_size=20, lr=0.01, schedule="onecycle", augment=augment, seed=0),
        examples, examples,
    )
    digest.update(b"".join(value.numpy().tobytes() for value in network.state_dict().values()) + repr(history).encode())
print(digest.hexdigest())
"""
STATE = """
import quartet, torch, numpy
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
print(torch.backends.cpu.get_cpu_capability())
print(sorted(name for name in __cpu_dispatch__ if "512" in name or name == "X86_V4"))
print([name for name in __cpu_dispatch__ if __cpu_features__[name] and ("512" in name or name == "X86_V4")])
"""


def python(code: str, *options: str, **changes: str) -> str:
    """What a new interpreter prints that finds the package and, of the contract, only what `changes` say."""
    contract = {*numerics.variables(), "NPY_ENABLE_CPU_FEATURES"}
    kept = {name: value for name, value in os.environ.items() if name not in contract}
    done = subprocess.run(
        [sys.executable, *options, "-c", code],
        env={**kept, "PYTHONPATH": str(ROOT / "src"), **changes},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.contract
def test_no_environment_changes_what_a_training_ends_with():
    assert python(TRAIN, **HOSTILE) == python(TRAIN)


@pytest.mark.contract
def test_without_the_contract_the_environment_does():
    off = {numerics.SWITCH: "off"}
    assert python(TRAIN, **off, ATEN_CPU_CAPABILITY="default", ONEDNN_MAX_CPU_ISA="SSE41") != python(TRAIN)


@pytest.mark.contract
def test_the_libraries_know_and_keep_the_contract():
    # Any name that NumPy does not know is an ImportWarning.
    capability, known, used = python(STATE, "-W", "error").splitlines()
    assert capability == "AVX2"
    assert known == repr(sorted(numerics.variables()["NPY_DISABLE_CPU_FEATURES"].split()))
    assert used == "[]"


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ("flags : sse4_2 avx fma", "this processor has no AVX2"),
        ("flags : sse4_2 avx avx2", "this processor has no FMA"),
        ("flags : sse4_2", "this processor has no AVX2 and no FMA"),
        ("", "this processor has no AVX2 and no FMA"),
        ("flags\t\t: avx2 fma avx512f", None),
    ],
)
def test_a_processor_without_the_contract_is_left_as_it_is(tmp_path, monkeypatch, flags, problem):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nmodel name : any\n{flags}\n", encoding="utf-8")
    monkeypatch.setattr(numerics, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.delenv(numerics.SWITCH, raising=False)
    monkeypatch.setenv("MKL_CBWR", "the user's")
    assert numerics.departure() == problem
    numerics.apply()
    assert (os.environ["MKL_CBWR"] == "the user's") == (problem is not None)


def test_a_system_that_does_not_tell_is_left_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(numerics, "CPUINFO", tmp_path / "none")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.delenv(numerics.SWITCH, raising=False)
    assert numerics.departure().endswith(" does not tell whether this processor has AVX2 and FMA")


def test_another_architecture_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    monkeypatch.delenv(numerics.SWITCH, raising=False)
    monkeypatch.setenv("MKL_CBWR", "the user's")
    assert numerics.departure() == "this processor is arm64, not x86-64"
    numerics.apply()
    assert os.environ["MKL_CBWR"] == "the user's"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0123456789, 0.0123457), (1.0, 1.0), (2.30258509, 2.30259), (1e-17, 1e-17), (98765432.1, 98765400.0)],
)
def test_a_number_for_people_has_six_digits(value, expected):
    assert numerics.rounded(value) == expected


def test_what_is_not_a_number_stays_so():
    assert math.isnan(numerics.rounded(math.nan))
    assert numerics.rounded(math.inf) == math.inf
