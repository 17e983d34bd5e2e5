"""The second expert matmul, added into what is there: y[order[r]] += h[r] @ w_down[e].

Top-1 routing sends a token to one expert, so each row of y is touched by one row of one tile and by nothing else: the sum needs
no atomics, no second buffer and no combining pass, and gives the same bits twice. The shared expert's output is written first, by
an ordinary matmul, and this kernel's epilogue loads, adds and stores.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from llama4_kernels.configs import Tile
from llama4_kernels.persistent import programs
from llama4_kernels.tiles import groups, halves, in_bands, rows_of, slots


@triton.jit
def _add(row_at, sums, column, ours, columns, COLUMNS: tl.constexpr):
    columns_here = column + tl.arange(0, COLUMNS)
    inside = ours[:, None] & (columns_here[None, :] < columns)
    y = tl.load(row_at + columns_here[None, :], mask=inside, other=0.0).to(tl.float32)
    tl.store(row_at + columns_here[None, :], (y + sums).to(row_at.dtype.element_ty), mask=inside)


@triton.jit
def _add_down(
    h_desc, w_desc, y_ptr, order_ptr, ends_ptr, experts, depth, columns, y_row,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, BAND: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    begins, ends, tiles, after = groups(ends_ptr, experts, ROWS, SLOTS)
    row_tiles, column_tiles = tl.sum(tiles, 0), tl.cdiv(columns, COLUMNS)
    for number in tl.range(tl.program_id(0), row_tiles * column_tiles, tl.num_programs(0), flatten=True):
        row_tile, column_tile = in_bands(number, row_tiles, column_tiles, BAND)
        expert, row, end = rows_of(row_tile, begins, ends, tiles, after, ROWS, SLOTS)
        column = column_tile * COLUMNS
        sums = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        for first in range(0, depth, DEPTH):
            w = w_desc.load([expert, first, column]).reshape(DEPTH, COLUMNS)
            sums = tl.dot(h_desc.load([row, first]), w, sums)
        rows = row + tl.arange(0, ROWS)
        tokens = tl.load(order_ptr + rows, mask=rows < end, other=0)
        row_at = y_ptr + tokens[:, None].to(tl.int64) * y_row
        # Half of the columns at a time: y beside all the sums would not fit the registers.
        left, right = halves(sums, ROWS, COLUMNS)
        _add(row_at, left, column, rows < end, columns, COLUMNS // 2)
        _add(row_at, right, column + COLUMNS // 2, rows < end, columns, COLUMNS // 2)


def add_down(y_ND: Tensor, h_NF: Tensor, down_EFD: Tensor, order_N: Tensor, group_ends_E: Tensor, tile: Tile) -> None:
    """Adds to y in place. h `[N, F]` in sorted order, down `[E, F, D]` contiguous, y `[N, D]` in the tokens' order."""
    experts, depth, columns = down_EFD.shape
    if len(y_ND) == 0:
        return
    _add_down[(programs(y_ND.device),)](
        TensorDescriptor.from_tensor(h_NF, [tile.rows, tile.depth]),
        TensorDescriptor.from_tensor(down_EFD, [1, tile.depth, tile.columns]),
        y_ND, order_N, group_ends_E, experts, depth, columns, y_ND.stride(0),
        ROWS=tile.rows, COLUMNS=tile.columns, DEPTH=tile.depth, BAND=tile.band, SLOTS=slots(experts),
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
