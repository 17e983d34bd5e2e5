"""The MoE layer, and a linear layer, on int4 weights: bytes are read, and become numbers on their way into the product.

    w = scale · (n - 8)          n the four bits of a weight, scale one number for G weights that are summed over
    Σ_d w[d] x[d] = Σ_groups scale · ( Σ_low (n - 8) x + Σ_high (n - 8) x )

For a few tokens; int4_prefill.py is for many. The launches, the tiles and the parts are those of decode.py; docs/quantisation.md
has the format. What is different:

- A block is one group: G / 2 bytes of each of its rows. The low four bits are the group's first half, the high four its
  second, so each is multiplied with its own half of x, and nothing is interleaved.
- Four bits become a number without a conversion (nibbles.py).
- The scale multiplies the sum of a group, one number a row, and not the weights.
- Weights are held `[out, in]` for every layer, so routed and shared experts differ in an address and share one loop.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from llama4_kernels import int4_prefill
from llama4_kernels.checks import check_int4, check_int4_linear
from llama4_kernels.configs import chosen
from llama4_kernels.decode import _add_parts, _tokens_of
from llama4_kernels.moe import route
from llama4_kernels.nibbles import numbers
from llama4_kernels.persistent import programs
from llama4_kernels.tiles import groups, slots

Packed = tuple[Tensor, Tensor]  # q uint8 [..., out, in / 2], scale [..., out, in / G]
SLICES = 4  # of a sum
FEW = 128  # tokens; more take int4_prefill.py
A_MULTIPROCESSOR = 2  # programs: one needs half of its registers, and 41 of its 227 KB


@triton.jit
def _group(sums, q_at, scale_at, low_x, high_x, KIND: tl.constexpr):
    """Add one group: `[COLUMNS, G / 2]` bytes times the two halves of x, each `[G / 2, TOKENS]`."""
    q = tl.load(q_at).to(tl.int16)
    part = tl.dot(numbers(q & 15, KIND), low_x)
    part = tl.dot(numbers(q >> 4, KIND), high_x, part)
    return sums + part * tl.load(scale_at).to(tl.float32)[:, None]


@triton.jit
def _gate_up(
    x_ptr, q_ptr, scale_ptr, gate_q_ptr, gate_scale_ptr, up_q_ptr, up_scale_ptr, h_ptr, shared_h_ptr,
    order_ptr, score_ptr, ends_ptr, experts, tokens, depth, hidden, shared_hidden,
    TOKENS: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    kind: tl.constexpr = h_ptr.dtype.element_ty
    half: tl.constexpr = GROUP // 2
    begins, ends, tiles, after = groups(ends_ptr, experts, TOKENS, SLOTS)
    shared_tiles = tl.cdiv(tokens, TOKENS)
    row_tiles = shared_tiles + tl.sum(tiles, 0)
    column_tiles = tl.cdiv(tl.maximum(hidden, shared_hidden), COLUMNS)
    row_bytes, row_scales = depth // 2, depth // GROUP
    for number in tl.range(tl.program_id(0), row_tiles * column_tiles, tl.num_programs(0)):
        tile, column = number % row_tiles, number // row_tiles * COLUMNS
        expert, named, ours = _tokens_of(
            tile, shared_tiles, order_ptr, begins, ends, tiles, after, tokens, TOKENS, SLOTS
        )
        is_shared = tile < shared_tiles
        own_hidden = tl.where(is_shared, shared_hidden, hidden)
        columns = column + tl.arange(0, COLUMNS)
        # Beyond the last row any row will do, since nothing of it is stored.
        rows = tl.minimum(columns, own_hidden - 1).to(tl.int64)
        gate_rows, up_rows = rows, rows
        gate_q, gate_scale, up_q, up_scale = gate_q_ptr, gate_scale_ptr, up_q_ptr, up_scale_ptr
        if not is_shared:  # [E, 2F, D], gate then up
            gate_rows = expert * 2 * hidden + rows
            up_rows = gate_rows + hidden
            gate_q, gate_scale, up_q, up_scale = q_ptr, scale_ptr, q_ptr, scale_ptr
        byte = tl.arange(0, half)
        gate_q_at = gate_q + gate_rows[:, None] * row_bytes + byte[None, :]
        up_q_at = up_q + up_rows[:, None] * row_bytes + byte[None, :]
        gate_scale_at, up_scale_at = gate_scale + gate_rows * row_scales, up_scale + up_rows * row_scales
        x_at = x_ptr + named[:, None].to(tl.int64) * depth + byte[None, :]
        a = tl.zeros((COLUMNS, TOKENS), dtype=tl.float32)
        b = tl.zeros((COLUMNS, TOKENS), dtype=tl.float32)
        for group in range(0, row_scales):
            low_x, high_x = tl.load(x_at + group * GROUP).T, tl.load(x_at + group * GROUP + half).T
            a = _group(a, gate_q_at + group * half, gate_scale_at + group, low_x, high_x, kind)
            b = _group(b, up_q_at + group * half, up_scale_at + group, low_x, high_x, kind)
        score = tl.full((TOKENS,), 1.0, tl.float32)
        h_start = shared_h_ptr
        if not is_shared:
            score = tl.load(score_ptr + named)
            h_start = h_ptr
        gate = a * score[None, :]
        h = gate * tl.sigmoid(gate) * (b * score[None, :])
        h_at = h_start + named[None, :].to(tl.int64) * own_hidden + columns[:, None]
        tl.store(h_at, h.to(kind), mask=ours[None, :] & (columns[:, None] < own_hidden))


@triton.jit
def _down(
    h_ptr, shared_h_ptr, q_ptr, scale_ptr, shared_q_ptr, shared_scale_ptr, parts_ptr,
    order_ptr, ends_ptr, experts, tokens, hidden, shared_hidden, width,
    TOKENS: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr, SHARED_GROUP: tl.constexpr,
    SLICES: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    kind: tl.constexpr = h_ptr.dtype.element_ty
    begins, ends, tiles, after = groups(ends_ptr, experts, TOKENS, SLOTS)
    shared_tiles = tl.cdiv(tokens, TOKENS)
    row_tiles = shared_tiles + tl.sum(tiles, 0)
    column_tiles = tl.cdiv(width, COLUMNS)
    for number in tl.range(tl.program_id(0), row_tiles * column_tiles * SLICES, tl.num_programs(0)):
        tile, place = number % row_tiles, number // row_tiles
        column, part = place % column_tiles * COLUMNS, place // column_tiles
        expert, named, ours = _tokens_of(
            tile, shared_tiles, order_ptr, begins, ends, tiles, after, tokens, TOKENS, SLOTS
        )
        columns = column + tl.arange(0, COLUMNS)
        rows = tl.minimum(columns, width - 1).to(tl.int64)
        sums = tl.zeros((COLUMNS, TOKENS), dtype=tl.float32)
        if tile < shared_tiles:
            sums = _slice(
                sums, shared_h_ptr, shared_q_ptr, shared_scale_ptr, rows, named, part, shared_hidden,
                SHARED_GROUP, SLICES, kind,
            )  # fmt: skip
            part += SLICES
        else:
            sums = _slice(
                sums, h_ptr, q_ptr, scale_ptr, expert * width + rows, named, part, hidden, GROUP, SLICES, kind
            )
        at = parts_ptr + (part * tokens + named[None, :]).to(tl.int64) * width + columns[:, None]
        tl.store(at, sums, mask=ours[None, :] & (columns[:, None] < width))


@triton.jit
def _slice(
    sums, h_ptr, q_ptr, scale_ptr, rows, named, part, depth,
    GROUP: tl.constexpr, SLICES: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    """Add the groups of slice `part` of the sum over `depth`."""
    half: tl.constexpr = GROUP // 2
    byte = tl.arange(0, half)
    groups_in_all = depth // GROUP
    slice = tl.cdiv(groups_in_all, SLICES)
    q_at = q_ptr + rows[:, None] * (depth // 2) + byte[None, :]
    scale_at = scale_ptr + rows * groups_in_all
    h_at = h_ptr + named[:, None].to(tl.int64) * depth + byte[None, :]
    for group in range(part * slice, tl.minimum(part * slice + slice, groups_in_all)):
        low_h, high_h = tl.load(h_at + group * GROUP).T, tl.load(h_at + group * GROUP + half).T
        sums = _group(sums, q_at + group * half, scale_at + group, low_h, high_h, KIND)
    return sums


def moe_mlp_int4(
    x_ND: Tensor, router_logits_NE: Tensor, gate_up: Packed, down: Packed, gate: Packed, up: Packed, shared_down: Packed
) -> Tensor:
    """`[N, D]` tokens through their experts and the shared one, all in int4: `[N, D]` in x's dtype, bf16 or fp16. Forward only.

    Each weight is (q, scale): gate_up of `[E, 2F, D]`, gate then up; down of `[E, D, F]`; the shared expert's of `[F, D]`,
    `[F, D]`, `[D, F]`.
    Raises ValueError or TypeError, in one sentence, for anything else.
    """
    check_int4(x_ND, router_logits_NE, gate_up, down, gate, up, shared_down)
    with torch.cuda.device_of(x_ND):  # Triton launches on the current card, which need not be the tensors'
        return _moe_mlp_int4(x_ND, router_logits_NE, *gate_up, *down, *gate, *up, *shared_down)


@torch.library.custom_op("llama4::moe_mlp_int4", mutates_args=())
def _moe_mlp_int4(
    x_ND: Tensor,
    router_logits_NE: Tensor,
    gate_up_q: Tensor,
    gate_up_scale: Tensor,
    down_q: Tensor,
    down_scale: Tensor,
    gate_q: Tensor,
    gate_scale: Tensor,
    up_q: Tensor,
    up_scale: Tensor,
    shared_down_q: Tensor,
    shared_down_scale: Tensor,
) -> Tensor:
    (tokens, width), experts = x_ND.shape, len(gate_up_q)
    hidden, shared_hidden = gate_up_q.shape[1] // 2, len(gate_q)
    y_ND = torch.empty_like(x_ND)
    if tokens == 0:
        return y_ND
    order_N, score_N, group_ends_E = route(router_logits_NE)
    if tokens > FEW:
        pairs = ((gate_up_q, gate_up_scale), (down_q, down_scale), (gate_q, gate_scale), (up_q, up_scale))
        pairs = (*pairs, (shared_down_q, shared_down_scale))
        return int4_prefill.moe_mlp(x_ND, (order_N, score_N, group_ends_E), pairs)
    tile = chosen("int4", x_ND.device)
    h_NF, shared_h_NF = x_ND.new_empty(tokens, hidden), x_ND.new_empty(tokens, shared_hidden)
    parts = x_ND.new_empty(2 * SLICES, tokens, width, dtype=torch.float32)
    sizes = {"TOKENS": width_of(tokens), "COLUMNS": tile.columns, "SLOTS": slots(experts)}
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    _gate_up[(A_MULTIPROCESSOR * programs(x_ND.device),)](
        x_ND, gate_up_q, gate_up_scale, gate_q, gate_scale, up_q, up_scale, h_NF, shared_h_NF,
        order_N, score_N, group_ends_E, experts, tokens, width, hidden, shared_hidden,
        GROUP=_group_of(gate_up_q, gate_up_scale), **sizes, **options,
    )  # fmt: skip
    _down[(A_MULTIPROCESSOR * programs(x_ND.device),)](
        h_NF, shared_h_NF, down_q, down_scale, shared_down_q, shared_down_scale, parts,
        order_N, group_ends_E, experts, tokens, hidden, shared_hidden, width,
        GROUP=_group_of(down_q, down_scale), SHARED_GROUP=_group_of(shared_down_q, shared_down_scale),
        SLICES=SLICES, **sizes, **options,
    )  # fmt: skip
    _add_parts[(triton.cdiv(y_ND.numel(), 1024),)](parts, y_ND, y_ND.numel(), PARTS=2 * SLICES, BLOCK=1024)
    return y_ND


@_moe_mlp_int4.register_fake
def _(x_ND: Tensor, *_: Tensor) -> Tensor:
    return torch.empty_like(x_ND)


@triton.jit
def _linear(
    x_ptr, q_ptr, scale_ptr, parts_ptr, tokens, depth, columns_in_all,
    TOKENS: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr, SLICES: tl.constexpr,
):  # fmt: skip
    kind: tl.constexpr = x_ptr.dtype.element_ty
    row_tiles, column_tiles = tl.cdiv(tokens, TOKENS), tl.cdiv(columns_in_all, COLUMNS)
    for number in tl.range(tl.program_id(0), row_tiles * column_tiles * SLICES, tl.num_programs(0)):
        tile, place = number % row_tiles, number // row_tiles
        column, part = place % column_tiles * COLUMNS, place // column_tiles
        columns = column + tl.arange(0, COLUMNS)
        rows = tl.minimum(columns, columns_in_all - 1).to(tl.int64)
        named = tile * TOKENS + tl.arange(0, TOKENS)
        sums = tl.zeros((COLUMNS, TOKENS), dtype=tl.float32)
        sums = _slice(
            sums, x_ptr, q_ptr, scale_ptr, rows, tl.minimum(named, tokens - 1), part, depth, GROUP, SLICES, kind
        )
        at = parts_ptr + (part * tokens + named[None, :]).to(tl.int64) * columns_in_all + columns[:, None]
        tl.store(at, sums, mask=(named[None, :] < tokens) & (columns[:, None] < columns_in_all))


def linear_int4(x: Tensor, weight: Packed) -> Tensor:
    """`[..., D]` -> `[..., F]`, weight (q, scale) of `[F, D]`; x in bf16 or fp16. Forward only.

    Raises ValueError or TypeError, in one sentence, for anything else.
    """
    check_int4_linear(x, weight)
    with torch.cuda.device_of(x):
        return _linear_int4(x.flatten(0, -2), *weight).unflatten(0, x.shape[:-1])


@torch.library.custom_op("llama4::linear_int4", mutates_args=())
def _linear_int4(x_ND: Tensor, q_FD: Tensor, scale_FD: Tensor) -> Tensor:
    (tokens, width), columns = x_ND.shape, len(q_FD)
    y_NF = x_ND.new_empty(tokens, columns)
    if tokens == 0:
        return y_NF
    if tokens > FEW:
        return int4_prefill.linear(x_ND, (q_FD, scale_FD))
    tile = chosen("int4", x_ND.device)
    parts = x_ND.new_empty(SLICES, tokens, columns, dtype=torch.float32)
    _linear[(A_MULTIPROCESSOR * programs(x_ND.device),)](
        x_ND, q_FD, scale_FD, parts, tokens, width, columns,
        TOKENS=width_of(tokens), COLUMNS=tile.columns, GROUP=_group_of(q_FD, scale_FD), SLICES=SLICES,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    _add_parts[(triton.cdiv(y_NF.numel(), 1024),)](parts, y_NF, y_NF.numel(), PARTS=SLICES, BLOCK=1024)
    return y_NF


@_linear_int4.register_fake
def _(x_ND: Tensor, q_FD: Tensor, scale_FD: Tensor) -> Tensor:
    return x_ND.new_empty(len(x_ND), len(q_FD))


def width_of(tokens: int) -> int:
    """The narrow side of a tile, 16 or 32 (`rows` in configs.py): with 64, two sums and the numbers made of bytes would not fit
    the registers."""
    return 16 if tokens <= 16 else 32


def _group_of(q: Tensor, scale: Tensor) -> int:
    return 2 * q.shape[-1] // scale.shape[-1]
