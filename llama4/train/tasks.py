"""What the small model is asked: conversations about emoji, drawn at random, with their only right answers.

    draw(rng, dataset, Mixture())
    Conversation("name_one", "fr", (Turn("Que vois-tu ?", "chien", (Picture((812,)),)), Turn("And in English?", "dog")))

A conversation says what is to be seen, not how it looks: a `Picture` holds positions in the dataset's emoji, and who renders
it chooses artist, size and background. A picture costs the model far more tokens than a question, so one picture is asked
about several times: `name_one` has several turns, one a language. An answer is the CLDR name or one of the
fixed words of `prompts.json` and nothing else, so that an exact comparison can mark it. Where the answer is one of
two words, both are equally likely, and nothing but the picture tells which.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

import numpy as np

from llama4.errors import InputError
from llama4.train.emoji.dataset import LANGUAGES, Dataset, Emoji
from llama4.train.prompts import PLACEHOLDERS, PROMPTS

MOST_PICTURES = 3  # as many as there are ordinals
KEYWORDS = 3
SEPARATOR = ", "  # of languages, in a question
LINES = "\n"  # of names, in an answer: each begins with the token with which it begins an answer, not with a space
TEXT_ONLY = ("translate", "keywords", "category")
PICTURE_QUESTIONS = tuple(kind for kind in PLACEHOLDERS if kind not in (*TEXT_ONLY, "and_in"))
OTHERS = tuple(language for language in LANGUAGES if language != "en")


@dataclass(frozen=True)
class Picture:
    """An image: one emoji, or several side by side ("row") or one below the other ("column"), as dataset positions.

    `frame`: a frame of a video, shown as exactly one tile.
    """

    emoji: tuple[int, ...]
    layout: Literal["one", "row", "column"] = "one"
    frame: bool = False


@dataclass(frozen=True)
class Turn:
    """A question, its right answer, and the pictures in front of the question.

    `sought`: the emoji that the question names, as a dataset position, where it asks for that one's place; else None.
    """

    question: str
    answer: str
    pictures: tuple[Picture, ...] = ()
    sought: int | None = None


@dataclass(frozen=True)
class Conversation:
    """Turns of one task; `language` is that of the first answer."""

    task: str
    language: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Mixture:
    """How often what is drawn: a weight for each task, of any sum, and what the tasks leave open.

    `english`: the share of English among the languages of questions; the other fifteen share the rest equally.
    `mean_turns`: of `name_one`. `most_languages`: in one question of `name_many` (the least are 2) and `translate` (the least
    is 1). `longest`: the most emoji of a strip and frames of a video (the least are 2).
    """

    name_one: float = 20
    name_many: float = 40
    left_right: float = 8
    same_different: float = 4
    nth: float = 6
    strip: float = 8
    frames: float = 3
    translate: float = 8
    keywords: float = 1.5
    category: float = 1.5
    no_picture: float = 2
    english: float = 0.25
    mean_turns: float = 2.5
    most_languages: int = 16
    longest: int = 4

    def __post_init__(self) -> None:
        weights = self.weights()
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not sum(weights):
            raise InputError(f"The task weights are {weights}: none may be negative and one must be above 0.")
        many = 2 <= self.most_languages <= len(LANGUAGES) and self.longest >= 2
        if not (0 <= self.english <= 1 and 1 <= self.mean_turns <= len(LANGUAGES) / 2 and many):
            raise InputError(
                f"The mixture has english={self.english}, mean_turns={self.mean_turns}, "
                f"most_languages={self.most_languages}, longest={self.longest}: choose within 0 to 1, "
                f"1 to {len(LANGUAGES) // 2}, 2 to {len(LANGUAGES)}, and 2 or more."
            )

    def weights(self) -> list[float]:
        """The weights in the order of TASKS."""
        return [getattr(self, task) for task in TASKS]


def only(task: str, **others: float) -> Mixture:
    """A mixture of one task; `others` are the numbers that are no weights."""
    return Mixture(**{name: float(name == task) for name in TASKS}, **others)


def draw(rng: Random | np.random.Generator, dataset: Dataset, mixture: Mixture) -> Conversation:
    """One conversation of the mixture; equal states of `rng` give equal conversations.

    A numpy generator gives the seed of Python's, which is ten times as fast at one small draw after the other.
    """
    if isinstance(rng, np.random.Generator):
        rng = Random(int(rng.integers(1 << 62)))
    (task,) = rng.choices(tuple(TASKS), mixture.weights())
    return TASKS[task](rng, dataset.emoji, draw_language(rng, mixture.english), mixture)


def draw_language(rng: Random, english: float) -> str:
    """English as often as asked, every other language equally often."""
    return "en" if rng.random() < english else rng.choice(OTHERS)


def draw_another(rng: Random, emoji: Sequence[Emoji], among: Sequence[int], first: int) -> int:
    """Another `among` them than the first: half the time of the same subcategory, where there is one."""
    if rng.random() < 0.5:
        here = emoji[first].subcategory
        near = [number for number in among if emoji[number].subcategory == here and number != first]
        if near:
            return rng.choice(near)
    return among[(among.index(first) + rng.randrange(1, len(among))) % len(among)]


def messages(conversation: Conversation) -> list[dict[str, Any]]:
    """The conversation as `chat.encode` takes it; the image parts carry no picture yet (`fill_images`)."""
    written: list[dict[str, Any]] = []
    for turn in conversation.turns:
        images = [{"type": "image", "image": None} for _ in turn.pictures]
        written.append({"role": "user", "content": [*images, {"type": "text", "text": turn.question}]})
        written.append({"role": "assistant", "content": turn.answer})
    return written


def naming_question(language: str) -> str:
    """The language's plainest wording of "What is this?", for measuring."""
    return PROMPTS[language].questions["name"][0]


def ask(rng: Random, language: str, kind: str, /, **values: str) -> str:
    """One of the language's wordings of a question, filled in."""
    return rng.choice(PROMPTS[language].questions[kind]).format(**values)


def name_one(rng: Random, emoji: Sequence[Emoji], language: str, mixture: Mixture) -> Conversation:
    """One picture, named in one language after the other; each asks for itself, or another asks for it."""
    picture, names = _one_picture(rng, emoji)
    count = min(len(LANGUAGES), round(rng.uniform(0.5, 2 * mixture.mean_turns - 0.5)))  # 1 … 2 mean - 1, equally often
    wanted = [language]
    while len(wanted) < max(count, 1):
        other = draw_language(rng, mixture.english)
        wanted.append(other if other not in wanted else rng.choice([code for code in LANGUAGES if code not in wanted]))
    turns: list[Turn] = []
    for number, code in enumerate(wanted):
        turns.append(Turn(_ask_name(rng, code, later=number > 0), names[code], () if number else (picture,)))
    return Conversation("name_one", language, tuple(turns))


def same_picture(rng: Random, emoji: Sequence[Emoji], position: int, languages: Sequence[str]) -> list[Conversation]:
    """One tile of one emoji, named in each of some languages: conversations that all begin with the picture."""
    picture, names = Picture((position,), frame=True), emoji[position].names
    return [
        Conversation("name_one", code, (Turn(_ask_name(rng, code, later=False), names[code], (picture,)),))
        for code in languages
    ]


def name_many(rng: Random, emoji: Sequence[Emoji], language: str, mixture: Mixture) -> Conversation:
    """One picture, named in several languages in one answer, in the order they are asked for: 10 tokens a name, not 25."""
    picture, names = _one_picture(rng, emoji)
    wanted = rng.sample(tuple(LANGUAGES), rng.randint(2, mixture.most_languages))
    asking = draw_language(rng, 0.5)
    question = ask(rng, asking, "name_in", language=_languages(asking, wanted))
    answer = LINES.join(names[code] for code in wanted)
    return Conversation("name_many", wanted[0], (Turn(question, answer, (picture,)),))


def left_right(rng: Random, emoji: Sequence[Emoji], language: str, mixture: Mixture) -> Conversation:
    """Two emoji, in one image or in two: what is left, what is right, on which side is it; one to three of these."""
    two = tuple(rng.sample(range(len(emoji)), 2))
    pictures = (Picture(two, "row"),) if rng.random() < 0.5 else _apart(two)
    turns = []
    for kind in rng.sample(("left", "right", "side"), rng.randint(1, 3)):
        turns.append(ask_side(rng, emoji, language, two) if kind == "side" else ask_at(rng, emoji, language, two, kind))
    return _about("left_right", language, pictures, turns)


def same_different(rng: Random, emoji: Sequence[Emoji], language: str, mixture: Mixture) -> Conversation:
    """Two pictures of one emoji or of two, which half the time are of one subcategory; sometimes one is named as well."""
    first = rng.randrange(len(emoji))
    same = rng.random() < 0.5
    two = (first, first if same else draw_another(rng, emoji, range(len(emoji)), first))
    turns = [ask_same(rng, language, two)]
    if rng.random() < 0.3:
        turns.append(ask_nth(rng, emoji, language, two))
    return _about("same_different", language, _apart(two), turns)


def nth(rng: Random, emoji: Sequence[Emoji], language: str, mixture: Mixture) -> Conversation:
    """Two or three pictures: the name of the second, or which of them shows a name; one or two of these."""
    shown = tuple(rng.sample(range(len(emoji)), rng.randint(2, MOST_PICTURES)))
    turns = []
    for _ in range(rng.randint(1, 2)):
        turns.append((ask_nth if rng.random() < 0.5 else ask_which)(rng, emoji, language, shown))
    return _about("nth", language, _apart(shown), tuple(dict.fromkeys(turns)))


def strip(rng: Random, emoji: Sequence[Emoji], language: str, mixture: Mixture) -> Conversation:
    """A row or a column of emoji, listed in order; sometimes again in a second language."""
    shown = _several(rng, emoji, mixture)
    layout = rng.choice(("row", "column"))
    turns = _listed(rng, emoji, language, shown, layout, mixture)
    return _about("strip", language, (Picture(shown, layout),), turns)


def frames(rng: Random, emoji: Sequence[Emoji], language: str, mixture: Mixture) -> Conversation:
    """The frames of a video, one emoji each, listed in order; sometimes again in a second language."""
    shown = _several(rng, emoji, mixture)
    turns = _listed(rng, emoji, language, shown, "frames", mixture)
    return _about("frames", language, tuple(Picture((one,), frame=True) for one in shown), turns)


def translate(rng: Random, emoji: Sequence[Emoji], language: str, mixture: Mixture) -> Conversation:
    """A name wanted in other languages. Two times in three it is given in the question's language, else wanted in it.

    Half the time a single language is wanted, else up to `most_languages` in one answer.
    """
    names = rng.choice(emoji).names
    other = rng.choice([code for code in LANGUAGES if code != language])
    given, first = (language, other) if rng.random() < 2 / 3 else (other, language)
    rest = [code for code in LANGUAGES if code not in (given, first)]
    count = 0 if rng.random() < 0.5 else rng.randint(1, mixture.most_languages - 1)
    wanted = [first, *rng.sample(rest, min(count, len(rest)))]
    question = ask(rng, language, "translate", name=names[given], language=_languages(language, wanted))
    answer = LINES.join(names[code] for code in wanted)
    return Conversation("translate", first, (Turn(question, answer),))


def keywords(rng: Random, emoji: Sequence[Emoji], language: str, mixture: Mixture) -> Conversation:
    """Three keywords of an emoji that has three besides its name, in CLDR's order."""
    for _ in range(100):  # two in three have them in Thai, which has the fewest, so a hundred draws do not fail
        one = rng.choice(emoji)
        words = first_keywords(one, language)
        if len(words) == KEYWORDS:
            question = ask(rng, language, "keywords", name=one.names[language])
            return Conversation("keywords", language, (Turn(question, LINES.join(words)),))
    raise InputError(f"Hardly an emoji has {KEYWORDS} keywords in {LANGUAGES[language]}: build the data again.")


def category(rng: Random, emoji: Sequence[Emoji], language: str, mixture: Mixture) -> Conversation:
    """Which of Unicode's ten categories an emoji belongs to, in the question's language."""
    one = rng.choice(emoji)
    question = ask(rng, language, "category", name=one.names[language])
    return Conversation("category", language, (Turn(question, category_in(language, one)),))


def no_picture(rng: Random, emoji: Sequence[Emoji], language: str, mixture: Mixture) -> Conversation:
    """Any question about a picture without the picture; sometimes the picture comes after all."""
    kind = "name" if rng.random() < 0.3 else rng.choice(PICTURE_QUESTIONS)
    words = PROMPTS[language]
    values = {
        "name": rng.choice(emoji).names[language],
        "language": words.languages[draw_language(rng, mixture.english)],
        "ordinal": rng.choice(words.ordinals),
    }
    question = ask(rng, language, kind, **{key: values[key] for key in PLACEHOLDERS[kind]})
    turns = [Turn(question, words.no_picture)]
    if rng.random() < 0.3:
        picture, names = _one_picture(rng, emoji)
        turns.append(Turn(ask(rng, language, "name"), names[language], (picture,)))
    return Conversation("no_picture", language, tuple(turns))


def ask_at(rng: Random, emoji: Sequence[Emoji], language: str, two: Sequence[int], kind: str) -> Turn:
    """What is on the "left" or on the "right"?"""
    return Turn(ask(rng, language, kind), emoji[two[("left", "right").index(kind)]].names[language])


def ask_side(rng: Random, emoji: Sequence[Emoji], language: str, two: Sequence[int]) -> Turn:
    """On which side is one of the two?"""
    side, words = rng.randrange(2), PROMPTS[language]
    question = ask(rng, language, "side", name=emoji[two[side]].names[language])
    return Turn(question, (words.left, words.right)[side], sought=two[side])


def ask_same(rng: Random, language: str, two: Sequence[int]) -> Turn:
    """Are the two the same?"""
    words = PROMPTS[language]
    return Turn(ask(rng, language, "same"), words.same if two[0] == two[1] else words.different)


def ask_nth(rng: Random, emoji: Sequence[Emoji], language: str, shown: Sequence[int]) -> Turn:
    """What is the second picture?"""
    number = rng.randrange(len(shown))
    question = ask(rng, language, "nth", ordinal=PROMPTS[language].ordinals[number])
    return Turn(question, emoji[shown[number]].names[language])


def ask_which(rng: Random, emoji: Sequence[Emoji], language: str, shown: Sequence[int]) -> Turn:
    """Which picture shows the dog?"""
    number = rng.randrange(len(shown))
    question = ask(rng, language, "which", name=emoji[shown[number]].names[language])
    return Turn(question, PROMPTS[language].positions[number], sought=shown[number])


def ask_list(rng: Random, emoji: Sequence[Emoji], language: str, shown: Sequence[int], kind: str) -> Turn:
    """All that is shown, in order; `kind` is "row", "column" or "frames"."""
    return Turn(ask(rng, language, kind), LINES.join(emoji[one].names[language] for one in shown))


def first_keywords(one: Emoji, language: str) -> tuple[str, ...]:
    """Up to three keywords that differ from the name and from each other in more than capitals."""
    seen = {one.names[language].casefold()}
    found: list[str] = []
    for word in one.keywords[language]:
        if word.casefold() not in seen and len(found) < KEYWORDS:
            seen.add(word.casefold())
            found.append(word)
    return tuple(found)


def category_in(language: str, one: Emoji) -> str:
    """What a language calls an emoji's category. Raises InputError where Unicode has no such category."""
    categories = PROMPTS[language].categories
    if one.category not in categories:
        raise InputError(f'{one.emoji} is of the category "{one.category}", which Unicode lacks: build the data again.')
    return categories[one.category]


Task = Callable[[Random, Sequence[Emoji], str, Mixture], Conversation]
TASKS: dict[str, Task] = {
    task.__name__: task
    for task in (
        *(name_one, name_many, left_right, same_different, nth, strip, frames),
        *(translate, keywords, category, no_picture),
    )
}


def _one_picture(rng: Random, emoji: Sequence[Emoji]) -> tuple[Picture, dict[str, str]]:
    number = rng.randrange(len(emoji))
    return Picture((number,)), emoji[number].names


def _ask_name(rng: Random, code: str, later: bool) -> str:
    """Ask for the name in a language: half the time plainly in it, else by name, in English or in any language."""
    if rng.random() < 0.5:
        return ask(rng, code, "name")
    asking = draw_language(rng, 0.5)
    kind = "and_in" if later and rng.random() < 0.5 else "name_in"
    return ask(rng, asking, kind, language=PROMPTS[asking].languages[code])


def _languages(asking: str, wanted: Sequence[str]) -> str:
    """The wanted languages as the asking one lists them: "German, Hindi"."""
    return SEPARATOR.join(PROMPTS[asking].languages[code] for code in wanted)


def _several(rng: Random, emoji: Sequence[Emoji], mixture: Mixture) -> tuple[int, ...]:
    return tuple(rng.choices(range(len(emoji)), k=rng.randint(2, mixture.longest)))


def _listed(
    rng: Random, emoji: Sequence[Emoji], language: str, shown: Sequence[int], kind: str, mixture: Mixture
) -> list[Turn]:
    languages = [language]
    if rng.random() < 0.3:
        languages.append(draw_language(rng, mixture.english))
    return [ask_list(rng, emoji, code, shown, kind) for code in dict.fromkeys(languages)]


def _apart(shown: Sequence[int]) -> tuple[Picture, ...]:
    return tuple(Picture((one,)) for one in shown)


def _about(task: str, language: str, pictures: tuple[Picture, ...], turns: Sequence[Turn]) -> Conversation:
    """The pictures stand in front of the first question; the later ones are about them too."""
    first, *later = turns
    return Conversation(task, language, (Turn(first.question, first.answer, pictures), *later))
