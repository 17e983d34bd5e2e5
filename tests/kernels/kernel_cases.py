"""Group sizes, each with the reason it is there, and the tensors of a test."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from kernel_machine import DEVICE
from torch import Tensor

SIZES: Mapping[str, list[int]] = {
    "one row": [1],
    "all in one group, the last": [0, 0, 0, 70],
    "all in one group, the first": [70, 0, 0, 0],
    "empty in between, and rows alone": [2, 0, 1, 0, 1],
    "a tile exactly, and one row more": [32, 33, 64, 65],
    "one short of a tile": [31, 63, 95],
    "more groups than programs": [5, 1, 7, 0, 3, 2, 9, 4, 6, 8, 1],
    "no rows at all": [0, 0, 0],
}
# Sums of up to 70 products, kept in fp32 and rounded once: 2^-11 of the largest for fp16, 2^-8 for bf16; fp32 in another order.
CLOSE = {torch.float32: 2e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Normal numbers on the tests' device, the same on each."""
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale
    return drawn.to(DEVICE, dtype)


def ends_of(sizes: list[int]) -> Tensor:
    """Group ends, int64."""
    return torch.tensor(sizes, device=DEVICE).cumsum(0)


def assert_near(found: Tensor, exact: Tensor, what: str) -> None:
    """`exact` is float64, from the same rounded inputs; NaN is never near."""
    bound = CLOSE[found.dtype] * max(1.0, float(exact.abs().max())) if exact.numel() else 0.0
    worst = float((found.double() - exact).abs().max()) if exact.numel() else 0.0
    assert found.shape == exact.shape and worst <= bound, (
        f"{what}: off by {worst}, {worst / max(bound, 1e-30):.1f} x the bound"
    )
