"""Pins trees: many questions about one picture, run from it at once, have the loss and the gradient of as many separate
conversations, and a batch is what it is said to be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_training import RECIPE, small_model, small_tokenizer, studio
from task_emoji import EMOJI
from test_speak import assert_near, gradients_of

from llama4.train import names, objective
from llama4.train.data import pad
from llama4.train.names import Trunks
from llama4.train.render import Renderer
from llama4.train.rows import Row
from llama4.train.speak import Speak


def stage_of(tokens: int = 400, questions: int = 5, balance_weight: float = 0.0) -> Speak:
    """Weights, sums and gradients in float32."""
    recipe = replace(RECIPE, speak=replace(RECIPE.speak, tokens=tokens), questions=questions)
    recipe = replace(recipe, balance_weight=balance_weight)
    return Speak(small_model(), small_tokenizer(), Renderer(studio()), recipe)


def learn(stage: Speak, step: int) -> dict[str, float]:
    """One tree's gradients, collected; its sums."""
    tree = names.draw(stage, (3, step), 4)
    sums = stage.learn(names.measure(stage.model, tree), tree.answer_tokens, 1)
    stage.masters.collect()
    return sums


def separate(stage: Speak, step: int) -> objective.Measured:
    """The same questions, each in a conversation of its own with its own copy of the picture."""
    tree = names.draw(stage, (3, step), 4)
    rows, tiles = [], []
    for branches in tree.branches:
        part = branches.part
        for row, picture in enumerate(branches.picture_B.tolist()):
            count = part.counts[row]
            trunk = tree.trunk_PS[picture].tolist()
            asked = part.tokens_BS[row, :count].tolist(), part.answer_BS[row, :count].tolist()
            rows.append(Row(trunk + asked[0], [False] * len(trunk) + asked[1]))
            tiles.append(tree.tiles[picture])
    return objective.measure(stage.model, pad(rows, slice(0, len(rows)), stage.pad_id), torch.stack(tiles))


@pytest.mark.parametrize("tokens", [100, 100_000])
def test_loss_and_gradient_are_those_of_separate_conversations(tokens: int) -> None:
    """Cut into parts of one or two rows, or none."""
    stage, plain = stage_of(tokens), stage_of(tokens)
    sums, expected = learn(stage, 1), separate(plain, 1)
    assert (len(names.draw(stage, (3, 1), 4).branches) == 1) == (tokens > 1000)
    (expected.answers / expected.answer_tokens).backward()
    plain.masters.collect()
    assert sums["answer_tokens"] == expected.answer_tokens and sums["right_tokens"] == expected.right_tokens
    assert sums["answers"] == pytest.approx(expected.answers.item(), rel=1e-5)
    assert_near(gradients_of(stage), gradients_of(plain))


def test_the_balance_term_counts_a_picture_once_and_every_word() -> None:
    stage = stage_of()
    tree = names.draw(stage, (3, 0), 4)
    heard: list[list[torch.Tensor]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            names, "balance_of", lambda layers, *kinds: heard.append([*layers, *kinds]) or (torch.zeros(()), [])
        )
        names.measure(stage.model, tree)
    ((first, second, patch_N, word_N),) = heard
    padded = sum(branches.part.tokens_BS.numel() for branches in tree.branches)
    assert len(first) == len(second) == len(patch_N) == len(word_N) == tree.trunk_PS.numel() + padded
    patches = int((tree.trunk_PS == stage.model.config.patch_id).sum())
    words = tree.trunk_PS.numel() - patches + sum(sum(branches.part.counts) for branches in tree.branches)
    assert (int(patch_N.sum()), int(word_N.sum())) == (patches, words) and patches == 4 * 4
    assert learn(stage_of(balance_weight=0.5), 0)["answers"] == pytest.approx(learn(stage, 0)["answers"])
    with_balance, without = stage_of(balance_weight=0.5), stage_of()
    for one in (with_balance, without):
        learn(one, 0)
    router = next(name for name in gradients_of(without) if "router" in name)
    assert not torch.allclose(gradients_of(with_balance)[router], gradients_of(without)[router])


def test_a_batch_asks_about_different_emoji_each_in_different_languages() -> None:
    stage = stage_of(tokens=100_000)
    tree, again, other = (names.draw(stage, (3, step), 4) for step in (3, 3, 4))
    (branches,) = tree.branches
    assert torch.equal(tree.tiles, again.tiles) and not torch.equal(tree.tiles, other.tiles)
    assert torch.equal(branches.part.tokens_BS, again.branches[0].part.tokens_BS)
    assert tree.tiles.shape[0] == 4 and torch.bincount(branches.picture_B).tolist() == [5] * 4
    tokenizer = small_tokenizer()
    said: dict[int, set[str]] = {picture: set() for picture in range(4)}
    for row, picture in enumerate(branches.picture_B.tolist()):
        ids = branches.part.tokens_BS[row][branches.part.answer_BS[row]].tolist()
        said[picture].add(tokenizer.decode(ids[:-1]))
    emoji = [[one for one in EMOJI if answers <= set(one.names.values())] for answers in said.values()]
    assert all(len(found) == 1 for found in emoji) and len({found[0].names["en"] for found in emoji}) == 4


def test_a_row_is_a_conversation_cut_behind_its_picture() -> None:
    stage = stage_of()
    tree, tokenizer = names.draw(stage, (3, 0), 4), small_tokenizer()
    text = tokenizer.decode(tree.trunk_PS[0].tolist())
    assert text.startswith("<|begin_of_text|><|header_start|>user<|header_end|>") and text.endswith("<|image_end|>")
    part = tree.branches[0].part
    asked = tokenizer.decode(part.tokens_BS[0, : part.counts[0]].tolist())
    assert asked.count("<|eot|>") == 2 and "<|header_start|>assistant<|header_end|>" in asked


def test_a_language_may_be_among_them_always() -> None:
    stage, tokenizer = stage_of(tokens=100_000, questions=2), small_tokenizer()
    (branches,) = names.draw(stage, (3, 0), 8, always=("en",)).branches
    english = {one.names["en"] for one in EMOJI}
    said: dict[int, list[str]] = {}
    for row, picture in enumerate(branches.picture_B.tolist()):
        ids = branches.part.tokens_BS[row][branches.part.answer_BS[row]].tolist()
        said.setdefault(picture, []).append(tokenizer.decode(ids[:-1]))
    assert len(said) == 8 and all(len(answers) == 2 and set(answers) & english for answers in said.values())


def test_a_picture_and_a_question_longer_than_a_chunk_are_refused() -> None:
    model = small_model()
    assert len(Trunks(model, 128).layers) == 4
    with pytest.raises(ValueError, match="129 tokens are longer than the chunk of 128: shorten it"):
        Trunks(model, 129)
