"""A video as a few still frames, evenly spaced: each of them becomes one tile of the prompt.

The rule: cut n frames into `count` equal segments and take the frame at the middle of each, which is frame
floor((i + 1/2) * n / count) for i = 0 … count - 1, counted from 0.

    20 frames, 4 wanted: segments of 5, middles 2.5, 7.5, 12.5, 17.5, so frames 2, 7, 12 and 17
    3 frames, 8 wanted: all of them, 0, 1 and 2

Unlike the more usual "first, last and evenly between" it never spends a frame on a black first picture, and one frame is
the middle of the film instead of its start. Neither reference fixes a rule: Llama 4 is given frames, however chosen.

Sources: an animated GIF, WebP or PNG, and a folder or a list of pictures, through Pillow; mp4, webm, mkv, mov, avi and
whatever else FFmpeg reads through PyAV (the extra `video`). Only the wanted frames are converted and kept: memory does
not grow with the length of the video.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, UnidentifiedImageError

from llama4.errors import InputError
from llama4.image import MAX_PIXELS, open_image

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

PICTURE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif"}
)
ANIMATIONS = ("GIF", "WEBP", "PNG")  # Pillow's names; an APNG is a PNG


def frames(
    source: str | Path | Image.Image | Sequence[str | Path | Image.Image], count: int = 8, max_pixels: int = MAX_PIXELS
) -> list[Image.Image]:
    """Sample `count` frames of a video, in time order, as upright RGB pictures; all of them when it has no more.

    `source` is a video or an animated picture (a path or an open `PIL.Image`), a folder of pictures (in the natural order
    of their names: frame2 before frame10), or a list of pictures. `max_pixels` limits the size of one frame. Raises
    `InputError` for a count below 1 and for a source that is missing, empty, damaged, or needs PyAV where that is absent.
    """
    if count < 1:
        raise InputError(f"The number of video frames is {count}: ask for at least 1.")
    if isinstance(source, Image.Image):
        return _from_animation(source, count, max_pixels)
    if isinstance(source, str | Path):
        path = Path(source)
        if os.path.isdir(path):
            return _from_pictures(folder_of_pictures(path), count, max_pixels)
        if not os.path.exists(path):  # unlike Path.exists it does not raise on a name too long to be one
            raise InputError(f"There is no video file or folder {path}: check the path.")
        return _from_file(path, count, max_pixels)
    if not isinstance(source, Sequence):
        raise InputError(f"A video is given as a path, a PIL.Image or a list of them, not as {type(source).__name__}.")
    if not source:
        raise InputError("The list of video frames is empty: give at least one picture.")
    return _from_pictures(source, count, max_pixels)


def middles(total: int, count: int) -> list[int]:
    """The positions of the frames to take: middles(20, 4) = [2, 7, 12, 17], middles(3, 8) = [0, 1, 2]."""
    if total <= count:
        return list(range(total))
    return [(2 * segment + 1) * total // (2 * count) for segment in range(count)]


def folder_of_pictures(folder: Path) -> list[Path]:
    """The pictures directly in a folder, in natural order; other and hidden files are passed over."""
    pictures = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    if not pictures:
        raise InputError(f"{folder} holds no pictures: put the video's frames there as PNG or JPEG files.")
    return sorted(pictures, key=natural)


def natural(path: Path) -> tuple[list[str | int], str]:
    """A sorting key that reads runs of digits as numbers: "frame10" -> ["frame", 10, ""], after ["frame", 2, ""]."""
    pieces = re.split(r"([0-9]+)", path.name.lower())
    return [int(piece) if place % 2 else piece for place, piece in enumerate(pieces)], path.name


def _from_pictures(pictures: Sequence[str | Path | Image.Image], count: int, max_pixels: int) -> list[Image.Image]:
    return [open_image(pictures[position], max_pixels) for position in middles(len(pictures), count)]


def _from_file(path: Path, count: int, max_pixels: int) -> list[Image.Image]:
    try:
        picture = Image.open(path, formats=ANIMATIONS)
    except UnidentifiedImageError:
        return _from_video(path, count, max_pixels)
    except Exception as error:  # a damaged header can raise nearly anything from a format's plugin
        raise InputError(f"{path} cannot be opened as an animation ({error}): check or replace the file.") from error
    with picture:
        return _from_animation(picture, count, max_pixels)


def _from_animation(picture: Image.Image, count: int, max_pixels: int) -> list[Image.Image]:
    """Frames of a picture that Pillow holds open; it is left at the frame at which it stood."""
    stood = picture.tell()
    # An APNG may carry, as frame 0, a still for viewers that cannot animate, which is no part of the animation.
    still = 1 if picture.info.get("default_image") else 0
    sampled = []
    try:
        for position in middles(getattr(picture, "n_frames", 1) - still, count):
            picture.seek(still + position)
            sampled.append(open_image(picture, max_pixels))
        picture.seek(stood)
    except InputError:
        raise
    except Exception as error:  # damaged frames can raise nearly anything from a format's plugin
        name = getattr(picture, "filename", "") or "The animation"
        raise InputError(f"{name} is damaged or cut short ({error}): check or replace the file.") from error
    return sampled


def _from_video(path: Path, count: int, max_pixels: int) -> list[Image.Image]:
    """Frames of a file that FFmpeg reads.

    The headers of many files do not say how many frames there are, so packets are counted first: nearly always one a
    frame, and counting decodes nothing. Should some hold no picture of their own and the sample come out short, the
    frames that the decoder did give are the true number, and the sample is taken again.
    """
    try:
        import av
    except ImportError as error:
        raise InputError(
            f"{path} is no animated GIF, WebP or PNG, and reading a video file needs PyAV: pip install 'llama4[video]'."
        ) from error

    try:
        with av.open(str(path)) as container:
            stream = _picture_stream(container, path, max_pixels)
            total = sum(packet.size > 0 for packet in container.demux(stream))
        wanted = middles(total, count)
        sampled, decoded = _decode(path, wanted)
        if len(sampled) < len(wanted):
            sampled, decoded = _decode(path, middles(decoded, count))
    except av.FFmpegError as error:
        raise InputError(f"{path} is not a video that FFmpeg reads ({error.strerror}): check or convert it.") from error
    if not sampled:
        raise InputError(f"{path} holds no video frames: check or convert it.")
    return sampled


def _picture_stream(container: InputContainer, path: Path, max_pixels: int) -> VideoStream:
    if not container.streams.video:
        raise InputError(f"{path} holds no video, only sound or data: give a file with pictures.")
    stream = container.streams.video[0]
    if stream.width * stream.height > max_pixels:
        raise InputError(
            f"{path} has frames of {stream.width} x {stream.height} px, over the limit of {max_pixels:,} pixels: "
            "reduce the video or raise max_pixels."
        )
    return stream


def _decode(path: Path, positions: list[int]) -> tuple[list[Image.Image], int]:
    """Decode up to the last of the sorted `positions`; returns those frames and how many were decoded in all."""
    import av

    sampled: list[Image.Image] = []
    decoded = 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            if len(sampled) == len(positions):
                break
            if decoded == positions[len(sampled)]:
                # A phone held upright stores its pictures lying down, with the angle beside them.
                sampled.append(frame.to_image().rotate(frame.rotation, expand=True))
            decoded += 1
    return sampled, decoded
