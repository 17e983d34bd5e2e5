"""Medians, on a GPU. Without one nothing is timed: a function is run once, and its time is None."""

from __future__ import annotations

from collections.abc import Callable

import torch

WARM_UP_MS, REPEAT_MS = 25, 100  # of one measurement; do_bench clears the L2 cache before each run


def median_ms(function: Callable[[], object]) -> float | None:
    """The median run in milliseconds, on the device."""
    if not torch.cuda.is_available():
        function()
        return None
    from triton.testing import do_bench

    return float(do_bench(function, warmup=WARM_UP_MS, rep=REPEAT_MS, return_mode="median"))


def device() -> torch.device:
    """The card, or the CPU for a dry run."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def narrow() -> torch.dtype:
    """bf16 on a card. Triton's interpreter computes bf16 wrongly, so fp16 without one."""
    return torch.bfloat16 if torch.cuda.is_available() else torch.float16
