"""Pins llama4/image.py to both references: Meta's tiles bit for bit, Hugging Face's within one level of 255, every canvas.

Both references run on the torchvision stand-in of tests/torchvision_stand_in.py, or on torchvision itself where it is
installed. Meta's whole path is followed: its conversion to RGB, its tiles, and the global tile that its chat format adds.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from torchvision_stand_in import install

from llama4.config import VisionConfig
from llama4.image import canvas, resized, tiles

VISION = VisionConfig()
SIDE = VISION.tile_side

# Each size with its reason.
SIZES = [
    (1, 1),  # the smallest
    (1, 900),  # one column, downscaled to less than a pixel of width
    (900, 1),
    (336, 336),  # exactly one tile
    (335, 337),  # one short, one over
    (337, 335),
    (672, 1008),  # exact multiples: no resizing
    (1344, 1344),  # the largest square canvas, exactly
    (1345, 1343),  # just over it
    (1680, 1008),  # 15 of 16 tiles
    (5376, 336),  # sixteen tiles in a row
    (640, 480),  # common
    (1920, 1080),
    (333, 777),  # odd
    (5000, 3333),  # reduced by a large factor
    (5000, 17),  # a strip
    (19, 4999),
    (100, 60),  # enlarged to one tile's side
]


@pytest.fixture(scope="module")
def meta():
    """Meta's three functions as one: a picture, and how many tiles at most, to (tiles, (rows, columns))."""
    pytest.importorskip("llama_models")
    install()
    from llama_models.llama4.chat_format import convert_image_to_rgb
    from llama_models.llama4.preprocess import ResizeNormalizeImageTransform, VariableSizeImageTransform

    variable, whole = VariableSizeImageTransform(SIDE), ResizeNormalizeImageTransform(SIDE, SIDE)

    def reference(picture: Image.Image, max_tiles: int = 16) -> tuple[torch.Tensor, tuple[int, int]]:
        picture = convert_image_to_rgb(picture)
        got, grid = variable(picture, max_num_chunks=max_tiles)
        return (torch.cat([got, whole(picture)[None]]) if len(got) > 1 else got), grid

    reference.canvases = torch.tensor(variable.find_supported_resolutions(16, SIDE))
    reference.variable = variable
    return reference


@pytest.fixture(scope="module")
def hugging_face():
    """The module of Hugging Face's image processor."""
    pytest.importorskip("transformers")
    install()
    from transformers.models.llama4 import image_processing_llama4

    return image_processing_llama4


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Gradients under noise: smooth areas and sharp edges both."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    smooth = np.stack([x, y, (x + y) / 2], axis=-1) * 255
    noisy = rng.integers(0, 256, (height, width, 3))
    return Image.fromarray(np.where(rng.random((height, width, 1)) < 0.5, smooth, noisy).astype(np.uint8))


def random_sizes(count: int, seed: int) -> list[tuple[int, int]]:
    """Sizes where rules meet: anything, thin, and within a pixel of a multiple of the tile."""
    rng = random.Random(seed)

    def length() -> int:
        kind = rng.randrange(4)
        if kind == 0:
            return rng.randint(1, 40_000)
        if kind == 1:
            return rng.randint(1, 12)
        if kind == 2:
            return SIDE * rng.randint(1, 20) + rng.randint(-1, 1)
        return rng.randint(200, 2000)

    return [(length(), length()) for _ in range(count)]


def test_the_canvas_is_both_references_for_thousands_of_sizes(meta, hugging_face):
    for width, height in random_sizes(4000, seed=0):
        rows, columns = canvas(width, height, SIDE)
        chosen = (columns * SIDE, rows * SIDE)
        assert meta.variable.get_best_fit((width, height), meta.canvases) == chosen, (width, height)
        theirs = hugging_face.get_best_fit((height, width), meta.canvases).tolist()
        assert tuple(theirs) == chosen[::-1], (width, height)


def test_the_resized_size_is_both_references_for_thousands_of_sizes(meta, hugging_face):
    for width, height in random_sizes(4000, seed=1):
        rows, columns = canvas(width, height, SIDE)
        limit = (min(max(width, SIDE), columns * SIDE), min(max(height, SIDE), rows * SIDE))
        ours = resized(width, height, SIDE, rows, columns)
        theirs = meta.variable.get_max_res_without_distortion((width, height), limit)
        assert ours == (max(theirs[0], 1), max(theirs[1], 1)), (width, height)
        theirs = hugging_face.get_max_res_without_distortion((height, width), limit[::-1])
        assert ours == (max(theirs[1], 1), max(theirs[0], 1)), (width, height)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_tiles_are_meta_s(width, height, meta):
    source = picture(width, height)
    ours, grid = tiles(source, VISION)
    theirs, their_grid = meta(source)
    assert grid == tuple(their_grid)
    assert torch.equal(ours, theirs)  # both do the same float32 arithmetic on Pillow's pixels: no rounding to allow for


@settings(max_examples=25, deadline=None)
@given(
    width=st.integers(1, 1500), height=st.integers(1, 1500), limit=st.integers(1, 16), seed=st.integers(0, 2**32 - 1)
)
def test_tiles_are_meta_s_for_any_size_and_limit(width, height, limit, seed, meta):
    source = picture(width, height, seed)
    ours, grid = tiles(source, VISION, max_tiles=limit)
    theirs, their_grid = meta(source, limit)
    assert grid == tuple(their_grid)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("mode", ["RGBA", "L", "1", "P", "CMYK", "YCbCr"])
def test_tiles_are_meta_s_for_other_modes(mode, meta):
    source = picture(400, 300).convert(mode)
    if mode == "RGBA":
        source.putalpha(picture(400, 300, seed=5).convert("L"))
    assert torch.equal(tiles(source, VISION)[0], meta(source)[0])


def levels_of_float32(tiles: torch.Tensor) -> torch.Tensor:
    """Our pixels, from -1 to 1, as the levels 0 … 255 that they were."""
    return ((tiles + 1) * 127.5).round().long()


def levels_of_bfloat16(tiles: torch.Tensor) -> torch.Tensor:
    """Hugging Face's pixels as levels: its arithmetic in bfloat16 gives each of the 256 levels a value of its own."""
    values = (torch.arange(256).to(torch.bfloat16) * (1 / 255)).sub_(0.5).div_(0.5).float()
    assert len(values.unique()) == 256
    found = torch.searchsorted(values, tiles.float())
    assert torch.equal(values[found], tiles.float())
    return found


@pytest.mark.parametrize(("width", "height"), [size for size in SIZES if size != (5000, 3333)])
def test_tiles_are_hugging_face_s_within_a_level(width, height, hugging_face):
    """Its pixels are bfloat16, so levels are compared; its resize is torch's, which may round a pixel the other way."""
    source = picture(width, height)
    ours, grid = tiles(source, VISION)
    theirs = hugging_face.Llama4ImageProcessor()(source, return_tensors="pt")
    assert theirs["aspect_ratios"].tolist() == [list(grid)]
    assert theirs["pixel_values"].shape == ours.shape
    apart = (levels_of_float32(ours) - levels_of_bfloat16(theirs["pixel_values"])).abs()
    assert apart.max() <= 1
    rows, columns = grid
    if resized(width, height, SIDE, rows, columns) == (width, height):
        assert apart[: rows * columns].max() == 0


def test_transparency_is_hugging_face_s_where_meta_drops_it(meta, hugging_face):
    """LA and transparent palettes: Hugging Face lays them over white, as here; Meta shows what lay hidden beneath."""
    source = Image.new("LA", (SIDE, SIDE), (0, 0))
    ours, _ = tiles(source, VISION)
    theirs = hugging_face.Llama4ImageProcessor()(source, return_tensors="pt")["pixel_values"]
    assert ours.eq(1).all() and theirs.eq(1).all()
    assert meta(source)[0].eq(-1).all()


def test_sixteen_bits_are_scaled_where_both_references_clip(meta, hugging_face):
    """A grey of 32768 of 65535 is mid-grey here, and white in both references: Pillow's own conversion stops at 255."""
    source = Image.fromarray(np.full((SIDE, SIDE), 32768, np.uint16))
    assert levels_of_float32(tiles(source, VISION)[0]).eq(128).all()
    assert meta(source)[0].eq(1).all()
    assert hugging_face.Llama4ImageProcessor()(source, return_tensors="pt")["pixel_values"].eq(1).all()


def test_importing_meta_leaves_pillow_strict(meta):
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
