"""Pins what `discern` asks about: most often what it missed, by a running loss of each emoji, and all others too."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from small_training import RECIPE, SHORT, discern_stage, small_model, small_tokenizer, studio
from task_emoji import EMOJI
from task_reading import meaning
from test_tasks import assert_even
from torch.testing import assert_close

import llama4
from llama4.tokenizer import Tokenizer
from llama4.train import names, objective, scenes
from llama4.train.missed import Missed
from llama4.train.recipe import Recipe, Scene
from llama4.train.render import Renderer
from llama4.train.speak import SCENES, Discern

SIDES = Scene("side", 2, 1, english=0.5)


def fp32_stage(**changed: object) -> Discern:
    """Weights, sums and gradients in float32."""
    return Discern(small_model(), small_tokenizer(), Renderer(studio()), replace(RECIPE, **changed))


def test_all_begin_alike_and_above_a_guess() -> None:
    """Of the three tokens of an English answer, its end among them, a guess leaves one open: "left" or "right"."""
    recipe = Recipe()
    assert Missed(5, recipe.memory, recipe.alike).odds() == pytest.approx([1.5 * math.log(2) / 2] * 5)
    shipped = Tokenizer.from_file(Path(llama4.__file__).parent / "assets" / "tiny" / "tokenizer.model")
    left, right = (shipped.encode(side) for side in ("left", "right"))
    assert len(left) == len(right) == 2 and left[0] != right[0]


def test_two_draws_in_three_go_by_the_loss_and_one_to_all_alike() -> None:
    missed = Missed(4, 3.0, 0.5)
    missed.loss[:] = torch.tensor([0.0, 3.0, 0.0, 1.0])
    assert missed.odds() == [0.5, 3.5, 0.5, 1.5]
    shares = torch.tensor(missed.odds()) / sum(missed.odds())
    assert_close(shares, torch.tensor([0.0, 3.0, 0.0, 1.0]) / 4 * 2 / 3 + 1 / 3 / 4)


def test_a_loss_moves_a_third_of_the_way_to_the_mean_of_its_own_tokens() -> None:
    missed = Missed(4, 3.0, 0.5)
    missed.loss[:] = 1.0
    missed.heed(torch.tensor([2, -1, 0, 2, -1]), torch.tensor([0.5, 9.0, 4.0, 0.1, 9.0]))
    assert_close(missed.loss, torch.tensor([2.0, 1.0, 1 - 0.7 / 3, 1.0]))
    before = missed.loss.clone()
    missed.heed(torch.tensor([-1, -1]), torch.tensor([1.0, 2.0]))
    assert torch.equal(missed.loss, before)


def test_pairs_hold_what_was_missed_on_either_side_beside_any_other() -> None:
    """One emoji has all the loss: two first draws in three and its share of the third, and a twelfth of the second draws."""
    missed = Missed(len(EMOJI), 3.0, 0.5)
    missed.loss[:] = 0.0
    missed.loss[4] = 1.0
    rng = Random(3)
    pairs = [scenes.shown(rng, EMOJI, range(len(EMOJI)), SIDES, missed.odds()) for _ in range(3000)]
    assert all(one != other for one, other in pairs)
    there = [pair.index(4) for pair in pairs if 4 in pair]
    assert 0.68 < len(there) / len(pairs) < 0.76
    assert_even(sum(there), len(there))
    others = Counter(one for pair in pairs for one in pair if one != 4)
    assert len(others) == 12 and max(others.values()) < 1.5 * min(others.values())


def test_a_question_about_a_place_seeks_the_emoji_that_it_names_and_no_other_seeks_one() -> None:
    rng = Random(5)
    seen = Counter()
    for _ in range(400):
        pair = scenes.shown(rng, EMOJI, range(len(EMOJI)), SIDES)
        for one in scenes.about(rng, EMOJI, pair, SIDES, 2):
            (turn,) = one.turns
            assert turn.sought in pair
            assert meaning(turn.question).name == EMOJI[turn.sought].names[one.language]
            seen[meaning(turn.question).kind] += 1
    assert set(seen) == {"side", "which"}
    for scene in (Scene("same", 2, 1), Scene("apart", 2, 1), Scene("row", 2, 1)):
        pair = scenes.shown(rng, EMOJI, range(len(EMOJI)), scene)
        assert {one.turns[0].sought for one in scenes.about(rng, EMOJI, pair, scene, 9)} == {None}


def test_odds_are_for_sides_alone_and_of_the_emoji_that_a_scene_draws_from() -> None:
    """Of few emoji, of those; the others' scenes are what they are without odds."""
    pairs = {tuple(scenes.shown(Random(seed), EMOJI, [3, 8, 0], SIDES, [0.0, 1.0, 0.0])) for seed in range(50)}
    assert pairs == {(8, 3), (3, 8), (8, 0), (0, 8)}
    for scene in (Scene("same", 2, 1), Scene("apart", 3, 1), Scene("row", 3, 1)):
        with_odds, without = (
            scenes.shown(Random(4), EMOJI, range(13), scene, odds) for odds in ([1.0] + 12 * [0.0], None)
        )
        assert with_odds == without


@pytest.mark.parametrize("tokens", [120, 4000])
def test_each_token_seeks_what_its_row_does_and_costs_what_it_costs_alone(tokens: int) -> None:
    """In many parts and in one; a row's question, decoded, names the emoji that its tokens seek."""
    stage = fp32_stage(discern=replace(SHORT, tokens=tokens))
    tree = scenes.draw(stage, (SCENES, 1), [replace(SIDES, trunks=4, questions=3)], 0)
    assert (len(tree.branches) > 1) == (tokens == 120)
    rows = [
        ids for one in tree.branches for ids in zip(one.sought_B.tolist(), one.part.tokens_BS.tolist(), strict=True)
    ]
    tokenizer = small_tokenizer()
    for one, ids in rows:
        text = tokenizer.decode([token for token in ids if token != tokenizer.pad_id])
        assert any(name in text for name in EMOJI[one].names.values()), text
    measured = names.measure(stage.model, tree)
    assert len(tree.sought_N) == len(measured.answers_N) == measured.answer_tokens
    assert not measured.answers_N.requires_grad
    assert_close(measured.answers_N.sum(), measured.answers.detach())
    alone = objective.measure(stage.model, *names.separate(tree, stage.pad_id))
    assert_close(measured.answers_N, alone.answers_N, atol=1e-4, rtol=1e-4)
    lengths = [int(row.sum()) for one in tree.branches for row in one.part.answer_BS]
    assert tree.sought_N.tolist() == [
        sought for (sought, _), said in zip(rows, lengths, strict=True) for _ in range(said)
    ]


def test_a_tree_of_names_seeks_none() -> None:
    stage = fp32_stage()
    assert set(stage.named(0).sought_N.tolist()) == {-1}


def test_a_step_heeds_its_scene_and_the_next_one_draws_by_it() -> None:
    """Step 1 is batch 32 behind stages of five, seven, nine and ten; the odds are those that step 0 left."""
    lengths = {"speak": 5, "rehearse": 7, "relate": 9, "together": 10}
    plans = {name: replace(SHORT, steps=steps) for name, steps in lengths.items()}
    stage, plain = fp32_stage(**plans), fp32_stage(**plans)
    for step in range(2):
        _, scene, _ = plain.trees(31 + step)
        measured = names.measure(plain.model, scene)
        plain.extra.heed(scene.sought_N, measured.answers_N)
        before = stage.extra.loss.clone()
        stage.gradients(step)
        assert_close(stage.extra.loss, plain.extra.loss, atol=1e-5, rtol=1e-5)
        changed = (stage.extra.loss != before).nonzero().flatten().tolist()
        assert changed == sorted(set(scene.sought_N.tolist()))
    stage.extra.loss[:] = 0.0
    stage.extra.loss[7] = 1.0
    pairs = [tree for step in range(2, 42) for tree in stage.trees(31 + step)[1:2]]
    named = Counter(one for tree in pairs for one in tree.sought_N.unique().tolist())
    assert named[7] > 25 > 2 * named.most_common(2)[1][0]


def test_what_was_missed_is_counted_and_not_learnt() -> None:
    """In float32, and nothing for an optimiser; test_loop.py saves and resumes it."""
    stage = discern_stage()
    assert list(stage.extra.state_dict()) == ["loss"] and stage.extra.loss.dtype == torch.float32
    assert not list(stage.extra.parameters())


def test_the_recipe_asks_about_more_pairs_and_keeps_the_other_scenes() -> None:
    recipe = Recipe()
    before, after = (
        [[scene for scene in scenes if (scene.layout == "side") == side] for side in (True, False)]
        for scenes in (recipe.joint_scenes, recipe.discerning_scenes)
    )
    assert before[1] == after[1]
    ((old,), (new,)) = before[0], after[0]
    assert new.trunks == 3 * old.trunks and new.trunks * new.questions < old.trunks * recipe.questions
    assert 0.4 < new.weight / sum(scene.weight for scene in recipe.discerning_scenes) < 0.42
