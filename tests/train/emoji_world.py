"""A small world of emoji packages, made here: five emoji, six tarballs laid out as the real packages are, a registry on this
machine that serves them, and the tables that point at them. Nothing reaches the network.
"""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from llama4.train.emoji import build, licences, sources
from llama4.train.emoji.dataset import LANGUAGES, REDRAWN
from llama4.train.emoji.download import integrity
from llama4.train.emoji.sources import Package, Source

# (code points, English name, Unicode name, short name, colour of the square that stands for it). CLDR names all but the flag.
EMOJI = (
    ("1F436", "dog face", "DOG FACE", "dog", (160, 90, 30)),
    ("1F19A", "VS button", "SQUARED VS", "vs", (240, 120, 0)),
    ("2600-FE0F", "sun", "BLACK SUN WITH RAYS", "sunny", (250, 220, 0)),
    ("1F1EB-1F1F7", "", "FRANCE FLAG", "fr", (0, 0, 250)),
    ("1F34E", "red apple", "RED APPLE", "apple", (220, 0, 20)),
)
NAMED = ("🐶", "🆚", "☀", "🍎")


def tarball(path: Path, files: dict[str, bytes]) -> None:
    """A .tgz as npm packs one."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def picture(colour: tuple[int, ...], side: int, form: str, alpha: int = 128) -> bytes:
    """A square picture of one colour, half-transparent."""
    stream = io.BytesIO()
    Image.new("RGBA", (side, side), (*colour, alpha)).save(
        stream, form, **({"lossless": True} if form == "WEBP" else {})
    )
    return stream.getvalue()


def body(colour: tuple[int, ...]) -> str:
    """An SVG body whose left half has the colour: a flip shows."""
    return f'<path fill="rgb{tuple(colour)}" d="M0 0h16v32H0z"/>'


def contents() -> dict[str, dict[str, bytes]]:
    """Archive stem → its files."""
    listed = [
        {
            "unified": code,
            "name": unicode_name,
            "short_names": [short],
            "category": "Things",
            "subcategory": short,
            "has_img_twitter": True,
            "image": f"{code.lower()}.png",
        }
        for code, _, unicode_name, short, _ in EMOJI
    ]
    blank = picture((0, 0, 0), 64, "PNG", alpha=0)
    twitter = {f"img/twitter/64/{code.lower()}.png": picture(colour, 64, "PNG") for code, *_, colour in EMOJI}
    cldr = {}
    for language in LANGUAGES:
        names = {
            code_emoji: {"default": [name, language], "tts": [name if language == "en" else f"{name} {language}"]}
            for code_emoji, (_, name, *_) in zip(("🐶", "🆚", "☀", "🇫🇷", "🍎"), EMOJI, strict=True)
            if name
        }
        document = {"annotations": {"annotations": names}}
        cldr[f"annotations/{language}/annotations.json"] = json.dumps(document, ensure_ascii=False).encode()
    icons = {
        "width": 32,
        "height": 32,
        "icons": {
            "dog-face": {"body": body(EMOJI[0][4])},
            "vs": {"body": body(EMOJI[1][4])},
            "sun": {"body": "<path/>"},
        },
        "aliases": {"apple": {"parent": "dog-face", "hFlip": True}, "versus": {"parent": "vs"}},
    }
    chars = {"1f436": "dog-face", "1f19a": "vs", "2600": "sun", "1f34e": "apple"}
    old = {
        "width": 32,
        "height": 32,
        "icons": {name: {"body": body((9, 9, 9))} for name in ("versus", "red-apple", "sunny")},
    }
    again = old | {"icons": {f"vs-{number}": {"body": body((number, 9, 9))} for number in (2, 1)}}
    return {
        "set": {"icons.json": json.dumps(icons).encode(), "chars.json": json.dumps(chars).encode()},
        "old": {"icons.json": json.dumps(old).encode(), "chars.json": b"{}"},
        "again": {"icons.json": json.dumps(again).encode(), "chars.json": b"{}"},
        "three": {
            "assets/1f436.webp": picture(EMOJI[0][4], 40, "WEBP"),
            "assets/2600-fe0f.webp": picture(EMOJI[2][4], 40, "WEBP"),
            "assets/dog_on_a_log.webp": b"no code points",
            "assets/1f4361f4361f4361f436.webp": b"too long a number",
        },
        "google": {"img/google/64/1f436.png": picture(EMOJI[0][4], 64, "PNG"), "img/google/64/1f19a.png": blank},
        "twitter": {"emoji.json": json.dumps(listed).encode(), "LICENSE": b"The licence of the list", **twitter},
        "cldr": {"LICENSE": b"The licence of the names", **cldr},
    }


class World:
    """The packages, the folder that a registry would serve them from, and the tables that name them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.packages: dict[str, Package] = {}
        for stem, files in contents().items():
            base = Package(
                f"@tiny/{stem}", "1.0.0", "", 0, "Nobody", "https://example.org", "MIT", "https://example.org/l"
            )
            tarball(folder / base.archive, files)
            path = folder / base.archive
            self.packages[stem] = dataclasses.replace(base, integrity=integrity(path), size=path.stat().st_size)

    def path(self, stem: str) -> Path:
        """Where the archive of a package lies, as the registry has it."""
        return self.folder / self.packages[stem].archive

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Point the builder's tables at this world."""
        have = self.packages
        table = {name: Source(name, have["set"], "iconify", codes=have["set"]) for name in sources.SOURCES}
        table["blob"] = Source("blob", have["old"], "iconify", codes=have["set"])
        table["streamline"] = Source("streamline", have["again"], "iconify", codes=have["set"], numbered=True)
        table["fluent-3d"] = Source("fluent-3d", have["three"], "webp", folder="package/assets/")
        table["noto-2017"] = Source("noto-2017", have["google"], "png", folder="package/img/google/64/")
        table["twemoji"] = Source("twemoji", have["twitter"], "png", folder="package/img/twitter/64/", side=64)
        for artist, name in REDRAWN.items():
            table[name] = dataclasses.replace(table[artist], artist=name, redrawn_of=artist)
        for module in (build, licences):
            monkeypatch.setattr(module, "SOURCES", table)
            monkeypatch.setattr(module, "CLDR", have["cldr"])
            monkeypatch.setattr(module, "TWEMOJI", have["twitter"])
            monkeypatch.setattr(module, "NAME_PACKAGES", (have["cldr"], have["twitter"]))


class Registry(ThreadingHTTPServer):
    """Serves archives by their path, with ranges. Its attributes make it misbehave."""

    daemon_threads = True

    def __init__(self, world: World) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {f"/{package.path}": world.path(stem) for stem, package in world.packages.items()}
        self.requests: list[tuple[str, str | None]] = []
        self.ranges = True  # False: answers 200 and the whole to every range
        self.cut: list[int] = []  # for the next answers: break off after so many bytes
        self.status = 0  # answer this status to everything

    @property
    def address(self) -> str:
        """What `--registry` gets."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.server.requests.append((self.path, wanted))
        path = self.server.files.get(self.path)
        if self.server.status or path is None:
            self.send_error(self.server.status or 404)
            return
        content = path.read_bytes()
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : start + self.server.cut.pop(0)] if self.server.cut else content[start:])

    def log_message(self, *words: object) -> None:
        """Say nothing."""


@contextmanager
def registry(world: World) -> Iterator[Registry]:
    """A registry that serves this world for as long as the block lasts."""
    server = Registry(world)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
