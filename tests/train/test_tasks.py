"""Pins the tasks: every answer is what an independent reading of question and pictures gives, two-way answers are balanced,
every language has every task, equal states draw equal conversations, and the chat format takes them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image
from task_emoji import DATASET, EMOJI
from task_reading import meaning, right_answers

import llama4
from llama4.config import Config
from llama4.errors import InputError
from llama4.messages import fill_images
from llama4.tokenizer import Tokenizer
from llama4.train.emoji.dataset import LANGUAGES
from llama4.train.prompts import PLACEHOLDERS, PROMPTS
from llama4.train.tasks import (
    TASKS,
    TEXT_ONLY,
    Conversation,
    Mixture,
    Picture,
    Turn,
    draw,
    draw_language,
    first_keywords,
    messages,
    naming_question,
    only,
    same_different,
)

EVERY_TASK = pytest.mark.parametrize("task", TASKS)
TINY = Path(llama4.__file__).parent / "assets" / "tiny"


def several(task: str, count: int, language: str = "", **settings: float) -> list[Conversation]:
    """Conversations of one task, in one language or in all in turn."""
    rng = Random(20250405)
    codes = [language] if language else list(LANGUAGES)
    mixture = Mixture(**settings)
    return [TASKS[task](rng, EMOJI, codes[number % len(codes)], mixture) for number in range(count)]


def assert_even(ones: int, count: int, share: float = 0.5) -> None:
    """Within four standard deviations of the binomial distribution: one seed in 16000 fails."""
    assert count > 400
    assert abs(ones - share * count) <= 4 * math.sqrt(count * share * (1 - share)), (ones, count)


@EVERY_TASK
def test_answers_are_what_the_pictures_show(task: str) -> None:
    for conversation in several(task, 1200):
        assert [turn.answer for turn in conversation.turns] == right_answers(conversation), conversation


@EVERY_TASK
def test_every_language_has_every_task(task: str) -> None:
    kinds = {
        "name_one": ("name", "name_in", "and_in"),
        "name_many": ("name_in",),
        "left_right": ("left", "right", "side"),
        "same_different": ("same",),
        "strip": ("row", "column"),
        "nth": ("nth", "which"),
        "no_picture": tuple(kind for kind in PLACEHOLDERS if kind not in (*TEXT_ONLY, "and_in")),
    }.get(task, (task,))
    texts: dict[tuple[str, str], set[str]] = {}
    for conversation in several(task, 3200):
        assert conversation.task == task
        for turn in conversation.turns:
            asked = meaning(turn.question)
            texts.setdefault((asked.language, asked.kind), set()).add(turn.question)
    assert set(texts) >= {(language, kind) for language in LANGUAGES for kind in kinds}
    for (language, kind), found in texts.items():
        if kind in kinds and not PLACEHOLDERS[kind] and task in ("same_different", "strip", "frames"):
            assert found == set(PROMPTS[language].questions[kind])


@EVERY_TASK
def test_nothing_is_asked_twice(task: str) -> None:
    for conversation in several(task, 600):
        shown = accumulate(turn.pictures for turn in conversation.turns)
        asked = [(turn.question, pictures) for turn, pictures in zip(conversation.turns, shown, strict=True)]
        assert len(set(asked)) == len(asked)


def test_two_way_answers_are_balanced() -> None:
    sides = [
        turn.answer
        for conversation in several("left_right", 3000, "de")
        for turn in conversation.turns
        if meaning(turn.question).kind == "side"
    ]
    assert set(sides) == {"links", "rechts"}
    assert_even(sides.count("links"), len(sides))
    sameness = [conversation.turns[0].answer for conversation in several("same_different", 3000, "en")]
    assert_even(sameness.count("same"), len(sameness))


def test_two_different_emoji_are_close_half_the_time() -> None:
    emoji = [replace(EMOJI[0], code=str(number), subcategory=f"kind {number % 4}") for number in range(40)]
    rng = Random(8)
    pairs = []
    for _ in range(4000):
        one, other = (picture.emoji[0] for picture in same_different(rng, emoji, "en", Mixture()).turns[0].pictures)
        if one != other:
            pairs.append(one % 4 == other % 4)
    assert_even(sum(pairs), len(pairs), 0.5 + 0.5 * 9 / 39)


def test_an_emoji_alone_in_its_subcategory_still_has_another_beside_it() -> None:
    pairs = [conversation.turns[0].pictures for conversation in several("same_different", 400)]
    shown = {frozenset(picture.emoji[0] for picture in pictures) for pictures in pairs}
    assert {len(two) for two in shown} == {1, 2} and set().union(*shown) == set(range(len(EMOJI)))


def test_two_emoji_come_in_one_image_and_in_two() -> None:
    layouts = [
        tuple(picture.layout for picture in conversation.turns[0].pictures)
        for conversation in several("left_right", 2000)
    ]
    assert set(layouts) == {("row",), ("one", "one")}
    assert_even(layouts.count(("row",)), len(layouts))


def test_sizes_stay_within_the_mixture() -> None:
    strips = Counter(
        (len(conversation.turns[0].pictures[0].emoji), conversation.turns[0].pictures[0].layout)
        for conversation in several("strip", 1000, longest=5)
    )
    assert set(strips) == {(size, layout) for size in (2, 3, 4, 5) for layout in ("row", "column")}
    videos = Counter(len(conversation.turns[0].pictures) for conversation in several("frames", 500, longest=3))
    assert set(videos) == {2, 3}
    pictures = Counter(len(conversation.turns[0].pictures) for conversation in several("nth", 500))
    assert set(pictures) == {2, 3}


def test_one_picture_is_named_in_several_languages_each_once() -> None:
    lengths = []
    for conversation in several("name_one", 2000, mean_turns=4):
        spoken = [turn.answer for turn in conversation.turns]
        one = EMOJI[conversation.turns[0].pictures[0].emoji[0]]
        assert spoken[0] == one.names[conversation.language]
        assert not Counter(spoken) - Counter(one.names.values())
        assert not any(turn.pictures for turn in conversation.turns[1:])
        lengths.append(len(spoken))
    assert set(lengths) == set(range(1, 8))
    assert abs(sum(lengths) / len(lengths) - 4) < 4 * 2 / math.sqrt(2000)  # 1 … 7, evenly, have a deviation of 2
    assert {len(conversation.turns) for conversation in several("name_one", 100, mean_turns=1)} == {1}


def test_one_answer_names_a_picture_in_the_languages_asked_for() -> None:
    counts = Counter()
    for conversation in several("name_many", 1000, most_languages=5):
        (turn,) = conversation.turns
        wanted = meaning(turn.question).wanted
        assert len(set(wanted)) == len(wanted) and conversation.language == wanted[0]
        counts[len(wanted)] += 1
    assert set(counts) == {2, 3, 4, 5}


def test_half_the_translations_are_into_one_language() -> None:
    counts = []
    for conversation in several("translate", 2000, most_languages=4):
        asked = meaning(conversation.turns[0].question)
        assert len(set(asked.wanted)) == len(asked.wanted) and conversation.language == asked.wanted[0]
        counts.append(len(asked.wanted))
    assert set(counts) == {1, 2, 3, 4}
    assert_even(counts.count(1), len(counts))


def test_questions_without_a_picture_are_told_so_and_answered_when_it_comes() -> None:
    for conversation in several("no_picture", 500):
        first, *later = conversation.turns
        assert not first.pictures and first.answer == PROMPTS[conversation.language].no_picture
        assert all(turn.pictures for turn in later) and len(later) <= 1
    assert {len(conversation.turns) for conversation in several("no_picture", 100)} == {1, 2}


def test_keywords_leave_out_the_name_and_repeats() -> None:
    one = replace(EMOJI[0], names={"de": "Ampel"}, keywords={"de": ("ampel", "Licht", "licht", "rot", "Stopp", "Weg")})
    assert first_keywords(one, "de") == ("Licht", "rot", "Stopp")
    assert first_keywords(replace(one, keywords={"de": ("Ampel", "rot")}), "de") == ("rot",)


def test_keywords_that_are_nowhere_are_one_clear_sentence() -> None:
    bare = [replace(one, keywords=dict.fromkeys(LANGUAGES, ())) for one in EMOJI]
    with pytest.raises(InputError, match="3 keywords in Thai"):
        TASKS["keywords"](Random(1), bare, "th", Mixture())


def test_a_category_that_unicode_lacks_is_one_clear_sentence() -> None:
    strange = replace(DATASET, emoji=tuple(replace(one, category="Robots") for one in EMOJI))
    with pytest.raises(InputError, match='category "Robots", which Unicode lacks: build the data again'):
        draw(Random(0), strange, only("category"))


def test_the_mixture_says_how_often() -> None:
    rng = Random(3)
    mixture = Mixture(**dict.fromkeys(TASKS, 0) | {"strip": 3, "category": 1}, english=0.4)
    drawn = [draw(rng, DATASET, mixture) for _ in range(4000)]
    tasks = [conversation.task for conversation in drawn]
    assert set(tasks) == {"strip", "category"}
    assert_even(tasks.count("strip"), len(tasks), 0.75)
    languages = Counter(conversation.language for conversation in drawn)
    assert_even(languages["en"], len(drawn), 0.4)
    for language in LANGUAGES.keys() - {"en"}:
        assert_even(languages[language], len(drawn), 0.6 / 15)
    assert {draw_language(rng, 1) for _ in range(50)} == {"en"} and "en" not in {
        draw_language(rng, 0) for _ in range(50)
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"strip": -1}, "task weights"),
        ({"strip": math.nan}, "task weights"),
        (dict.fromkeys(TASKS, 0), "task weights"),
        ({"english": 1.1}, "english=1.1"),
        ({"mean_turns": 0.5}, "mean_turns=0.5"),
        ({"longest": 1}, "longest=1"),
        ({"most_languages": 17}, "most_languages=17"),
    ],
)
def test_a_mixture_that_cannot_be_drawn_from_is_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Mixture(**wrong)


@pytest.mark.parametrize("generator", [Random, np.random.default_rng])
def test_equal_states_draw_equal_conversations(generator: type[Random]) -> None:
    first, second, other = generator(5), generator(5), generator(6)
    drawn = [draw(first, DATASET, Mixture()) for _ in range(300)]
    assert drawn == [draw(second, DATASET, Mixture()) for _ in range(300)]
    assert drawn != [draw(other, DATASET, Mixture()) for _ in range(300)]
    assert len(set(drawn)) > 290


def test_the_chat_format_takes_every_conversation() -> None:
    config, tokenizer = Config.from_dir(TINY), Tokenizer.from_file(TINY)
    rng = Random(11)
    for task in TASKS:
        conversation = TASKS[task](rng, EMOJI, rng.choice(list(LANGUAGES)), Mixture())
        count = sum(len(turn.pictures) for turn in conversation.turns)
        filled = fill_images(messages(conversation), [Image.new("RGB", (8, 8))] * count)
        prompt = llama4.chat.encode(tokenizer, filled, config.vision, add_generation_prompt=False)
        text = tokenizer.decode(prompt.ids)
        position = 0
        for turn in conversation.turns:
            header = "<|header_start|>assistant<|header_end|>\n\n"
            position = text.index(f"{turn.question}<|eot|>{header}{turn.answer}<|eot|>", position)
        assert text.count("<|image_start|>") == count


def test_messages_put_the_pictures_before_the_question() -> None:
    conversation = Conversation("nth", "en", (Turn("Q?", "A", (Picture((1,)), Picture((2,)))), Turn("R?", "B")))
    image = {"type": "image", "image": None}
    assert messages(conversation) == [
        {"role": "user", "content": [image, image, {"type": "text", "text": "Q?"}]},
        {"role": "assistant", "content": "A"},
        {"role": "user", "content": [{"type": "text", "text": "R?"}]},
        {"role": "assistant", "content": "B"},
    ]


def test_the_naming_question_is_one_of_the_trained_wordings() -> None:
    asked = [meaning(naming_question(language)) for language in LANGUAGES]
    assert [(one.language, one.kind) for one in asked] == [(language, "name") for language in LANGUAGES]
    assert naming_question("en") == "What is this?"
