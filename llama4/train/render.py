"""The pictures of a batch of conversations, drawn and cut into tiles.

    one emoji, one tile      a fresh view of 64 px: what most pictures are, since one tile is the cheapest to learn from
    one emoji, many tiles    a view of 128 px brought to 65 … 512 px: the tiler makes 4 to 16 tiles and the whole of it
    a row or a column        views side by side on white, a tile each, and the whole squeezed into one more
    a frame                  one tile, always

An emoji is drawn by any of the artists who drew it, each as likely as another or by given shares. All views of a batch are made
in one go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Generator, Tensor

from llama4.config import VisionConfig
from llama4.image import tiles as cut
from llama4.train.emoji.dataset import Dataset
from llama4.train.pictures import Augmentation, views
from llama4.train.tasks import Picture

KINDS = ("small", "large", "strip")  # one tile; many tiles of one emoji; several emoji
Tiles = tuple[Tensor, tuple[int, int]]  # float32 [R, 3, side, side], and the rows and columns they came from


@dataclass(frozen=True)
class Studio:
    """How pictures are drawn: by which artists (others are only validated on), how far from the drawing, how often large.

    shares: how likely an artist is among those who drew an emoji, as weights of any sum; None: each as likely as another.
    """

    dataset: Dataset
    artists: tuple[str, ...]
    validation: tuple[str, ...]
    vision: VisionConfig
    how: Augmentation
    many_tiles: float = 0.05
    shares: Mapping[str, float] | None = None

    def drawings(self) -> dict[int, list[tuple[str, int]]]:
        """Who drew each emoji, and at which position of the artist's pictures."""
        found: dict[int, list[tuple[str, int]]] = {}
        for name in self.artists:
            for position, emoji in enumerate(self.dataset.artists[name].index.tolist()):
                found.setdefault(emoji, []).append((name, position))
        return found


class Renderer:
    """Renders pictures for a `Studio`; what is drawn depends on the numbers given alone."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.drawn_by = studio.drawings()
        self.on_white = replace(studio.how, coloured_ground=0.0, shift=0.04, smallest=0.75, largest=1.0)

    def tiles(self, pictures: Sequence[Picture], rng: np.random.Generator) -> list[Tiles]:
        """Tiles and grid of each picture."""
        generator = Generator().manual_seed(int(rng.integers(1 << 62)))
        side = self.studio.vision.tile_side
        large = [p.layout == "one" and not p.frame and rng.random() < self.studio.many_tiles for p in pictures]
        kinds = [
            "large" if big else "small" if picture.layout == "one" else "strip"
            for picture, big in zip(pictures, large, strict=True)
        ]
        of = {kind: [p for p, k in zip(pictures, kinds, strict=True) if k == kind] for kind in KINDS}
        small = self._views(of["small"], side, self.studio.how, rng, generator)
        big = self._views(of["large"], 2 * side, self.studio.how, rng, generator)
        cells = self._views(of["strip"], side, self.on_white, rng, generator)
        tiles: list[Tiles] = []
        for picture, kind in zip(pictures, kinds, strict=True):
            if kind == "small":
                tiles.append((eight_bit(next(small))[None], (1, 1)))
            elif kind == "large":
                tiles.append(cut(_resized(next(big), _large_side(side, rng)), self.studio.vision))
            else:
                strip = torch.cat([next(cells) for _ in picture.emoji], dim=2 if picture.layout == "row" else 1)
                tiles.append(cut(_image(strip), self.studio.vision))
        return tiles

    def large(self, emoji: Sequence[int], across: int, rng: np.random.Generator) -> list[Tiles]:
        """Tiles and grid of a picture of each emoji, all of a size that the tiler cuts into `across` x `across` tiles."""
        generator = Generator().manual_seed(int(rng.integers(1 << 62)))
        side = self.studio.vision.tile_side
        big = self._views([Picture((one,)) for one in emoji], 2 * side, self.studio.how, rng, generator)
        sizes = [int(rng.integers((across - 1) * side + 1, across * side + 1)) for _ in emoji]
        return [cut(_resized(next(big), size), self.studio.vision) for size in sizes]

    def _views(
        self, pictures: Sequence[Picture], side: int, how: Augmentation, rng: np.random.Generator, generator: Generator
    ) -> Iterator[Tensor]:
        """One view of each emoji of the pictures, in order."""
        emoji = [one for picture in pictures for one in picture.emoji]
        if not emoji:
            return iter(())
        return iter(views(np.stack([self._drawing(e, rng) for e in emoji]), side, how, generator))

    def _drawing(self, emoji: int, rng: np.random.Generator) -> np.ndarray:
        artists, shares = self.drawn_by[emoji], self.studio.shares
        # Equal shares would draw otherwise than `integers` does, from which all stages before have learnt.
        if shares is None:
            name, position = artists[int(rng.integers(len(artists)))]
        else:
            odds = np.array([shares[name] for name, _ in artists])
            name, position = artists[int(rng.choice(len(artists), p=odds / odds.sum()))]
        return self.studio.dataset.artists[name].pixels[position]


def eight_bit(view: Tensor) -> Tensor:
    """0 … 1 rounded to what a file of 8 bits could hold, then normalised as `image.tiles` does: -1 … 1."""
    return ((view * 255).round() / 255 - 0.5) / 0.5


def _image(view: Tensor) -> Image.Image:
    return Image.fromarray(rearrange((view * 255).round().to(torch.uint8), "c y x -> y x c").numpy())


def _resized(view: Tensor, side: int) -> Image.Image:
    return _image(view).resize((side, side), Image.Resampling.BICUBIC)


def _large_side(tile: int, rng: np.random.Generator) -> int:
    """Just over one tile as often as between one and two; from two tiles to eight, the larger the rarer."""
    if rng.random() < 0.6:
        return int(rng.integers(tile + 1, 2 * tile + 1))
    return round(2 * tile * 4 ** float(rng.random()))
