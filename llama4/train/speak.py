"""Stages two and four: the decoder learns its first words about what the encoder sees, and at last all tasks, from conversations.

    loss = answers + b · balance        objective.py

Both are the same but for their conversations and learning rates; recipe.py says why they are apart.

The vision encoder stays as stage one left it; the projection into the decoder and the decoder learn. A view costs here a third
of what it would with gradients through the encoder, and teaches the encoder six times less for its cost than it did in stage
one. With the learning rate that a new decoder needs, an encoder that learnt along lost a quarter of what it had.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from torch import nn

from llama4.model import Llama4
from llama4.tokenizer import Tokenizer
from llama4.train import validate
from llama4.train.data import Batches
from llama4.train.objective import Measured, measure
from llama4.train.recipe import Plan, Recipe
from llama4.train.render import Renderer
from llama4.train.rows import Writer
from llama4.train.tasks import Mixture
from llama4.train.weights import Masters

VALIDATED = 100  # pictures a language, four times as many in English


class Decoding:
    """What the three stages of the decoder share. `stream` keeps the batches of one apart from those of the others.

    `depends`: the recipe's numbers, aside from the stage's plan, that its batches and its loss follow from.
    """

    name: str
    stream: int
    depends: tuple[str, ...]

    def __init__(self, model: Llama4, tokenizer: Tokenizer, renderer: Renderer, recipe: Recipe) -> None:
        self.model, self.renderer, self.recipe = model, renderer, recipe
        self.plan: Plan = getattr(recipe, self.name)
        self.numbers = recipe.numbers(self.name, *self.depends)
        self.extra = nn.Module()
        model.vision.requires_grad_(False)
        self.masters = Masters(model)
        self.writer = Writer(tokenizer, model.config.vision.tokens_per_tile)
        self.pad_id = tokenizer.pad_id
        self.moe_layers = max(1, sum(spec.ffn == "moe" for spec in model.config.layers))

    def summary(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Means over answer tokens and over steps."""
        steps, tokens = sums["steps"], sums["answer_tokens"]
        return {
            "answers": sums["answers"] / tokens,
            "right_tokens": sums["right_tokens"] / tokens,
            "norm": sums["norm"] / steps,
            **{name: sums[name] / steps for name in sums if name.startswith("busiest")},
        }

    def validate(self) -> dict[str, float]:
        """Exact names in every language, by the first artist to validate on."""
        return {
            f"{artist} {code}": share
            for artist in self.renderer.studio.validation
            for code, share in validate.table(
                self.model, self.renderer.studio.dataset, self.writer, artist, VALIDATED, self.pad_id
            ).items()
        }


class Speak(Decoding):
    """Stage four, as `loop.train` runs it."""

    name = "speak"
    stream = 4
    depends = ("balance_weight", "many_tiles", "mixture")

    def __init__(self, model: Llama4, tokenizer: Tokenizer, renderer: Renderer, recipe: Recipe) -> None:
        super().__init__(model, tokenizer, renderer, recipe)
        seed, plan = (recipe.seed, self.stream), self.plan
        self.batches = Batches(renderer, self.writer, self.mixture, plan.rows, plan.tokens, self.pad_id, seed)

    @property
    def mixture(self) -> Mixture:
        """What conversations are drawn from."""
        return self.recipe.mixture

    def gradients(self, step: int) -> Mapping[str, float]:
        """The parts of the batch one after the other; each answer token of the batch weighs the same."""
        batch = self.batches.batch(step)
        sums: Counter[str] = Counter()
        for part in batch.parts:
            measured = measure(self.model, part, batch.tiles[part.tiles])
            balance = measured.balance / self.moe_layers / len(batch.parts)
            (measured.answers / batch.answer_tokens + self.recipe.balance_weight * balance).backward()
            sums.update(figures(measured, len(batch.parts)))
        self.masters.collect()
        return sums


class Words(Speak):
    """Stage two."""

    name = "words"
    stream = 2
    depends = ("balance_weight", "many_tiles", "first_words")

    @property
    def mixture(self) -> Mixture:
        """One question in English about one picture."""
        return self.recipe.first_words


def figures(measured: Measured, parts: int) -> dict[str, float]:
    """A part's figures for the log."""
    return {
        "answers": float(measured.answers.detach()),
        "answer_tokens": measured.answer_tokens,
        "right_tokens": measured.right_tokens,
        **{f"busiest_{number}": share / parts for number, share in enumerate(measured.busiest)},
    }
