"""Pins the rows: ids are those of the official chat format, and what is learnt is the answers with their ends, nothing else."""

from __future__ import annotations

from itertools import groupby
from random import Random

import pytest
from PIL import Image
from small_training import TILE, VISION, small_tokenizer
from task_emoji import EMOJI

from llama4 import chat
from llama4.image import tiles
from llama4.messages import fill_images
from llama4.train.emoji.dataset import LANGUAGES
from llama4.train.rows import Row, Writer
from llama4.train.tasks import TASKS, Conversation, Mixture, messages

GRIDS = ((1, 1), (1, 2), (3, 1), (2, 2), (4, 4), (1, 1))
WRITER = Writer(small_tokenizer(), VISION.tokens_per_tile)


def conversations(task: str) -> list[tuple[Conversation, list[tuple[int, int]]]]:
    """One in each language, and a tiling for each of its pictures."""
    rng, found = Random(11), []
    for language in LANGUAGES:
        conversation = TASKS[task](rng, EMOJI, language, Mixture())
        found.append((conversation, [rng.choice(GRIDS) for turn in conversation.turns for _ in turn.pictures]))
    return found


def learnt(row: Row) -> list[str]:
    """The stretches of tokens that the mask marks, as text."""
    marked = groupby(zip(row.ids, row.answer, strict=True), key=lambda pair: pair[1])
    return [small_tokenizer().decode(token for token, _ in group) for answer, group in marked if answer]


@pytest.mark.parametrize("task", TASKS)
def test_ids_are_those_of_the_chat_format(task: str) -> None:
    for conversation, grids in conversations(task):
        pictures = [Image.new("RGB", (columns * TILE, rows * TILE)) for rows, columns in grids]
        assert [tiles(picture, VISION)[1] for picture in pictures] == grids
        filled = fill_images(messages(conversation), pictures)
        encoded = chat.encode(small_tokenizer(), filled, VISION, add_generation_prompt=False)
        row = WRITER.row(conversation, grids)
        assert row.ids == encoded.ids, conversation
        assert WRITER.row(conversation, grids) == row  # the cached pieces are not changed


@pytest.mark.parametrize("task", TASKS)
def test_answers_and_their_ends_are_learnt_and_nothing_else(task: str) -> None:
    for conversation, grids in conversations(task):
        row = WRITER.row(conversation, grids)
        assert len(row.ids) == len(row.answer) and not row.answer[0]
        assert learnt(row) == [f"{turn.answer}<|eot|>" for turn in conversation.turns]


def test_the_prompt_of_an_answer_is_what_generation_begins_with() -> None:
    """Up to the first answer, the row is the prompt that `chat.encode` makes of the question."""
    for conversation, grids in conversations("name_one"):
        first = messages(conversation)[:1]
        rows, columns = grids[0]
        asked = fill_images(first, [Image.new("RGB", (columns * TILE, rows * TILE))])
        row = WRITER.row(conversation, grids)
        assert row.ids[: row.answer.index(True)] == chat.encode(small_tokenizer(), asked, VISION).ids
