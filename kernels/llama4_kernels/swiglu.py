"""Two expert matmuls, score and SwiGLU in one launch; and SwiGLU's backward.

    a, b = x[token] W_gate, x[token] W_up        two sums of one tile, side by side in registers
    h    = silu(s a) * (s b)                     s = sigmoid(logit), the token's score

Llama 4 scales an expert's *input* by its score. A matmul is linear, (s x) W = s (x W), so the score may as well multiply the fp32
sums before SwiGLU: one number a row, no scaled copy of x, and one rounding less. Then nothing stands between the tokens as they
lie and the matmul but their order, and that goes into the addresses that x is loaded from: row r of a group is token order[r].
(The copy engine cannot gather rows on Hopper, so x comes through pointers and w through descriptors.)

A training pass keeps a and b, rounded, without their score: the backward pass needs both for the gradient of s, and a division
by a score that may be 0 is no way to get them back.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from llama4_kernels.configs import Tile
from llama4_kernels.persistent import programs
from llama4_kernels.tiles import groups, halves, in_bands, rows_of, slots


@triton.jit
def _store(h_ptr, ab_ptr, a, b, score, rows, end, column, columns, COLUMNS: tl.constexpr, KEEP: tl.constexpr):
    columns_here = column + tl.arange(0, COLUMNS)
    inside = (rows[:, None] < end) & (columns_here[None, :] < columns)
    row_at = rows[:, None].to(tl.int64) * columns
    if KEEP:
        ab_at = ab_ptr + 2 * row_at + columns_here[None, :]
        tl.store(ab_at, a.to(ab_ptr.dtype.element_ty), mask=inside)
        tl.store(ab_at + columns, b.to(ab_ptr.dtype.element_ty), mask=inside)
    gate, up = a * score[:, None], b * score[:, None]
    h = gate * tl.sigmoid(gate) * up
    tl.store(h_ptr + row_at + columns_here[None, :], h.to(h_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _gate_up(
    x_ptr, gate_desc, up_desc, h_ptr, ab_ptr, order_ptr, score_ptr, ends_ptr,
    experts, depth, columns, up_column, x_row,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, BAND: tl.constexpr, SLOTS: tl.constexpr,
    ROUTED: tl.constexpr, KEEP: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    begins, ends, tiles, after = groups(ends_ptr, experts, ROWS, SLOTS)
    row_tiles, column_tiles = tl.sum(tiles, 0), tl.cdiv(columns, COLUMNS)
    for number in tl.range(tl.program_id(0), row_tiles * column_tiles, tl.num_programs(0)):
        row_tile, column_tile = in_bands(number, row_tiles, column_tiles, BAND)
        expert, row, end = rows_of(row_tile, begins, ends, tiles, after, ROWS, SLOTS)
        column = column_tile * COLUMNS
        rows = row + tl.arange(0, ROWS)
        # Below the group's end any row will do, since nothing of it is stored: the last one of the group, which is there.
        tokens = tl.minimum(rows, end - 1)
        if ROUTED:
            tokens = tl.load(order_ptr + tokens)
        x_at = x_ptr + tokens[:, None].to(tl.int64) * x_row
        a = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        b = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        for first in range(0, depth, DEPTH):
            depths = first + tl.arange(0, DEPTH)
            if EVEN:
                x = tl.load(x_at + depths[None, :])
            else:
                x = tl.load(x_at + depths[None, :], mask=depths[None, :] < depth, other=0.0)
            if ROUTED:  # the experts' weights, [E, D, 2F]: the up half begins at column F
                gate = gate_desc.load([expert, first, column]).reshape(DEPTH, COLUMNS)
                up = up_desc.load([expert, first, column + up_column]).reshape(DEPTH, COLUMNS)
            else:  # the shared expert's, two nn.Linear of [F, D]
                gate = gate_desc.load([expert, column, first]).reshape(COLUMNS, DEPTH).T
                up = up_desc.load([expert, column, first]).reshape(COLUMNS, DEPTH).T
            a = tl.dot(x, gate, a)
            b = tl.dot(x, up, b)
        score = tl.load(score_ptr + tokens) if ROUTED else tl.full((ROWS,), 1.0, tl.float32)
        # A quarter of the columns at a time: with h and their addresses beside them, a and b would not fit the registers.
        a_left, a_right = halves(a, ROWS, COLUMNS)
        b_left, b_right = halves(b, ROWS, COLUMNS)
        a0, a1 = halves(a_left, ROWS, COLUMNS // 2)
        b0, b1 = halves(b_left, ROWS, COLUMNS // 2)
        a2, a3 = halves(a_right, ROWS, COLUMNS // 2)
        b2, b3 = halves(b_right, ROWS, COLUMNS // 2)
        quarter: tl.constexpr = COLUMNS // 4
        _store(h_ptr, ab_ptr, a0, b0, score, rows, end, column, columns, quarter, KEEP)
        _store(h_ptr, ab_ptr, a1, b1, score, rows, end, column + quarter, columns, quarter, KEEP)
        _store(h_ptr, ab_ptr, a2, b2, score, rows, end, column + 2 * quarter, columns, quarter, KEEP)
        _store(h_ptr, ab_ptr, a3, b3, score, rows, end, column + 3 * quarter, columns, quarter, KEEP)


@triton.jit
def _backward(
    ab_ptr, dh_ptr, score_ptr, h_ptr, dab_ptr, dscore_ptr, columns,
    COLUMNS: tl.constexpr, ROUTED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    score = tl.load(score_ptr + row) if ROUTED else 1.0
    ab_ptr, dab_ptr = ab_ptr + row * 2 * columns, dab_ptr + row * 2 * columns
    dscore = tl.zeros((COLUMNS,), dtype=tl.float32)
    for first in range(0, columns, COLUMNS):
        at = first + tl.arange(0, COLUMNS)
        inside = at < columns
        a = tl.load(ab_ptr + at, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(ab_ptr + columns + at, mask=inside, other=0.0).to(tl.float32)
        dh = tl.load(dh_ptr + row * columns + at, mask=inside, other=0.0).to(tl.float32)
        gate, up = score * a, score * b
        sigmoid = tl.sigmoid(gate)
        silu = gate * sigmoid
        dgate = dh * up * sigmoid * (1.0 + gate * (1.0 - sigmoid))
        dup = dh * silu
        dscore += dgate * a + dup * b
        tl.store(h_ptr + row * columns + at, (silu * up).to(h_ptr.dtype.element_ty), mask=inside)
        tl.store(dab_ptr + at, (score * dgate).to(dab_ptr.dtype.element_ty), mask=inside)
        tl.store(dab_ptr + columns + at, (score * dup).to(dab_ptr.dtype.element_ty), mask=inside)
    if ROUTED:
        tl.store(dscore_ptr + row, tl.sum(dscore, 0))


@dataclass(frozen=True)
class Experts:
    """What a launch multiplies by: two descriptors, of one tensor or of two; where the groups end; D is `width`, F `hidden`."""

    gate: TensorDescriptor
    up: TensorDescriptor
    group_ends_E: Tensor
    width: int
    hidden: int


def routed(
    x_ND: Tensor, gate_up_EDF: Tensor, order_N: Tensor, score_N: Tensor, group_ends_E: Tensor, tile: Tile, keep: bool
) -> tuple[Tensor, Tensor]:
    """`[N, F]` in sorted order, and a, b side by side `[N, 2F]` where they are kept (else empty)."""
    _, width, both = gate_up_EDF.shape
    weights = TensorDescriptor.from_tensor(gate_up_EDF, [1, tile.depth, tile.columns])
    return _launch(x_ND, Experts(weights, weights, group_ends_E, width, both // 2), (order_N, score_N), tile, keep)


def shared(
    x_ND: Tensor, gate_FD: Tensor, up_FD: Tensor, group_ends_1: Tensor, tile: Tile, keep: bool
) -> tuple[Tensor, Tensor]:
    """The shared expert: one group of all rows, no score, tokens as they come."""
    block = [1, tile.columns, tile.depth]
    gate, up = (TensorDescriptor.from_tensor(weight[None], block) for weight in (gate_FD, up_FD))
    return _launch(x_ND, Experts(gate, up, group_ends_1, gate_FD.shape[1], gate_FD.shape[0]), None, tile, keep)


def _launch(
    x_ND: Tensor, experts: Experts, routing: tuple[Tensor, Tensor] | None, tile: Tile, keep: bool
) -> tuple[Tensor, Tensor]:
    h_NF = x_ND.new_empty(len(x_ND), experts.hidden)
    ab_NF = x_ND.new_empty(len(x_ND) if keep else 0, 2 * experts.hidden)
    count = len(experts.group_ends_E)
    _gate_up[(programs(x_ND.device),)](
        x_ND, experts.gate, experts.up, h_NF, ab_NF, *(routing or (x_ND, x_ND)), experts.group_ends_E,
        count, experts.width, experts.hidden, experts.hidden, x_ND.stride(0),
        ROWS=tile.rows, COLUMNS=tile.columns, DEPTH=tile.depth, BAND=tile.band, SLOTS=slots(count),
        ROUTED=routing is not None, KEEP=keep, EVEN=experts.width % tile.depth == 0,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return h_NF, ab_NF


def backward(ab_NF: Tensor, dh_NF: Tensor, score_N: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """h again `[N, F]`, the gradients of a and b `[N, 2F]` and of the score, fp32 `[N]` (empty without one); a program a row."""
    rows, columns = dh_NF.shape
    h_NF, dab_NF = torch.empty_like(dh_NF), torch.empty_like(ab_NF)
    dscore_N = torch.empty(rows if score_N is not None else 0, dtype=torch.float32, device=dh_NF.device)
    if rows:
        _backward[(rows,)](
            ab_NF, dh_NF, dscore_N if score_N is None else score_N, h_NF, dab_NF, dscore_N, columns,
            COLUMNS=min(1024, triton.next_power_of_2(columns)), ROUTED=score_N is not None,
        )  # fmt: skip
    return h_NF, dab_NF, dscore_N
