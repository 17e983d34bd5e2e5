"""Pictures to ask about: one artist's drawings on white, at any size; side by side; from the first to the last.

A drawing is laid over white at its own size and then resized (Lanczos, in both directions). A strip of three cells of 64 px is
192 x 64 px: a model with tiles of 64 px reads it as 1 x 3 tiles and the whole.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from llama4.errors import InputError
from llama4.train.emoji.dataset import Artist, Dataset, Emoji

CELL = 64


@dataclass(frozen=True)
class Drawings:
    """What one artist drew, with the names."""

    emoji: tuple[Emoji, ...]
    artist: Artist

    def __len__(self) -> int:
        return len(self.artist.index)

    def shown(self, position: int) -> Emoji:
        """The emoji that drawing `position` shows."""
        return self.emoji[int(self.artist.index[position])]

    def name(self, position: int, language: str = "en") -> str:
        """Its name."""
        return self.shown(position).names[language]

    def picture(self, position: int, size: int = CELL) -> Image.Image:
        """The drawing on white, RGB, `size` x `size` px."""
        return resized(on_white(self.artist.picture(position)), size)

    def sample(self, generator: random.Random, count: int) -> list[int]:
        """`count` positions of different names, in random order."""
        positions: dict[str, int] = {}
        for position in generator.sample(range(len(self)), len(self)):
            positions.setdefault(self.name(position), position)
            if len(positions) == count:
                return list(positions.values())
        raise InputError(f"{self.artist.name} has {len(positions)} names and {count} are needed: add pictures.")


def drawings(dataset: Dataset, artist: str) -> Drawings:
    """One artist's drawings. Raises InputError for an artist that the data does not have."""
    if artist not in dataset.artists:
        raise InputError(f"There is no artist {artist!r} in the data: choose among {', '.join(dataset.artists)}.")
    return Drawings(dataset.emoji, dataset.artists[artist])


def on_white(picture: Image.Image) -> Image.Image:
    """RGBA over white, at its own size."""
    flat = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(flat, picture.convert("RGBA")).convert("RGB")


def resized(picture: Image.Image, size: int) -> Image.Image:
    """Lanczos to `size` x `size` px; a picture that has that size stays as it is."""
    return picture if picture.size == (size, size) else picture.resize((size, size), Image.Resampling.LANCZOS)


def strip(pictures: Sequence[Image.Image]) -> Image.Image:
    """Equal pictures side by side as one wide picture."""
    width, height = pictures[0].size
    wide = Image.new("RGB", (width * len(pictures), height), "white")
    for place, picture in enumerate(pictures):
        wide.paste(picture, (place * width, 0))
    return wide
