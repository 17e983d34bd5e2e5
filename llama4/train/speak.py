"""Stages two and four: conversations. In the second the decoder learns its first words, in the fourth all tasks.

    stage two      a conversation: one picture, one question in English
    stage four     conversations of all tasks, more of them with large pictures, and a smaller tree of names (names.py)

The tree goes on in stage four because names are most of what the model has to know, and are forgotten while it learns to count
from left to right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from llama4.model import Llama4
from llama4.tokenizer import Tokenizer
from llama4.train import names
from llama4.train.data import Batch, Batches
from llama4.train.decoding import Decoding
from llama4.train.objective import measure
from llama4.train.recipe import Recipe
from llama4.train.render import Renderer
from llama4.train.tasks import Mixture

TREES = 5  # the stream of stage four's trees; its conversations have stream 4


class Words(Decoding):
    """Stage two, as `loop.train` runs it."""

    name = "words"
    stream = 2
    depends = ("balance_weight", "many_tiles", "first_words")

    def __init__(self, model: Llama4, tokenizer: Tokenizer, renderer: Renderer, recipe: Recipe) -> None:
        super().__init__(model, tokenizer, renderer, recipe)
        self.batches = conversations(self, recipe.first_words, renderer)

    def gradients(self, step: int) -> Mapping[str, float]:
        """The parts of the batch one after the other; each answer token of the batch weighs the same."""
        batch = self.batches.batch(step)
        sums = learn(self, batch, batch.answer_tokens, len(batch.parts))
        self.masters.collect()
        return sums


class Speak(Decoding):
    """Stage four, as `loop.train` runs it."""

    name = "speak"
    stream = 4
    depends = ("balance_weight", "many_tiles_at_last", "mixture", "pictures_at_last", "questions")

    def __init__(self, model: Llama4, tokenizer: Tokenizer, renderer: Renderer, recipe: Recipe) -> None:
        super().__init__(model, tokenizer, renderer, recipe)
        large = Renderer(replace(renderer.studio, many_tiles=recipe.many_tiles_at_last))
        self.batches = conversations(self, recipe.mixture, large)

    def gradients(self, step: int) -> Mapping[str, float]:
        """The batch's parts, then the tree; each answer token of both weighs the same."""
        batch, tree = self.batches.batch(step), names.draw(self, (TREES, step), self.recipe.pictures_at_last)
        tokens, parts = batch.answer_tokens + tree.answer_tokens, len(batch.parts) + 1
        sums = learn(self, batch, tokens, parts)
        sums.update(self.learn(names.measure(self.model, tree), tokens, parts))
        self.masters.collect()
        return sums


def conversations(stage: Decoding, mixture: Mixture, renderer: Renderer) -> Batches:
    """A stage's batches."""
    plan, seed = stage.plan, (stage.recipe.seed, stage.stream)
    return Batches(renderer, stage.writer, mixture, plan.rows, plan.tokens, stage.pad_id, seed)


def learn(stage: Decoding, batch: Batch, tokens: int, parts: int) -> Counter[str]:
    """Add the gradients of a batch, which is part of `tokens` answer tokens in `parts` parts."""
    sums: Counter[str] = Counter()
    for part in batch.parts:
        sums.update(stage.learn(measure(stage.model, part, batch.tiles[part.tiles]), tokens, parts))
    return sums
