"""A picture of any size as a row of square tiles: open, choose a canvas, resize, pad, cut.

A worked number: 800 x 500 px, tiles of 336 px, at most 16.

    canvas        2 rows x 3 columns = 1008 x 672 px    the least enlargement (1.26) that holds the picture
    resize        800 x 500 px                          never enlarged beyond one tile's side: stays as it is
    pad           black on the right and below          to 1008 x 672 px
    normalise     (value / 255 - 0.5) / 0.5             0 -> -1, 255 -> 1
    cut           6 tiles, row by row                   the first row's three, then the second row's
    global tile   the whole picture squeezed to 336 x 336, as a seventh; a picture of one tile has none

Sources: Meta's `llama_models/llama4/preprocess.py` and `chat_format.py`, Hugging Face's `image_processing_llama4.py`. The
tiles equal Meta's bit for bit; Hugging Face computes pixels in bfloat16 and is up to 3.9e-3 away. Both references drop
what surrounds the pixels, which `open_image` does not: a phone's picture is turned upright by its EXIF tag, every kind
of transparency is laid over white, and 16-bit grey is scaled to 8 bits where Pillow's own conversion cuts it off at 255.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from llama4.errors import InputError

if TYPE_CHECKING:
    from llama4.config import VisionConfig

MAX_TILES = 16
MAX_PIXELS = 25_000_000
WHITE = (255, 255, 255)


def tiles(
    image: str | Path | Image.Image, vision: VisionConfig, max_tiles: int = MAX_TILES, max_pixels: int = MAX_PIXELS
) -> tuple[Tensor, tuple[int, int]]:
    """Turn a picture into what the vision encoder reads.

    Returns float32 [R, 3, side, side] with values from -1 to 1, and (rows, columns): R is rows * columns, and one more,
    the global tile, when that product is above one. Raises `InputError` for a picture that `open_image` refuses.
    """
    if max_tiles < 1:
        raise InputError(f"max_tiles is {max_tiles}: a picture needs at least 1 tile.")
    picture = open_image(image, max_pixels)
    side = vision.tile_side
    rows, columns = canvas(picture.width, picture.height, side, max_tiles)
    size = resized(picture.width, picture.height, side, rows, columns)
    padded = Image.new("RGB", (columns * side, rows * side))
    padded.paste(picture.resize(size, Image.Resampling.BILINEAR))
    pieces = rearrange(normalise(padded), "c (rows y) (columns x) -> (rows columns) c y x", rows=rows, columns=columns)
    if rows * columns > 1:
        whole = normalise(picture.resize((side, side), Image.Resampling.BILINEAR))
        pieces = torch.cat([pieces, whole[None]])
    return pieces, (rows, columns)


def canvas(width: int, height: int, side: int, max_tiles: int = MAX_TILES) -> tuple[int, int]:
    """Choose the (rows, columns) of tiles that suit a picture of `width` x `height` px.

    A canvas's scale is what the picture would be resized by to fill it: min(columns * side / width, rows * side / height).
    The smallest scale of 1 or more wins, or else the largest below 1; among equal scales the smallest area.

    800 x 500 px: 2 x 3 tiles have scale min(1008 / 800, 672 / 500) = 1.26, 2 x 4 have 1.344, 2 x 2 only 0.84: (2, 3).
    9000 x 100 px: 1 x 16 tiles have the largest scale, 5376 / 9000 = 0.6: (1, 16).

    Equal scales with equal areas do not occur: of two canvases, one limited by width and one by height, the smaller sides
    make a third. The references compare in float32, where the same canvas wins: two different scales are at least
    1 / (16 * longer side) apart, which float32 still tells apart at 500,000 px.
    """
    grids = [(rows, columns) for rows in range(1, max_tiles + 1) for columns in range(1, max_tiles // rows + 1)]
    scales = {(rows, columns): min(columns * side / width, rows * side / height) for rows, columns in grids}
    holding = [scale for scale in scales.values() if scale >= 1]
    best = min(holding) if holding else max(scales.values())
    return min((grid for grid in grids if scales[grid] == best), key=lambda grid: grid[0] * grid[1])


def resized(width: int, height: int, side: int, rows: int, columns: int) -> tuple[int, int]:
    """The (width, height) that a picture is resized to before it is padded to its canvas: its own shape, kept.

    It is reduced to fit the canvas, and enlarged only until its longer side reaches one tile's `side`. The other side is
    rounded down, to at least 1 px. On a canvas of one 336 px tile 100 x 50 px becomes 336 x 168, and 1000 x 1 px
    becomes 336 x 1; on 2 x 3 tiles 800 x 500 px stays as it is.
    """
    most_width = min(max(width, side), columns * side)
    most_height = min(max(height, side), rows * side)
    width_scale, height_scale = most_width / width, most_height / height
    if width_scale < height_scale:
        return most_width, max(1, min(int(height * width_scale), most_height))
    return max(1, min(int(width * height_scale), most_width)), most_height


def normalise(picture: Image.Image) -> Tensor:
    """8-bit RGB as float32 [3, height, width] from -1 to 1: 0 -> -1, 51 -> -0.6, 255 -> 1."""
    pixels = torch.from_numpy(np.array(picture)).to(torch.float32)
    return rearrange((pixels / 255 - 0.5) / 0.5, "y x c -> c y x").contiguous()


def open_image(source: str | Path | Image.Image, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read a picture as upright 8-bit RGB; of an animated file, the first frame. The argument is left as it is.

    Raises `InputError` when there is no such file, when it is a folder, is not a picture or ends too early, when it has
    more than `max_pixels` pixels (read from the header: nothing of that size is decoded), or when its pixels have no
    known range.
    """
    if isinstance(source, Image.Image):
        return _decode(source, str(getattr(source, "filename", "") or "the picture"), max_pixels)
    if not isinstance(source, str | Path):
        raise InputError(f"An image is given as a path or as a PIL.Image, not as {type(source).__name__}.")
    path = Path(source)
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder where an image was expected: name one file in it.")
    if not os.path.exists(path):  # unlike Path.exists it does not raise on a name too long to be one
        raise InputError(f"There is no image file {path}: check the path.")
    with _open_file(path, max_pixels) as picture:
        return _decode(picture, str(path), max_pixels)


def _open_file(path: Path, max_pixels: int) -> Image.Image:
    """Read a picture file's header with Pillow; the caller closes it."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of plugins it lacks and of large pictures: the errors below and `max_pixels` speak for both.
            warnings.simplefilter("ignore")
            return Image.open(path)
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is not an image in a format that Pillow reads: convert it to PNG or JPEG.") from error
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{path} has more pixels than Pillow opens, whatever the limit here ({max_pixels:,}): reduce the image, or "
            "raise PIL.Image.MAX_IMAGE_PIXELS if you trust it."
        ) from error
    except Exception as error:  # a damaged header can raise nearly anything from a format's plugin
        raise InputError(
            f"{path} cannot be opened as an image ({_reason(error)}): check or replace the file."
        ) from error


def _decode(picture: Image.Image, name: str, max_pixels: int) -> Image.Image:
    width, height = picture.size
    if width * height > max_pixels:
        raise InputError(
            f"{name} has {width} x {height} = {width * height:,} pixels, over the limit of {max_pixels:,}: "
            "reduce the image or raise max_pixels."
        )
    if width * height == 0:
        raise InputError(f"{name} is {width} x {height} px and so has no pixels: give another image.")
    try:
        picture.load()
        return _to_rgb(_upright(picture), name)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # damaged pixel data can raise nearly anything from a format's plugin
        raise InputError(f"{name} is damaged or cut short ({_reason(error)}): check or replace the file.") from error


def _upright(picture: Image.Image) -> Image.Image:
    """Turn a picture by its EXIF orientation (1 to 8); one whose EXIF block is itself damaged is taken as upright."""
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # Pillow's EXIF reader has no exception of its own
        return picture


def _to_rgb(picture: Image.Image, name: str) -> Image.Image:
    """Convert any Pillow mode to a new RGB image, transparency over white (a half-transparent black: 127)."""
    if picture.mode == "F":
        raise InputError(f"{name} has floating-point pixels, which have no fixed range: save it with 8 or 16 bits.")
    if picture.mode.startswith("I"):
        return _grey_16_to_8(picture, name).convert("RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layered = picture.convert("RGBA")
    flat = Image.new("RGB", picture.size, WHITE)
    flat.paste(layered, mask=layered.getchannel("A"))
    return flat


def _grey_16_to_8(picture: Image.Image, name: str) -> Image.Image:
    """Scale 0 … 65535 to 0 … 255, rounded: 32768 -> 128. Pillow's convert would make 255 of all above 255."""
    values = np.array(picture).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise InputError(
            f"{name} has integer pixels from {values.min()} to {values.max()}, outside 16 bits: save it with 8 or 16 bits."
        )
    grey = (values * 255 + 32767) // 65535
    transparent = picture.info.get("transparency")
    if transparent is not None:
        grey[values == transparent] = 255
    return Image.fromarray(grey.astype(np.uint8))


def _reason(error: Exception) -> str:
    """An exception's message as a clause within a sentence."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
