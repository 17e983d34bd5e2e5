"""Pins the tiling of llama4/image.py on pixels known in advance: the canvas, the resize, the padding, the cut.

How pictures of every kind are read is in test_image_open.py, the comparison with both references in
parity/test_image_parity.py; nothing here needs them.
"""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from llama4.config import VisionConfig
from llama4.image import canvas, normalise, resized, tiles

VISION = VisionConfig()
SMALL = VisionConfig(tile_side=28, patch_side=7)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png(picture: Image.Image, path: Path, **options: object) -> Path:
    picture.save(path, "PNG", **options)
    return path


# --- The canvas ---


@pytest.mark.parametrize(
    ("width", "height", "grid"),
    [
        (800, 500, (2, 3)),  # the worked number of the module
        (9000, 100, (1, 16)),  # nothing holds it: the least downscaling
        (336, 336, (1, 1)),
        (335, 335, (1, 1)),
        (337, 336, (1, 2)),  # one pixel too wide for a tile
        (336, 337, (2, 1)),
        (672, 336, (1, 2)),
        (1344, 1344, (4, 4)),
        (1345, 1344, (4, 4)),  # no canvas of 16 tiles holds it: 4 x 4 shrinks it least
        (1, 1, (1, 1)),
        (1, 25_000_000, (16, 1)),
        (25_000_000, 1, (1, 16)),
        (5376, 336, (1, 16)),
        (1008, 1680, (5, 3)),
    ],
)
def test_canvas_of_known_sizes(width, height, grid):
    assert canvas(width, height, 336, 16) == grid


def test_canvas_follows_the_rule_in_exact_arithmetic():
    """The rule written again with fractions: no rounding may change the choice."""
    rng = random.Random(7)
    for _ in range(300):
        width, height, limit = rng.randint(1, 4000), rng.randint(1, 4000), rng.randint(1, 16)
        grids = [(r, c) for r in range(1, limit + 1) for c in range(1, limit + 1) if r * c <= limit]
        scale = {(r, c): min(Fraction(c * 336, width), Fraction(r * 336, height)) for r, c in grids}
        best = min((value for value in scale.values() if value >= 1), default=max(scale.values()))
        equal = [grid for grid in grids if scale[grid] == best]
        assert canvas(width, height, 336, limit) == min(equal, key=lambda grid: grid[0] * grid[1])


@pytest.mark.parametrize(
    ("size", "grid", "expected"),
    [
        ((800, 500), (2, 3), (800, 500)),  # held: not enlarged
        ((100, 50), (1, 1), (336, 168)),  # enlarged to one tile's side
        ((50, 100), (1, 1), (168, 336)),
        ((1000, 1), (1, 1), (336, 1)),  # 0.336 px, kept at 1
        ((1, 1000), (3, 1), (1, 1000)),
        ((9000, 100), (1, 16), (5376, 59)),  # 59.73 rounded down
        ((337, 336), (1, 2), (337, 336)),
        ((2000, 1999), (4, 4), (1344, 1343)),
        ((340, 20), (1, 2), (340, 20)),  # already longer than a tile: not enlarged
    ],
)
def test_resized_known_sizes(size, grid, expected):
    assert resized(*size, 336, *grid) == expected


# --- The tiles ---


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 400), height=st.integers(1, 400), limit=st.integers(1, 16))
def test_any_size_becomes_tiles(width, height, limit):
    got, (rows, columns) = tiles(Image.new("RGB", (width, height), (255, 0, 51)), SMALL, limit)
    assert rows * columns <= limit
    assert got.shape == (rows * columns + (rows * columns > 1), 3, 28, 28)
    assert got.dtype == torch.float32 and got.is_contiguous()
    # A plain picture stays plain through resizing; what is beside it is black.
    for value in got.permute(0, 2, 3, 1).reshape(-1, 3).unique(dim=0):
        assert torch.allclose(value, torch.tensor([1.0, -1.0, -0.6])) or torch.equal(value, -torch.ones(3))


def test_tiles_are_cut_row_by_row_and_the_global_tile_is_last():
    """A picture of exactly 2 x 3 tiles is not resized, so every pixel has its place."""
    picture = noise(84, 56)
    got, grid = tiles(picture, SMALL)
    assert grid == (2, 3)
    whole = normalise(picture)
    for row in range(2):
        for column in range(3):
            expected = whole[:, 28 * row : 28 * (row + 1), 28 * column : 28 * (column + 1)]
            assert torch.equal(got[3 * row + column], expected)
    assert torch.equal(got[6], normalise(picture.resize((28, 28), Image.Resampling.BILINEAR)))


def test_padding_is_black_on_the_right_and_below():
    got, grid = tiles(Image.new("RGB", (30, 29), (255, 255, 255)), SMALL)
    assert grid == (2, 2)
    sheet = torch.full((3, 56, 56), -1.0)
    sheet[:, :29, :30] = 1.0
    joined = torch.cat([torch.cat([got[0], got[1]], dim=2), torch.cat([got[2], got[3]], dim=2)], dim=1)
    assert torch.equal(joined, sheet)
    assert torch.equal(got[4], torch.ones(3, 28, 28))  # the global tile is squeezed, not padded


def test_one_tile_has_no_global_tile():
    assert tiles(noise(28, 28), SMALL)[0].shape == (1, 3, 28, 28)
    assert tiles(noise(500, 20), SMALL, max_tiles=1)[0].shape == (1, 3, 28, 28)


def test_downscaling_is_antialiased():
    """Fine stripes of black and white shrink to grey; sampling without a filter would leave black or white."""
    stripes = np.zeros((280, 280, 3), np.uint8)
    stripes[:, ::2] = 255
    got, _ = tiles(Image.fromarray(stripes), SMALL, max_tiles=1)
    assert got[0, :, :, 3:-3].abs().max() < 0.15


def test_normalise_known_values():
    picture = Image.new("RGB", (1, 1), (0, 51, 255))
    assert torch.allclose(normalise(picture).flatten(), torch.tensor([-1.0, -0.6, 1.0]), atol=1e-7)


def test_several_images_are_independent():
    pictures = [noise(30, 90, seed=1), noise(28, 28, seed=2), noise(200, 10, seed=3)]
    alone = [tiles(picture, SMALL)[0] for picture in pictures]
    again = [tiles(picture, SMALL)[0] for picture in reversed(pictures)][::-1]
    assert [len(part) for part in alone] == [9, 1, 9]
    assert all(torch.equal(first, second) for first, second in zip(alone, again, strict=True))


def test_path_and_picture_give_the_same_tiles_and_leave_the_picture_alone(tmp_path):
    picture = noise(77, 41)
    before = picture.tobytes()
    path = png(picture, tmp_path / "a.png")
    assert torch.equal(tiles(str(path), SMALL)[0], tiles(picture, SMALL)[0])
    assert torch.equal(tiles(path, SMALL)[0], tiles(picture, SMALL)[0])
    assert picture.tobytes() == before
