"""Draw how program ids cover a ragged batch:

    python kernels/benchmarks/grid.py docs/kernels/grid.svg

Five groups of 5, 0, 3, 9 and 1 rows, tiles of 4 rows, an output three tiles wide, four programs, bands of two row tiles: small
enough to count. The numbers come from the same rules as tiles.py, written out for the host; a test holds the two together.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

SIZES, ROWS, COLUMN_TILES, PROGRAMS, BAND = (5, 0, 3, 9, 1), 4, 3, 4, 2
COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#CC79A7")  # Okabe and Ito's, light enough for black numbers
ROW, TILE, LEFT, TOP = 15, 112, 118, 46


def row_tiles(sizes: Sequence[int] = SIZES, rows: int = ROWS) -> list[tuple[int, int, int]]:
    """(expert, first row, rows that are its own) of every row tile: each group is tiled by itself."""
    tiles, begin = [], 0
    for expert, size in enumerate(sizes):
        tiles += [(expert, begin + first, min(rows, size - first)) for first in range(0, size, rows)]
        begin += size
    return tiles


def order(tiles: int | None = None, columns: int = COLUMN_TILES, band: int = BAND) -> list[tuple[int, int]]:
    """(row tile, column tile) in the order in which tiles are taken; program p takes every PROGRAMS-th from p on.

    tiles: row tiles, by default those of the picture.
    """
    count, taken = len(row_tiles()) if tiles is None else tiles, []
    for first in range(0, count, band):
        here = range(first, min(first + band, count))
        taken += [(row_tile, column) for column in range(columns) for row_tile in here]
    return taken


def svg() -> str:
    """The picture."""
    tiles, place = row_tiles(), {tile: number for number, tile in enumerate(order())}
    shapes, y = [], TOP
    for index, (expert, first, own) in enumerate(tiles):
        label = f"expert {expert}, rows {first}–{first + own - 1}" if own > 1 else f"expert {expert}, row {first}"
        shapes.append(_text(LEFT - 8, y + ROWS * ROW / 2 + 4, label, 11, "end"))
        for column in range(COLUMN_TILES):
            x = LEFT + column * TILE
            number = place[index, column]
            shapes.append(_box(x, y, own * ROW, COLOURS[expert], "1"))
            if own < ROWS:
                shapes.append(_box(x, y + own * ROW, (ROWS - own) * ROW, "#ffffff", "0.9"))
            middle = y + ROWS * ROW / 2
            shapes.append(_text(x + TILE / 2, middle, f"program {number % PROGRAMS}", 13, "middle", "bold"))
            shapes.append(_text(x + TILE / 2, middle + 15, f"its tile {number // PROGRAMS}", 11, "middle"))
        y += ROWS * ROW + (10 if index % BAND == BAND - 1 else 3)
    head = [_text(LEFT + (c + 0.5) * TILE, TOP - 10, f"columns, tile {c}", 11, "middle") for c in range(COLUMN_TILES)]
    title = f"{len(place)} tiles, {PROGRAMS} programs: white is computed and not stored"
    head.append(_text(12, 18, title, 12, "start"))
    width, height = LEFT + COLUMN_TILES * TILE + 12, y + 6
    box = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    ground = f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
    return f'<svg {box} font-family="sans-serif">\n' + "\n".join([ground, *head, *shapes]) + "\n</svg>\n"


def _box(x: float, y: float, height: float, fill: str, opacity: str) -> str:
    style = f'fill="{fill}" fill-opacity="{opacity}" stroke="#333333"'
    return f'<rect x="{x}" y="{y}" width="{TILE - 3}" height="{height}" {style}/>'


def _text(x: float, y: float, words: str, size: int, anchor: str, weight: str = "normal") -> str:
    style = f'font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" fill="#111111"'
    return f'<text x="{x}" y="{y}" {style}>{words}</text>'


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(svg(), encoding="utf-8")
