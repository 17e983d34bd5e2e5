"""Stage two: everything learns everything, from conversations of all tasks.

    loss = answers + a · which + b · balance        objective.py

The vision encoder comes from stage one and goes on learning; the decoder begins from drawn weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch

from llama4.model import Llama4
from llama4.tokenizer import Tokenizer
from llama4.train import validate
from llama4.train.data import Batches
from llama4.train.objective import Measured, measure
from llama4.train.recipe import Recipe
from llama4.train.render import Renderer
from llama4.train.rows import Writer
from llama4.train.see import WhichEmoji
from llama4.train.weights import Masters

VALIDATED = 100  # pictures a language, four times as many in English


class Speak:
    """The stage, as `loop.train` runs it."""

    name = "speak"

    def __init__(
        self, model: Llama4, which: WhichEmoji, tokenizer: Tokenizer, renderer: Renderer, recipe: Recipe
    ) -> None:
        self.model, self.extra, self.renderer, self.recipe = model, which, renderer, recipe
        self.plan = recipe.speak
        self.masters = Masters(model)
        self.writer = Writer(tokenizer, model.config.vision.tokens_per_tile)
        self.batches = Batches(
            renderer, self.writer, recipe.mixture, self.plan.rows, self.plan.parts, tokenizer.pad_id, recipe.seed
        )
        self.moe_layers = max(1, sum(spec.ffn == "moe" for spec in model.config.layers))

    def gradients(self, step: int) -> Mapping[str, float]:
        """Every part of the batch, one after the other; each answer token of the batch weighs the same."""
        parts = self.batches.batch(step)
        tokens = sum(int(part.answer_BS.sum()) for part in parts)
        tiles = max(1, sum(len(part.whole_W) for part in parts))
        sums: Counter[str] = Counter()
        for part in parts:
            measured = measure(self.model, self.extra, part, self.recipe.smoothing)
            self.loss(measured, tokens, tiles, len(parts)).backward()
            self.masters.collect()
            sums.update(figures(measured, len(parts)))
        return sums

    def loss(self, measured: Measured, tokens: int, tiles: int, parts: int) -> torch.Tensor:
        """One part's share in the loss of a batch with so many answer tokens, whole tiles and parts."""
        balance = measured.balance / self.moe_layers / parts
        which = self.recipe.which_weight * measured.which / tiles
        return measured.answers / tokens + which + self.recipe.balance_weight * balance

    def summary(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Means over answer tokens, over whole tiles, and over steps."""
        steps, tokens, tiles = sums["steps"], sums["answer_tokens"], max(1, sums["which_tiles"])
        return {
            "answers": sums["answers"] / tokens,
            "right_tokens": sums["right_tokens"] / tokens,
            "which": sums["which"] / tiles,
            "right": sums["which_right"] / tiles,
            "norm": sums["norm"] / steps,
            **{name: sums[name] / steps for name in sums if name.startswith("busiest")},
        }

    def validate(self) -> dict[str, float]:
        """Exact names in every language, by the first artist to validate on."""
        pad_id = self.batches.pad_id
        return {
            f"{artist} {code}": share
            for artist in self.renderer.studio.validation
            for code, share in validate.table(
                self.model, self.renderer.studio.dataset, self.writer, artist, VALIDATED, pad_id
            ).items()
        }


def figures(measured: Measured, parts: int) -> dict[str, float]:
    """A part's figures for the log."""
    return {
        "answers": float(measured.answers.detach()),
        "answer_tokens": measured.answer_tokens,
        "right_tokens": measured.right_tokens,
        "which": float(measured.which.detach()),
        "which_tiles": measured.which_tiles,
        "which_right": measured.which_right,
        **{f"busiest_{number}": share / parts for number, share in enumerate(measured.busiest)},
    }
