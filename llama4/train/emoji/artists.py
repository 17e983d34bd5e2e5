"""One artist's pictures, out of the packages' archives: which emoji each shows, and its pixels.

An archive is read as a stream, member by member, and only the members that are wanted are kept: nothing is unpacked to the disk.
A drawing (SVG) is rendered by resvg, in several processes; a picture (PNG, WebP) is opened by Pillow and, where it is of another
size than its artist's `side`, brought to that with Lanczos, weighted by alpha. What comes out is straight alpha:
(255, 0, 0, 128) is half-transparent full red, not (128, 0, 0, 128).
"""

from __future__ import annotations

import gzip
import io
import json
import signal
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from llama4.errors import InputError
from llama4.train.emoji.fxemoji_names import FXEMOJI_NAMES
from llama4.train.emoji.iconify import document, icon_names
from llama4.train.emoji.matching import drawn_again, match, name_book, own_codes
from llama4.train.emoji.names import from_code
from llama4.train.emoji.redrawn import VERSIONS, Version, redrawn
from llama4.train.emoji.sources import SIDE, Source

Drawing = tuple[int, bytes | Version]  # position in emoji.json; an SVG document, a version of one, or a picture file
BY_HAND = {"fxemoji": FXEMOJI_NAMES}


def members(archive: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """The wanted files of a .tgz, by their name in it. Raises InputError, and deletes the archive, where it is damaged."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r|gz") as stream:
            for member in stream:
                if member.isfile() and wanted(member.name):
                    found[member.name] = stream.extractfile(member).read()
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        archive.unlink(missing_ok=True)
        raise InputError(
            f"{archive} was a damaged archive ({error}) and is deleted: run the same command again to fetch it anew."
        ) from error
    return found


def json_member(archive: Path, name: str) -> Any:
    """One JSON file of an archive. Raises InputError where it is not there or is not JSON."""
    content = members(archive, lambda member: member == name).get(name)
    if content is None:
        raise InputError(
            f"{archive} holds no {name}: the package has another layout than the one expected; delete the file."
        )
    try:
        return json.loads(content)
    except ValueError as error:
        raise InputError(
            f"{name} in {archive} is no JSON ({error}): delete the file and run the command again."
        ) from error


def drawings(source: Source, entries: Sequence[Mapping[str, Any]], archives: Mapping[str, Path]) -> list[Drawing]:
    """All of an artist's drawings of the emoji in `entries`, in their order. `archives`: package name → its .tgz."""
    archive = archives[source.package.name]
    if source.form == "iconify":
        return _iconify_drawings(source, entries, archive, archives[source.codes.name])
    suffix = f".{source.form}"
    files = members(archive, lambda name: name.startswith(source.folder) and name.endswith(suffix))
    by_emoji = {}
    for name, content in files.items():
        try:
            by_emoji[from_code(name.removeprefix(source.folder).removesuffix(suffix))] = content
        except ValueError:  # a file that is not named by code points shows no single emoji
            continue
    positions = [position for position, entry in enumerate(entries) if entry["emoji"] in by_emoji]
    return [(position, by_emoji[entries[position]["emoji"]]) for position in positions]


def _iconify_drawings(
    source: Source, entries: Sequence[Mapping[str, Any]], archive: Path, codes_archive: Path
) -> list[Drawing]:
    icons = json_member(archive, "package/icons.json")
    chars = json_member(codes_archive, "package/chars.json")
    same_set = source.codes == source.package
    book = {} if same_set else name_book(chars, json_member(codes_archive, "package/icons.json").get("aliases", {}))
    names = icon_names(icons)
    own = own_codes(chars, names) if same_set else {}
    again = drawn_again(names) if source.numbered else {name: [name] for name in names}
    shown = match(entries, again, own, BY_HAND.get(source.redrawn_of or source.artist, {}), book)
    drawn = [(position, document(icons, one)) for position, name in shown.items() for one in again[name]]
    if not source.redrawn_of:
        return [(position, svg.encode()) for position, svg in drawn]
    return [
        (position, Version(svg, source.redrawn_of, number, version))
        for number, (position, svg) in enumerate(drawn)
        for version in range(VERSIONS)
    ]


def pixels_of(content: bytes | Version, side: int = SIDE) -> np.ndarray | None:
    """Render an SVG document, or another version of one, at SIDE pixels, or open a picture file and bring it to `side`: uint8
    [side, side, 4]; None where it cannot be read, is not square or shows nothing."""
    try:
        if isinstance(content, Version):
            content = redrawn(*content).encode()
        if content.startswith(b"<svg"):
            import resvg_py

            picture = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=content.decode())))).convert("RGBA")
        else:
            picture = Image.open(io.BytesIO(content)).convert("RGBA")
            if picture.width == picture.height != side:
                picture = picture.resize((side, side), Image.Resampling.LANCZOS)
    except ImportError:
        raise
    except BaseException as error:  # resvg is Rust: its panics are no Exceptions
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        return None
    pixels = np.array(picture)
    return pixels if pixels[..., 3].any() and pixels.shape[0] == pixels.shape[1] else None


def _ignore_interrupt() -> None:
    """Ctrl-C is the parent's business: it ends the pool in order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def render(contents: Sequence[bytes | Version], workers: int, side: int = SIDE) -> Iterator[np.ndarray | None]:
    """The pixels of each drawing, in order, by `workers` processes; in this process where that is 1."""
    if workers == 1:
        yield from (pixels_of(content, side) for content in contents)
        return
    pool = ProcessPoolExecutor(workers, initializer=_ignore_interrupt)
    try:
        yield from pool.map(partial(pixels_of, side=side), contents, chunksize=16)
    except BrokenProcessPool as error:
        raise InputError(
            "A rendering process was ended from outside, probably for memory: run the same command again with --workers 1."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def require_renderer() -> None:
    """Raise InputError where resvg-py, which renders SVG, is not installed."""
    try:
        import resvg_py  # noqa: F401
    except ImportError as error:
        raise InputError("resvg-py, which renders the drawings, is missing: pip install 'llama4[train]'.") from error
