"""Stage two: everything learns everything, from conversations of all tasks.

    loss = answers + a · which + b · balance        objective.py

The vision encoder comes from stage one and goes on learning; the decoder begins from drawn weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
import torch.nn.functional as F

from llama4.model import Llama4
from llama4.tokenizer import Tokenizer
from llama4.train import validate
from llama4.train.data import Batch, Batches
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
            renderer, self.writer, recipe.mixture, self.plan.rows, self.plan.tokens, tokenizer.pad_id, recipe.seed
        )
        self.moe_layers = max(1, sum(spec.ffn == "moe" for spec in model.config.layers))

    def gradients(self, step: int) -> Mapping[str, float]:
        """Encode the batch's tiles in one go, run the parts one after the other, and let what they ask of the tiles flow back."""
        batch = self.batches.batch(step)
        encoded = self.model.vision(batch.tiles.to(torch.bfloat16)) if len(batch.tiles) else torch.zeros(0, 1, 1)
        held = encoded.detach().requires_grad_()
        sums: Counter[str] = Counter(self.which(held, batch))
        for part in batch.parts:
            measured = measure(self.model, part, held[part.tiles])
            balance = measured.balance / self.moe_layers / len(batch.parts)
            (measured.answers / batch.answer_tokens + self.recipe.balance_weight * balance).backward()
            sums.update(figures(measured, len(batch.parts)))
        if held.grad is not None:
            encoded.backward(held.grad)
        self.masters.collect()
        return sums

    def which(self, encoded: torch.Tensor, batch: Batch) -> dict[str, float]:
        """Add the gradients of "which emoji is this tile?"; returns its sums for the log."""
        if len(batch.whole_W) < 2:  # a batch norm of one row has no spread
            return {"which": 0.0, "which_right": 0, "which_tiles": 0}
        scores = self.extra(encoded[batch.whole_W])
        loss = F.cross_entropy(scores, batch.shown_W, label_smoothing=self.recipe.smoothing)
        (self.recipe.which_weight * loss).backward()
        tiles, right = len(batch.shown_W), int((scores.argmax(-1) == batch.shown_W).sum())
        return {"which": loss.item() * tiles, "which_right": right, "which_tiles": tiles}

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
        **{f"busiest_{number}": share / parts for number, share in enumerate(measured.busiest)},
    }
