"""The last four stages: tokens that lie where an artist nobody has met might leave them, and not all of them.

    z ← z + a · (z(f by one artist) - z(f by another))        z: a tile's 16 encoded tokens of 192 numbers; f: any emoji
    z ← the mean of all drawings' z, in places k              k: some of the 16, or some of the 192 in all of the 16

    a is 0, or uniform in 0 … 1, for a share `astray` of the tiles; how much is left out is uniform in 0 … `left_out`

What makes one artist's dog another's is near to what makes one's cat the other's: the differences between two drawings of one
emoji, over all emoji, say in which directions artists differ (the within-class scatter of Fisher's discriminant). The decoder
has seen an emoji at ten places at most, one an artist; now it sees it wherever those differences lead from there. And it learns
not to lean on the few tokens and numbers that are enough for the ten.

In `scatter` the encoder rests. In the three behind it it learns along, but the differences and the mean stay those of the
encoder that the stage began with: computed once, and the same in a run that was stopped.

That its tokens hold more than the decoder takes from them was measured on EmojiOne 1's 918 drawings, from which no stage
learns, by rules that know only the learnt artists' tokens:

    the decoder behind `settle`, the mean of two stages                        69.0 % named
    the emoji whose mean over the artists is nearest (Fluent's three with
    colours counted as one artist)                                             74.6 % told apart
    the same, distances measured in units of the scatter (Fisher's), to
    which its mean variance is added in every direction                        79.7 %
    the same of the mean of the 16 tokens alone, a tenth of it added           74.8 %

The decoder cannot simply be taught the rule. Of 500 mixtures (0.6 of a drawing, 0.4 of another emoji's, 0.7 of a difference) it
named, half-way to `scatter`, 58.4 % as the rule does. 600 steps about nothing but such mixtures, 128 of 0 to 0.45 and 0 to 1 a
step, labelled by the rule, in English and one other language, at twice the rate, brought that to 61.0, and EmojiOne 1's drawings
from 70.2 to 67.3 (half-way back to where it began: 64.6, and 69.7).

With four of the sixteen tokens left out the decoder named 94.3 % of Noto's drawings instead of 98.0, and Fisher's rule told
98.2 % apart instead of 98.6: the rule leans on all of them alike.

Sources: Fisher, "The use of multiple measurements in taxonomic problems", 1936; adding differences of one class to another: Wang
et al., arXiv 1909.12220 (drawn from a normal distribution there, in the last features of a classifier); leaving out: Srivastava
et al., "Dropout", JMLR 2014 (by zeros there, and what is left grows).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from llama4.model import Llama4
from llama4.tokenizer import Tokenizer
from llama4.train import names
from llama4.train.emoji.dataset import REDRAWN, Dataset
from llama4.train.recipe import Recipe, Scene
from llama4.train.render import Renderer
from llama4.train.see import drawings
from llama4.train.speak import NAMES, Settle
from llama4.vision import VisionEncoder

STREAM = 9  # of what is changed in the tokens; what is shown comes from the streams of the stages before


class Scattered:
    """The tokens of all drawings, `[n, tokens, width]`, and what they say of how artists differ."""

    def __init__(self, encoder: VisionEncoder, dataset: Dataset, artists: tuple[str, ...], side: int) -> None:
        """Encode every drawing of these artists, plain on white, `side` pixels: half a minute for thirteen thousand."""
        encoded, emoji = zip(*_encoded(encoder, dataset, artists, side), strict=True)
        self.tokens, shown = torch.cat(encoded), torch.cat(emoji)
        self.mean = self.tokens.float().mean(dim=0).to(self.tokens.dtype)
        rows = [(shown == one).nonzero()[:, 0].numpy() for one in shown.unique()]
        self.rows = [some for some in rows if len(some) > 1]

    def differences(self, count: int, share: float, rng: np.random.Generator) -> Tensor:
        """Between two drawings of one emoji, so many times, and up to whole; none but for a `share`: `[count, tokens, width]`."""
        pairs = [rng.choice(self.rows[one], 2, replace=False) for one in rng.integers(len(self.rows), size=count)]
        one, other = torch.from_numpy(np.array(pairs)).T
        far = torch.from_numpy(rng.random(count) * (rng.random(count) < share)).to(self.tokens.dtype)
        return far[:, None, None] * (self.tokens[one] - self.tokens[other])

    def left_out(self, count: int, most: float, rng: np.random.Generator) -> Tensor:
        """bool `[count, tokens, width]`: some whole tokens, or for as many tiles some numbers of every token, up to `most`."""
        _, tokens, width = self.tokens.shape
        how_much = most * rng.random((count, 1, 1))
        places, numbers = rng.random((count, tokens, 1)) < how_much, rng.random((count, 1, width)) < how_much
        return torch.from_numpy(np.where(rng.random((count, 1, 1)) < 0.5, places, numbers))


class Scatter(Settle):
    """All tasks, by tokens that are led astray and left out; the encoder rests. The batches after the last of `Settle`."""

    name = "scatter"
    how = "scattered"
    depends = (
        *(*(one for one in Settle.depends if one != Settle.how), "settle", "averaged"),
        *("scattered", "astray", "left_out"),
    )

    def __init__(self, model: Llama4, tokenizer: Tokenizer, renderer: Renderer, recipe: Recipe) -> None:
        super().__init__(model, tokenizer, renderer, recipe)
        # What `Follow` learns must not change it, nor a saved state that is put into the model.
        self.begun = deepcopy(model.vision)

    def before(self) -> int:
        """Those of the eight stages that draw from the same streams."""
        return super().before() + self.recipe.settle.steps

    @cached_property
    def tokens(self) -> Scattered:
        """Of all artists that the stage learns from, by the encoder that it begins with, once the first step needs them.

        Nothing redrawn: between two versions of one drawing lies no artist's difference.
        """
        studio = self.renderer.studio
        artists = tuple(artist for artist in studio.artists if artist not in REDRAWN.values())
        return Scattered(self.begun, studio.dataset, artists, self.model.config.vision.tile_side)

    def gradients(self, step: int) -> Mapping[str, float]:
        """Those of `Speak`, of changed tokens."""
        rng = np.random.default_rng((self.recipe.seed, STREAM, self.before() + step))
        with changed(self.model, self.tokens, self.recipe.astray, self.recipe.left_out, rng):
            return super().gradients(step)


class Follow(Scatter):
    """The same with more pictures, each in a language less, by shares of its own, and later more strips of three; the encoder
    learns along. The batches after the last of `Scatter`."""

    name = "follow"
    shares = "followed_shares"
    depends = (
        *(one for one in Scatter.depends if not one.startswith("settled_")),
        *("scatter", "followed_pictures", "followed_questions", "followed_shares", "listing_scenes", "listing_from"),
    )

    def before(self) -> int:
        """Those of the nine stages that draw from the same streams."""
        return super().before() + self.recipe.scatter.steps

    def layouts(self, number: int) -> tuple[Scene, ...]:
        """From step `listing_from` on three emoji, in a row or apart, more often than not."""
        recipe = self.recipe
        return recipe.listing_scenes if number - self.before() >= recipe.listing_from else super().layouts(number)

    def named(self, number: int) -> names.Tree:
        """Pictures, each in English and one other language."""
        recipe = self.recipe
        return names.draw(self, (NAMES, number), recipe.followed_pictures, ("en",), recipe.followed_questions)


class Again(Follow):
    """The same once more, with as many strips of three from its first step on. The batches after the last of `Follow`."""

    name = "again"
    depends = (*(one for one in Follow.depends if one != "listing_from"), "follow")

    def before(self) -> int:
        """Those of the ten stages that draw from the same streams."""
        return super().before() + self.recipe.follow.steps

    def layouts(self, number: int) -> tuple[Scene, ...]:
        """Three emoji, in a row or apart, more often than not."""
        return self.recipe.listing_scenes


class Redraw(Again):
    """What `Again` does and from where it began, but with drawings that are redrawn part by part (emoji/redrawn.py) among what is
    shown. The batches ask the same as those of `Again`."""

    name = "redraw"
    shares = "redrawn_shares"
    depends = (*(one for one in Again.depends if one != "followed_shares"), "redrawn_shares")

    def shown(self, artists: tuple[str, ...]) -> tuple[str, ...]:
        """Those of `Follow`, and what is redrawn of theirs."""
        drawn = super().shown(artists)
        return (*drawn, *(redrawn for artist, redrawn in REDRAWN.items() if artist in drawn))


@contextmanager
def changed(
    model: Llama4, tokens: Scattered, astray: float, left_out: float, rng: np.random.Generator
) -> Iterator[None]:
    """Within the block, what the encoder says of a tile is led astray, and then some of it left out."""

    def change(_: object, __: object, encoded: Tensor) -> Tensor:
        count = len(encoded)
        far = encoded + tokens.differences(count, astray, rng).to(encoded.dtype)
        return torch.where(tokens.left_out(count, left_out, rng), tokens.mean.to(encoded.dtype), far)

    hook = model.vision.register_forward_hook(change)
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def _encoded(
    encoder: VisionEncoder, dataset: Dataset, artists: tuple[str, ...], side: int
) -> Iterator[tuple[Tensor, Tensor]]:
    for artist in artists:
        for tiles, emoji in drawings(dataset, artist, side):
            yield encoder(tiles.to(encoder.class_embedding.dtype)), emoji
