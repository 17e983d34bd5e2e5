"""Pins the validation: a name counts as right exactly when greedy generation would say it, for a model that knows some names and
not others, and the table asks every language about pictures spread over the artist's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import Taught
from small_training import small_tokenizer
from task_emoji import EMOJI
from test_speak import picture

from llama4.generate import LLM
from llama4.train import validate
from llama4.train.emoji.dataset import LANGUAGES
from llama4.train.tasks import naming_question

EVERY = list(range(len(EMOJI)))


def told(taught: Taught, artist: str, language: str, positions: list[int]) -> list[bool]:
    """`right_names` of the half-taught model, one picture a call."""
    stage = taught.words
    return [
        validate.names(taught.half, stage.renderer.studio.dataset, stage.writer, artist, language, [one], stage.pad_id)
        == 1.0
        for one in positions
    ]


@pytest.mark.parametrize("artist", ["noto", "blob"])
def test_right_is_what_greedy_generation_would_say(taught: Taught, artist: str) -> None:
    """Half-way through the training some names come out right and some do not."""
    llm = LLM(taught.half, small_tokenizer())
    index = taught.words.renderer.studio.dataset.artists[artist].index
    said = [
        llm.generate(naming_question("en"), images=[picture(taught, artist, position)], max_new_tokens=24)
        for position in EVERY
    ]
    right = [text == EMOJI[number].names["en"] for text, number in zip(said, index, strict=True)]
    assert 2 <= sum(right) <= len(right) - 2
    assert told(taught, artist, "en", EVERY) == right


def test_names_are_counted_over_batches_of_any_size(taught: Taught, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = taught.words
    singly = told(taught, "noto", "en", EVERY)
    for at_once, tokens in ((4, 4096), (64, 4096), (64, 60)):
        monkeypatch.setattr(validate, "AT_ONCE", at_once)
        monkeypatch.setattr(validate, "TOKENS", tokens)
        share = validate.names(
            taught.half, stage.renderer.studio.dataset, stage.writer, "noto", "en", EVERY, stage.pad_id
        )
        assert share == pytest.approx(sum(singly) / len(singly))


def test_every_token_of_a_name_must_be_right(taught: Taught) -> None:
    """The fully taught model knows the English names; asked the same and expected to say another, it is wrong every time."""
    stage = taught.words
    dataset, pad_id = stage.renderer.studio.dataset, stage.pad_id
    batch = validate._batch(stage.model, dataset, stage.writer, "noto", "en", EVERY, pad_id)
    (part,) = batch.parts
    assert validate.right_names(stage.model, part, batch.tiles).all()
    for place in (0, -1):  # a wrong token at either end of the answer
        tokens_BS = part.tokens_BS.clone()
        for row, answer in enumerate(part.answer_BS):
            tokens_BS[row, torch.nonzero(answer).flatten()[place]] = 77
        assert not validate.right_names(stage.model, replace(part, tokens_BS=tokens_BS), batch.tiles).any()


def test_the_table_asks_every_language_and_english_about_more(taught: Taught, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, list[int]] = {}

    def watched(
        model: object, dataset: object, writer: object, artist: str, code: str, positions: list[int], pad: int
    ) -> float:
        assert artist == "blob" and not taught.words.model.training
        asked[code] = positions
        return 0.25

    monkeypatch.setattr(validate, "names", watched)
    stage = taught.words
    found = validate.table(stage.model, stage.renderer.studio.dataset, stage.writer, "blob", 3, stage.pad_id)
    assert found == dict.fromkeys(LANGUAGES, 0.25) and stage.model.training
    stage.model.eval()
    assert asked["en"] == np.linspace(0, 12, 12).round().astype(int).tolist()
    assert all(asked[code] == [0, 6, 12] for code in LANGUAGES if code != "en")
