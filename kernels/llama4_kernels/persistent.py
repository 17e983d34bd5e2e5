"""The grouped matmul as Hopper likes it: the same numbers as naive.py, from programs that stay and blocks that fetch themselves.

What differs from the naive kernel:

- *Persistent.* As many programs as the card has multiprocessors; each takes tile after tile, and nothing is launched per tile.
  In the forward kernel the two loops are made one (`flatten`), so that the loads of the next tile begin while the last one is
  still being written. The weight gradient's loop has an end of its own for each group, and is not flattened.
- *Tensor descriptors.* A block is fetched by the copy engine (TMA) from its corner's coordinates: no address arithmetic in
  registers, and what lies outside the tensor arrives as zeros. w has three dimensions, `[E, D, F]`, so that a block at the end
  of one expert's D does not reach into the next expert.
- *Order.* Tiles are taken in bands of BAND row tiles (tiles.py).

A block of x may hold rows of the next group, below the end of its own. They are multiplied by the wrong weight and not stored.
In the weight gradient those rows are summed over, so there they are set to zero: in the last block of a group only.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from llama4_kernels.configs import Tile
from llama4_kernels.tiles import groups, in_bands, rows_of, slots


@triton.jit
def _multiply(
    x_desc, w_desc, y_ptr, ends_ptr, experts, depth, columns, y_row,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, BAND: tl.constexpr, SLOTS: tl.constexpr,
    TRANSPOSED: tl.constexpr,
):  # fmt: skip
    begins, ends, tiles, after = groups(ends_ptr, experts, ROWS, SLOTS)
    row_tiles, column_tiles = tl.sum(tiles, 0), tl.cdiv(columns, COLUMNS)
    for number in tl.range(tl.program_id(0), row_tiles * column_tiles, tl.num_programs(0), flatten=True):
        row_tile, column_tile = in_bands(number, row_tiles, column_tiles, BAND)
        expert, row, end = rows_of(row_tile, begins, ends, tiles, after, ROWS, SLOTS)
        column = column_tile * COLUMNS
        sums = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        for first in range(0, depth, DEPTH):
            x = x_desc.load([row, first])
            if (
                TRANSPOSED
            ):  # memory holds [E, F, D]; a 16-bit operand is turned on its way into the product, for nothing
                w = w_desc.load([expert, column, first]).reshape(COLUMNS, DEPTH).T
            else:
                w = w_desc.load([expert, first, column]).reshape(DEPTH, COLUMNS)
            sums = tl.dot(x, w, sums)
        rows = row + tl.arange(0, ROWS)
        columns_here = column + tl.arange(0, COLUMNS)
        y_at = rows[:, None].to(tl.int64) * y_row + columns_here[None, :]
        inside = (rows[:, None] < end) & (columns_here[None, :] < columns)
        tl.store(y_ptr + y_at, sums.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _weight_gradient(
    x_desc, dy_desc, dw_ptr, ends_ptr, experts, depth, columns,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    row_tiles, column_tiles = tl.cdiv(depth, ROWS), tl.cdiv(columns, COLUMNS)
    for number in tl.range(tl.program_id(0), experts * row_tiles * column_tiles, tl.num_programs(0)):
        expert = number // (row_tiles * column_tiles)
        row = number // column_tiles % row_tiles * ROWS
        column = number % column_tiles * COLUMNS
        begin = tl.load(ends_ptr + expert - 1, mask=expert > 0, other=0).to(tl.int32)
        end = tl.load(ends_ptr + expert).to(tl.int32)
        whole = begin + (end - begin) // DEPTH * DEPTH
        sums = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        for first in range(begin, whole, DEPTH):
            sums = tl.dot(x_desc.load([first, row]).T, dy_desc.load([first, column]), sums)
        if whole < end:  # what is left of the group, and rows of the next, which must not count
            ours = whole + tl.arange(0, DEPTH) < end
            x = tl.where(ours[:, None], x_desc.load([whole, row]), 0.0)
            dy = tl.where(ours[:, None], dy_desc.load([whole, column]), 0.0)
            sums = tl.dot(x.T, dy, sums)
        rows, columns_here = row + tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
        dw_at = (expert.to(tl.int64) * depth + rows[:, None]) * columns + columns_here[None, :]
        inside = (rows[:, None] < depth) & (columns_here[None, :] < columns)
        tl.store(dw_ptr + dw_at, sums.to(dw_ptr.dtype.element_ty), mask=inside)


def multiply(x_ND: Tensor, w_EDF: Tensor, group_ends_E: Tensor, tile: Tile) -> Tensor:
    """As `naive.multiply`; x contiguous, w contiguous or the transpose of what is, 16-bit, D and F multiples of eight."""
    (rows, depth), (experts, _, columns) = x_ND.shape, w_EDF.shape
    y_NF = torch.empty(rows, columns, dtype=x_ND.dtype, device=x_ND.device)
    if rows == 0:
        return y_NF
    transposed = w_EDF.stride(2) != 1
    block = [1, tile.columns, tile.depth] if transposed else [1, tile.depth, tile.columns]
    _multiply[(programs(x_ND.device),)](
        TensorDescriptor.from_tensor(x_ND, [tile.rows, tile.depth]),
        TensorDescriptor.from_tensor(w_EDF.mT if transposed else w_EDF, block),
        y_NF, group_ends_E, experts, depth, columns, y_NF.stride(0),
        ROWS=tile.rows, COLUMNS=tile.columns, DEPTH=tile.depth, BAND=tile.band, SLOTS=slots(experts),
        TRANSPOSED=transposed, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return y_NF


def weight_gradient(x_ND: Tensor, dy_NF: Tensor, group_ends_E: Tensor, tile: Tile) -> Tensor:
    """As `naive.weight_gradient`; both contiguous, 16-bit, D and F multiples of eight."""
    (rows, depth), columns, experts = x_ND.shape, dy_NF.shape[1], len(group_ends_E)
    if rows == 0:
        return x_ND.new_zeros(experts, depth, columns)
    dw_EDF = torch.empty(experts, depth, columns, dtype=x_ND.dtype, device=x_ND.device)
    _weight_gradient[(programs(x_ND.device),)](
        TensorDescriptor.from_tensor(x_ND, [tile.depth, tile.rows]),
        TensorDescriptor.from_tensor(dy_NF, [tile.depth, tile.columns]),
        dw_EDF, group_ends_E, experts, depth, columns,
        ROWS=tile.rows, COLUMNS=tile.columns, DEPTH=tile.depth, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return dw_EDF


def programs(device: torch.device) -> int:
    """One for each multiprocessor; a few in the interpreter, so that each takes several tiles."""
    if device.type != "cuda":
        return 3
    return torch.cuda.get_device_properties(device).multi_processor_count
