"""Chunked attention: a query sees the keys of its own chunk up to its own position. Forward pass, and the operator.

    o[i] = Σ_j p_ij v[j]      p_ij = exp(s_ij - lse_i)      s_ij = q[i] k[j] / sqrt(K)      j <= i,  j // chunk = i // chunk
    lse_i = ln Σ_j exp(s_ij)                                kept for the backward pass, one number a query and head

The S x S scores are never in memory: a program holds a tile of queries and goes through the keys block by block, with a
running maximum m, sum l and output, which shrink by exp(m - m') when a block brings a larger maximum m' (online softmax, arXiv
1805.02867; FlashAttention-2, arXiv 2307.08691). Cost is S * chunk, linear in S. A chunk of S or more is plain causal attention.

What is not in the paper:
- The heads that share a key/value head are packed along the tile's rows: with 5 of them, row r is position r // 5, head r % 5.
  So a tile of 128 rows is 25.6 positions, 5 need not be a power of two, and no row is padding but below a chunk's end. Every
  block of keys serves five heads at once; the diagonal, where scores are computed and thrown away, is 26 positions wide, not
  128; and the gradient of a key is summed over its heads by one program, so no atomics and no second buffer.
- Tiles are counted inside a chunk, so none reaches over its end. Worked example: chunk 8192, 5 heads a group: 40960 rows, 320
  tiles of 128; S = 10000 leaves 1808 positions, 9040 rows, 71 tiles, the last of 80 rows.
- Exponentials are of base 2, which is what the hardware has: scores are multiplied by log2(e) / sqrt(K), lse is of base 2 too.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from llama4_kernels import attention_backward
from llama4_kernels.attention_tiles import chunk_of, packed, pointers
from llama4_kernels.checks import check_chunked
from llama4_kernels.configs import chosen
from llama4_kernels.naive import precision


@triton.jit
def _seen_block(
    q, k_at, v_at, sums, top, total, positions, keys, there, scale, MASKED: tl.constexpr, PRECISION: tl.constexpr
):
    """One block of keys: their scores, then the running maximum, sum and output."""
    if MASKED:
        k = tl.load(k_at, mask=there[:, None], other=0.0)
        v = tl.load(v_at, mask=there[:, None], other=0.0)
    else:
        k = tl.load(k_at)
        v = tl.load(v_at)
    scores = tl.dot(q, k.T, input_precision=PRECISION) * scale
    if MASKED:
        scores = tl.where(keys[None, :] <= positions[:, None], scores, float("-inf"))
    higher = tl.maximum(top, tl.max(scores, 1))
    weights = tl.exp2(scores - higher[:, None])
    fade = tl.exp2(top - higher)
    total = total * fade + tl.sum(weights, 1)
    sums = tl.dot(weights.to(v.dtype), v, sums * fade[:, None], input_precision=PRECISION)
    return sums, higher, total


@triton.jit
def _forward(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, length, chunk, kv_heads, scale,
    q_row, q_token, q_head, k_row, k_token, k_head, v_row, v_token, v_head,
    SHARING: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # Tiles of one chunk and head side by side, since they read the same keys, 4 MB for Scout, from the L2 cache; and of these
    # the ones with most keys first: what is left when the card runs out of tiles is then short.
    tiles = tl.cdiv(chunk * SHARING, ROWS)
    row, kv_head, begin, here = chunk_of(tl.program_id(0) // tiles, length, chunk, kv_heads)
    first_row = (tiles - 1 - tl.program_id(0) % tiles) * ROWS
    if first_row >= here * SHARING:
        return
    positions, heads, own = packed(first_row, here, SHARING, ROWS)
    depths = tl.arange(0, WIDTH)
    columns = tl.arange(0, COLUMNS)
    q_ptr = pointers(q_ptr, row, begin, kv_head * SHARING, q_row, q_token, q_head)
    q = tl.load(
        q_ptr + positions[:, None].to(tl.int64) * q_token + heads[:, None].to(tl.int64) * q_head + depths[None, :]
    )
    k_ptr = pointers(k_ptr, row, begin, kv_head, k_row, k_token, k_head)
    v_ptr = pointers(v_ptr, row, begin, kv_head, v_row, v_token, v_head)
    k_at = columns[:, None] * k_token + depths[None, :]
    v_at = columns[:, None] * v_token + depths[None, :]
    sums = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    earliest = first_row // SHARING
    latest = tl.minimum((first_row + ROWS - 1) // SHARING, here - 1)
    open_to_all = (earliest + 1) // COLUMNS * COLUMNS  # blocks before this one hold no key that any row must not see
    for _first in range(0, open_to_all, COLUMNS):
        sums, top, total = _seen_block(
            q, k_ptr + k_at, v_ptr + v_at, sums, top, total, positions, columns, columns, scale, False, PRECISION
        )
        k_ptr += COLUMNS * k_token
        v_ptr += COLUMNS * v_token
    for first in range(open_to_all, latest + 1, COLUMNS):
        keys = first + columns
        sums, top, total = _seen_block(
            q, k_ptr + k_at, v_ptr + v_at, sums, top, total, positions, keys, keys < here, scale, True, PRECISION
        )
        k_ptr += COLUMNS * k_token
        v_ptr += COLUMNS * v_token
    at = (row.to(tl.int64) * length + begin + positions) * (kv_heads * SHARING) + kv_head * SHARING + heads
    out = sums / total[:, None]
    tl.store(out_ptr + at[:, None] * WIDTH + depths[None, :], out.to(out_ptr.dtype.element_ty), mask=own[:, None])
    tl.store(lse_ptr + at, top + tl.log2(total), mask=own)


def chunked_attention(q_BSHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, chunk: int) -> Tensor:
    """Attention inside chunks of `chunk` positions, column s being position s: `[B, S, H, K]` in q's dtype, contiguous.

    bf16, fp16 or fp32; any strides but the last, which is 1; K a power of two from 16 to 128. Softmax in fp32. The same bits each
    time, and differentiable in q, k and v. Raises ValueError or TypeError, in one sentence, for anything else.
    """
    check_chunked(q_BSHK, k_BSGK, v_BSGK, chunk)
    return _chunked(q_BSHK, k_BSGK, v_BSGK, chunk)[0]


@torch.library.custom_op("llama4::chunked_attention", mutates_args=())
def _chunked(q_BSHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """The output, and lse of base 2: fp32 `[B, S, H]`."""
    (batch, length, heads, width), kv_heads = q_BSHK.shape, k_BSGK.shape[2]
    out_BSHK = q_BSHK.new_empty(q_BSHK.shape)
    lse_BSH = q_BSHK.new_empty(batch, length, heads, dtype=torch.float32)
    if q_BSHK.numel() == 0:
        return out_BSHK, lse_BSH
    tile, sharing, chunk = chosen("attention", q_BSHK.device, q_BSHK.dtype), heads // kv_heads, min(chunk, length)
    grid = (triton.cdiv(chunk * sharing, tile.rows) * batch * triton.cdiv(length, chunk) * kv_heads,)
    with torch.cuda.device_of(q_BSHK):  # Triton launches on the current card, which need not be the tensors'
        _forward[grid](
            q_BSHK, k_BSGK, v_BSGK, out_BSHK, lse_BSH, length, chunk, kv_heads, score_scale(width),
            *q_BSHK.stride()[:3], *k_BSGK.stride()[:3], *v_BSGK.stride()[:3],
            SHARING=sharing, WIDTH=width, ROWS=tile.rows, COLUMNS=tile.columns, PRECISION=precision(q_BSHK.dtype),
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return out_BSHK, lse_BSH


@_chunked.register_fake
def _(q_BSHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    return q_BSHK.new_empty(q_BSHK.shape), q_BSHK.new_empty(q_BSHK.shape[:3], dtype=torch.float32)


@torch.library.custom_op("llama4::chunked_attention_backward", mutates_args=())
def _backward(
    dout_BSHK: Tensor, out_BSHK: Tensor, lse_BSH: Tensor, q_BSHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v, contiguous."""
    with torch.cuda.device_of(q_BSHK):
        scale = score_scale(q_BSHK.shape[-1])
        return attention_backward.gradients(dout_BSHK, out_BSHK, lse_BSH, q_BSHK, k_BSGK, v_BSGK, chunk, scale)


@_backward.register_fake
def _(
    dout_BSHK: Tensor, out_BSHK: Tensor, lse_BSH: Tensor, q_BSHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in (q_BSHK, k_BSGK, v_BSGK))


def score_scale(width: int) -> float:
    """log2(e) / sqrt(K): from a product of q and k to an exponent of base 2."""
    return math.log2(math.e) / math.sqrt(width)


def _remember(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    q_BSHK, k_BSGK, v_BSGK, ctx.chunk = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*output, q_BSHK, k_BSGK, v_BSGK)


def _gradients(ctx: torch.autograd.function.FunctionCtx, dout_BSHK: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return *_backward(dout_BSHK.contiguous(), *ctx.saved_tensors, ctx.chunk), None


_chunked.register_autograd(_gradients, setup_context=_remember)
