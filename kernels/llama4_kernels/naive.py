"""The grouped matmul in Triton, to be followed line by line.

    y[n] = x[n] @ w[e]          for every row n of group e
    dw[e] = x_e^T @ dy_e        its gradient: the rows of a group are what is summed over

A program computes one tile of the output. In a plain matmul tile i is rows i·M to (i+1)·M; here groups of any size lie one after
the other, and a tile must not reach over the end of its group, since the next row wants another weight. So groups are tiled one
by one, and a program counts through them until it reaches its own tile:

    group ends 2, 2, 5, tiles of 2 rows:     tile 0 = rows 0, 1 of expert 0     tile 1 = rows 2, 3 of expert 2
                                             tile 2 = row 4 of expert 2         tile 3 = nothing

How many tiles there are is known on the device only. N / M of them are full, and each group adds one at most that is not, so
N // M + E programs are enough; what is too many returns at once.

The fast version is persistent.py; the tests hold it against this one.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS, DEPTH = 64, 64, 32  # of a tile, and how much of the sum is taken at a time


@triton.jit
def _multiply(
    x_ptr, w_ptr, y_ptr, ends_ptr, experts, depth, columns,
    x_row, x_depth, w_expert, w_depth, w_column, y_row,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tile, column = tl.program_id(0), tl.program_id(1)
    # Whose tile is it? Count the tiles of one group after the other.
    expert, begin = tl.full((), 0, tl.int32), tl.full((), 0, tl.int32)
    end = tl.load(ends_ptr).to(tl.int32)
    tiles = tl.cdiv(end - begin, ROWS)
    while (tile >= tiles) & (expert < experts - 1):
        tile -= tiles
        expert += 1
        begin = end
        end = tl.load(ends_ptr + expert).to(tl.int32)
        tiles = tl.cdiv(end - begin, ROWS)
    if tile >= tiles:
        return
    rows = begin + tile * ROWS + tl.arange(0, ROWS)
    columns_here = column * COLUMNS + tl.arange(0, COLUMNS)
    sums = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for first in range(0, depth, DEPTH):
        depths = first + tl.arange(0, DEPTH)
        x_at = rows[:, None].to(tl.int64) * x_row + depths[None, :] * x_depth
        w_at = (
            expert.to(tl.int64) * w_expert + depths[:, None].to(tl.int64) * w_depth + columns_here[None, :] * w_column
        )
        x = tl.load(x_ptr + x_at, mask=(rows[:, None] < end) & (depths[None, :] < depth), other=0.0)
        w = tl.load(w_ptr + w_at, mask=(depths[:, None] < depth) & (columns_here[None, :] < columns), other=0.0)
        sums = tl.dot(x, w, sums, input_precision=PRECISION)
    y_at = rows[:, None].to(tl.int64) * y_row + columns_here[None, :]
    inside = (rows[:, None] < end) & (columns_here[None, :] < columns)
    tl.store(y_ptr + y_at, sums.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _weight_gradient(
    x_ptr, dy_ptr, dw_ptr, ends_ptr, depth, columns,
    x_row, x_depth, dy_row, dy_column,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    expert = tl.program_id(2)
    begin = tl.load(ends_ptr + expert - 1, mask=expert > 0, other=0).to(tl.int32)
    end = tl.load(ends_ptr + expert).to(tl.int32)
    depths = tl.program_id(0) * ROWS + tl.arange(0, ROWS)  # a tile of dw: depth x columns, so depth is its rows
    columns_here = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    sums = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for first in range(begin, end, DEPTH):
        rows = first + tl.arange(0, DEPTH)
        x_at = depths[:, None] * x_depth + rows[None, :].to(tl.int64) * x_row
        dy_at = rows[:, None].to(tl.int64) * dy_row + columns_here[None, :] * dy_column
        x = tl.load(x_ptr + x_at, mask=(depths[:, None] < depth) & (rows[None, :] < end), other=0.0)
        dy = tl.load(dy_ptr + dy_at, mask=(rows[:, None] < end) & (columns_here[None, :] < columns), other=0.0)
        sums = tl.dot(x, dy, sums, input_precision=PRECISION)
    dw_at = (expert.to(tl.int64) * depth + depths[:, None]) * columns + columns_here[None, :]
    inside = (depths[:, None] < depth) & (columns_here[None, :] < columns)
    tl.store(dw_ptr + dw_at, sums.to(dw_ptr.dtype.element_ty), mask=inside)


def multiply(x_ND: Tensor, w_EDF: Tensor, group_ends_E: Tensor) -> Tensor:
    """`[N, D]` rows sorted by expert, times each row's own expert `[E, D, F]`: `[N, F]`; any strides, an empty group, no rows."""
    (rows, depth), (experts, _, columns) = x_ND.shape, w_EDF.shape
    y_NF = torch.empty(rows, columns, dtype=x_ND.dtype, device=x_ND.device)
    if rows == 0:
        return y_NF
    grid = (rows // ROWS + experts, triton.cdiv(columns, COLUMNS))
    _multiply[grid](
        x_ND, w_EDF, y_NF, group_ends_E, experts, depth, columns,
        *x_ND.stride(), *w_EDF.stride(), y_NF.stride(0),
        ROWS=ROWS, COLUMNS=COLUMNS, DEPTH=DEPTH, PRECISION=precision(x_ND.dtype),
    )  # fmt: skip
    return y_NF


def weight_gradient(x_ND: Tensor, dy_NF: Tensor, group_ends_E: Tensor) -> Tensor:
    """`x_e^T @ dy_e` for every group e: `[N, D]` and `[N, F]` to `[E, D, F]`; zeros for a group without rows."""
    (_, depth), columns, experts = x_ND.shape, dy_NF.shape[1], len(group_ends_E)
    dw_EDF = torch.empty(experts, depth, columns, dtype=x_ND.dtype, device=x_ND.device)
    grid = (triton.cdiv(depth, ROWS), triton.cdiv(columns, COLUMNS), experts)
    _weight_gradient[grid](
        x_ND, dy_NF, dw_EDF, group_ends_E, depth, columns,
        *x_ND.stride(), *dy_NF.stride(),
        ROWS=ROWS, COLUMNS=COLUMNS, DEPTH=DEPTH, PRECISION=precision(x_ND.dtype),
    )  # fmt: skip
    return dw_EDF


def precision(dtype: torch.dtype) -> str:
    """fp32 is multiplied as fp32, not rounded to tf32's ten bits; the narrow types have no choice to make."""
    return "ieee" if dtype == torch.float32 else "tf32"
