"""The decoder's stages: it learns its first words, then to look, then all tasks, and those once more.

    words       conversations: one picture, one question in English
    few         a tree of a scene of eight emoji, in English
    speak       a tree of names (names.py), a tree of a scene (scenes.py), and a few conversations of all tasks
    rehearse    the same, behind the encoder that has gathered (gather.py)

A tree is one picture, or some, that many questions go on from. Names are most of what the model has to know, and what it knows
of them goes when it is not asked for; so every step has both trees, from first to last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from llama4.model import Llama4
from llama4.tokenizer import Tokenizer
from llama4.train import names, scenes
from llama4.train.data import Batch, Batches
from llama4.train.decoding import Decoding
from llama4.train.objective import measure
from llama4.train.recipe import Recipe
from llama4.train.render import Renderer
from llama4.train.tasks import Mixture

NAMES, SCENES = 4, 5  # the streams of `Speak`'s trees; its conversations have stream 3


class Words(Decoding):
    """First words, as `loop.train` runs it."""

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


class Few(Decoding):
    """Eight emoji, as `loop.train` runs it."""

    name = "few"
    stream = 6
    depends = ("balance_weight", "questions", "few_scenes", "pool")

    def gradients(self, step: int) -> Mapping[str, float]:
        """One tree; each answer token weighs the same."""
        tree = scenes.draw(self, (self.stream, step), self.recipe.few_scenes, self.recipe.pool.first)
        sums = self.learn(names.measure(self.model, tree), tree.answer_tokens, 1)
        self.masters.collect()
        return sums


class Speak(Decoding):
    """All tasks, as `loop.train` runs it."""

    name = "speak"
    stream = 3
    depends = (
        *("balance_weight", "many_tiles", "mixture", "questions"),
        *("pictures", "scenes", "pool"),
    )

    def __init__(self, model: Llama4, tokenizer: Tokenizer, renderer: Renderer, recipe: Recipe) -> None:
        super().__init__(model, tokenizer, renderer, recipe)
        self.batches = conversations(self, recipe.mixture, renderer)

    def gradients(self, step: int) -> Mapping[str, float]:
        """The batch's parts, then the trees; each answer token weighs the same."""
        batch, trees = self.batches.batch(step), self.trees(step)
        tokens = batch.answer_tokens + sum(tree.answer_tokens for tree in trees)
        parts = len(batch.parts) + len(trees)
        sums = learn(self, batch, tokens, parts)
        for tree in trees:
            sums.update(self.learn(names.measure(self.model, tree), tokens, parts))
        self.masters.collect()
        return sums

    def trees(self, step: int) -> list[names.Tree]:
        """One of names and one of a scene."""
        emoji = len(self.renderer.studio.dataset.emoji)
        return [
            names.draw(self, (NAMES, step), self.recipe.pictures, always=("en",)),
            scenes.draw(self, (SCENES, step), self.recipe.scenes, self.recipe.pool.size(step, emoji)),
        ]


class Rehearse(Speak):
    """All tasks once more, behind the encoder that has gathered: the batches that come after the last of `Speak`."""

    name = "rehearse"
    depends = (*Speak.depends, "speak")

    def gradients(self, step: int) -> Mapping[str, float]:
        """Batch `step` of those that come after."""
        return super().gradients(self.recipe.speak.steps + step)


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
