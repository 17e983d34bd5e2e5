"""Pins the renderer: how many tiles a picture has, who draws it, that tiles are those of the package's own tiler, and that equal
states draw equal pixels."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from small_training import NONE, TILE, VISION, dataset, studio
from task_emoji import EMOJI

from llama4.image import tiles as cut
from llama4.train.emoji.dataset import Artist, Dataset
from llama4.train.pictures import Augmentation, views
from llama4.train.render import Renderer, eight_bit
from llama4.train.tasks import Picture

ONES = [Picture((number,)) for number in range(len(EMOJI))]


def flat(levels: dict[str, int]) -> Dataset:
    """Artist's level in red, the emoji's number times ten in green, all opaque."""
    index = np.arange(len(EMOJI))
    pixels = np.full((len(EMOJI), 32, 32, 4), 255, dtype=np.uint8)
    pixels[..., 1] = 10 * index[:, None, None]
    drawn = {}
    for name, level in levels.items():
        own = pixels.copy()
        own[..., 0] = level
        drawn[name] = Artist(name, own, index)
    return Dataset(EMOJI, drawn)


def bytes_of(tile: torch.Tensor) -> torch.Tensor:
    """Normalised pixels as the 0 … 255 they came from, `[3, side, side]`."""
    return ((tile / 2 + 0.5) * 255).round().long()


def test_one_emoji_is_its_drawing_in_one_tile() -> None:
    """Without augmentation; whose drawing the tile equals is who drew it."""
    data = dataset("noto", "fluent", "blob")
    any_state = torch.Generator()
    looks = {name: eight_bit(views(data.artists[name].pixels, TILE, NONE, any_state)) for name in ("noto", "fluent")}
    seen = Counter()
    for picture, (tile, grid) in zip(
        ONES * 4, Renderer(studio()).tiles(ONES * 4, np.random.default_rng(1)), strict=True
    ):
        assert tile.shape == (1, 3, TILE, TILE) and grid == (1, 1)
        near = [name for name, look in looks.items() if torch.equal(tile[0], look[picture.emoji[0]])]
        assert len(near) == 1
        seen.update(near)
    assert set(seen) == {"noto", "fluent"}


def test_a_tile_is_what_the_tiler_makes_of_the_picture_saved_as_a_file() -> None:
    augmented = Renderer(studio(Augmentation()))
    for tile, _ in augmented.tiles(ONES, np.random.default_rng(2)):
        image = Image.fromarray(bytes_of(tile[0]).permute(1, 2, 0).to(torch.uint8).numpy())
        again, grid = cut(image, VISION)
        assert grid == (1, 1) and torch.equal(again, tile)


def test_only_the_artists_to_learn_from_draw_each_as_often() -> None:
    levels = {"noto": 40, "fluent": 80, "blob": 120, "twemoji": 160}
    renderer = Renderer(studio(data=flat(levels)))
    drawn = renderer.tiles([Picture((number % 13,)) for number in range(600)], np.random.default_rng(3))
    seen = Counter(int(bytes_of(tile[0])[0, 0, 0]) for tile, _ in drawn)
    assert set(seen) == {40, 80}
    assert abs(seen[40] - 300) < 4 * np.sqrt(600 / 4)


def test_an_emoji_that_an_artist_lacks_is_drawn_by_another() -> None:
    data = flat({"noto": 40, "fluent": 80})
    few = Artist("fluent", data.artists["fluent"].pixels[3:5], np.array([3, 4]))
    renderer = Renderer(studio(data=Dataset(EMOJI, {"noto": data.artists["noto"], "fluent": few})))
    for picture, (tile, _) in zip(ONES * 5, renderer.tiles(ONES * 5, np.random.default_rng(3)), strict=True):
        level, number = bytes_of(tile[0])[:2, 0, 0].tolist()
        assert number == 10 * picture.emoji[0]
        assert level == 40 or picture.emoji[0] in (3, 4)


def test_large_pictures_have_many_tiles_and_their_share() -> None:
    renderer = Renderer(studio(many_tiles=0.3, data=flat({"noto": 40, "fluent": 80})))
    numbers = np.random.default_rng(4).integers(0, 13, 400)
    counts = Counter()
    for number, (tile, (rows, columns)) in zip(
        numbers, renderer.tiles([Picture((int(one),)) for one in numbers], np.random.default_rng(5)), strict=True
    ):
        assert len(tile) == rows * columns + (rows * columns > 1) and rows == columns
        assert int(bytes_of(tile[-1])[1, 5, 5]) == 10 * number  # the last tile is the whole
        counts[rows] += 1
    assert abs(counts[1] - 280) < 4 * np.sqrt(400 * 0.21)
    assert set(counts) == {1, 2, 3, 4} and counts[2] > counts[3] + counts[4]


def test_a_frame_is_one_tile_always() -> None:
    renderer = Renderer(studio(Augmentation(), many_tiles=1.0))
    frames = [Picture((number,), frame=True) for number in range(13)]
    assert all(grid == (1, 1) for _, grid in renderer.tiles(frames, np.random.default_rng(6)))
    assert all(grid != (1, 1) for _, grid in renderer.tiles(ONES, np.random.default_rng(6)))


def test_a_strip_has_a_tile_for_each_emoji_in_order_and_one_for_the_whole() -> None:
    renderer = Renderer(studio(data=flat({"noto": 40, "fluent": 80})))
    strips = [
        Picture(emoji, layout)
        for layout in ("row", "column")
        for emoji in ((1, 12), (5, 4, 3), (2, 2, 9, 7), (0, 1, 2, 3, 4, 5))
    ]
    for strip, (tile, (rows, columns)) in zip(strips, renderer.tiles(strips, np.random.default_rng(7)), strict=True):
        assert (rows, columns) == ((1, len(strip.emoji)) if strip.layout == "row" else (len(strip.emoji), 1))
        assert len(tile) == len(strip.emoji) + 1
        middles = [int(bytes_of(one)[1, TILE // 2, TILE // 2]) for one in tile[:-1]]
        assert middles == [10 * number for number in strip.emoji]


def test_strips_lie_on_white() -> None:
    """However coloured the grounds of single emoji are."""
    wild = replace(NONE, coloured_ground=1.0)
    nothing = np.zeros((13, 32, 32, 4), dtype=np.uint8)
    transparent = Dataset(EMOJI, {name: Artist(name, nothing, np.arange(13)) for name in ("noto", "fluent")})
    renderer = Renderer(studio(wild, data=transparent))
    ((single, _), (strip, _)) = renderer.tiles([Picture((1,)), Picture((1, 2), "row")], np.random.default_rng(8))
    assert (strip == 1).all() and (single < 0.99).any()


def test_equal_states_draw_equal_pixels() -> None:
    renderer = Renderer(studio(Augmentation(), many_tiles=0.3))
    pictures = [*ONES, Picture((1, 2, 3), "row"), Picture((4,), frame=True)]
    first, again, other = (renderer.tiles(pictures, np.random.default_rng(seed)) for seed in (9, 9, 10))
    assert all(torch.equal(a, b) and g == h for (a, g), (b, h) in zip(first, again, strict=True))
    assert not all(a.shape == b.shape and torch.equal(a, b) for (a, _), (b, _) in zip(first, other, strict=True))
