"""Which rows a tile of packed queries holds: the arithmetic that the kernels of attention share.

    row r of a chunk and key/value head:   position r // SHARING,   head r % SHARING

Worked example, 5 query heads a key/value head, tiles of 16 rows: tile 1 is rows 16 to 31: position 3 from its second head on,
positions 4 and 5 whole, position 6 up to its second head. A tile may begin in the middle of a position: nothing asks it not to.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def chunk_of(number, length, chunk, kv_heads):
    """Row of the batch, key/value head, first position and number of positions of chunk `number`; heads run fastest."""
    chunks = tl.cdiv(length, chunk)
    kv_head = number % kv_heads
    begin = number // kv_heads % chunks * chunk
    return number // (kv_heads * chunks), kv_head, begin, tl.minimum(length - begin, chunk)


@triton.jit
def packed(first_row, here, SHARING: tl.constexpr, ROWS: tl.constexpr):
    """Position in the chunk and head in the group of ROWS rows, and which are the chunk's own.

    Behind the last row of the chunk any will do, since nothing of it is stored: the last one, which is there.
    """
    rows = first_row + tl.arange(0, ROWS)
    last = here * SHARING - 1
    inside = tl.minimum(rows, last)
    return inside // SHARING, inside % SHARING, rows <= last


@triton.jit
def pointers(ptr, row, token, head, row_stride, token_stride, head_stride):
    """The address of one row's token and head; in 64 bits, which 1 M tokens of 40 heads of 128 need."""
    return ptr + row.to(tl.int64) * row_stride + token.to(tl.int64) * token_stride + head.to(tl.int64) * head_stride
