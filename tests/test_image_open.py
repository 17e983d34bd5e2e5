"""Pins `llama4.image.open_image`: every kind of picture, on pixels known in advance, and every kind of bad file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from llama4.config import VisionConfig
from llama4.errors import InputError
from llama4.image import open_image, tiles

VISION = VisionConfig()
SMALL = VisionConfig(tile_side=28, patch_side=7)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png(picture: Image.Image, path: Path, **options: object) -> Path:
    picture.save(path, "PNG", **options)
    return path


def pixels(picture: Image.Image) -> list[list[int]]:
    """The pixels of an RGB picture, row by row."""
    assert picture.mode == "RGB"
    return np.array(picture).reshape(-1, 3).tolist()


# --- Kinds of pictures ---


def test_every_alpha_goes_over_white(tmp_path):
    clear, half, solid = (200, 0, 0, 0), (0, 0, 0, 128), (10, 20, 30, 255)
    rgba = Image.new("RGBA", (3, 1))
    rgba.putdata([clear, half, solid])
    expected = [[255, 255, 255], [127, 127, 127], [10, 20, 30]]
    assert pixels(open_image(rgba)) == expected
    assert pixels(open_image(png(rgba, tmp_path / "rgba.png"))) == expected

    grey = Image.new("LA", (3, 1))
    grey.putdata([(200, 0), (0, 128), (10, 255)])
    expected_grey = [[255] * 3, [127] * 3, [10] * 3]
    assert pixels(open_image(grey)) == expected_grey
    assert pixels(open_image(png(grey, tmp_path / "la.png"))) == expected_grey
    palette = grey.convert("RGBA").convert("PA")
    assert palette.mode == "PA"
    assert pixels(open_image(palette)) == expected_grey


def test_transparent_palette_entries_and_keys_go_over_white(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([9, 9, 9, 50, 60, 70])
    palette.putdata([0, 1])
    assert pixels(open_image(png(palette, tmp_path / "p.png"))) == [[9, 9, 9], [50, 60, 70]]
    one = png(palette, tmp_path / "one.png", transparency=1)
    assert pixels(open_image(one)) == [[9, 9, 9], [255, 255, 255]]
    table = png(palette, tmp_path / "table.png", transparency=bytes([255, 128]))
    assert pixels(open_image(table)) == [[9, 9, 9], [152, 157, 162]]  # (50, 60, 70) half over white
    palette.save(tmp_path / "p.gif", transparency=0)
    assert pixels(open_image(tmp_path / "p.gif")) == [[255, 255, 255], [50, 60, 70]]

    rgb = Image.new("RGB", (2, 1))
    rgb.putdata([(1, 2, 3), (4, 5, 6)])
    keyed = png(rgb, tmp_path / "rgb.png", transparency=(1, 2, 3))
    assert pixels(open_image(keyed)) == [[255, 255, 255], [4, 5, 6]]
    grey = Image.new("L", (2, 1), 7)
    grey.putpixel((1, 0), 8)
    assert pixels(open_image(png(grey, tmp_path / "l.png", transparency=8))) == [[7] * 3, [255] * 3]


def test_one_bit_grey_and_hsv(tmp_path):
    bits = Image.new("1", (2, 1))
    bits.putdata([0, 1])
    assert pixels(open_image(png(bits, tmp_path / "1.png"))) == [[0] * 3, [255] * 3]
    assert pixels(open_image(Image.new("L", (1, 1), 77))) == [[77] * 3]
    assert pixels(open_image(Image.new("HSV", (1, 1), (0, 255, 255)))) == [[255, 0, 0]]


def test_cmyk(tmp_path):
    ink = Image.new("CMYK", (3, 1))
    ink.putdata([(0, 0, 0, 0), (255, 0, 0, 0), (0, 0, 0, 255)])
    expected = [[255, 255, 255], [0, 255, 255], [0, 0, 0]]
    assert pixels(open_image(ink)) == expected
    ink.save(tmp_path / "ink.tif")
    assert pixels(open_image(tmp_path / "ink.tif")) == expected
    Image.new("CMYK", (16, 16), (255, 0, 0, 0)).save(tmp_path / "ink.jpg", quality=100)
    assert np.abs(np.array(open_image(tmp_path / "ink.jpg")).astype(int) - [0, 255, 255]).max() <= 4  # JPEG is lossy


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    """0, 255, 257, 32768, 65535 of 65535 are 0, 1, 1, 128, 255 of 255; Pillow's own conversion gives 255 for the last four."""
    values = np.array([[0, 255, 257, 32768, 65535]], np.uint16)
    expected = [[grey] * 3 for grey in (0, 1, 1, 128, 255)]
    picture = Image.fromarray(values)
    assert picture.mode == "I;16"
    assert pixels(open_image(picture)) == expected
    assert pixels(open_image(png(picture, tmp_path / "16.png"))) == expected
    picture.save(tmp_path / "16.tif")
    assert pixels(open_image(tmp_path / "16.tif")) == expected
    assert pixels(open_image(picture.convert("I"))) == expected
    (tmp_path / "16.pgm").write_bytes(b"P5 5 1 65535\n" + values.astype(">u2").tobytes())
    assert pixels(open_image(tmp_path / "16.pgm")) == expected
    keyed = png(picture, tmp_path / "keyed.png", transparency=257)
    assert pixels(open_image(keyed)) == [[0] * 3, [1] * 3, [255] * 3, [128] * 3, [255] * 3]


def test_pixels_without_a_known_range_are_refused():
    with pytest.raises(InputError, match="floating-point"):
        open_image(Image.new("F", (2, 2), 0.5))
    with pytest.raises(InputError, match="outside 16 bits"):
        open_image(Image.new("I", (2, 2), 65536))
    with pytest.raises(InputError, match="outside 16 bits"):
        open_image(Image.new("I", (2, 2), -1))


# What the stored 3 x 2 picture a b c / d e f looks like once turned by each EXIF orientation.
ORIENTATIONS = {
    1: ["abc", "def"],
    2: ["cba", "fed"],
    3: ["fed", "cba"],
    4: ["def", "abc"],
    5: ["ad", "be", "cf"],
    6: ["da", "eb", "fc"],
    7: ["fc", "eb", "da"],
    8: ["cf", "be", "ad"],
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_exif_orientation(orientation, suffix, tmp_path):
    colours = {letter: (40 * number, 255 - 40 * number, number) for number, letter in enumerate("abcdef")}
    stored = Image.new("RGB", (3, 2))
    stored.putdata([colours[letter] for letter in "abcdef"])
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{suffix}"
    stored.save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    expected = ORIENTATIONS[orientation]
    for got in (open_image(path), open_image(Image.open(path))):
        assert got.size == (len(expected[0]), len(expected))
        assert pixels(got) == [list(colours[letter]) for letter in "".join(expected)]


def test_exif_orientation_reaches_the_canvas(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (84, 28)).save(tmp_path / "a.jpg", exif=exif)
    assert tiles(tmp_path / "a.jpg", SMALL)[1] == (3, 1)


def test_exif_turns_transparent_and_sixteen_bit_pictures_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    clear = Image.new("LA", (2, 1))
    clear.putdata([(5, 255), (5, 0)])
    assert pixels(open_image(png(clear, tmp_path / "la.png", exif=exif))) == [[255] * 3, [5] * 3]
    deep = Image.fromarray(np.array([[0, 65535]], np.uint16))
    assert pixels(open_image(png(deep, tmp_path / "16.png", exif=exif))) == [[255] * 3, [0] * 3]


def test_damaged_exif_is_no_reason_to_refuse(tmp_path):
    Image.new("RGB", (2, 2), (1, 2, 3)).save(tmp_path / "a.png", exif=b"Exif\0\0no such thing")
    assert pixels(open_image(tmp_path / "a.png")) == [[1, 2, 3]] * 4


@pytest.mark.parametrize("size", [(1, 700), (700, 1), (1, 1)])
def test_thin_pictures(size, tmp_path):
    got, (rows, columns) = tiles(png(noise(*size), tmp_path / "thin.png"), VISION)
    assert (rows, columns) == {(1, 700): (3, 1), (700, 1): (1, 3), (1, 1): (1, 1)}[size]
    assert len(got) == rows * columns + (rows * columns > 1)


def test_an_animation_is_its_first_frame(tmp_path):
    first, second = Image.new("RGB", (2, 2), (255, 0, 0)), Image.new("RGB", (2, 2), (0, 0, 255))
    first.save(tmp_path / "a.png", save_all=True, append_images=[second])
    assert pixels(open_image(tmp_path / "a.png")) == [[255, 0, 0]] * 4


# --- Bad input ---


def assert_one_sentence(error: pytest.ExceptionInfo) -> None:
    message = str(error.value)
    assert message.endswith(".") and "\n" not in message and ". " not in message, message


def test_missing_file_folder_and_other_things(tmp_path):
    for source, words in [
        (tmp_path / "none.png", "no image file"),
        (tmp_path, "is a folder"),
        ("data:image/png;base64," + "A" * 5000, "no image file"),
        (b"bytes", "not as bytes"),
        (None, "not as NoneType"),
    ]:
        with pytest.raises(InputError, match=words) as error:
            open_image(source)
        assert_one_sentence(error)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"<!DOCTYPE html><html></html>",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"\x89PNG\r\n\x1a\n",
    ],
)
def test_what_is_not_an_image(content, tmp_path):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.png") as error:
        open_image(tmp_path / "a.png")
    assert_one_sentence(error)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("share", [0.15, 0.5, 0.9])
def test_truncated_files(kind, share, tmp_path):
    buffer = io.BytesIO()
    noise(90, 70).save(buffer, kind)
    path = tmp_path / "cut"
    path.write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * share)])
    with pytest.raises(InputError, match="cut") as error:
        open_image(path)
    assert_one_sentence(error)
    with pytest.raises(InputError):
        tiles(path, SMALL)


def test_pillow_settings_are_left_alone(tmp_path):
    strict, bomb = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
    open_image(png(noise(9, 9), tmp_path / "a.png"))
    assert (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS) == (strict, bomb) == (False, bomb)


def test_pixel_limit_can_be_raised(tmp_path):
    path = png(Image.new("1", (5001, 5000)), tmp_path / "large.png")
    with pytest.raises(InputError, match=r"25,005,000 pixels, over the limit of 25,000,000.*max_pixels") as error:
        tiles(path, SMALL)
    assert_one_sentence(error)
    with pytest.raises(InputError, match="over the limit"):
        open_image(Image.new("1", (5001, 5000)))
    assert open_image(path, max_pixels=25_005_000).size == (5001, 5000)
    assert tiles(path, SMALL, max_pixels=25_005_000)[1] == (4, 4)


def test_pixel_limit_is_read_from_the_header(tmp_path):
    """A file whose header promises 90,000 x 90,000 px and that holds nothing: refused before anything is decoded."""
    header = b"P6 90000 90000 255\n"
    (tmp_path / "bomb.ppm").write_bytes(header)
    with pytest.raises(InputError, match="more pixels than Pillow opens") as error:
        open_image(tmp_path / "bomb.ppm")
    assert_one_sentence(error)
    (tmp_path / "large.ppm").write_bytes(b"P6 9000 9000 255\n")
    with pytest.raises(InputError, match="81,000,000 pixels, over the limit"):
        open_image(tmp_path / "large.ppm")


def test_empty_picture_and_no_tiles():
    with pytest.raises(InputError, match="no pixels"):
        open_image(Image.new("RGB", (0, 5)))
    with pytest.raises(InputError, match="max_tiles is 0"):
        tiles(noise(5, 5), SMALL, max_tiles=0)
