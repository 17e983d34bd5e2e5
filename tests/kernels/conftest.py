"""The kernels' tests run where there is no GPU too: in Triton's interpreter, which runs a kernel's programs with numpy, in turn.

With a CUDA device the same tests run on it, in bf16 as well. In the interpreter bf16 is silently wrong (it keeps the bits in
uint16 and multiplies those), so there the narrow type is fp16.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from kernel_machine import CUDA, KERNELS, NARROW

HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Without Triton (macOS, Windows) there is nothing to test here."""
    missing = importlib.util.find_spec("triton") is None or not (KERNELS / "llama4_kernels").is_dir()
    return True if missing and collection_path != HERE / "conftest.py" else None


@pytest.fixture(params=[torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """What a kernel may be given. bf16 needs a GPU."""
    if request.param == torch.bfloat16 and not CUDA:
        pytest.skip("Triton's interpreter computes bf16 wrongly: fp16 takes the same path here, bf16 needs a GPU")
    return request.param


@pytest.fixture(params=[NARROW], ids=str)
def narrow(request: pytest.FixtureRequest) -> torch.dtype:
    """The 16-bit type that can be trusted here."""
    return request.param


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Every output begins as NaN: what a kernel does not write stays to be seen."""
    from poison import poisoned as filled  # kernel_machine has put the benchmarks' folder on the path by now

    with filled():
        yield
