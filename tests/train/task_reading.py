"""Reads a conversation as a person would: what does the question mean, what do the pictures show, so what is the answer?

Nothing of how the conversation was drawn is used. Every question that can be asked about the thirteen emoji is written out once,
with its meaning; two meanings of one text are an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product

from task_emoji import EMOJI

from llama4.train.prompts import PROMPTS
from llama4.train.tasks import Conversation, Picture

# The language asked in, the kind of question, and what was filled in: a name, a language's code, the number of a picture.
Meaning = tuple[str, str, dict[str, str | int]]
ALL_NAMES = sorted({name for one in EMOJI for name in one.names.values()})


def possible(language: str, text: str) -> Iterator[tuple[str, dict[str, str | int]]]:
    """A wording with everything that may stand in it, and what that says."""
    words = PROMPTS[language]
    names: list[str | None] = [None]
    if "{name}" in text:
        names = list(ALL_NAMES) if "{language}" in text else [one.names[language] for one in EMOJI]
    languages = list(words.languages.items()) if "{language}" in text else [("", "")]
    ordinals = list(enumerate(words.ordinals)) if "{ordinal}" in text else [(-1, "")]
    for name, (code, spoken), (number, ordinal) in product(names, languages, ordinals):
        yield (
            text.format(name=name, language=spoken, ordinal=ordinal),
            {"name": name or "", "language": code, "number": number},
        )


@cache
def meanings() -> dict[str, Meaning]:
    """Every question, and its one meaning."""
    found: dict[str, Meaning] = {}
    for language, words in PROMPTS.items():
        for kind, texts in words.questions.items():
            for question, values in (pair for text in texts for pair in possible(language, text)):
                assert found.setdefault(question, (language, kind, values)) == (language, kind, values), question
    return found


def right_answers(conversation: Conversation) -> list[str]:
    """The only right answer to each question."""
    shown: tuple[Picture, ...] = ()
    answers = []
    for turn in conversation.turns:
        shown += turn.pictures
        answers.append(right_answer(shown, *meanings()[turn.question]))
    return answers


def right_answer(shown: tuple[Picture, ...], language: str, kind: str, values: dict[str, str | int]) -> str:
    """The answer to one question about the pictures seen so far; asserts that they are such as it asks about."""
    words = PROMPTS[language]
    if kind in ("translate", "keywords", "category"):
        return text_answer(language, kind, values)
    if not shown:
        return words.no_picture
    seen = [EMOJI[number] for picture in shown for number in picture.emoji]
    names = [one.names[language] for one in seen]
    apart = all(picture.layout == "one" and len(picture.emoji) == 1 for picture in shown)
    match kind:
        case "name" | "name_in" | "and_in":
            assert len(seen) == 1 and apart
            return seen[0].names[str(values["language"]) or language]
        case "left" | "right" | "side":
            assert len(seen) == 2 and (apart or [picture.layout for picture in shown] == ["row"])
            if kind != "side":
                return names[kind == "right"]
            assert names.count(str(values["name"])) == 1
            return (words.left, words.right)[names.index(str(values["name"]))]
        case "same":
            assert len(seen) == 2 and apart
            return words.same if seen[0] == seen[1] else words.different
        case "nth":
            assert apart
            return names[int(values["number"])]
        case "which":
            assert apart and names.count(str(values["name"])) == 1
            return words.positions[names.index(str(values["name"]))]
        case "frames":
            assert apart and all(picture.frame for picture in shown)
        case "row" | "column":
            assert [(picture.layout, picture.frame) for picture in shown] == [(kind, False)]
    return ", ".join(names)


def text_answer(language: str, kind: str, values: dict[str, str | int]) -> str:
    """The answer to a question about a name."""
    wanted = str(values["language"])
    sources = {
        position
        for position, one in enumerate(EMOJI)
        for code, name in one.names.items()
        if name == values["name"] and (code == language or wanted == language)
    }
    (position,) = sources
    one = EMOJI[position]
    if kind == "translate":
        return one.names[wanted]
    if kind == "category":
        return PROMPTS[language].categories[one.category]
    others = {word.casefold(): word for word in reversed(one.keywords[language])}  # of equal ones the first
    others.pop(one.names[language].casefold(), None)
    return ", ".join(sorted(others.values(), key=one.keywords[language].index)[:3])
