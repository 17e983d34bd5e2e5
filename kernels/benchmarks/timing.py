"""Medians, on a GPU. Without one nothing is timed: a function is run once, and its time is None.

With few tokens the host takes longer to launch a layer than the device to run it, and a decoding loop is replayed as a CUDA graph
anyway. So up to GRAPHED tokens what is timed is a graph's replay, where a side can be captured at all; `how` says which it was.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

WARM_UP_MS, REPEAT_MS = 25, 100  # of one measurement; do_bench clears the L2 cache before each run
GRAPHED = 128


def median_ms(function: Callable[[], object], tokens: int = GRAPHED + 1) -> tuple[float | None, str]:
    """The median run in milliseconds, on the device, and "graph", "launched" or "not timed"."""
    if not torch.cuda.is_available():
        function()
        return None, "not timed"
    from triton.testing import do_bench

    replay = captured(function) if tokens <= GRAPHED else None
    ms = do_bench(replay or function, warmup=WARM_UP_MS, rep=REPEAT_MS, return_mode="median")
    return float(ms), "graph" if replay else "launched"


def captured(function: Callable[[], object]) -> Callable[[], None] | None:
    """The function as a CUDA graph; None for one that waits for the device, which a graph cannot hold."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # compiled and tuned before anything is recorded
            function()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            function()
    except RuntimeError:
        torch.cuda.synchronize()
        return None
    return graph.replay


def device() -> torch.device:
    """The card, or the CPU for a dry run."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def narrow() -> torch.dtype:
    """bf16 on a card. Triton's interpreter computes bf16 wrongly, so fp16 without one."""
    return torch.bfloat16 if torch.cuda.is_available() else torch.float16
