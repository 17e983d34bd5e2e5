"""Which rows of which expert a tile covers, found on the device, without a loop and without a table in memory.

    tiles[e]  = ceil(rows of e / ROWS)        after = running total of tiles
    expert(t) = how many groups end at or before tile t = Σ_e (after[e] <= t)

Worked example, tiles of 2 rows: group ends 2, 2, 5 → tiles 1, 0, 2 → after 1, 1, 3. Tile 0: no group ends at 0, expert 0.
Tile 1: groups 0 and 1 have ended, expert 2, its first. Tile 2: expert 2, its second, the one row that is left.

A program holds the E numbers in registers (16 for Scout, 128 for Maverick) and asks them anew for each of its tiles: E compares
beside the 128 · 128 · 5120 products of a tile. The host knows none of it, so nothing waits for the device.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def groups(ends_ptr, experts, ROWS: tl.constexpr, SLOTS: tl.constexpr):
    """First and last row, tiles, and running total of tiles for every group: four vectors of SLOTS, zeros behind the last."""
    slot = tl.arange(0, SLOTS)
    ends = tl.load(ends_ptr + slot, mask=slot < experts, other=0).to(tl.int32)
    begins = tl.load(ends_ptr + slot - 1, mask=(slot > 0) & (slot < experts), other=0).to(tl.int32)
    tiles = tl.cdiv(ends - begins, ROWS)
    return begins, ends, tiles, tl.cumsum(tiles, 0)


@triton.jit
def rows_of(tile, begins, ends, tiles, after, ROWS: tl.constexpr, SLOTS: tl.constexpr):
    """The expert of row tile `tile`, the tile's first row, and the row at which the expert's rows end."""
    ended = after <= tile
    expert = tl.sum(ended.to(tl.int32), 0)
    here = tl.arange(0, SLOTS) == expert
    begin = tl.sum(tl.where(here, begins, 0), 0)
    end = tl.sum(tl.where(here, ends, 0), 0)
    tiles_before = tl.sum(tl.where(ended, tiles, 0), 0)
    return expert, begin + (tile - tiles_before) * ROWS, end


@triton.jit
def in_bands(number, row_tiles, column_tiles, BAND: tl.constexpr):
    """Tile `number` in an order that the L2 cache likes: BAND row tiles high, column after column, then the next band.

    The programs that run at one time then share few rows of x and few columns of w. With 132 programs and BAND = 8 they read 8
    row tiles and 17 column tiles, 25 strips; row after row of a wide matrix they would read 1 or 2 and 132.
    """
    in_band = BAND * column_tiles
    first = number // in_band * BAND
    height = tl.minimum(row_tiles - first, BAND)
    place = number % in_band
    return first + place % height, place // height


@triton.jit
def halves(sums, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The left and the right columns of a tile of sums: what is done with the sums at the end need not hold all of them twice."""
    return tl.split(sums.reshape(ROWS, 2, COLUMNS // 2).permute(0, 2, 1))


def slots(experts: int) -> int:
    """The power of two that holds the experts; one behind the last stays free, for a tile that is nobody's."""
    return triton.next_power_of_2(experts + 1)
