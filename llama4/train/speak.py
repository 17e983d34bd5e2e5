"""The decoder's stages but the last four: it learns its first words, then to look, then all tasks, those once more, and to begin
from names.

    words       conversations: one picture, one question in English
    few         a tree of a scene of eight emoji, in English
    speak       a tree of names (names.py), a tree of a scene (scenes.py), and a few conversations of all tasks
    rehearse    the same, behind the encoder that has gathered (gather.py)
    relate      the same with more sides, which weigh more, and a tree of text (texts.py)
    together    the same, with scenes that ask whether two are the same, and the vision encoder learns along
    discern     the same with more sides: more pairs, asked about less often, and rather those that were missed
    broaden     the same with more single pictures, strips and pictures apart, asked about less often; artists by their shares
    vary        the same with more single pictures again, in shifting colours, by one artist more
    settle      the same by one artist more again, each picture in a language more

A tree is one picture, or some, that many questions go on from. Names are most of what the model has to know, and what it knows
of them goes when it is not asked for; so every step has both trees, from first to last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from llama4.model import Llama4
from llama4.tokenizer import Tokenizer
from llama4.train import names, scenes, texts
from llama4.train.data import Batch, Batches
from llama4.train.decoding import Decoding
from llama4.train.emoji.dataset import LAST_ARTIST, LATE_ARTIST
from llama4.train.missed import Missed
from llama4.train.objective import Measured, measure
from llama4.train.recipe import Recipe, Scene
from llama4.train.render import Renderer
from llama4.train.tasks import Mixture

NAMES, SCENES, TEXTS = 4, 5, 8  # the streams of the trees; the conversations beside them have `Speak`'s own


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
        """The batch's parts, then the trees; each answer token weighs the same, but for a tree's `weight`."""
        number = self.before() + step
        batch, trees = self.batches.batch(number), self.trees(number)
        tokens = batch.answer_tokens + sum(tree.weight * tree.answer_tokens for tree in trees)
        parts = len(batch.parts) + len(trees)
        sums = learn(self, batch, tokens, parts)
        for tree in trees:
            measured = names.measure(self.model, tree)
            sums.update(self.learn(measured, tokens, parts, tree.weight))
            self.heed(tree, measured)
        self.masters.collect()
        return sums

    def heed(self, tree: names.Tree, measured: Measured) -> None:
        """Note how a tree went, where later ones are drawn by that; here nothing."""

    def before(self) -> int:
        """How many batches the stages before have had, of those that this one goes on with."""
        return 0

    def trees(self, number: int) -> list[names.Tree]:
        """Of batch `number`: one of names and one of a scene."""
        emoji = len(self.renderer.studio.dataset.emoji)
        return [
            self.named(number),
            scenes.draw(self, (SCENES, number), self.recipe.scenes, self.recipe.pool.size(number, emoji)),
        ]

    def named(self, number: int) -> names.Tree:
        """Pictures and their names, English among them."""
        return names.draw(self, (NAMES, number), self.recipe.pictures, always=("en",))


class Rehearse(Speak):
    """All tasks once more, behind the encoder that has gathered: the batches that come after the last of `Speak`."""

    name = "rehearse"
    depends = (*Speak.depends, "speak")

    def before(self) -> int:
        """Those of `Speak`."""
        return self.recipe.speak.steps


# What the stages with a tree of text depend on, but for the pictures that they name and their scenes.
RELATING = (
    *("balance_weight", "many_tiles", "mixture", "questions"),
    *("texts", "text_mixture", "speak", "rehearse"),
)


class Relate(Speak):
    """To begin from names as well: more sides, and text; the batches that come after the last of `Rehearse`."""

    name = "relate"
    kinds = "related_scenes"  # the recipe's, of which the second tree is one
    depends = (*RELATING, "pictures", kinds)

    def before(self) -> int:
        """Those of `Speak` and of `Rehearse`."""
        return self.recipe.speak.steps + self.recipe.rehearse.steps

    def trees(self, number: int) -> list[names.Tree]:
        """One of names, one of a scene, one of text."""
        emoji = len(self.renderer.studio.dataset.emoji)
        return [
            self.named(number),
            scenes.draw(self, (SCENES, number), self.layouts(number), emoji, odds=self.odds()),
            texts.draw(self, (TEXTS, number)),
        ]

    def layouts(self, number: int) -> tuple[Scene, ...]:
        """What the scene of batch `number` may be."""
        return getattr(self.recipe, self.kinds)

    def odds(self) -> list[float] | None:
        """Of each emoji, to be one of the two whose sides are asked for; None: the same."""
        return None


class Together(Relate):
    """The encoder learns along, at a share of the rate; the batches that come after the last of `Relate`.

    Of fresh views of the seven artists (512 each) the head of `gather` told 93.6 % apart, and of such views the decoder named
    85.2 % behind `relate`: what lies between the two is for both to learn.
    """

    name = "together"
    kinds = "joint_scenes"
    depends = (*RELATING, "pictures", kinds, "relate")

    def before(self) -> int:
        """Those of the three stages that draw from the same streams."""
        return super().before() + self.recipe.relate.steps


class Discern(Together):
    """Sides of many pairs, rather of what was missed (missed.py); the batches that come after the last of `Together`."""

    name = "discern"
    kinds = "discerning_scenes"
    depends = (*RELATING, "pictures", kinds, "memory", "alike", "relate", "together")

    def __init__(self, model: Llama4, tokenizer: Tokenizer, renderer: Renderer, recipe: Recipe) -> None:
        super().__init__(model, tokenizer, renderer, recipe)
        self.extra: Missed = Missed(len(renderer.studio.dataset.emoji), recipe.memory, recipe.alike)

    def heed(self, tree: names.Tree, measured: Measured) -> None:
        """Where an emoji was sought, how it did."""
        self.extra.heed(tree.sought_N, measured.answers_N)

    def odds(self) -> list[float]:
        """By what was missed."""
        return self.extra.odds()

    def before(self) -> int:
        """Those of the four stages that draw from the same streams."""
        return super().before() + self.recipe.together.steps


class Broaden(Discern):
    """More pictures in most trees, and artists by their shares; the batches after the last of `Discern`.

    What `Discern` counted as missed is forgotten: it would be a count of the last three askings, some 250 steps.
    """

    name = "broaden"
    kinds = "broad_scenes"
    shares = "shares"  # the recipe's, by which artists draw
    depends = (
        *(*RELATING, "broad_pictures", "broad_questions", "shares", kinds),
        *("memory", "alike", "relate", "together", "discern"),
    )

    def __init__(self, model: Llama4, tokenizer: Tokenizer, renderer: Renderer, recipe: Recipe) -> None:
        weighted = Renderer(replace(renderer.studio, shares=getattr(recipe, self.shares)))
        super().__init__(model, tokenizer, weighted, recipe)

    def named(self, number: int) -> names.Tree:
        """More pictures, each in fewer languages."""
        recipe = self.recipe
        return names.draw(self, (NAMES, number), recipe.broad_pictures, ("en",), recipe.broad_questions)

    def before(self) -> int:
        """Those of the five stages that draw from the same streams."""
        return super().before() + self.recipe.discern.steps


class Vary(Broaden):
    """Twice as many single pictures; whatever is drawn may be tinged (pictures.py), and is by one artist more; the encoder learns
    at the whole rate. The batches after the last of `Broaden`, whose counts of what was missed are forgotten as well."""

    name = "vary"
    how = "varied"  # the recipe's, by which all is drawn
    late: tuple[str, ...] = (LATE_ARTIST,)
    depends = (
        *(*RELATING, "varied_pictures", "varied_questions", "varied", "shares", Broaden.kinds),
        *("memory", "alike", "relate", "together", "discern", "broaden"),
    )

    def __init__(self, model: Llama4, tokenizer: Tokenizer, renderer: Renderer, recipe: Recipe) -> None:
        studio = renderer.studio
        varied = replace(studio, artists=self.shown(studio.artists), how=getattr(recipe, self.how))
        super().__init__(model, tokenizer, Renderer(varied), recipe)

    def shown(self, artists: tuple[str, ...]) -> tuple[str, ...]:
        """From whom it learns, where the stages before learn from these."""
        return (*artists, *self.late)

    def named(self, number: int) -> names.Tree:
        """More pictures again, each in English and one other language."""
        recipe = self.recipe
        return names.draw(self, (NAMES, number), recipe.varied_pictures, ("en",), recipe.varied_questions)

    def before(self) -> int:
        """Those of the six stages that draw from the same streams."""
        return super().before() + self.recipe.broaden.steps


class Settle(Vary):
    """By one artist more again, all by shares of its own; fewer pictures, each in a language more. The batches after the last of
    `Vary`."""

    name = "settle"
    late = (LATE_ARTIST, LAST_ARTIST)
    shares = "settled_shares"
    depends = (
        *(*RELATING, "settled_pictures", "settled_questions", "varied", "settled_shares", Broaden.kinds),
        *("memory", "alike", "relate", "together", "discern", "broaden", "vary"),
    )

    def named(self, number: int) -> names.Tree:
        """Pictures, each in English and some other languages."""
        recipe = self.recipe
        return names.draw(self, (NAMES, number), recipe.settled_pictures, ("en",), recipe.settled_questions)

    def before(self) -> int:
        """Those of the seven stages that draw from the same streams."""
        return super().before() + self.recipe.vary.steps


def conversations(stage: Decoding, mixture: Mixture, renderer: Renderer) -> Batches:
    """A stage's batches."""
    plan, seed = stage.plan, (stage.recipe.seed, stage.stream)
    return Batches(renderer, stage.writer, mixture, plan.rows, plan.tokens, stage.pad_id, seed)


def learn(stage: Decoding, batch: Batch, tokens: float, parts: int) -> Counter[str]:
    """Add the gradients of a batch, which is part of `tokens` answer tokens in `parts` parts."""
    sums: Counter[str] = Counter()
    for part in batch.parts:
        sums.update(stage.learn(measure(stage.model, part, batch.tiles[part.tiles]), tokens, parts))
    return sums
