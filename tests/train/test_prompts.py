"""Pins the wordings: every language asks everything, each text fills in without a remainder, none is taken for another."""

from __future__ import annotations

import string
import unicodedata
from collections import Counter
from itertools import chain

import pytest
from task_emoji import EMOJI

from llama4.train.emoji.dataset import LANGUAGES
from llama4.train.prompts import PLACEHOLDERS, PROMPTS

CATEGORIES = {one.category for one in EMOJI}
EVERY_LANGUAGE = pytest.mark.parametrize("language", LANGUAGES)
# Letters that a text of the language must have: a wording put under the wrong language is found.
SCRIPTS = {
    **{"ar": ("ARABIC",), "zh": ("CJK",), "hi": ("DEVANAGARI",), "ja": ("HIRAGANA", "KATAKANA", "CJK")},
    **{"ko": ("HANGUL",), "ru": ("CYRILLIC",), "th": ("THAI",)},
}


def script_of(text: str) -> Counter[str]:
    """How many letters each script has in a text."""
    return Counter(unicodedata.name(letter).split(" ")[0] for letter in text if letter.isalpha())


def placeholders(text: str) -> tuple[str, ...]:
    """Names of the braces of a text."""
    return tuple(field for _, field, _, _ in string.Formatter().parse(text) if field is not None)


def test_the_languages_are_those_of_the_data_in_their_order() -> None:
    assert list(PROMPTS) == list(LANGUAGES)


@EVERY_LANGUAGE
def test_everything_can_be_asked_in_several_ways(language: str) -> None:
    questions = PROMPTS[language].questions
    assert list(questions) == list(PLACEHOLDERS)
    least = {kind: 2 for kind in PLACEHOLDERS} | {"name": 8 if language == "en" else 4, "and_in": 1}
    for kind, texts in questions.items():
        assert len(set(texts)) == len(texts) >= least[kind], kind


@EVERY_LANGUAGE
def test_each_wording_leaves_open_what_its_kind_does(language: str) -> None:
    for kind, texts in PROMPTS[language].questions.items():
        for text in texts:
            assert sorted(placeholders(text)) == sorted(PLACEHOLDERS[kind]), text


@EVERY_LANGUAGE
def test_every_wording_takes_every_name(language: str) -> None:
    words = PROMPTS[language]
    for text in chain.from_iterable(words.questions.values()):
        for one in EMOJI:
            for asked_for in words.languages.values():
                name = one.names[language]
                filled = text.format(name=name, language=asked_for, ordinal=words.ordinals[1])
                assert "{" not in filled and "}" not in filled and "  " not in filled and filled == filled.strip()
                assert name in filled or "{name}" not in text


@EVERY_LANGUAGE
def test_fixed_words_are_there_and_differ(language: str) -> None:
    words = PROMPTS[language]
    assert set(words.languages) == set(LANGUAGES) and set(words.categories) == CATEGORIES and len(CATEGORIES) == 10
    assert len(words.ordinals) == len(words.positions) == 3
    for several in (words.languages.values(), words.categories.values(), words.ordinals, words.positions):
        assert len(set(several)) == len(several) and all(several)
    single = (words.left, words.right, words.same, words.different, words.no_picture)
    assert len(set(single)) == 5 and all(single)


@EVERY_LANGUAGE
def test_texts_are_in_their_own_script_and_normal_form(language: str) -> None:
    """A borrowed word is let through ("emoji"), a sentence of another language is not."""
    words = PROMPTS[language]
    questions = [
        text.format(name="", language="", ordinal="") for text in chain.from_iterable(words.questions.values())
    ]
    fixed = [words.left, words.right, words.same, words.different, words.no_picture, *words.categories.values()]
    for text in (*questions, *fixed, *words.languages.values(), *words.ordinals, *words.positions):
        assert unicodedata.is_normalized("NFC", text), text
        scripts = script_of(text)
        assert sum(scripts[name] for name in SCRIPTS.get(language, ("LATIN",))) >= 0.8 * scripts.total(), text


def test_no_two_kinds_share_a_wording_in_any_language() -> None:
    """A question that means two things, or the same in two languages, would have two right answers."""
    kinds = [
        (text, kind, language)
        for language, words in PROMPTS.items()
        for kind, texts in words.questions.items()
        for text in texts
    ]
    several = {text for text, count in Counter(text for text, _, _ in kinds).items() if count > 1}
    assert not several


def test_names_stand_in_quotation_marks_or_behind_a_colon_outside_english() -> None:
    """No article and no ending fits every name."""
    pairs = ('""', "“”", "„“", "«»", "「」")
    for language, words in PROMPTS.items():
        for text in chain.from_iterable(words.questions.values()):
            if "{name}" in text and language != "en":
                before, after = text.split("{name}")
                assert before.strip()[-1:] + after.strip()[:1] in pairs or before.endswith(": "), text
