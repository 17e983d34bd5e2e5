"""Many tokens on int4 weights: tiles of 128 tokens, and weights that are bf16 in registers for as long as a product takes.

    w = scale · (n - 8), rounded to x's dtype          as quant.int4.dequantise rounds it
    sums[f, n] += Σ_low w[f, d] x[n, d] + Σ_high w[f, d] x[n, d]

For a few tokens (int4.py) reading is what takes time, and every instruction spent on a weight counts: the scale multiplies a
group's sum, a second set of sums beside the first. Here each weight that was made serves 128 tokens, and it is registers that are
short: one more product a weight, and the sums of gate and up fit with nothing beside them. (The other way spills at 64 tokens.)

The weights are the rows of a tile, since a tensor core takes its first operand from registers, where the weights were made, and
its second from shared memory, where the copies of x arrive. A group's first half lies in the low bits of its bytes and meets
the first half of x, its second half in the high bits and meets the second, as there.

A routed tile is 128 rows of one expert, found on the device (tiles.py). The layer is the one of moe.py: shared expert first, the
routed way down added to it in place.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from llama4_kernels.configs import chosen
from llama4_kernels.nibbles import numbers
from llama4_kernels.persistent import programs
from llama4_kernels.tiles import groups, halves, in_bands, rows_of, slots

Packed = tuple[Tensor, Tensor]


@triton.jit
def _group(sums, q_at, scale_at, low_x, high_x, KIND: tl.constexpr):
    """Add one group: `[COLUMNS, G / 2]` bytes made weights, times the two halves of x, each `[G / 2, TOKENS]`."""
    q = tl.load(q_at).to(tl.int16)
    scale = tl.load(scale_at).to(KIND)[:, None]
    sums = tl.dot((numbers(q & 15, KIND) * scale).to(KIND), low_x, sums)
    return tl.dot((numbers(q >> 4, KIND) * scale).to(KIND), high_x, sums)


@triton.jit
def _store(h_ptr, a, b, order_ptr, score_ptr, row, end, columns, hidden, TOKENS: tl.constexpr, ROUTED: tl.constexpr):
    """SwiGLU of `[COLUMNS, TOKENS]` sums, into rows of h."""
    rows = row + tl.arange(0, TOKENS)
    if ROUTED:
        named = tl.load(order_ptr + tl.minimum(rows, end - 1))
        score = tl.load(score_ptr + named)
        a, b = a * score[None, :], b * score[None, :]
    h = (a * tl.sigmoid(a) * b).to(h_ptr.dtype.element_ty)
    h_at = h_ptr + rows[:, None].to(tl.int64) * hidden + columns[None, :]
    tl.store(h_at, h.T, mask=(rows[:, None] < end) & (columns[None, :] < hidden))


@triton.jit
def _store_halves(
    h_ptr, a, b, order_ptr, score_ptr, row, end, columns, hidden,
    COLUMNS: tl.constexpr, TOKENS: tl.constexpr, ROUTED: tl.constexpr,
):  # fmt: skip
    half: tl.constexpr = TOKENS // 2
    a_left, a_right = halves(a, COLUMNS, TOKENS)
    b_left, b_right = halves(b, COLUMNS, TOKENS)
    _store(h_ptr, a_left, b_left, order_ptr, score_ptr, row, end, columns, hidden, half, ROUTED)
    _store(h_ptr, a_right, b_right, order_ptr, score_ptr, row + half, end, columns, hidden, half, ROUTED)


@triton.jit
def _gate_up(
    x_ptr, gate_q_ptr, gate_scale_ptr, up_q_ptr, up_scale_ptr, h_ptr, order_ptr, score_ptr, ends_ptr,
    experts, depth, hidden, expert_rows, up_row,
    TOKENS: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr, BAND: tl.constexpr, SLOTS: tl.constexpr,
    ROUTED: tl.constexpr,
):  # fmt: skip
    kind: tl.constexpr = h_ptr.dtype.element_ty
    half: tl.constexpr = GROUP // 2
    begins, ends, tiles, after = groups(ends_ptr, experts, TOKENS, SLOTS)
    row_tiles, column_tiles = tl.sum(tiles, 0), tl.cdiv(hidden, COLUMNS)
    row_bytes, row_scales = depth // 2, depth // GROUP
    for number in tl.range(tl.program_id(0), row_tiles * column_tiles, tl.num_programs(0)):
        row_tile, column_tile = in_bands(number, row_tiles, column_tiles, BAND)
        expert, row, end = rows_of(row_tile, begins, ends, tiles, after, TOKENS, SLOTS)
        rows = row + tl.arange(0, TOKENS)
        named = tl.minimum(rows, end - 1)  # below the group's end any row will do, since nothing of it is stored
        if ROUTED:
            named = tl.load(order_ptr + named).to(tl.int32)
        columns = column_tile * COLUMNS + tl.arange(0, COLUMNS)
        # Addresses as one number for the expert and small ones for its rows: 64 bits a row would not fit beside the sums.
        first = expert.to(tl.int64) * expert_rows
        w_rows, byte = tl.minimum(columns, hidden - 1), tl.arange(0, half)
        bytes_at, scales_at = w_rows[:, None] * row_bytes + byte[None, :], w_rows * row_scales
        gate_q_at, gate_scale_at = (
            gate_q_ptr + first * row_bytes + bytes_at,
            gate_scale_ptr + first * row_scales + scales_at,
        )
        first += up_row
        up_q_at, up_scale_at = up_q_ptr + first * row_bytes + bytes_at, up_scale_ptr + first * row_scales + scales_at
        x_at = x_ptr + named[:, None].to(tl.int64) * depth + byte[None, :]
        a = tl.zeros((COLUMNS, TOKENS), dtype=tl.float32)
        b = tl.zeros((COLUMNS, TOKENS), dtype=tl.float32)
        for group in range(0, row_scales):
            low_x, high_x = tl.load(x_at + group * GROUP).T, tl.load(x_at + group * GROUP + half).T
            a = _group(a, gate_q_at + group * half, gate_scale_at + group, low_x, high_x, kind)
            b = _group(b, up_q_at + group * half, up_scale_at + group, low_x, high_x, kind)
        # A quarter of the tokens at a time: with h and their addresses beside them, a and b would not fit the registers.
        half_tile: tl.constexpr = TOKENS // 2
        a_left, a_right = halves(a, COLUMNS, TOKENS)
        b_left, b_right = halves(b, COLUMNS, TOKENS)
        _store_halves(
            h_ptr, a_left, b_left, order_ptr, score_ptr, row, end, columns, hidden, COLUMNS, half_tile, ROUTED
        )
        row += half_tile
        _store_halves(
            h_ptr, a_right, b_right, order_ptr, score_ptr, row, end, columns, hidden, COLUMNS, half_tile, ROUTED
        )


@triton.jit
def _multiply(
    x_ptr, q_ptr, scale_ptr, y_ptr, order_ptr, ends_ptr, experts, depth, width,
    TOKENS: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr, BAND: tl.constexpr, SLOTS: tl.constexpr,
    ADD: tl.constexpr,
):  # fmt: skip
    kind: tl.constexpr = y_ptr.dtype.element_ty
    half: tl.constexpr = GROUP // 2
    begins, ends, tiles, after = groups(ends_ptr, experts, TOKENS, SLOTS)
    row_tiles, column_tiles = tl.sum(tiles, 0), tl.cdiv(width, COLUMNS)
    row_scales = depth // GROUP
    for number in tl.range(tl.program_id(0), row_tiles * column_tiles, tl.num_programs(0)):
        row_tile, column_tile = in_bands(number, row_tiles, column_tiles, BAND)
        expert, row, end = rows_of(row_tile, begins, ends, tiles, after, TOKENS, SLOTS)
        rows = row + tl.arange(0, TOKENS)
        columns = column_tile * COLUMNS + tl.arange(0, COLUMNS)
        w_rows = expert.to(tl.int64) * width + tl.minimum(columns, width - 1)
        byte = tl.arange(0, half)
        q_at = q_ptr + w_rows[:, None] * (depth // 2) + byte[None, :]
        scale_at = scale_ptr + w_rows * row_scales
        x_at = x_ptr + tl.minimum(rows, end - 1)[:, None].to(tl.int64) * depth + byte[None, :]
        sums = tl.zeros((COLUMNS, TOKENS), dtype=tl.float32)
        for group in range(0, row_scales):
            low_x, high_x = tl.load(x_at + group * GROUP).T, tl.load(x_at + group * GROUP + half).T
            sums = _group(sums, q_at + group * half, scale_at + group, low_x, high_x, kind)
        inside = (rows[:, None] < end) & (columns[None, :] < width)
        if ADD:  # rows of an expert go back to their tokens, on top of what the shared expert wrote
            named = tl.load(order_ptr + tl.minimum(rows, end - 1))
            y_at = y_ptr + named[:, None].to(tl.int64) * width + columns[None, :]
            y = tl.load(y_at, mask=inside, other=0.0).to(tl.float32)
            tl.store(y_at, (y + sums.T).to(kind), mask=inside)
        else:
            y_at = y_ptr + rows[:, None].to(tl.int64) * width + columns[None, :]
            tl.store(y_at, sums.T.to(kind), mask=inside)


def moe_mlp(x_ND: Tensor, routing: tuple[Tensor, Tensor, Tensor], weights: tuple[Packed, ...]) -> Tensor:
    """`[N, D]` tokens through their experts and the shared one.

    routing: order, score, group ends, as `moe.route` gives them. weights: gate_up, down, shared gate, up, down, as
    `moe_mlp_int4` checks them.
    """
    order_N, score_N, group_ends_E = routing
    gate_up, down, gate, up, shared_down = weights
    hidden = gate_up[0].shape[1] // 2
    h_NF = x_ND.new_empty(len(x_ND), len(gate[0]))
    everyone = _all_rows(x_ND)
    _swiglu(x_ND, gate, up, h_NF, (order_N, score_N, everyone), expert_rows=0, up_row=0, routed=False)
    y_ND = _product(h_NF, shared_down, torch.empty_like(x_ND), order_N, everyone, add=False)
    h_NF = x_ND.new_empty(len(x_ND), hidden)
    _swiglu(x_ND, gate_up, gate_up, h_NF, routing, expert_rows=2 * hidden, up_row=hidden, routed=True)
    return _product(h_NF, down, y_ND, order_N, group_ends_E, add=True)


def linear(x_ND: Tensor, weight: Packed) -> Tensor:
    """`[N, D]` -> `[N, F]`, weight (q, scale) of `[F, D]`."""
    everyone = _all_rows(x_ND)
    return _product(x_ND, weight, x_ND.new_empty(len(x_ND), len(weight[0])), everyone, everyone, add=False)


def _swiglu(
    x_ND: Tensor,
    gate: Packed,
    up: Packed,
    h_NF: Tensor,
    routing: tuple[Tensor, Tensor, Tensor],
    expert_rows: int,
    up_row: int,
    routed: bool,
) -> None:
    order_N, score_N, ends_E = routing
    tile, width = chosen("int4_gate_up", x_ND.device), x_ND.shape[1]
    _gate_up[(programs(x_ND.device),)](
        x_ND, *gate, *up, h_NF, order_N, score_N, ends_E, len(ends_E), width, h_NF.shape[1], expert_rows, up_row,
        TOKENS=tile.rows, COLUMNS=tile.columns, GROUP=width // gate[1].shape[-1], BAND=tile.band,
        SLOTS=slots(len(ends_E)), ROUTED=routed, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


def _product(x_ND: Tensor, weight: Packed, y_NF: Tensor, order_N: Tensor, ends_E: Tensor, add: bool) -> Tensor:
    tile, depth = chosen("int4_product", x_ND.device), x_ND.shape[1]
    _multiply[(programs(x_ND.device),)](
        x_ND, *weight, y_NF, order_N, ends_E, len(ends_E), depth, y_NF.shape[1],
        TOKENS=tile.rows, COLUMNS=tile.columns, GROUP=depth // weight[1].shape[-1], BAND=tile.band,
        SLOTS=slots(len(ends_E)), ADD=add, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return y_NF


def _all_rows(x_ND: Tensor) -> Tensor:
    """The group ends of one group that has all rows."""
    return torch.full((1,), len(x_ND), dtype=torch.int64, device=x_ND.device)
