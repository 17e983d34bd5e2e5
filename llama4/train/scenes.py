"""Trees of scenes: several pictures, strips, large pictures, and many questions about each.

    trunk      <|begin_of_text|> user: [dog] [fox]                               two pictures
    branches   Is the fox on the left or on the right? … right<|eot|>
               Was ist das zweite Bild? … Fuchs<|eot|>
               Are these two pictures the same? … different<|eot|>

A picture of nine tiles costs 170 tokens and a question about it 25, so here sharing the picture saves most. All trunks of a
tree are laid out alike, so that their ids are the same and no row is padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np

from llama4.train import names
from llama4.train.decoding import Decoding
from llama4.train.emoji.dataset import Emoji
from llama4.train.recipe import Scene
from llama4.train.tasks import (
    Conversation,
    Picture,
    Turn,
    ask_at,
    ask_list,
    ask_nth,
    ask_same,
    ask_side,
    ask_which,
    draw_another,
    draw_language,
    same_picture,
)


def draw(
    stage: Decoding,
    number: tuple[int, int],
    kinds: Sequence[Scene],
    few: int,
    trunks: int | None = None,
    odds: Sequence[float] | None = None,
) -> names.Tree:
    """Tree `number` (stream and step) of one of the `kinds`: its trunks, or so many, each asked its `questions` or the recipe's.

    few: emoji that a scene of few draws from. odds: of each emoji, for one of the two whose sides are asked for; see missed.py.
    """
    rng = np.random.default_rng((stage.recipe.seed, *number))
    weights = np.array([scene.weight for scene in kinds])
    scene = kinds[int(rng.choice(len(weights), p=weights / weights.sum()))]
    words, emoji = Random(int(rng.integers(1 << 62))), stage.renderer.studio.dataset.emoji
    questions = scene.questions or stage.recipe.questions
    trunks = scene.trunks if trunks is None else trunks
    if scene.layout == "large":
        drawn = [int(one) for one in rng.choice(len(emoji), min(trunks, len(emoji)), replace=False)]
        asked = [same_picture(words, emoji, one, names.languages(words, questions, ("en",))) for one in drawn]
        pictures = [[tiles] for tiles in stage.renderer.large(drawn, scene.count, rng)]
        return names.grow(stage, asked, pictures, scene.stress)
    among = first(stage, few) if scene.few else range(len(emoji))
    several = [shown(words, emoji, among, scene, odds) for _ in range(trunks)]
    asked = [about(words, emoji, one, scene, questions) for one in several]
    pictures = [conversations[0].turns[0].pictures for conversations in asked]
    tiles = iter(stage.renderer.tiles([picture for trunk in pictures for picture in trunk], rng))
    return names.grow(stage, asked, [[next(tiles) for _ in trunk] for trunk in pictures], scene.stress)


def first(stage: Decoding, few: int) -> list[int]:
    """The first so many emoji of an order that the seed gives."""
    order = np.random.default_rng(stage.recipe.seed).permutation(len(stage.renderer.studio.dataset.emoji))
    return order[:few].tolist()


def shown(
    rng: Random, emoji: Sequence[Emoji], among: Sequence[int], scene: Scene, odds: Sequence[float] | None = None
) -> list[int]:
    """Different emoji; of two pictures apart, every fourth time the same twice, and every other where that is asked.

    odds: of each of `among`, for one of the two whose sides are asked for; the other is any.
    """
    if scene.layout == "side" and odds is not None:
        (one,) = rng.choices(among, odds)
        return rng.sample([one, rng.choice([other for other in among if other != one])], 2)
    if scene.layout == "same":
        one = rng.choice(among)
        return [one, one if rng.random() < 0.5 else draw_another(rng, emoji, among, one)]
    if scene.layout == "apart" and scene.count == 2 and rng.random() < 0.25:
        return [rng.choice(among)] * 2
    return rng.sample(among, scene.count)


def about(
    rng: Random, emoji: Sequence[Emoji], drawn: Sequence[int], scene: Scene, questions: int
) -> list[Conversation]:
    """So many questions about one scene, each in a language of its own choice and each behind the scene's pictures."""
    if scene.layout in ("apart", "side", "same"):
        pictures = tuple(Picture((one,), frame=True) for one in drawn)
    else:
        pictures = (Picture(tuple(drawn), scene.layout),)
    asked = []
    for _ in range(questions):
        language = draw_language(rng, scene.english)
        turn = question(rng, emoji, language, drawn, scene.layout)
        asked.append(Conversation(scene.layout, language, (replace(turn, pictures=pictures),)))
    return asked


def question(rng: Random, emoji: Sequence[Emoji], language: str, drawn: Sequence[int], layout: str) -> Turn:
    """One of the questions that the scene allows.

    Two pictures apart are asked whether they are the same half the time where they are, a sixth of the time where they are not,
    which is three scenes in four: as often. A scene of sameness asks nothing else, and one of sides little else.
    """
    two, apart = len(drawn) == 2, layout == "apart"
    if layout == "side":
        kinds = ("side", "side", "side", "which")
    elif layout == "same":
        kinds = ("same",)
    elif two and drawn[0] == drawn[1]:
        kinds = ("same", "same", "left", "right")
    elif two and apart:
        kinds = (*("left", "right") * 4, "same", "same", "nth", "nth")
    elif apart:
        kinds = ("nth", "nth", "frames", "frames")
    elif two and layout == "row":
        kinds = ("left", "right", "row", "row")
    else:
        kinds = (layout,)
    kind = rng.choice(kinds)
    if kind in ("left", "right"):
        return ask_at(rng, emoji, language, drawn, kind)
    if kind in ("row", "column", "frames"):
        return ask_list(rng, emoji, language, drawn, kind)
    if kind == "same":
        return ask_same(rng, language, drawn)
    return {"side": ask_side, "nth": ask_nth, "which": ask_which}[kind](rng, emoji, language, drawn)
