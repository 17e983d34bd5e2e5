"""Pins what `discern` asks about: most often what it missed, by a running loss of each emoji, and all others too."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from random import Random

import pytest
import torch
from small_training import RECIPE, SHORT, discern_stage, small_model, small_tokenizer, studio
from task_emoji import EMOJI
from task_reading import meaning
from test_tasks import assert_even
from torch.testing import assert_close

from llama4.train import names, objective, scenes
from llama4.train.missed import Missed
from llama4.train.recipe import Recipe, Scene
from llama4.train.render import Renderer
from llama4.train.speak import SCENES, Discern

SIDES = Scene("side", 2, 1, english=0.5, missed=True)


def fp32_stage(**changed: object) -> Discern:
    """Weights, sums and gradients in float32."""
    return Discern(small_model(), small_tokenizer(), Renderer(studio()), replace(RECIPE, **changed))


def test_all_begin_alike_at_the_loss_of_a_guess() -> None:
    """ln 2 for one of two sides and nothing for the end of the turn: the mean of two tokens."""
    assert Missed(5).odds() == pytest.approx([0.75 * math.log(2)] * 5)


def test_two_draws_in_three_go_by_the_loss_and_one_to_all_alike() -> None:
    missed = Missed(4)
    missed.loss_E[:] = torch.tensor([0.0, 3.0, 0.0, 1.0])
    assert missed.odds() == [0.5, 3.5, 0.5, 1.5]
    shares = torch.tensor(missed.odds()) / sum(missed.odds())
    assert_close(shares, torch.tensor([0.0, 3.0, 0.0, 1.0]) / 4 * 2 / 3 + 1 / 3 / 4)


def test_a_loss_moves_a_third_of_the_way_to_the_mean_of_its_own_tokens() -> None:
    missed = Missed(4)
    missed.loss_E[:] = 1.0
    missed.heed(torch.tensor([2, -1, 0, 2, -1]), torch.tensor([0.5, 9.0, 4.0, 0.1, 9.0], dtype=torch.bfloat16))
    assert_close(missed.loss_E, torch.tensor([2.0, 1.0, 1 - 0.7 / 3, 1.0]), atol=2e-3, rtol=0.0)
    before = missed.loss_E.clone()
    missed.heed(torch.tensor([-1, -1]), torch.tensor([1.0, 2.0]))
    assert torch.equal(missed.loss_E, before)


def test_pairs_hold_what_was_missed_on_either_side_beside_any_other() -> None:
    """One emoji has all the loss: two first draws in three and its share of the third, and a twelfth of the second draws."""
    missed = Missed(len(EMOJI))
    missed.loss_E[:] = 0.0
    missed.loss_E[4] = 1.0
    rng = Random(3)
    pairs = [scenes.shown(rng, EMOJI, range(len(EMOJI)), SIDES, missed.odds()) for _ in range(3000)]
    assert all(one != other for one, other in pairs)
    there = [pair.index(4) for pair in pairs if 4 in pair]
    assert 0.68 < len(there) / len(pairs) < 0.76
    assert_even(sum(there), len(there))
    others = Counter(one for pair in pairs for one in pair if one != 4)
    assert len(others) == 12 and max(others.values()) < 1.5 * min(others.values())


def test_a_conversation_is_about_the_emoji_that_its_question_names() -> None:
    rng = Random(5)
    seen = Counter()
    for _ in range(400):
        pair = scenes.shown(rng, EMOJI, range(len(EMOJI)), SIDES)
        for one in scenes.about(rng, EMOJI, pair, SIDES, 2):
            assert one.about in pair
            assert meaning(one.turns[0].question).name == EMOJI[one.about].names[one.language]
            seen[meaning(one.turns[0].question).kind] += 1
    assert set(seen) == {"side", "which"}
    for scene in (Scene("same", 2, 1), Scene("apart", 2, 1), Scene("row", 2, 1)):
        pair = scenes.shown(rng, EMOJI, range(len(EMOJI)), scene)
        assert {one.about for one in scenes.about(rng, EMOJI, pair, scene, 9)} == {None}


@pytest.mark.parametrize("tokens", [120, 4000])
def test_each_token_is_about_its_row_and_costs_what_it_costs_alone(tokens: int) -> None:
    """In many parts and in one; a row's question, decoded, names the emoji that its tokens are about."""
    stage = fp32_stage(discern=replace(SHORT, tokens=tokens))
    tree = scenes.draw(stage, (SCENES, 1), [replace(SIDES, trunks=4, questions=3)], 0)
    assert (len(tree.branches) > 1) == (tokens == 120)
    rows = [ids for one in tree.branches for ids in zip(one.about_B.tolist(), one.part.tokens_BS.tolist(), strict=True)]
    tokenizer = small_tokenizer()
    for about, ids in rows:
        text = tokenizer.decode([one for one in ids if one != tokenizer.pad_id])
        assert any(name in text for name in EMOJI[about].names.values()), text
    measured = names.measure(stage.model, tree)
    assert len(tree.about_N) == len(measured.answers_N) == measured.answer_tokens
    assert not measured.answers_N.requires_grad
    assert_close(measured.answers_N.sum(), measured.answers.detach())
    alone = objective.measure(stage.model, *names.separate(tree, stage.pad_id))
    assert_close(measured.answers_N, alone.answers_N, atol=1e-4, rtol=1e-4)
    lengths = [int(row.sum()) for one in tree.branches for row in one.part.answer_BS]
    assert tree.about_N.tolist() == [about for (about, _), said in zip(rows, lengths, strict=True) for _ in range(said)]


def test_a_tree_of_names_is_about_none() -> None:
    stage = fp32_stage()
    assert set(stage.named(0).about_N.tolist()) == {-1}


def test_a_step_heeds_its_scene_and_the_next_one_draws_by_it() -> None:
    """Step 1 is batch 32 behind stages of five, seven, nine and ten; the odds are those that step 0 left."""
    lengths = {"speak": 5, "rehearse": 7, "relate": 9, "together": 10}
    plans = {name: replace(SHORT, steps=steps) for name, steps in lengths.items()}
    stage, plain = fp32_stage(**plans), fp32_stage(**plans)
    for step in range(2):
        _, scene, _ = plain.trees(31 + step)
        measured = names.measure(plain.model, scene)
        plain.extra.heed(scene.about_N, measured.answers_N)
        before = stage.extra.loss_E.clone()
        stage.gradients(step)
        assert_close(stage.extra.loss_E, plain.extra.loss_E, atol=1e-5, rtol=1e-5)
        changed = (stage.extra.loss_E != before).nonzero().flatten().tolist()
        assert changed == sorted(set(scene.about_N.tolist()))
    left = stage.extra.loss_E.clone()
    stage.extra.loss_E[:] = 0.0
    stage.extra.loss_E[7] = 1.0
    drawn = [scenes.draw(stage, (SCENES, step), RECIPE.discerning_scenes, 0, trunks=4) for step in range(40)]
    asked = Counter(one for tree in drawn for one in tree.about_N.unique().tolist())
    assert asked[7] == 40 or asked.most_common(1)[0][0] == 7
    stage.extra.loss_E[:] = left


def test_odds_are_saved_with_the_state() -> None:
    stage = discern_stage()
    assert list(stage.extra.state_dict()) == ["loss_E"] and stage.extra.loss_E.dtype == torch.float32
    assert not list(stage.extra.parameters())  # nothing for an optimiser


def test_the_recipe_asks_of_many_pairs_and_keeps_the_other_scenes() -> None:
    recipe = Recipe()
    (sides,) = [scene for scene in recipe.discerning_scenes if scene.layout == "side"]
    assert sides.missed and sides.trunks == 36 and sides.questions == 2
    assert [scene for scene in recipe.discerning_scenes if scene is not sides] == [
        scene for scene in recipe.joint_scenes if scene.layout != "side"
    ]
    earlier = (*recipe.scenes, *recipe.related_scenes, *recipe.joint_scenes, *recipe.few_scenes)
    assert not any(scene.missed for scene in earlier)
