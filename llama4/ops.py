"""The one seam between readable and fast: which implementation runs a matmul.

`eager` is plain PyTorch and runs everywhere. `triton` is the package `llama4_kernels`, chosen where it can be imported and a
CUDA device is there. The choice is made once; `use("eager")` overrides it, for a test or a comparison.

    y[n] = x[n] @ w[e]   for every row n of group e, where group e is rows group_ends[e-1] .. group_ends[e] - 1

Worked example: E = 3 and group_ends = [2, 2, 5]: rows 0, 1 belong to expert 0, nobody to expert 1, rows 2, 3, 4 to expert 2.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from llama4.errors import InputError

BACKENDS = ("eager", "triton")
SLICES = 16  # of a weight, in the one-row product on a CPU
_override: ContextVar[str | None] = ContextVar("llama4_backend", default=None)


@contextmanager
def use(name: str) -> Iterator[None]:
    """Run the enclosed calls on backend `name`. Raises InputError for an unknown name."""
    if name not in BACKENDS:
        raise InputError(f"There is no backend {name!r}: choose one of {', '.join(BACKENDS)}.")
    token = _override.set(name)
    try:
        yield
    finally:
        _override.reset(token)


def backend() -> str:
    """The backend that the next call runs on."""
    return _override.get() or _resolve()


@cache
def _resolve() -> str:
    kernels_there = importlib.util.find_spec("llama4_kernels") is not None
    return "triton" if kernels_there and torch.cuda.is_available() else "eager"


def grouped_matmul(x_ND: Tensor, w_EDF: Tensor, group_ends_E: Tensor) -> Tensor:
    """`[N, D]` rows sorted by expert, times each row's own expert `[E, D, F]`: `[N, F]`, in x's dtype.

    `group_ends_E` is int64 `[E]`, the running total of the group sizes; its last entry is N.
    """
    if backend() == "triton":
        from llama4_kernels import grouped_matmul as triton_grouped_matmul

        return triton_grouped_matmul(x_ND, w_EDF, group_ends_E)
    return eager_grouped_matmul(x_ND, w_EDF, group_ends_E)


def eager_grouped_matmul(x_ND: Tensor, w_EDF: Tensor, group_ends_E: Tensor) -> Tensor:
    """One matmul a group that has rows; on CUDA in bf16, torch's own grouped kernel, which waits for nothing.

    On a CPU torch's kernel is a loop too. Measured with torch 2.13, fp32, 256 x 512, 16 experts: 0.9 x the time of this loop
    for 512 rows, 1.8 x for the one row of a decode step.
    """
    aligned = w_EDF.shape[1] % 8 == 0 and w_EDF.shape[2] % 8 == 0  # its rows must begin at multiples of 16 bytes
    if x_ND.is_cuda and x_ND.dtype == torch.bfloat16 and aligned:
        return F.grouped_mm(x_ND, w_EDF, offs=group_ends_E.to(torch.int32))
    ends = group_ends_E.tolist()
    spans = zip([0, *ends[:-1]], ends, strict=True)
    parts = [_matmul(x_ND[start:end], w_EDF[expert]) for expert, (start, end) in enumerate(spans) if end > start]
    return torch.cat(parts) if parts else x_ND @ w_EDF[0]


def _matmul(x_ND: Tensor, w_DF: Tensor) -> Tensor:
    """`x @ w`; one row in slices of the dimension that is summed over (see `linear`): 0.6 x the time on two cores."""
    if not _one_row_on_cpu(x_ND) or w_DF.shape[0] % SLICES:
        return x_ND @ w_DF
    slices = x_ND.unflatten(1, (SLICES, -1)).transpose(0, 1), w_DF.unflatten(0, (SLICES, -1))
    return torch.bmm(*slices).sum(0)


def _one_row_on_cpu(x: Tensor) -> bool:
    return x.numel() == x.shape[-1] and x.device.type == "cpu" and x.dtype == torch.float32


def linear(x: Tensor, w_FD: Tensor) -> Tensor:
    """`x @ w.T` over the last dimension: `[..., D]` -> `[..., F]`.

    The one row of a decode step in fp32 on a CPU is cut: torch's product of one row and a matrix runs on one thread and waits
    for memory, its batched product of `SLICES` small ones does not. Measured on two cores, 384 -> 8192: 17 GB/s whole, 46 to 57
    in slices. (In bf16 it is the other way round, 25 and 14.)
    """
    if not _one_row_on_cpu(x) or w_FD.shape[0] % SLICES:
        return F.linear(x, w_FD)
    slices = w_FD.unflatten(0, (SLICES, -1))
    columns = x.flatten()[None].T.expand(SLICES, -1, 1)  # a view of strides 0, 1, D: with others bmm is slow
    return torch.bmm(slices, columns).flatten()[(None,) * (x.dim() - 1)]
