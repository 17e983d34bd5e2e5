"""Pins how prompts are cut into pieces and read, how rows decode together, and what a prompt is refused for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import FP32, assert_close
from tiny_llm import VISION, forward, tiny_llm, with_picture
from torch import Tensor

from llama4.chat import Prompt
from llama4.engine import Piece, check_budget, check_prompt, cut, decode, prefill
from llama4.errors import InputError

PATCH = 9


@st.composite
def prompts(draw: st.DrawFn) -> tuple[list[int], int]:
    """Ids where tiles of some size stand apart, side by side, first and last."""
    per_tile = draw(st.integers(1, 7))
    groups = draw(st.lists(st.one_of(st.integers(1, 12), st.none()), min_size=1, max_size=9))
    ids = [token for text in groups for token in ([PATCH] * per_tile if text is None else [1] * text)]
    return ids, per_tile


@settings(max_examples=500, deadline=None)
@given(prompts(), st.integers(1, 15))
def test_pieces_cover_the_prompt_and_split_no_tile(prompt: tuple[list[int], int], size: int) -> None:
    ids, per_tile = prompt
    pieces = cut(Prompt(ids, None), PATCH, per_tile, size)
    assert [pieces[0].first, *(piece.last for piece in pieces)] == [*(piece.first for piece in pieces), len(ids)]
    tiles = 0
    for piece in pieces:
        patches = ids[piece.first : piece.last].count(PATCH)
        assert patches % per_tile == 0 and piece.last > piece.first
        assert (piece.tiles_first, piece.tiles_last) == (tiles, tiles + patches // per_tile)
        tiles = piece.tiles_last
        length = piece.last - piece.first
        assert length <= size or (length == patches == per_tile)
    for piece, after in pairwise(pieces):  # no piece is shorter than it must be: what comes next would not have fitted
        comes = per_tile if ids[after.first] == PATCH else 1
        assert piece.last - piece.first + comes > size


def test_the_worked_example_of_the_docstring() -> None:
    ids = [1, 1, *[PATCH] * 9, 1, 1, 1]
    assert cut(Prompt(ids, None), PATCH, 9, 10) == [Piece(0, 2, 0, 0), Piece(2, 12, 0, 1), Piece(12, 14, 1, 1)]


def read(prompts: list[Prompt], size: int) -> tuple[Tensor, Tensor]:
    """Prefill in pieces of `size`, then one more token (5) a row: logits `[B, V]` of both steps."""
    llm = tiny_llm()
    cache = llm.model.new_cache(len(prompts), 300)
    first_BV = prefill(llm.model, cache, prompts, size=size)
    assert cache.lengths_B.tolist() == [len(prompt.ids) for prompt in prompts]
    with torch.inference_mode():
        next_BV = llm.model(torch.full((len(prompts), 1), 5), cache=cache)[:, 0]
    return first_BV, next_BV


@pytest.mark.parametrize("size", [1, 3, 12, 13, 14, 40, 4096])
def test_the_size_of_the_pieces_does_not_matter(size: int) -> None:
    """Rows of 1, 13 (one chunk) and some 60 tokens, and tiles in two rows; chunks of 13, tiles of 4 tokens."""
    llm = tiny_llm()
    batch = [
        llm.encode(with_picture("What is this, and what is it for? Say it in a few words.")),
        Prompt([llm.tokenizer.bos_id], None),
        Prompt(list(range(100, 113)), None),
        llm.encode(with_picture("a", seed=1)),
    ]
    read_BV, next_BV = read(batch, size)
    for row, prompt in enumerate(batch):
        expected_SV = forward(llm, [*prompt.ids, 5], prompt.tiles)
        kept_V = torch.isfinite(expected_SV[0])
        assert torch.isinf(read_BV[row, ~kept_V]).all()
        assert_close(read_BV[row, kept_V], expected_SV[-2, kept_V], FP32)
        assert_close(next_BV[row, kept_V], expected_SV[-1, kept_V], FP32)


def test_rows_end_apart_and_are_not_asked_again() -> None:
    """Row 0 ends after one token, row 1 after five, row 2 never: its tokens are those it would have had alone."""
    llm, asked = tiny_llm(), []
    prompts = [Prompt(list(range(20, 20 + length)), None) for length in (3, 17, 11)]
    limits = [1, 5, 99]

    def chooser(rows: list[int]) -> Callable[[int, Tensor], int | None]:
        said = dict.fromkeys(rows, 0)

        def choose(row: int, logits_V: Tensor) -> int | None:
            asked.append(rows[row])
            if said[rows[row]] == limits[rows[row]]:
                return None
            said[rows[row]] += 1
            return int(logits_V.argmax())

        return choose

    def run(rows: list[int]) -> list[list[int | None]]:
        cache = llm.model.new_cache(len(rows), 60)
        logits_BV = prefill(llm.model, cache, [prompts[row] for row in rows])
        tokens = list(zip(*decode(llm.model, cache, logits_BV, 30, chooser(rows)), strict=True))
        fed = [min(limits[row], 29) for row in rows]  # a row that has ended takes no more room in the cache
        assert cache.lengths_B.tolist() == [len(prompts[row].ids) + new for row, new in zip(rows, fed, strict=True)]
        return tokens

    together = run([0, 1, 2])
    assert [asked.count(row) for row in range(3)] == [2, 6, 30]
    for row in range(3):
        alone = run([row])[0]
        tokens = [token for token in together[row] if token is not None]
        assert tokens == list(alone) and len(tokens) == min(limits[row], 30)
        assert all(token is None for token in together[row][len(tokens) :])


def test_the_last_round_is_chosen_but_not_fed() -> None:
    llm = tiny_llm()
    cache = llm.model.new_cache(1, 10)  # 6 + 4 tokens: a fifth feed would not fit
    logits_BV = prefill(llm.model, cache, [Prompt([1, 2, 3, 4, 5, 6], None)])
    rounds = list(decode(llm.model, cache, logits_BV, 5, lambda row, logits_V: int(logits_V.argmax())))
    assert len(rounds) == 5 and cache.lengths_B.tolist() == [10]


def test_the_patch_id_is_barred_after_prefill_and_after_each_token() -> None:
    llm = tiny_llm()
    cache, patch = llm.model.new_cache(1, 30), llm.config.patch_id
    scores = []
    logits_BV = prefill(llm.model, cache, [Prompt([1, 2, 3], None)])
    list(decode(llm.model, cache, logits_BV, 4, lambda row, logits_V: scores.append(float(logits_V[patch])) or 7))
    assert scores == [float("-inf")] * 4


@pytest.mark.parametrize(
    ("prompt", "budget", "says"),
    [
        (Prompt([], None), 1, "The prompt is empty"),
        (Prompt([1, 99999], None), 1, "token id 99999, outside the vocabulary of 2560"),
        (Prompt([-1], None), 1, "token id -1"),
        (Prompt([1] * 590, None), 11, "590 tokens and 11 new ones exceed the context of 600"),
        (Prompt([1], None), 0, "max_new_tokens is 0"),
        (Prompt([1], None), -5, "max_new_tokens is -5"),
        (Prompt([1], None), 2.5, "max_new_tokens is 2.5"),
        (Prompt([1], torch.zeros(1, 3, 28, 28)), 1, "0 <|patch|> tokens and 1 tiles of 4 tokens"),
        (Prompt([604] * 4, None), 1, "4 <|patch|> tokens and 0 tiles"),
        (Prompt([604] * 5, torch.zeros(1, 3, 28, 28)), 1, "5 <|patch|> tokens and 1 tiles"),
    ],
)
def test_a_prompt_that_the_model_cannot_take_is_refused(prompt: Prompt, budget: int, says: str) -> None:
    with pytest.raises(InputError) as caught:
        check_prompt(prompt, tiny_llm().model, budget)
    message = str(caught.value)
    assert says in message and message.endswith(".") and "\n" not in message


def test_the_whole_context_may_be_used_and_no_more() -> None:
    check_prompt(Prompt([1] * 590, None), tiny_llm().model, 10)
    check_budget(1)


def test_images_for_a_text_model_are_refused_and_its_patch_ids_are_text() -> None:
    model = tiny_llm(vision=False).model
    with pytest.raises(InputError, match="no vision encoder"):
        check_prompt(Prompt([1], torch.zeros(1, 3, 28, 28)), model, 1)
    check_prompt(Prompt([model.config.patch_id], None), model, 1)


def test_the_fixture_is_what_these_tests_take_it_for() -> None:
    config = tiny_llm().config
    assert (config.vocab_size, config.patch_id, config.max_context, VISION.tokens_per_tile) == (2560, 604, 600, 4)
    assert config == replace(tiny_llm(vision=False).config, vision=VISION)
