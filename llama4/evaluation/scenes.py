"""The suites about several pictures, and about none. Drawn from a seed: the same questions on every machine.

strip       three drawings in one wide picture, which the tiler cuts: all three names in order
pair        two pictures in one message: is the … on the left or on the right? As often left as right
same        two pictures: the same or different? As often one as the other
nth         three pictures: what is the second?
frames      a video of three frames: their names in order
absent      every wording that asks for a name, without a picture: the answer must be the language's sentence that says so
translate   text only: a name from English into another language
keywords    text only: three keywords of a name; any three that CLDR has besides the name
category    text only: which of Unicode's ten categories a name belongs to
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial

from llama4.errors import InputError
from llama4.evaluation.asking import Question
from llama4.evaluation.drawings import Drawings, strip
from llama4.evaluation.scoring import chosen, listed, some_of
from llama4.evaluation.suites import SEED, asked
from llama4.evaluation.wordings import (
    CATEGORY,
    FRAMES,
    KEYWORDS,
    NTH,
    ORDINALS,
    SAME,
    SAMENESS,
    SIDE,
    SIDES,
    STRIP,
    TRANSLATE,
)
from llama4.train.emoji.dataset import LANGUAGES, Emoji
from llama4.train.prompts import PROMPTS
from llama4.train.tasks import KEYWORDS as THREE
from llama4.train.tasks import category_in

COUNT = 400
Scene = Callable[[Drawings, random.Random, int], Question]


def scenes(make: Scene, drawn: Drawings, count: int = COUNT) -> Iterator[Question]:
    """`count` questions of one kind; the seed is the kind's own, so that a shorter run asks the first of a longer one's."""
    generator = random.Random(f"{SEED} {make.__name__}")
    for number in range(count):
        yield make(drawn, generator, number)


def strip_of_three(drawn: Drawings, generator: random.Random, number: int) -> Question:
    """All three names, in order."""
    positions = drawn.sample(generator, 3)
    named = [drawn.name(position) for position in positions]
    picture = strip([drawn.picture(position) for position in positions])
    return asked("strip of three", [picture], STRIP, ", ".join(named), right=partial(listed, names=named))


def left_or_right(drawn: Drawings, generator: random.Random, number: int) -> Question:
    """Even numbers ask for the left picture, odd ones for the right."""
    positions = drawn.sample(generator, 2)
    side = SIDES[number % 2]
    text = SIDE.format(name=drawn.name(positions[number % 2]))
    pictures = [drawn.picture(position) for position in positions]
    return asked("left or right", pictures, text, side, right=partial(_chose, word=side, words=SIDES))


def same_or_different(drawn: Drawings, generator: random.Random, number: int) -> Question:
    """Even numbers show one drawing twice, the second time at another size."""
    first, other = drawn.sample(generator, 2)
    pictures = [drawn.picture(first), drawn.picture(other if number % 2 else first, generator.choice((48, 60, 64)))]
    word = SAMENESS[number % 2]
    return asked("same or different", pictures, SAME, word, right=partial(_chose, word=word, words=SAMENESS))


def nth_picture(drawn: Drawings, generator: random.Random, number: int) -> Question:
    """The first, second and third in turn."""
    positions = drawn.sample(generator, 3)
    place = number % 3
    pictures = [drawn.picture(position) for position in positions]
    return asked("which of three", pictures, NTH.format(ordinal=ORDINALS[place]), drawn.name(positions[place]))


def three_frames(drawn: Drawings, generator: random.Random, number: int) -> Question:
    """A video's three frames, in order."""
    positions = drawn.sample(generator, 3)
    named = [drawn.name(position) for position in positions]
    video = {"type": "video", "video": [drawn.picture(position) for position in positions], "frames": 3}
    content = [video, {"type": "text", "text": FRAMES}]
    return Question("frames of a video", content, ", ".join(named), partial(listed, names=named))


def translation(drawn: Drawings, generator: random.Random, number: int) -> Question:
    """Into the fifteen other languages in turn."""
    language = list(LANGUAGES)[1 + number % (len(LANGUAGES) - 1)]
    [position] = drawn.sample(generator, 1)
    text = TRANSLATE.format(name=drawn.name(position), language=LANGUAGES[language])
    return asked("translation, no picture", [], text, drawn.name(position, language))


def keywords_of(drawn: Drawings, generator: random.Random, number: int) -> Question:
    """Of an emoji that has three in English."""
    one = generator.choice(with_keywords(drawn))
    expected = ", ".join(others(one)[:THREE])
    right = partial(some_of, words=others(one), count=THREE)
    return asked("three keywords, no picture", [], KEYWORDS.format(name=one.names["en"]), expected, right=right)


def with_keywords(drawn: Drawings) -> list[Emoji]:
    """Those that keywords are asked of. Raises InputError where there are none."""
    found = [one for one in (drawn.shown(position) for position in range(len(drawn))) if len(others(one)) >= THREE]
    if not found:
        raise InputError(f"No emoji in the data has {THREE} keywords besides its name: build the data again.")
    return found


def others(one: Emoji) -> list[str]:
    """An emoji's English keywords but for its name."""
    return [word for word in one.keywords["en"] if word.casefold() != one.names["en"].casefold()]


def with_categories(drawn: Drawings) -> None:
    """Raises InputError where one has a category that Unicode lacks, before anything is asked."""
    for position in range(len(drawn)):
        category_in("en", drawn.shown(position))


def category_of(drawn: Drawings, generator: random.Random, number: int) -> Question:
    """In English; a guess at the largest is right as often as that is large."""
    [position] = drawn.sample(generator, 1)
    text = CATEGORY.format(name=drawn.name(position))
    return asked("category, no picture", [], text, category_in("en", drawn.shown(position)))


def absent() -> Iterator[Question]:
    """Every wording that asks for a name, in every language, with nothing to name."""
    for prompts in PROMPTS.values():
        for wording in prompts.questions["name"]:
            yield asked("no picture", [], wording, prompts.no_picture)


def _chose(answer: str, word: str, words: tuple[str, ...]) -> bool:
    return chosen(answer, words) == word
