"""The encoder's second stage: the views of an emoji are gathered around its centre.

    which = cross entropy, as in see.py
    loose = Σ |z - c(emoji)|² / Σ |z - mean z|²        z: a tile's encoded tokens; 0 when all views of an emoji are one
    loss  = which + pull · loose                       c(emoji) ← c + 1/8 (z - c), a running mean of its views

see.py asks for tokens that tell emoji apart, not for the same tokens each time: of what differs between two views of two emoji,
half was the hand, the turn and the ground. Through that noise the decoder has to learn 25,000 names; an earlier one, shown the
mean of an emoji's views in place of one of them, named 78 in a hundred where it had named 54. So the encoder learns on, now to
say the same of all views. Its tokens are then others than the decoder knew, so `Rehearse` follows.

It is the centre loss (Wen et al., ECCV 2016, "A discriminative feature learning approach") over all tokens of a tile, but divided
by the batch's spread: without that, all tokens shrink towards one point.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama4.model import Llama4
from llama4.train.emoji.dataset import Dataset
from llama4.train.recipe import Recipe
from llama4.train.render import Renderer
from llama4.train.see import See, WhichEmoji, drawings

FOLLOW = 1 / 8  # the share of the way that a centre goes to a view; an emoji is seen eighty times
SHARPNESS = 0.08  # of the head at first: of six from 0.01 to 0.2 the losses at 0.07 and 0.1 were least, 1.97 and 1.85


class Gathered(nn.Module):
    """The head of see.py, and the centre of each emoji; used in training only."""

    def __init__(self, tokens: int, width: int, emoji: int) -> None:
        super().__init__()
        self.which = WhichEmoji(width, emoji)
        self.register_buffer("centres", torch.zeros(emoji, tokens, width))
        self.centres: Tensor

    @torch.no_grad()
    def begin(self, views: Iterator[tuple[Tensor, Tensor]]) -> None:
        """Put each centre at the mean of an emoji's views, and the head at the nearest centre: (encoded, emoji) in batches.

        |z - c|² = |z|² - 2 z·c + |c|², so scores of z·c - |c|²/2 are highest at the nearest.
        """
        self.centres.zero_()
        seen = torch.zeros(len(self.centres), 1, 1)
        for encoded, emoji in views:
            self.centres.index_add_(0, emoji, encoded.float())
            seen.index_add_(0, emoji, torch.ones(len(emoji), 1, 1))
        self.centres /= seen.clamp(min=1)
        norm, head = self.which.norm, self.which.head
        mean_ED = self.centres.mean(dim=1)
        norm.running_mean.copy_(mean_ED.mean(dim=0))
        norm.running_var.copy_(mean_ED.var(dim=0))
        c_ED = (mean_ED - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
        head.weight.copy_(SHARPNESS * c_ED)
        head.bias.copy_(-SHARPNESS / 2 * c_ED.square().sum(dim=1))

    def loose(self, encoded: Tensor, emoji: Tensor) -> Tensor:
        """How far views lie from their centres, against how far from each other: `[R, tokens, width]`, `[R]` -> a scalar."""
        z = encoded.float()
        return (z - self.centres[emoji]).square().sum() / (z - z.mean(dim=0)).square().sum()

    @torch.no_grad()
    def follow(self, encoded: Tensor, emoji: Tensor) -> None:
        """Move the centres of different emoji towards their views."""
        self.centres[emoji] += FOLLOW * (encoded.float() - self.centres[emoji])


class Gather(See):
    """The stage, as `loop.train` runs it. Its head is not that of `see`: it begins at the centres, before the first step."""

    name = "gather"
    stream = 7
    depends = ("smoothing", "pull")
    extra: Gathered

    def __init__(self, model: Llama4, dataset: Dataset, renderer: Renderer, recipe: Recipe) -> None:
        vision = model.config.vision
        model.vision.requires_grad_(True)  # it rested while the decoder learnt
        gathered = Gathered(vision.tokens_per_tile, vision.adapter_width, len(dataset.emoji))
        super().__init__(model, gathered.which, dataset, renderer, recipe)
        self.extra = gathered

    def gradients(self, step: int) -> Mapping[str, float]:
        """One tile each of `rows` different emoji."""
        if step == 0:
            self.extra.begin(self.learnt_from())
        tiles, shown = self.batch(step)
        encoded = self.model.vision(tiles)
        scores = self.extra.which(encoded)
        which = F.cross_entropy(scores, shown, label_smoothing=self.recipe.smoothing)
        loose = self.extra.loose(encoded, shown)
        (which + self.recipe.pull * loose).backward()
        self.extra.follow(encoded, shown)
        self.masters.collect()
        right = float((scores.argmax(-1) == shown).float().mean())
        return {"which": which.item(), "right": right, "loose": loose.item()}

    def learnt_from(self) -> Iterator[tuple[Tensor, Tensor]]:
        """What the encoder says of every drawing that the run learns from: encoded tokens, and which emoji they are of."""
        for artist in self.renderer.studio.artists:
            for tiles, emoji in drawings(self.dataset, artist, self.model.config.vision.tile_side):
                yield self.model.vision(tiles), emoji
