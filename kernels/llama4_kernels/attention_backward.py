"""The gradients of chunked attention, in two launches, without atomics: the same bits each time.

    p_ij  = exp(s_ij - lse_i)                        again, from what the forward pass kept
    dv[j] = Σ_i p_ij do[i]
    ds_ij = p_ij (do[i] v[j] - delta_i)              delta_i = do[i] o[i]
    dq[i] = Σ_j ds_ij k[j] / sqrt(K)                 dk[j] = Σ_i ds_ij q[i] / sqrt(K)

dq is a sum over keys, dk and dv are sums over queries: each kernel holds the sums of its own tile and goes through the other
side, and the scores are computed twice. (In one kernel, one of the two sums would have to be added up in memory by atomics, in
an order that nobody knows.) The sums over queries run over the packed rows, so over the heads of a group too: a key's gradient
leaves the kernel complete. delta comes from the dq kernel, which has do and o at hand, and is read by the next launch.

Source: FlashAttention-2, arXiv 2307.08691, section 3.1.2.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from llama4_kernels.attention_tiles import chunk_of, packed, pointers
from llama4_kernels.configs import chosen
from llama4_kernels.naive import precision


@triton.jit
def _dq_block(
    q, do, k_at, v_at, sums, lse, delta, positions, keys, there, scale, MASKED: tl.constexpr, PRECISION: tl.constexpr
):
    """One block of keys' part of dq."""
    if MASKED:
        k = tl.load(k_at, mask=there[:, None], other=0.0)
        v = tl.load(v_at, mask=there[:, None], other=0.0)
    else:
        k = tl.load(k_at)
        v = tl.load(v_at)
    weights = tl.exp2(tl.dot(q, k.T, input_precision=PRECISION) * scale - lse[:, None])
    if MASKED:
        weights = tl.where(keys[None, :] <= positions[:, None], weights, 0.0)
    dscores = weights * (tl.dot(do, v.T, input_precision=PRECISION) - delta[:, None])
    return tl.dot(dscores.to(k.dtype), k, sums, input_precision=PRECISION)


@triton.jit
def _query_gradient(
    q_ptr, k_ptr, v_ptr, out_ptr, dout_ptr, lse_ptr, delta_ptr, dq_ptr, length, chunk, kv_heads, scale, unit,
    q_row, q_token, q_head, k_row, k_token, k_head, v_row, v_token, v_head,
    SHARING: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
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
    at = (row.to(tl.int64) * length + begin + positions) * (kv_heads * SHARING) + kv_head * SHARING + heads
    full_at = at[:, None] * WIDTH + depths[None, :]
    do = tl.load(dout_ptr + full_at)
    delta = tl.sum(do.to(tl.float32) * tl.load(out_ptr + full_at).to(tl.float32), 1)
    tl.store(delta_ptr + at, delta, mask=own)
    lse = tl.load(lse_ptr + at)
    k_ptr = pointers(k_ptr, row, begin, kv_head, k_row, k_token, k_head)
    v_ptr = pointers(v_ptr, row, begin, kv_head, v_row, v_token, v_head)
    k_at = columns[:, None] * k_token + depths[None, :]
    v_at = columns[:, None] * v_token + depths[None, :]
    sums = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    earliest = first_row // SHARING
    latest = tl.minimum((first_row + ROWS - 1) // SHARING, here - 1)
    open_to_all = (earliest + 1) // COLUMNS * COLUMNS
    for _first in range(0, open_to_all, COLUMNS):
        sums = _dq_block(
            q, do, k_ptr + k_at, v_ptr + v_at, sums, lse, delta, positions, columns, columns, scale, False, PRECISION
        )
        k_ptr += COLUMNS * k_token
        v_ptr += COLUMNS * v_token
    for first in range(open_to_all, latest + 1, COLUMNS):
        keys = first + columns
        sums = _dq_block(
            q, do, k_ptr + k_at, v_ptr + v_at, sums, lse, delta, positions, keys, keys < here, scale, True, PRECISION
        )
        k_ptr += COLUMNS * k_token
        v_ptr += COLUMNS * v_token
    tl.store(dq_ptr + full_at, (sums * unit).to(dq_ptr.dtype.element_ty), mask=own[:, None])


@triton.jit
def _dkv_block(
    k, v, dk, dv, q_ptr, dout_ptr, lse_ptr, delta_ptr, first_row, here, q_token, q_head, out_token, keys, scale,
    SHARING: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One block of packed queries' part of dk and dv. Scores lie turned, keys down and queries across: no tile is transposed."""
    positions, heads, own = packed(first_row, here, SHARING, ROWS)
    depths = tl.arange(0, WIDTH)
    tokens = positions.to(tl.int64)
    q = tl.load(
        q_ptr + tokens[:, None] * q_token + heads[:, None].to(tl.int64) * q_head + depths[None, :],
        mask=own[:, None],
        other=0.0,
    )
    at = tokens * out_token + heads
    do = tl.load(dout_ptr + at[:, None] * WIDTH + depths[None, :], mask=own[:, None], other=0.0)
    lse = tl.load(lse_ptr + at, mask=own, other=float("inf"))  # a weight of exp(-inf) = 0 for a row that is not there
    delta = tl.load(delta_ptr + at, mask=own, other=0.0)
    weights = tl.exp2(tl.dot(k, q.T, input_precision=PRECISION) * scale - lse[None, :])
    if MASKED:
        weights = tl.where(keys[:, None] <= positions[None, :], weights, 0.0)
    dv = tl.dot(weights.to(do.dtype), do, dv, input_precision=PRECISION)
    dscores = weights * (tl.dot(v, do.T, input_precision=PRECISION) - delta[None, :])
    dk = tl.dot(dscores.to(q.dtype), q, dk, input_precision=PRECISION)
    return dk, dv


@triton.jit
def _key_value_gradient(
    q_ptr, k_ptr, v_ptr, dout_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, length, chunk, kv_heads, scale, unit,
    q_row, q_token, q_head, k_row, k_token, k_head, v_row, v_token, v_head,
    SHARING: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(chunk, COLUMNS)
    row, kv_head, begin, here = chunk_of(tl.program_id(0) // tiles, length, chunk, kv_heads)
    first_key = tl.program_id(0) % tiles * COLUMNS  # the first keys of a chunk are seen by most queries, and go first
    if first_key >= here:
        return
    keys = first_key + tl.arange(0, COLUMNS)
    depths = tl.arange(0, WIDTH)
    there = keys < here
    k_ptr = pointers(k_ptr, row, begin, kv_head, k_row, k_token, k_head)
    v_ptr = pointers(v_ptr, row, begin, kv_head, v_row, v_token, v_head)
    k = tl.load(k_ptr + keys[:, None].to(tl.int64) * k_token + depths[None, :], mask=there[:, None], other=0.0)
    v = tl.load(v_ptr + keys[:, None].to(tl.int64) * v_token + depths[None, :], mask=there[:, None], other=0.0)
    q_ptr = pointers(q_ptr, row, begin, kv_head * SHARING, q_row, q_token, q_head)
    out_token = kv_heads * SHARING
    skipped = (row.to(tl.int64) * length + begin) * out_token + kv_head * SHARING
    lse_ptr += skipped
    delta_ptr += skipped
    dout_ptr += skipped * WIDTH
    dk = tl.zeros((COLUMNS, WIDTH), dtype=tl.float32)
    dv = tl.zeros((COLUMNS, WIDTH), dtype=tl.float32)
    rows = here * SHARING
    # Rows of the tile's own positions see some of its keys; from the position of its last key on, all of them.
    own_rows = tl.cdiv((COLUMNS - 1) * SHARING, ROWS) * ROWS
    diagonal_end = tl.minimum(first_key * SHARING + own_rows, rows)
    for first_row in range(first_key * SHARING, diagonal_end, ROWS):
        dk, dv = _dkv_block(
            k, v, dk, dv, q_ptr, dout_ptr, lse_ptr, delta_ptr, first_row, here, q_token, q_head, out_token, keys, scale,
            SHARING, WIDTH, ROWS, True, PRECISION,
        )  # fmt: skip
    for first_row in range(first_key * SHARING + own_rows, rows, ROWS):
        dk, dv = _dkv_block(
            k, v, dk, dv, q_ptr, dout_ptr, lse_ptr, delta_ptr, first_row, here, q_token, q_head, out_token, keys, scale,
            SHARING, WIDTH, ROWS, False, PRECISION,
        )  # fmt: skip
    at = ((row.to(tl.int64) * length + begin + keys) * kv_heads + kv_head)[:, None] * WIDTH + depths[None, :]
    tl.store(dk_ptr + at, (dk * unit).to(dk_ptr.dtype.element_ty), mask=there[:, None])
    tl.store(dv_ptr + at, dv.to(dv_ptr.dtype.element_ty), mask=there[:, None])


def gradients(
    dout_BSHK: Tensor,
    out_BSHK: Tensor,
    lse_BSH: Tensor,
    q_BSHK: Tensor,
    k_BSGK: Tensor,
    v_BSGK: Tensor,
    chunk: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """dq `[B, S, H, K]`, dk and dv `[B, S, G, K]`, contiguous; dout, out and lse contiguous; lse and `scale` of base 2."""
    (batch, length, heads, width), kv_heads = q_BSHK.shape, k_BSGK.shape[2]
    dq_BSHK, dk_BSGK, dv_BSGK = (tensor.new_empty(tensor.shape) for tensor in (q_BSHK, k_BSGK, v_BSGK))
    if q_BSHK.numel() == 0:
        return dq_BSHK, dk_BSGK, dv_BSGK
    delta_BSH = torch.empty_like(lse_BSH)
    sharing, chunk = heads // kv_heads, min(chunk, length)
    chunks = batch * triton.cdiv(length, chunk) * kv_heads
    sizes = (length, chunk, kv_heads, scale, width**-0.5)
    strides = (*q_BSHK.stride()[:3], *k_BSGK.stride()[:3], *v_BSGK.stride()[:3])
    same = {"SHARING": sharing, "WIDTH": width, "PRECISION": precision(q_BSHK.dtype)}
    tile = chosen("attention_dq", q_BSHK.device, q_BSHK.dtype)
    _query_gradient[(triton.cdiv(chunk * sharing, tile.rows) * chunks,)](
        q_BSHK, k_BSGK, v_BSGK, out_BSHK, dout_BSHK, lse_BSH, delta_BSH, dq_BSHK, *sizes, *strides,
        ROWS=tile.rows, COLUMNS=tile.columns, num_warps=tile.warps, num_stages=tile.stages, **same,
    )  # fmt: skip
    tile = chosen("attention_dkv", q_BSHK.device, q_BSHK.dtype)
    _key_value_gradient[(triton.cdiv(chunk, tile.columns) * chunks,)](
        q_BSHK, k_BSGK, v_BSGK, dout_BSHK, lse_BSH, delta_BSH, dk_BSGK, dv_BSGK, *sizes, *strides,
        ROWS=tile.rows, COLUMNS=tile.columns, num_warps=tile.warps, num_stages=tile.stages, **same,
    )  # fmt: skip
    return dq_BSHK, dk_BSGK, dv_BSGK
