"""Reads a conversation as a person would: what does the question mean, what do the pictures show, so what is the answer?

Nothing of how the conversation was drawn is used. Every question that asks for one language at most is written out once for the
thirteen emoji, with its meaning; one that lists languages is taken apart. Two meanings of one text are an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product

from task_emoji import EMOJI

from llama4.train.prompts import PROMPTS
from llama4.train.tasks import Conversation, Picture


@dataclass(frozen=True)
class Meaning:
    """The language asked in, the kind of question, and what was filled in: a name, languages' codes, a picture's number."""

    language: str
    kind: str
    name: str
    wanted: tuple[str, ...]
    number: int


ALL_NAMES = sorted({name for one in EMOJI for name in one.names.values()})


def possible(language: str, kind: str, text: str) -> Iterator[tuple[str, Meaning]]:
    """A wording with everything that may stand in it, and what that means."""
    words = PROMPTS[language]
    names = [""]
    if "{name}" in text:
        names = ALL_NAMES if "{language}" in text else [one.names[language] for one in EMOJI]
    languages = list(words.languages.items()) if "{language}" in text else [("", "")]
    ordinals = list(enumerate(words.ordinals)) if "{ordinal}" in text else [(-1, "")]
    for name, (code, spoken), (number, ordinal) in product(names, languages, ordinals):
        question = text.format(name=name, language=spoken, ordinal=ordinal)
        yield question, Meaning(language, kind, name, (code,) if code else (), number)


@cache
def meanings() -> dict[str, Meaning]:
    """Every question that lists no languages, and its one meaning."""
    found: dict[str, Meaning] = {}
    for language, words in PROMPTS.items():
        for kind, texts in words.questions.items():
            for question, means in (pair for text in texts for pair in possible(language, kind, text)):
                assert found.setdefault(question, means) == means, question
    return found


@cache
def patterns() -> list[tuple[str, str, re.Pattern[str]]]:
    """The wordings that may list languages, as (language, kind, pattern)."""
    return [
        (language, kind, re.compile(re.escape(text).replace(r"\{", "(?P<").replace(r"\}", ">.+)")))
        for language, words in PROMPTS.items()
        for kind, texts in words.questions.items()
        for text in texts
        if "{language}" in text
    ]


@cache
def meaning(question: str) -> Meaning:
    """The one thing that a question can mean."""
    if question in meanings():
        return meanings()[question]
    found = set()
    for language, kind, pattern in patterns():
        if match := pattern.fullmatch(question):
            codes = {spoken: code for code, spoken in PROMPTS[language].languages.items()}
            spoken = match["language"].split(", ")
            name = match.groupdict().get("name", "")
            if set(spoken) <= set(codes) and name in ("", *ALL_NAMES):
                found.add(Meaning(language, kind, name, tuple(codes[one] for one in spoken), -1))
    (only,) = found
    return only


def right_answers(conversation: Conversation) -> list[str]:
    """The only right answer to each question."""
    shown: tuple[Picture, ...] = ()
    answers = []
    for turn in conversation.turns:
        shown += turn.pictures
        answers.append(right_answer(shown, meaning(turn.question)))
    return answers


def right_answer(shown: tuple[Picture, ...], asked: Meaning) -> str:
    """The answer to one question about the pictures seen so far; asserts that they are such as it asks about."""
    language, words = asked.language, PROMPTS[asked.language]
    if asked.kind in ("translate", "keywords", "category"):
        return text_answer(asked)
    if not shown:
        return words.no_picture
    seen = [EMOJI[number] for picture in shown for number in picture.emoji]
    names = [one.names[language] for one in seen]
    apart = all(picture.layout == "one" and len(picture.emoji) == 1 for picture in shown)
    match asked.kind:
        case "name" | "name_in" | "and_in":
            assert len(seen) == 1 and apart
            return "\n".join(seen[0].names[code] for code in asked.wanted or (language,))
        case "left" | "right" | "side":
            assert len(seen) == 2 and (apart or [picture.layout for picture in shown] == ["row"])
            if asked.kind != "side":
                return names[asked.kind == "right"]
            assert names.count(asked.name) == 1
            return (words.left, words.right)[names.index(asked.name)]
        case "same":
            assert len(seen) == 2 and apart
            return words.same if seen[0] == seen[1] else words.different
        case "nth":
            assert apart
            return names[asked.number]
        case "which":
            assert apart and names.count(asked.name) == 1
            return words.positions[names.index(asked.name)]
        case "frames":
            assert apart and all(picture.frame for picture in shown)
        case "row" | "column":
            assert [(picture.layout, picture.frame) for picture in shown] == [(asked.kind, False)]
    return "\n".join(names)


def text_answer(asked: Meaning) -> str:
    """The answer to a question about a name, which is in the question's language, or in another if that one is wanted."""
    (one,) = (
        one
        for one in EMOJI
        if asked.name == one.names[asked.language]
        or (asked.language in asked.wanted and asked.name in one.names.values())
    )
    if asked.kind == "translate":
        return "\n".join(one.names[code] for code in asked.wanted)
    if asked.kind == "category":
        return PROMPTS[asked.language].categories[one.category]
    keywords = one.keywords[asked.language]
    others = {word.casefold(): word for word in reversed(keywords)}  # of equal ones the first
    others.pop(asked.name.casefold(), None)
    return "\n".join(sorted(others.values(), key=keywords.index)[:3])
