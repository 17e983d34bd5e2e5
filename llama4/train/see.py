"""The encoder's first stage: the vision encoder learns which emoji a tile shows.

    score = W · norm(mean of the tile's 16 encoded tokens)        1585 of them, cross entropy with smoothed labels

It is the small cousin of the contrastive training that Llama 4's encoder had before it met the language model: the emoji's number
stands for its caption. The head W is thrown away afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama4.model import Llama4
from llama4.train.emoji.dataset import Dataset
from llama4.train.pictures import plain
from llama4.train.recipe import Plan, Recipe
from llama4.train.render import Renderer, eight_bit
from llama4.train.tasks import Picture
from llama4.train.weights import Masters

AT_ONCE = 128


class WhichEmoji(nn.Module):
    """Scores of every emoji from a tile's encoded tokens; used in training only.

    GELU after the adapter's last layer makes its outputs one-sided: their mean over pictures is many times their spread. The
    batch norm takes the mean away; without it the first ten thousand views taught nothing.
    """

    def __init__(self, width: int, emoji: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, emoji)
        nn.init.normal_(self.head.weight, 0.0, 0.02)

    def forward(self, encoded: Tensor) -> Tensor:
        """`[R, tokens, width]` -> float32 `[R, emoji]`."""
        return self.head(self.norm(encoded.float().mean(dim=1)))


class See:
    """The stage, as `loop.train` runs it."""

    name = "see"
    stream = 1
    depends: tuple[str, ...] = ("smoothing",)

    def __init__(self, model: Llama4, which: WhichEmoji, dataset: Dataset, renderer: Renderer, recipe: Recipe) -> None:
        self.model, self.dataset, self.renderer, self.recipe = model, dataset, renderer, recipe
        self.extra: nn.Module = which
        self.which = which
        self.plan: Plan = getattr(recipe, self.name)
        self.numbers = recipe.numbers(self.name, *self.depends)
        self.masters = Masters(model.vision)

    def gradients(self, step: int) -> Mapping[str, float]:
        """One tile each of `rows` different emoji."""
        tiles, shown = self.batch(step)
        scores = self.which(self.model.vision(tiles))
        loss = F.cross_entropy(scores, shown, label_smoothing=self.recipe.smoothing)
        loss.backward()
        self.masters.collect()
        return {"which": loss.item(), "right": float((scores.argmax(-1) == shown).float().mean())}

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Batch `step`: bfloat16 tiles `[R, 3, side, side]`, and which emoji each of them shows."""
        rng = np.random.default_rng((self.recipe.seed, self.stream, step))
        shown = rng.permutation(len(self.dataset.emoji))[: self.plan.rows]
        pictures = [Picture((int(emoji),), "one", frame=True) for emoji in shown]
        tiles = torch.cat([tile for tile, _ in self.renderer.tiles(pictures, rng)])
        return tiles.to(torch.bfloat16), torch.from_numpy(shown)

    def summary(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Means over the steps."""
        return {name: total / sums["steps"] for name, total in sums.items() if name != "steps"}

    def validate(self) -> dict[str, float]:
        """The share of tiles told apart, by every artist in the dataset that the run does not learn from."""
        return {artist: self.told_apart(artist) for artist in self.renderer.studio.validation}

    @torch.no_grad()
    def told_apart(self, artist: str) -> float:
        """The share of an artist's pictures, plain on white, that the head gives the right number."""
        right = 0
        self.which.eval()
        for tiles, emoji in drawings(self.dataset, artist, self.model.config.vision.tile_side):
            right += int((self.which(self.model.vision(tiles)).argmax(-1) == emoji).sum())
        self.which.train()
        return right / len(self.dataset.artists[artist].index)


def drawings(dataset: Dataset, artist: str, side: int) -> Iterator[tuple[Tensor, Tensor]]:
    """An artist's pictures, plain on white, AT_ONCE at a time: bfloat16 tiles, and which emoji each of them shows."""
    pixels, index = dataset.artists[artist].pixels, dataset.artists[artist].index
    for first in range(0, len(index), AT_ONCE):
        some = slice(first, first + AT_ONCE)
        tiles = eight_bit(plain(np.array(pixels[some]), side))
        yield tiles.to(torch.bfloat16), torch.from_numpy(np.array(index[some]))
