"""What this card can do at most, measured in the same run: one large product, one large copy, one large sum.

Ratios to a data sheet compare a kernel with a card that nobody has: the clock falls under load, and on random data further than
on zeros. Reading alone (the sum) is what a decoding layer does with its weights; a copy also turns the bus around.
"""

from __future__ import annotations

from typing import Any

import torch
from timing import median_ms

PRODUCT, COPY = 8192, 2**31  # side of a square product; bytes


def measure(device: torch.device, dtype: torch.dtype, side: int = PRODUCT, nbytes: int = COPY) -> dict[str, Any]:
    """TFLOP/s of a square product on random data, TB/s that a copy reads and writes and that a sum reads, and their sizes."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product_ms, _ = median_ms(lambda: a @ b)
    source = torch.empty(nbytes, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    copy_ms, _ = median_ms(lambda: target.copy_(source))
    numbers = torch.randn(nbytes // 4, device=device)
    read_ms, _ = median_ms(lambda: numbers.sum())
    return {
        "product_side": side,
        "product_tflops": None if product_ms is None else 2 * side**3 / product_ms / 1e9,
        "copy_bytes": nbytes,
        "copy_tb_s": None if copy_ms is None else 2 * nbytes / copy_ms / 1e9,
        "read_tb_s": None if read_ms is None else nbytes / read_ms / 1e9,
    }
