"""Pins the questions of `llama4 eval` and how answers are judged: the scorers' strictness, Wilson's interval, what strips, pairs
and frames show, balance and seeds, and that models which are right, wrong or blind in known ways get the figures they deserve."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from emoji_fixtures import NAMES, FakeLLM, write_dataset
from PIL import Image

from llama4.errors import InputError
from llama4.evaluation import scenes, suites, swapping, wordings
from llama4.evaluation.asking import ROWS, WINDOW, Question, answers
from llama4.evaluation.augmenting import augmented
from llama4.evaluation.drawings import Drawings, drawings, on_white, resized, strip
from llama4.evaluation.intervals import wilson
from llama4.evaluation.report import rows_of
from llama4.evaluation.running import SCENES, questions_of
from llama4.evaluation.scoring import chosen, exact, listed, some_of
from llama4.evaluation.wordings import NAMING
from llama4.train.emoji.dataset import LANGUAGES, Dataset, open_dataset
from llama4.train.prompts import PROMPTS


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write_dataset(tmp_path_factory.mktemp("emoji")))


@pytest.fixture(scope="module")
def drawn(dataset: Dataset) -> Drawings:
    return drawings(dataset, "twemoji")


def pixels(picture: Image.Image) -> bytes:
    return picture.convert("RGB").tobytes()


def pictures_of(question: Question) -> list[Image.Image]:
    parts = question.content
    video = [frame for part in parts if part["type"] == "video" for frame in part["video"]]
    return video + [part["image"] for part in parts if part["type"] == "image"]


def text_of(question: Question) -> str:
    return question.content[-1]["text"]


# intervals and scorers


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),  # the usual worked examples of the interval
    [(50, 100, 0.4038, 0.5962), (10, 10, 0.7225, 1.0), (0, 10, 0.0, 0.2775), (1, 3, 0.0615, 0.7923)],
)
def test_wilson(hits: int, n: int, low: float, high: float) -> None:
    assert wilson(hits, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("hits", "n"), [(1, 7), (951, 1585), (399, 400), (1, 1)])
def test_wilsons_ends_are_where_the_share_is_just_believable(hits: int, n: int) -> None:
    """Its definition: the shares x from which hits / n lies 1.96 standard errors away, the errors being x's own."""
    for end in wilson(hits, n):
        assert abs(hits / n - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / n), abs=1e-6)


@pytest.mark.parametrize(("hits", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_what_is_no_share(hits: int, n: int) -> None:
    with pytest.raises(InputError, match=r"are no share"):
        wilson(hits, n)


def test_exact_forgives_white_space_only() -> None:
    assert exact(" dog face\n", "dog face")
    for other in ("Dog face", "dog face.", "a dog face", "dog", "", "dog  face", "dog face, pizza"):
        assert not exact(other, "dog face"), other


def test_listed_wants_every_name_in_order_and_nothing_else() -> None:
    names = ["dog face", "Japanese “here” button", "A, B & C (x)"]
    for joined in (", ", "; ", "\n", " and ", ", and ", "، ", "、"):
        assert listed(joined.join(names), names), joined
    assert listed(", ".join(names) + ".\n", names)
    for wrong in (
        ", ".join(names[::-1]),
        ", ".join(names[:2]),
        ", ".join([*names, "key"]),
        " ".join(names),
        "I see " + ", ".join(names),
        ", ".join(names).replace("dog", "dogs"),
        ", ".join(names).replace("(x)", "x"),
        "",
    ):
        assert not listed(wrong, names), wrong


def test_some_of_wants_so_many_different_ones_and_nothing_else() -> None:
    words = ["pet", "dog", "face", "salt shaker"]
    assert some_of("dog\npet\n...", [*words, "..."], 3)  # a keyword, not a full stop
    for right in ("dog, pet, face", "face\nsalt shaker\ndog", "pet; dog and face.", " pet、dog、face "):
        assert some_of(right, words, 3), right
    for wrong in (
        "dog, pet",
        "dog, pet, face, salt shaker",
        "dog, dog, pet",
        "dog, pet, cat",
        "dog pet face",
        "",
        "Dog, pet, face",
    ):
        assert not some_of(wrong, words, 3), wrong


def test_chosen_wants_exactly_one_whole_word() -> None:
    sides = ("left", "right")
    assert chosen("It is on the LEFT.", sides) == "left" and chosen("right", sides) == "right"
    for neither in ("left or right", "leftover", "bright", "", "yes"):
        assert chosen(neither, sides) is None, neither


# wordings


def test_wordings_are_the_trainers_first() -> None:
    english = PROMPTS["en"]
    assert {language: prompts.questions["name"][0] for language, prompts in PROMPTS.items()} == wordings.NAMING
    assert len(set(wordings.NAMING.values())) == 16  # else nobody could tell which language is asked for
    first = (english.questions[task][0] for task in ("row", "side", "same", "nth", "frames", "translate"))
    text = (english.questions[task][0] for task in ("keywords", "category"))
    assert tuple(text) == (wordings.KEYWORDS, wordings.CATEGORY)
    ours = (wordings.STRIP, wordings.SIDE, wordings.SAME, wordings.NTH, wordings.FRAMES, wordings.TRANSLATE)
    assert tuple(first) == ours
    assert (english.left, english.right) == wordings.SIDES and (english.same, english.different) == wordings.SAMENESS
    assert tuple(english.ordinals) == wordings.ORDINALS


# pictures


def test_a_picture_is_laid_on_white_and_then_resized() -> None:
    half = Image.new("RGBA", (2, 2), (0, 0, 0, 128))
    half.putpixel((0, 0), (10, 20, 30, 0))
    half.putpixel((1, 0), (10, 20, 30, 255))
    flat = on_white(half)
    assert flat.mode == "RGB"
    assert [flat.getpixel(place) for place in ((0, 0), (1, 0), (0, 1))] == [(255,) * 3, (10, 20, 30), (127,) * 3]
    assert resized(flat, 2) is flat
    assert pixels(resized(flat, 5)) == pixels(flat.resize((5, 5), Image.Resampling.LANCZOS))


def test_a_drawing_is_laid_on_white_at_its_own_size(drawn: Drawings) -> None:
    """Resizing first would mix the colours under the transparent pixels into the edges."""
    flat = on_white(drawn.artist.picture(0))
    assert pixels(drawn.picture(0, 160)) == pixels(flat.resize((160, 160), Image.Resampling.LANCZOS))


def test_names_are_asked_at_every_size(drawn: Drawings) -> None:
    asked = list(suites.names(drawn))
    assert len(asked) == len(suites.SIZES) * len(NAMES) == 28
    for number, question in enumerate(asked):
        size, position = suites.SIZES[number // 7], number % 7
        [picture] = pictures_of(question)
        assert picture.size == (size, size) and question.row == f"{size} px" and text_of(question) == "What is this?"
        assert question.expected == drawn.name(position) and question.right(f"{question.expected}\n")
        assert pixels(picture) == pixels(drawn.picture(position, size))


def test_positions_follow_the_artists_index(dataset: Dataset) -> None:
    noto = drawings(dataset, "noto")
    assert [noto.name(position) for position in range(5)] == ["pizza", "guitar", "airplane", "red apple", "dog face"]
    assert noto.picture(0).size == (64, 64)  # from 32 px


def test_a_limit_draws_the_same_few_of_all(drawn: Drawings) -> None:
    first = [question.expected for question in suites.names(drawn, 3)]
    assert len(first) == 12 and first == [question.expected for question in suites.names(drawn, 3)]
    assert first[:3] == first[3:6] and len(set(first[:3])) == 3
    assert len(list(suites.names(drawn, 99))) == 28


def test_languages_are_asked_and_answered_in_themselves(drawn: Drawings) -> None:
    asked = list(suites.languages(drawn))
    assert list(NAMING) == list(LANGUAGES) and len(asked) == 16 * 7
    for number, question in enumerate(asked):
        language = list(LANGUAGES)[number // 7]
        assert question.row == LANGUAGES[language] and text_of(question) == NAMING[language]
        assert question.expected == drawn.shown(number % 7).names[language]


def test_trained_artists_are_seen_through_the_given_augmentation(dataset: Dataset) -> None:
    seen: list[tuple[str, int]] = []

    def augment(data: Dataset, artist: str, position: int, rng: np.random.Generator) -> Image.Image:
        seen.append((artist, position))
        return Image.new("RGB", (64, 64), (int(rng.integers(256)), position, 0))

    asked = list(suites.trained(dataset, ["noto"], augment, 3))
    assert len(asked) == 3 and [artist for artist, _ in seen] == ["noto"] * 3
    for question, (_, position) in zip(asked, seen, strict=True):
        assert question.row == "noto" and question.expected == drawings(dataset, "noto").name(position)
        assert pictures_of(question)[0].getpixel((0, 0))[1] == position
    fewer = list(suites.trained(dataset, ["noto"], augment, 2))
    assert [pixels(pictures_of(q)[0]) for q in fewer] == [pixels(pictures_of(q)[0]) for q in asked[:2]]


def test_the_trainers_augmentation_gives_fresh_repeatable_views(dataset: Dataset) -> None:
    rng = np.random.default_rng(3)
    views = [augmented(dataset, "noto", 0, rng) for _ in range(2)]
    assert all(view.mode == "RGB" and view.size == (64, 64) for view in views)
    assert pixels(views[0]) != pixels(views[1])
    assert pixels(augmented(dataset, "noto", 0, np.random.default_rng(3))) == pixels(views[0])
    assert np.std(np.asarray(views[0], dtype=float)) > 5  # a drawing, not a plain ground


# scenes


def cells(picture: Image.Image) -> list[bytes]:
    return [pixels(picture.crop((x, 0, x + 64, 64))) for x in range(0, picture.width, 64)]


def by_pixels(drawn: Drawings, sizes: tuple[int, ...] = (64,)) -> dict[bytes, str]:
    return {pixels(drawn.picture(i, size)): drawn.name(i) for i in range(len(drawn)) for size in sizes}


def test_a_strip_shows_the_three_names_in_order(drawn: Drawings) -> None:
    names = by_pixels(drawn)
    for question in scenes.scenes(scenes.strip_of_three, drawn, 12):
        [picture] = pictures_of(question)
        shown = [names[cell] for cell in cells(picture)]
        assert picture.size == (192, 64) and len(set(shown)) == 3
        assert question.right(", ".join(shown)) and not question.right(", ".join(shown[::-1]))


def test_pairs_are_balanced_and_ask_for_the_picture_on_that_side(drawn: Drawings) -> None:
    names, sides = by_pixels(drawn), Counter()
    for question in scenes.scenes(scenes.left_or_right, drawn, 20):
        shown = [names[pixels(picture)] for picture in pictures_of(question)]
        side = question.expected
        assert text_of(question) == f"Is the {shown[('left', 'right').index(side)]} on the left or on the right?"
        assert question.right(f"It is on the {side}.") and not question.right("left right") and len(set(shown)) == 2
        assert not question.right({"left": "right", "right": "left"}[side])
        sides[side] += 1
    assert sides == {"left": 10, "right": 10}


def test_same_or_different_is_balanced_and_true(drawn: Drawings) -> None:
    names, words = by_pixels(drawn, (48, 60, 64)), Counter()
    for question in scenes.scenes(scenes.same_or_different, drawn, 20):
        first, second = (names[pixels(picture)] for picture in pictures_of(question))
        assert question.expected == ("same" if first == second else "different")
        words[question.expected] += 1
    assert words == {"same": 10, "different": 10}


def test_the_picture_asked_for_is_the_one_expected(drawn: Drawings) -> None:
    names = by_pixels(drawn)
    for number, question in enumerate(scenes.scenes(scenes.nth_picture, drawn, 9)):
        shown = [names[pixels(picture)] for picture in pictures_of(question)]
        assert ("first", "second", "third")[number % 3] in text_of(question)
        assert question.expected == shown[number % 3] and question.right(question.expected)


def test_frames_come_as_one_video_in_order(drawn: Drawings) -> None:
    names = by_pixels(drawn)
    for question in scenes.scenes(scenes.three_frames, drawn, 5):
        assert [part["type"] for part in question.content] == ["video", "text"]
        assert question.right(", ".join(names[pixels(frame)] for frame in pictures_of(question)))


def test_translations_and_absent_pictures_show_none(drawn: Drawings) -> None:
    for number, question in enumerate(scenes.scenes(scenes.translation, drawn, 30)):
        language = list(LANGUAGES)[1 + number % 15]
        entry = next(emoji for emoji in drawn.emoji if emoji.names["en"] in text_of(question))
        assert not pictures_of(question) and LANGUAGES[language] in text_of(question)
        assert question.right(entry.names[language])
    asked = list(scenes.absent())
    assert len(asked) > 60 and {text_of(question) for question in asked} >= set(NAMING.values())
    assert not any(pictures_of(question) or question.right("dog face") for question in asked)
    english = [question for question in asked if question.right("There is no picture.")]
    assert "What is this?" in map(text_of, english) and len(english) == len(PROMPTS["en"].questions["name"])
    assert all(question.right(question.expected) for question in asked)


def test_keywords_and_categories_are_those_of_the_name_and_show_nothing(drawn: Drawings) -> None:
    for question in scenes.scenes(scenes.keywords_of, drawn, 20):
        entry = next(emoji for emoji in drawn.emoji if emoji.names["en"] in text_of(question))
        name, *words = entry.keywords["en"]
        assert not pictures_of(question) and name == entry.names["en"]
        assert question.right("\n".join(words[3:0:-1])) and question.right(question.expected)
        assert not question.right(", ".join([name, *words[:2]])) and not question.right(", ".join(words))
    for question in scenes.scenes(scenes.category_of, drawn, 20):
        entry = next(emoji for emoji in drawn.emoji if emoji.names["en"] in text_of(question))
        other = {"Objects": "Food & Drink", "Food & Drink": "Objects"}[entry.category]
        assert not pictures_of(question) and question.right(entry.category) and not question.right(other)


def test_no_keywords_in_the_data_are_an_error(drawn: Drawings) -> None:
    poor = [replace(one, keywords=dict.fromkeys(one.keywords, ("a", "b", one.names["en"]))) for one in drawn.emoji]
    with pytest.raises(InputError, match="No emoji in the data has 3 keywords besides its name"):
        next(scenes.scenes(scenes.keywords_of, Drawings(tuple(poor), drawn.artist)))


def test_a_category_that_unicode_lacks_is_an_error_before_anything_is_asked(drawn: Drawings) -> None:
    *rest, last = drawn.emoji
    strange = Drawings((*rest, replace(last, category="Robots")), drawn.artist)
    with pytest.raises(InputError, match='"Robots", which Unicode lacks'):
        questions_of("category", strange, Dataset(strange.emoji, {}), limit=1)


def test_scenes_repeat_and_a_short_run_is_the_beginning_of_a_long_one(drawn: Drawings) -> None:
    for make in SCENES.values():
        long = [(text_of(q), q.expected, [pixels(p) for p in pictures_of(q)]) for q in scenes.scenes(make, drawn, 8)]
        short = [(text_of(q), q.expected, [pixels(p) for p in pictures_of(q)]) for q in scenes.scenes(make, drawn, 3)]
        assert short == long[:3] and len({str(question) for question in long}) > 3


def test_too_few_names_for_a_scene_are_an_error(drawn: Drawings) -> None:
    with pytest.raises(InputError, match="has 7 names and 8 are needed"):
        drawn.sample(random.Random(0), 8)
    with pytest.raises(InputError, match="no artist 'apple' in the data: choose among noto, twemoji"):
        drawings(Dataset(drawn.emoji, {"noto": drawn.artist, "twemoji": drawn.artist}), "apple")


def test_a_strip_of_unequal_colours_keeps_their_places() -> None:
    wide = strip([Image.new("RGB", (4, 3), colour) for colour in ("red", "lime", "blue")])
    assert wide.size == (12, 3)
    assert [wide.getpixel((x, 1)) for x in (0, 5, 11)] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


# asking, and what models in known ways right or wrong score


def shares(suite: str, llm: FakeLLM, questions: list[Question]) -> dict[str, float]:
    judged = ((question.row, question.right(said)) for question, said in answers(llm, questions, len(questions), suite))
    return {row["row"]: row["share"] for row in rows_of(suite, judged)}


def test_answers_keep_their_questions_across_batches_and_windows() -> None:
    texts = [f"{'x' * (number % 7)}{number}" for number in range(WINDOW + 70)]
    questions = [Question("row", [{"type": "text", "text": text}], text, lambda _: True) for text in texts]
    llm = FakeLLM(lambda content: content[-1]["text"].upper())
    got = list(answers(llm, iter(questions), len(questions), "test"))
    assert [(question.expected, said) for question, said in got] == [(text, text.upper()) for text in texts]
    assert llm.batches == [ROWS] * (WINDOW // ROWS) + [64, 6]


def test_a_model_that_knows_some_pictures_scores_their_share(drawn: Drawings) -> None:
    names = by_pixels(drawn, suites.SIZES)
    known = {"dog face", "key", "pizza"}

    def answer(content: list[dict]) -> str:
        name, size = names[pixels(content[0]["image"])], content[0]["image"].width
        return name if name in known and size != 512 else name.upper()

    expected = {"64 px": 3 / 7, "72 px": 3 / 7, "160 px": 3 / 7, "512 px": 0.0}
    assert shares("names", FakeLLM(answer), list(suites.names(drawn))) == expected


def test_a_model_of_one_language_scores_in_that_language_alone(drawn: Drawings) -> None:
    names = {pixels(drawn.picture(i)): drawn.name(i, "fr") for i in range(len(drawn))}
    llm = FakeLLM(lambda content: names[pixels(content[0]["image"])])
    got = shares("languages", llm, list(suites.languages(drawn)))
    assert len(got) == 16 and got["French"] == 1.0
    same = {language: sum(e.names[language] == e.names["fr"] for e in drawn.emoji) / 7 for language in LANGUAGES}
    assert got == {LANGUAGES[language]: share for language, share in same.items()} and got["Japanese"] == 0


def test_always_left_is_half_right(drawn: Drawings) -> None:
    questions = list(scenes.scenes(scenes.left_or_right, drawn, 40))
    assert shares("pair", FakeLLM(lambda _: "on the left"), questions) == {"left or right": 0.5}


def test_swapping_tells_a_model_that_looks_from_one_that_does_not(drawn: Drawings) -> None:
    names = by_pixels(drawn)

    def scored(llm: FakeLLM) -> dict[str, float]:
        rows = rows_of("swap", swapping.judged(answers(llm, swapping.swaps(drawn, 30), 60, "swap")))
        assert all(row["n"] == 30 for row in rows)
        return {row["row"]: row["share"] for row in rows}

    changes, follows = "the answer changes", "and names the other picture"
    assert scored(FakeLLM(lambda _: "dog face"))[changes] == 0
    assert scored(FakeLLM(lambda content: names[pixels(content[0]["image"])])) == {changes: 1, follows: 1}
    wrong = FakeLLM(lambda content: names[pixels(content[0]["image"])].upper())
    assert scored(wrong) == {changes: 1, follows: 0}
