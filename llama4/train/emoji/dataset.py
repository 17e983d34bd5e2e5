"""The emoji data as the trainer and the evaluation see it: names in sixteen languages, and pictures by several artists.

A folder built by `python -m llama4.train.emoji` holds

    emoji.json              1585 entries: the emoji, its code points, category, names and keywords by language
    <artist>/pixels.npy     uint8 [n, side, side, 4], straight-alpha RGBA; side 128, 64 for the held-out artist
    <artist>/index.npy      int64 [n]: the position in emoji.json that each picture shows; an artist draws not all of them,
                            and one of them (streamline) some twice or more
    <artist>-redrawn/       the same two files of an artist's drawings in other manners, three of each
    manifest.json           what was asked for and what is finished (build.py)

Pixels are mapped, not read: ten artists are about 800 MB, what is redrawn 1.7 GB, and a draw touches 64 KB of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from llama4.errors import InputError

TRAIN_ARTISTS = ("noto", "fluent", "fluent-3d", "fluent-flat", "fluent-high-contrast", "emojione", "fxemoji")
VALIDATION_ARTIST = "blob"
LATE_ARTIST = "streamline"  # `vary` and the stages behind it alone learn from it
LAST_ARTIST = "noto-2017"  # `settle` and those behind it alone
HELD_OUT_ARTIST = "twemoji"
LEARNT_ARTISTS = (*TRAIN_ARTISTS, VALIDATION_ARTIST, LATE_ARTIST, LAST_ARTIST)  # with --all-artists, to the last stage
# Whose drawings are redrawn part by part (redrawn.py), and the name that goes by; `redraw` alone learns from those.
REDRAWN = {
    artist: f"{artist}-redrawn"
    for artist in ("noto", "fluent-flat", "fluent-high-contrast", "emojione", "fxemoji", "blob", "streamline")
}
ARTISTS = (*LEARNT_ARTISTS, *REDRAWN.values(), HELD_OUT_ARTIST)

BUILD_COMMAND = "python -m llama4.train.emoji"
DEFAULT_FOLDER = Path("data/emoji")

LANGUAGES: dict[str, str] = {
    "en": "English",
    "ar": "Arabic",
    "zh": "Chinese",
    "fil": "Tagalog",
    "fr": "French",
    "de": "German",
    "hi": "Hindi",
    "id": "Indonesian",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "pt": "Portuguese",
    "ru": "Russian",
    "es": "Spanish",
    "th": "Thai",
    "vi": "Vietnamese",
}


@dataclass(frozen=True)
class Emoji:
    """One emoji: the character, its code points in hex ("1f436"), where Unicode files it, what each language calls it."""

    emoji: str
    code: str
    category: str
    subcategory: str
    names: dict[str, str]
    keywords: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Artist:
    """One artist's pictures: `pixels` uint8 [n, side, side, 4] straight-alpha RGBA, `index` int64 [n] into the emoji."""

    name: str
    pixels: np.ndarray
    index: np.ndarray

    def picture(self, position: int) -> Image.Image:
        """The picture at `position` (0 … n − 1) as RGBA; it shows the emoji `index[position]`."""
        return Image.fromarray(np.array(self.pixels[position]))


@dataclass(frozen=True)
class Dataset:
    """All emoji, in a fixed order, and the artists whose pictures the folder has."""

    emoji: tuple[Emoji, ...]
    artists: dict[str, Artist]


def open_dataset(folder: Path | str, need: Sequence[str] = ()) -> Dataset:
    """Open a folder that the build command has written.

    `need` names artists that must be there (LEARNT_ARTISTS for a trainer); without it, whatever the build was asked for must be.
    Raises InputError, naming the command to run, where the folder or a part of it is missing, unfinished or damaged.
    """
    folder = Path(folder)
    emoji = _read_emoji(folder)
    asked_for, finished = _manifest(folder)
    present = [name for name in ARTISTS if name in finished and (folder / name).is_dir()]
    missing = [name for name in ARTISTS if name in (*asked_for, *need) and name not in present]
    if missing or not present:
        lacking = ", ".join(missing) or "every artist"
        raise InputError(f"{folder} lacks the pictures of {lacking}: {_command(folder, missing)}")
    return Dataset(emoji, {name: _read_artist(folder, name, len(emoji)) for name in present})


def _command(folder: Path, artists: Sequence[str] = ()) -> str:
    """What to run to put the folder right: its end of every message here."""
    only = f" --only {' '.join(artists)}" if artists else ""
    return f"run `{BUILD_COMMAND} --into {folder}{only}`, which goes on where it stopped."


def _manifest(folder: Path) -> tuple[list[str], list[str]]:
    """(artists that this folder's build was asked for, parts that it finished); data put together by hand has no manifest,
    and what is there counts as finished."""
    path = folder / "manifest.json"
    if not path.exists():
        return [], list(ARTISTS)
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        return list(manifest["asked_for"]), list(manifest["parts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read: delete it and {_command(folder)}") from error


def _read_emoji(folder: Path) -> tuple[Emoji, ...]:
    path = folder / "emoji.json"
    if not path.exists():
        raise InputError(f"{folder} holds no emoji data: {_command(folder)}")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return tuple(
            Emoji(
                entry["emoji"],
                entry["code"],
                entry["category"],
                entry["subcategory"],
                {language: entry["names"][language] for language in LANGUAGES},
                {language: tuple(entry["keywords"][language]) for language in LANGUAGES},
            )
            for entry in entries
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: delete it and {_command(folder)}") from error


def _read_artist(folder: Path, name: str, emoji: int) -> Artist:
    place = folder / name
    try:
        pixels = np.load(place / "pixels.npy", mmap_mode="r")
        index = np.load(place / "index.npy")
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{place} is damaged: delete that folder and {_command(folder, [name])}") from error
    whole = (
        pixels.dtype == np.uint8 and pixels.ndim == 4 and pixels.shape[1] == pixels.shape[2] and pixels.shape[3] == 4
    )
    named = index.dtype == np.int64 and index.shape == pixels.shape[:1] and len(index) > 0
    if not (whole and named and index.min() >= 0 and index.max() < emoji):
        raise InputError(f"{place} does not fit emoji.json: delete that folder and {_command(folder, [name])}")
    return Artist(name, pixels, index)
