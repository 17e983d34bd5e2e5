"""Pins llama4/video.py: which frames are sampled, in which order, from every kind of source, and what is refused.

Frame k of every test video is a plain grey of 10 k, so that a sampled frame says which one it was.
"""

from __future__ import annotations

import struct
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from llama4.config import VisionConfig
from llama4.errors import InputError
from llama4.image import tiles
from llama4.video import folder_of_pictures, frames, middles

# One container and codec each; B-frames (libx264) and hidden reference frames (libvpx) are the traps, and an AVI's
# time stamps do not survive B-frames.
VIDEOS = [
    ("a.mp4", "libx264"),
    ("a.mov", "libx264"),
    ("a.mkv", "libx264"),
    ("b.avi", "libx264"),
    ("a.avi", "mpeg4"),
    ("a.webm", "libvpx-vp9"),
    ("b.webm", "libvpx"),
]


def grey(number: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    return Image.new("RGB", size, (10 * number,) * 3)


def numbers(sampled: list[Image.Image]) -> list[int]:
    """Which frames these are; a lossy codec may move a value by a few."""
    assert all(frame.mode == "RGB" for frame in sampled)
    return [round(np.array(frame).mean() / 10) for frame in sampled]


def animation(path: Path, count: int, **options: object) -> Path:
    first, *rest = [grey(number) for number in range(count)]
    first.save(path, save_all=True, append_images=rest, duration=100, **options)
    return path


def video(path: Path, codec: str, count: int = 25) -> Path:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 8
        for number in range(count):
            container.mux(stream.encode(av.VideoFrame.from_image(grey(number))))
        container.mux(stream.encode())
    return path


# --- The rule ---


def test_middles_known_values():
    assert middles(20, 4) == [2, 7, 12, 17]
    assert middles(3, 8) == [0, 1, 2]
    assert middles(25, 4) == [3, 9, 15, 21]
    assert middles(9, 1) == [4]
    assert middles(0, 5) == []


@given(total=st.integers(1, 10_000), count=st.integers(1, 200))
def test_middles_are_distinct_ordered_and_evenly_spaced(total, count):
    chosen = middles(total, count)
    assert len(chosen) == min(total, count)
    assert chosen == sorted(set(chosen)) and chosen[0] >= 0 and chosen[-1] < total
    gaps = [after - before for before, after in pairwise(chosen)]
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert abs(chosen[0] - (total - 1 - chosen[-1])) <= 1  # as far from the start as from the end


# --- The sources ---


@pytest.mark.parametrize(("suffix", "options"), [("gif", {}), ("webp", {"lossless": True}), ("png", {})])
def test_animations(suffix, options, tmp_path):
    path = animation(tmp_path / f"a.{suffix}", 20, **options)
    assert numbers(frames(path, 4)) == [2, 7, 12, 17]
    assert numbers(frames(str(path), 100)) == list(range(20))
    assert numbers(frames(path)) == middles(20, 8)


def test_an_open_animation_is_left_where_it_stood(tmp_path):
    with Image.open(animation(tmp_path / "a.gif", 20)) as opened:
        opened.seek(5)
        assert numbers(frames(opened, 4)) == [2, 7, 12, 17]
        assert opened.tell() == 5


def test_the_still_of_an_apng_is_no_frame(tmp_path):
    path = tmp_path / "a.png"
    moving = [grey(number) for number in range(1, 5)]
    grey(20).save(path, save_all=True, default_image=True, append_images=moving, duration=100)
    assert numbers(frames(path, 8)) == [1, 2, 3, 4]


def test_a_still_picture_is_one_frame(tmp_path):
    grey(3).save(tmp_path / "a.png")
    assert numbers(frames(tmp_path / "a.png")) == [3]
    assert numbers(frames(grey(4))) == [4]


def test_transparent_animation_goes_over_white(tmp_path):
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    solid = Image.new("RGBA", (4, 4), (0, 0, 0, 255))
    clear.save(tmp_path / "a.webp", save_all=True, append_images=[solid], lossless=True)
    assert [frame.getpixel((0, 0)) for frame in frames(tmp_path / "a.webp")] == [(255,) * 3, (0,) * 3]


def test_folder_in_natural_order(tmp_path):
    for number in range(12):
        grey(number).save(tmp_path / f"frame{number}.{'PNG' if number % 2 else 'bmp'}")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "._frame1.png").write_bytes(b"a file system's shadow")
    (tmp_path / "more.png").mkdir()
    assert numbers(frames(tmp_path, 12)) == list(range(12))
    assert numbers(frames(str(tmp_path), 3)) == [2, 6, 10]


def test_natural_order_of_mixed_names(tmp_path):
    ordered = ["1.png", "2a.png", "10.png", "a1.png", "A02.png", "a2.png", "a10b2.png", "a10b10.png", "b.png"]
    for name in reversed(ordered):
        grey(0, (1, 1)).save(tmp_path / name)
    assert [path.name for path in folder_of_pictures(tmp_path)] == ordered


def test_list_of_pictures_and_paths(tmp_path):
    grey(1).save(tmp_path / "b.png")
    assert numbers(frames([grey(5), tmp_path / "b.png", str(tmp_path / "b.png"), grey(2)])) == [5, 1, 1, 2]
    assert numbers(frames(tuple(grey(number) for number in range(20)), 4)) == [2, 7, 12, 17]


def test_only_the_wanted_pictures_are_read(tmp_path):
    for number in range(20):
        (tmp_path / f"{number}.png").write_bytes(b"damaged")
    for number in (2, 7, 12, 17):
        grey(number).save(tmp_path / f"{number}.png")
    assert numbers(frames(tmp_path, 4)) == [2, 7, 12, 17]


@pytest.mark.parametrize(("name", "codec"), VIDEOS)
def test_video_files(name, codec, tmp_path):
    path = video(tmp_path / name, codec)
    assert numbers(frames(path, 4)) == [3, 9, 15, 21]
    assert numbers(frames(path, 1)) == [12]
    assert numbers(frames(path, 100)) == list(range(25))


def test_video_is_recognised_by_its_content_not_its_name(tmp_path):
    path = video(tmp_path / "a.mp4", "mpeg4")
    assert numbers(frames(path.rename(tmp_path / "film"), 4)) == [3, 9, 15, 21]


def test_packets_without_pictures_do_not_spoil_the_sample(tmp_path, monkeypatch):
    """Where the packets promise more frames than the decoder gives, the decoder's count is the one that holds."""
    import llama4.video

    decoded = llama4.video._decode
    asked = []

    def counting(path, positions):
        asked.append(positions)
        return decoded(path, [position + 20 for position in positions] if len(asked) == 1 else positions)

    monkeypatch.setattr(llama4.video, "_decode", counting)
    assert numbers(frames(video(tmp_path / "a.mp4", "mpeg4"), 4)) == [3, 9, 15, 21]
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("matrix", "corner"),
    # The stored picture is white in its top left quarter; (a, b, c, d) of the mp4's display matrix turn it.
    [
        ((1, 0, 0, 1), "top left"),
        ((0, 1, -1, 0), "top right"),
        ((-1, 0, 0, -1), "bottom right"),
        ((0, -1, 1, 0), "bottom left"),
    ],
)
def test_a_phone_s_video_is_turned_upright(matrix, corner, tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "a.mp4"
    picture = Image.new("RGB", (64, 48))
    picture.paste((255, 255, 255), (0, 0, 32, 24))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    a, b, c, d = (65536 * value for value in matrix)
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40  # the matrix, 40 bytes into a version 0 track header
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)

    (frame,) = frames(path)
    assert frame.size == ((48, 64) if a == 0 else (64, 48))
    width, height = frame.size
    bright = {
        f"{row} {column}": frame.getpixel((x, y))[0] > 128
        for row, y in (("top", height // 4), ("bottom", 3 * height // 4))
        for column, x in (("left", width // 4), ("right", 3 * width // 4))
    }
    assert [name for name, is_bright in bright.items() if is_bright] == [corner]


def test_each_frame_becomes_one_tile(tmp_path):
    path = animation(tmp_path / "a.gif", 5)
    for frame in frames(path, 3):
        got, grid = tiles(frame, VisionConfig(tile_side=28), max_tiles=1)
        assert grid == (1, 1) and got.shape == (1, 3, 28, 28)


# --- Bad input ---


def refused(source: object, words: str, count: int = 8, **options: int) -> None:
    with pytest.raises(InputError, match=words) as error:
        frames(source, count, **options)
    message = str(error.value)
    assert message.endswith(".") and "\n" not in message and ". " not in message, message


def test_count_below_one(tmp_path):
    for count in (0, -3):
        refused(animation(tmp_path / "a.gif", 2), f"frames is {count}", count)


def test_missing_and_empty_sources(tmp_path):
    refused(tmp_path / "none.mp4", "no video file")
    refused("x" * 5000, "no video file")
    refused(tmp_path, "holds no pictures")
    refused([], "list of video frames is empty")
    refused(7, "not as int")
    refused([tmp_path / "none.png"], "no image file")


def test_broken_animation(tmp_path):
    for suffix in ("gif", "webp", "png"):
        path = tmp_path / f"a.{suffix}"
        noise = [
            Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8))
            for seed in range(4)
        ]
        noise[0].save(path, save_all=True, append_images=noise[1:], duration=100)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 5 // 8])
        refused(path, str(path))


@pytest.mark.parametrize("content", [b"", b"no video at all", b"<html></html>", b"\0\0\0\x20ftypisom\0\0\2\0"])
def test_broken_video_file(content, tmp_path):
    pytest.importorskip("av")
    (tmp_path / "a.mp4").write_bytes(content)
    refused(tmp_path / "a.mp4", r"a\.mp4")


def test_truncated_mp4_has_lost_its_index(tmp_path):
    path = video(tmp_path / "a.mp4", "libx264")
    path.write_bytes(path.read_bytes()[:900])
    refused(path, "not a video that FFmpeg reads")


def test_sound_without_pictures(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "a.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    refused(path, "no video, only sound")


def test_frames_over_the_pixel_limit(tmp_path):
    refused(video(tmp_path / "a.mp4", "mpeg4", 2), "64 x 48 px, over the limit of 1,000", max_pixels=1000)
    refused(animation(tmp_path / "a.gif", 3), "over the limit of 1,000", max_pixels=1000)
    refused([grey(1)], "over the limit of 1,000", max_pixels=1000)
    assert len(frames(tmp_path / "a.mp4", max_pixels=64 * 48)) == 2


def test_without_pyav_the_message_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x20ftypisom")
    monkeypatch.setitem(sys.modules, "av", None)
    refused(tmp_path / "a.mp4", r"pip install 'llama4\[video\]'")
    assert numbers(frames(animation(tmp_path / "a.gif", 20), 4)) == [2, 7, 12, 17]
