"""Attention of one token, or a few, to all that a cache holds: split over the slots, then put together.

    split n:   m_n = max_t s_t      l_n = Σ_t exp(s_t - m_n)      o_n = Σ_t exp(s_t - m_n) v[t] / l_n      t in slots of split n
    lse_n = m_n + ln l_n            o   = Σ_n w_n o_n             w_n = exp(lse_n - lse),  lse = ln Σ_n exp(lse_n)

One token of Scout has 40 queries; at 1 M positions a global layer reads 4.3 GB of keys and values for them, and reading is all
that takes time. Two things follow:
- The five query heads of a key/value head share a tile, so a key is read once, not five times.
- Slots are split, or eight programs, one a key/value head, would read while 124 multiprocessors look on (flash-decoding,
  Dao, Haziza, Massa and Sizov 2023). A second kernel adds the splits up in a fixed order: no atomics, the same bits twice.

How many slots a query sees is a number on the device; how many splits there are follows from the buffer's size. So nothing
waits, and a CUDA graph holds while the sequence grows. The splits of a row are equal parts of what *it* sees, whatever the
buffer could hold. Worked example, blocks of 64 slots: 5000 seen of 8192, in 32 splits, are 79 blocks, three for each of the
first 26 splits, one for the next, none for five; 100 000 seen of 131 072, in 64, are 1563 blocks, 25 for each of the first 62,
13 for the next, none for the last.

As with the experts' weights in decode.py, what is read in bulk is the rows of a product and the tokens its narrow side:
scores[t, r] = Σ_k K[t, k] q[r, k], sums[k, r] = Σ_t V[t, k] p[t, r]. A chunked layer's cache is the same thing, with fewer
slots seen.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from llama4_kernels.attention_chunked import score_scale
from llama4_kernels.attention_tiles import packed, pointers
from llama4_kernels.checks import check_decode
from llama4_kernels.configs import HOPPER, chosen
from llama4_kernels.naive import precision
from llama4_kernels.persistent import programs

MOST_ROWS = HOPPER["attention_decode"].rows
MOST_SPLITS = 64
A_MULTIPROCESSOR = 2  # programs
SLOTS_WORTH_A_SPLIT = 256  # of the buffer: with fewer, its part and the combining of it would weigh as much as its keys


@triton.jit
def _attend_split(
    q_ptr, k_ptr, v_ptr, seen_ptr, parts_ptr, lse_ptr, queries, slots, kv_heads, scale,
    q_row, q_token, q_head, k_row, k_token, k_head, v_row, v_token, v_head,
    SHARING: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, SPLITS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    # Key/value heads run fastest: a slot's heads lie side by side, so programs that run together read whole lines of memory.
    kv_head, row, split = tl.program_id(0) % kv_heads, tl.program_id(0) // kv_heads, tl.program_id(1)
    tokens, heads, own = packed(0, queries, SHARING, ROWS)
    seen = tl.minimum(tl.load(seen_ptr + row * queries + tokens), slots).to(tl.int32)
    most = tl.max(seen, 0)
    share = tl.cdiv(tl.cdiv(most, COLUMNS), SPLITS) * COLUMNS
    begin = split * share
    end = tl.minimum(begin + share, most)
    depths = tl.arange(0, WIDTH)
    columns = tl.arange(0, COLUMNS)
    q_ptr = pointers(q_ptr, row, 0 * row, kv_head * SHARING, q_row, q_token, q_head)
    q = tl.load(q_ptr + tokens[:, None] * q_token + heads[:, None].to(tl.int64) * q_head + depths[None, :])
    k_ptr = pointers(k_ptr, row, begin, kv_head, k_row, k_token, k_head)
    v_ptr = pointers(v_ptr, row, begin, kv_head, v_row, v_token, v_head)
    k_at = columns[:, None] * k_token + depths[None, :]
    v_at = columns[:, None] * v_token + depths[None, :]
    sums = tl.zeros((WIDTH, ROWS), dtype=tl.float32)
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    for first in range(begin, end, COLUMNS):
        there = first + columns < end  # what lies beyond may be NaN, and 0 times NaN is NaN: it is not read
        k = tl.load(k_ptr + k_at, mask=there[:, None], other=0.0)
        v = tl.load(v_ptr + v_at, mask=there[:, None], other=0.0)
        scores = tl.dot(k, q.T, input_precision=PRECISION) * scale
        scores = tl.where((first + columns)[:, None] < tl.minimum(seen, end)[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 0))
        level = tl.where(
            higher == float("-inf"), 0.0, higher
        )  # of a query that sees nothing yet: -inf less -inf is NaN
        weights = tl.exp2(scores - level[None, :])
        fade = tl.exp2(top - level)
        total = total * fade + tl.sum(weights, 0)
        sums = tl.dot(v.T, weights.to(v.dtype), sums * fade[None, :], input_precision=PRECISION)
        top = higher
        k_ptr += COLUMNS * k_token
        v_ptr += COLUMNS * v_token
    nothing = total == 0.0  # a split without slots, or none that this query sees: weight exp(-inf) of a part that is 0
    at = ((row * queries + tokens) * (kv_heads * SHARING) + kv_head * SHARING + heads) * SPLITS + split
    total = tl.where(nothing, 1.0, total)
    tl.store(parts_ptr + at[None, :] * WIDTH + depths[:, None], sums / total[None, :], mask=own[None, :])
    tl.store(lse_ptr + at, tl.where(nothing, float("-inf"), top + tl.log2(total)), mask=own)


@triton.jit
def _add_splits(parts_ptr, lse_ptr, out_ptr, WIDTH: tl.constexpr, SPLITS: tl.constexpr):
    splits, depths = tl.arange(0, SPLITS), tl.arange(0, WIDTH)
    first = tl.program_id(0) * SPLITS
    lse = tl.load(lse_ptr + first + splits)
    top = tl.max(lse, 0)
    weights = tl.exp2(lse - tl.where(top == float("-inf"), 0.0, top))
    total = tl.sum(weights, 0)
    parts = tl.load(parts_ptr + (first + splits)[:, None] * WIDTH + depths[None, :])
    out = tl.sum(weights[:, None] * parts, 0) / tl.where(total == 0.0, 1.0, total)
    tl.store(out_ptr + tl.program_id(0).to(tl.int64) * WIDTH + depths, out.to(out_ptr.dtype.element_ty))


def decode_attention(q_BSHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, seen_BS: Tensor) -> Tensor:
    """Query s of row b attends to the first `seen[b, s]` slots of its row: `[B, S, H, K]` in q's dtype, contiguous. Forward only.

    seen: int64 or int32 on the device, never asked for by the host; a query that sees no slot gives 0. k, v in the cache's own
    layout, any strides but the last, which is 1; what lies in slots that nobody sees is not read. S times H / G at most
    MOST_ROWS; bf16, fp16 or fp32; K a power of two from 16 to 128. Raises ValueError or TypeError, in one sentence, for
    anything else.
    """
    check_decode(q_BSHK, k_BTGK, v_BTGK, seen_BS, MOST_ROWS)
    return _decode(q_BSHK, k_BTGK, v_BTGK, seen_BS)


@torch.library.custom_op("llama4::decode_attention", mutates_args=())
def _decode(q_BSHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, seen_BS: Tensor) -> Tensor:
    (batch, queries, heads, width), (slots, kv_heads) = q_BSHK.shape, k_BTGK.shape[1:3]
    out_BSHK = q_BSHK.new_empty(q_BSHK.shape)
    if out_BSHK.numel() == 0:
        return out_BSHK
    tile, sharing = chosen("attention_decode", q_BSHK.device, q_BSHK.dtype), heads // kv_heads
    splits = splits_of(batch * kv_heads, slots, q_BSHK.device)
    parts = q_BSHK.new_empty(batch, queries, heads, splits, width, dtype=torch.float32)
    lse = q_BSHK.new_empty(batch, queries, heads, splits, dtype=torch.float32)
    with torch.cuda.device_of(q_BSHK):
        _attend_split[batch * kv_heads, splits](
            q_BSHK, k_BTGK, v_BTGK, seen_BS.contiguous(), parts, lse, queries, slots, kv_heads, score_scale(width),
            *q_BSHK.stride()[:3], *k_BTGK.stride()[:3], *v_BTGK.stride()[:3],
            SHARING=sharing, WIDTH=width, ROWS=rows_of(queries * sharing), COLUMNS=tile.columns, SPLITS=splits,
            PRECISION=precision(q_BSHK.dtype), num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
        _add_splits[(batch * queries * heads,)](parts, lse, out_BSHK, WIDTH=width, SPLITS=splits)
    return out_BSHK


@_decode.register_fake
def _(q_BSHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, seen_BS: Tensor) -> Tensor:
    return q_BSHK.new_empty(q_BSHK.shape)


def splits_of(programs_without: int, slots: int, device: torch.device) -> int:
    """A power of two: enough programs for the card, each with slots enough to be worth its part."""
    wanted = triton.cdiv(A_MULTIPROCESSOR * programs(device), programs_without)
    worth = triton.cdiv(slots, SLOTS_WORTH_A_SPLIT)
    return min(MOST_SPLITS, triton.next_power_of_2(max(1, min(wanted, worth))))


def rows_of(rows: int) -> int:
    """The narrow side of a tile: 16, which is the least a product may have, or 32."""
    return max(16, triton.next_power_of_2(rows))
