"""The MoE layer for a few tokens: every weight that is used is read once, and reading them is all that takes time.

    h[n], g[n] = SwiGLU of token n's expert, of the shared expert          one launch, routed and shared tiles side by side
    part[s, n], part[S + s, n] = slice s of h[n] W_down, of g[n] W_down    one launch
    y[n] = Σ_s part[s, n]                                                  a sum in a fixed order

One token of Scout multiplies an expert's 252 MB of weights by 26 KB of x and h: one product a weight, where a tensor core wants
hundreds. So the kernels of prefill are the wrong way round here. They make tokens the rows of a tile, 128 at least, and would
multiply mostly padding. Here the *weights* are the rows (a warpgroup's product has 64) and the tokens the narrow side, 16 to 64:

    sums[f, n] = Σ_d W[d, f] x[n, d]

Tiles must be many, or multiprocessors idle while a few still read. Gate and up give 8192 / 64 for each expert, 256 for one token:
two for each of 132. The way down gives 5120 / 64 = 80, so its sum over F is cut into SLICES, each written to a buffer of its own
and added afterwards: the same bits twice, without atomics. (Several tokens of one expert share its tile; an expert that nobody
uses has none. Who they are is worked out on the device, tiles.py, so a CUDA graph holds for any routing.)
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from llama4_kernels.configs import Tile, chosen
from llama4_kernels.persistent import programs
from llama4_kernels.tiles import groups, rows_of, slots

MOST_TOKENS = 128
SLICES = 4


@triton.jit
def _tokens_of(
    tile, shared_tiles, order_ptr, begins, ends, tiles, after, tokens, TOKENS: tl.constexpr, SLOTS: tl.constexpr
):
    """The expert of a row tile (0 where it is the shared one's), its tokens, and which of them are its own."""
    if tile < shared_tiles:
        expert = 0
        rows = tile * TOKENS + tl.arange(0, TOKENS)
        end = tokens
        named = tl.minimum(rows, end - 1)
    else:
        expert, row, end = rows_of(tile - shared_tiles, begins, ends, tiles, after, TOKENS, SLOTS)
        rows = row + tl.arange(0, TOKENS)
        named = tl.load(order_ptr + tl.minimum(rows, end - 1)).to(tl.int32)
    return expert, named, rows < end


@triton.jit
def _gate_up(
    x_ptr, gate_up_desc, shared_gate_desc, shared_up_desc, h_ptr, shared_h_ptr, order_ptr, score_ptr, ends_ptr,
    experts, tokens, depth, hidden, shared_hidden,
    TOKENS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    begins, ends, tiles, after = groups(ends_ptr, experts, TOKENS, SLOTS)
    shared_tiles = tl.cdiv(tokens, TOKENS)
    row_tiles = shared_tiles + tl.sum(tiles, 0)
    column_tiles = tl.cdiv(tl.maximum(hidden, shared_hidden), COLUMNS)
    for number in tl.range(tl.program_id(0), row_tiles * column_tiles, tl.num_programs(0)):
        tile, column = number % row_tiles, number // row_tiles * COLUMNS
        expert, named, ours = _tokens_of(
            tile, shared_tiles, order_ptr, begins, ends, tiles, after, tokens, TOKENS, SLOTS
        )
        x_at = x_ptr + named[:, None].to(tl.int64) * depth
        a = tl.zeros((COLUMNS, TOKENS), dtype=tl.float32)
        b = tl.zeros((COLUMNS, TOKENS), dtype=tl.float32)
        columns = column + tl.arange(0, COLUMNS)
        if tile < shared_tiles:  # two nn.Linear of [F, D]: a block is the tile's rows already
            for first in range(0, depth, DEPTH):
                depths = first + tl.arange(0, DEPTH)
                x = tl.load(x_at + depths[None, :], mask=depths[None, :] < depth, other=0.0)
                a = tl.dot(shared_gate_desc.load([column, first]), x.T, a)
                b = tl.dot(shared_up_desc.load([column, first]), x.T, b)
            h = a * tl.sigmoid(a) * b
            h_at = shared_h_ptr + named[None, :].to(tl.int64) * shared_hidden + columns[:, None]
            tl.store(h_at, h.to(h_ptr.dtype.element_ty), mask=ours[None, :] & (columns[:, None] < shared_hidden))
        else:  # [E, D, 2F], gate then up: a block has to be turned
            for first in range(0, depth, DEPTH):
                depths = first + tl.arange(0, DEPTH)
                x = tl.load(x_at + depths[None, :], mask=depths[None, :] < depth, other=0.0)
                gate = gate_up_desc.load([expert, first, column]).reshape(DEPTH, COLUMNS)
                up = gate_up_desc.load([expert, first, column + hidden]).reshape(DEPTH, COLUMNS)
                a = tl.dot(gate.T, x.T, a)
                b = tl.dot(up.T, x.T, b)
            score = tl.load(score_ptr + named)[None, :]
            gated = a * score
            h = gated * tl.sigmoid(gated) * (b * score)
            h_at = h_ptr + named[None, :].to(tl.int64) * hidden + columns[:, None]
            tl.store(h_at, h.to(h_ptr.dtype.element_ty), mask=ours[None, :] & (columns[:, None] < hidden))


@triton.jit
def _down(
    h_ptr, shared_h_ptr, down_desc, shared_down_desc, parts_ptr, order_ptr, ends_ptr,
    experts, tokens, hidden, shared_hidden, width,
    TOKENS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, SLICES: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
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
        sums = tl.zeros((COLUMNS, TOKENS), dtype=tl.float32)
        columns = column + tl.arange(0, COLUMNS)
        if tile < shared_tiles:
            slice = tl.cdiv(tl.cdiv(shared_hidden, DEPTH), SLICES) * DEPTH
            h_at = shared_h_ptr + named[:, None].to(tl.int64) * shared_hidden
            for first in range(part * slice, tl.minimum(part * slice + slice, shared_hidden), DEPTH):
                depths = first + tl.arange(0, DEPTH)
                h = tl.load(h_at + depths[None, :], mask=depths[None, :] < shared_hidden, other=0.0)
                sums = tl.dot(shared_down_desc.load([column, first]), h.T, sums)
            part += SLICES
        else:
            slice = tl.cdiv(tl.cdiv(hidden, DEPTH), SLICES) * DEPTH
            h_at = h_ptr + named[:, None].to(tl.int64) * hidden
            for first in range(part * slice, tl.minimum(part * slice + slice, hidden), DEPTH):
                depths = first + tl.arange(0, DEPTH)
                h = tl.load(h_at + depths[None, :], mask=depths[None, :] < hidden, other=0.0)
                w = down_desc.load([expert, first, column]).reshape(DEPTH, COLUMNS)
                sums = tl.dot(w.T, h.T, sums)
        at = parts_ptr + (part * tokens + named[None, :]).to(tl.int64) * width + columns[:, None]
        tl.store(at, sums, mask=ours[None, :] & (columns[:, None] < width))


@triton.jit
def _add_parts(parts_ptr, y_ptr, numbers, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < numbers
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for _part in tl.static_range(PARTS):
        total += tl.load(parts_ptr + at, mask=inside, other=0.0)
        parts_ptr += numbers
    tl.store(y_ptr + at, total.to(y_ptr.dtype.element_ty), mask=inside)


def width_of(tokens: int) -> int:
    """The narrow side of a tile: 16, 32 or 64. For more of one expert's tokens its weights are read again, from the L2 cache."""
    return min(64, max(16, triton.next_power_of_2(tokens)))


def moe_mlp(x_ND: Tensor, routing: tuple[Tensor, Tensor, Tensor], weights: tuple[Tensor, ...]) -> Tensor:
    """`[N, D]` tokens through their experts and the shared one, N at most MOST_TOKENS, forward only.

    routing: order, score, group ends, as `moe.route` gives them. weights: gate_up, down, shared gate, up, down, as `moe_mlp`
    checks them. bf16 or fp16.
    """
    order_N, score_N, group_ends_E = routing
    gate_up_EDF, down_EFD, shared_gate_FD, shared_up_FD, shared_down_DF = weights
    (tokens, width), (experts, hidden, _), shared_hidden = x_ND.shape, down_EFD.shape, len(shared_gate_FD)
    y_ND = torch.empty_like(x_ND)
    if tokens == 0:
        return y_ND
    up, down = chosen("decode_gate_up", x_ND.device), chosen("decode_down", x_ND.device)
    h_NF, shared_h_NF = x_ND.new_empty(tokens, hidden), x_ND.new_empty(tokens, shared_hidden)
    parts = x_ND.new_empty(2 * SLICES, tokens, width, dtype=torch.float32)
    sizes = {"TOKENS": width_of(tokens), "SLOTS": slots(experts)}
    _gate_up[(programs(x_ND.device),)](
        x_ND, _turned(gate_up_EDF, up), _plain(shared_gate_FD, up), _plain(shared_up_FD, up),
        h_NF, shared_h_NF, order_N, score_N, group_ends_E, experts, tokens, width, hidden, shared_hidden,
        COLUMNS=up.columns, DEPTH=up.depth, num_warps=up.warps, num_stages=up.stages, **sizes,
    )  # fmt: skip
    _down[(programs(x_ND.device),)](
        h_NF, shared_h_NF, _turned(down_EFD, down), _plain(shared_down_DF, down), parts, order_N, group_ends_E,
        experts, tokens, hidden, shared_hidden, width,
        COLUMNS=down.columns, DEPTH=down.depth, SLICES=SLICES, num_warps=down.warps, num_stages=down.stages, **sizes,
    )  # fmt: skip
    _add_parts[(triton.cdiv(y_ND.numel(), 1024),)](parts, y_ND, y_ND.numel(), PARTS=2 * SLICES, BLOCK=1024)
    return y_ND


def _turned(w_EDF: Tensor, tile: Tile) -> TensorDescriptor:
    return TensorDescriptor.from_tensor(w_EDF, [1, tile.depth, tile.columns])


def _plain(w_FD: Tensor, tile: Tile) -> TensorDescriptor:
    return TensorDescriptor.from_tensor(w_FD, [tile.columns, tile.depth])
