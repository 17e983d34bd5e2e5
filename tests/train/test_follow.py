"""Pins what `follow` changes: the encoder learns along, while what its tokens are changed by stays what it said as the stage
began; more pictures, each in one other language; more lists of three from some step on; and shares of its own, in which Fluent's
three with colours are one artist."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from late_stages import assert_goes_on, assert_names, drawer
from small_training import NONE, RECIPE, SHORT, follow_stage, gradients_of, small_model, small_tokenizer, studio

from llama4.train.emoji.dataset import HELD_OUT_ARTIST, LAST_ARTIST, LATE_ARTIST, LEARNT_ARTISTS
from llama4.train.loop import train, update
from llama4.train.recipe import BROAD_SCENES, STAGES, Recipe, Scene
from llama4.train.render import Renderer
from llama4.train.scatter import Follow, Scatter, Scattered
from llama4.train.weights import optimisers

STEPS = {"speak": 5, "rehearse": 7, "relate": 9, "together": 10, "discern": 11, "broaden": 12, "vary": 13, "settle": 14}
EVEN = {"noto": 1.0, "fluent": 1.0, LATE_ARTIST: 1.0, LAST_ARTIST: 1.0}


def fp32_stage(kind: type[Scatter] = Follow, **changed: object) -> Scatter:
    """Weights, sums and gradients in float32; pictures as they were drawn; tokens as they are, but for what is given."""
    plans = {name: replace(SHORT, steps=steps) for name, steps in (STEPS | {"scatter": 15}).items()}
    numbers = {"scattered": NONE, "settled_shares": EVEN, "followed_shares": EVEN}
    numbers |= {"many_tiles": 0.0, "astray": 0.0, "left_out": 0.0}
    recipe = replace(RECIPE, **numbers | plans | {"follow": replace(SHORT, encoder=1.0)} | changed)
    return kind(small_model(), small_tokenizer(), Renderer(studio()), recipe)


def test_it_goes_on_behind_nine_stages_and_the_encoder_learns() -> None:
    """With tokens as they are: the mean of the batch's tokens, the encoder's gradients among them."""
    assert_goes_on(fp32_stage, 96, [7, 3, 1])  # `followed_pictures`, a scene's trunks, one of text
    assert [name for name in fp32_stage().masters.weights if name.startswith("vision.")]


@pytest.mark.parametrize("number", ["astray", "left_out"])
def test_the_encoder_learns_from_changed_tokens(number: str) -> None:
    """Its gradients are others."""
    plain, other = fp32_stage(), fp32_stage(**{number: 0.9})
    for stage in (plain, other):
        stage.gradients(2)
    before, after = gradients_of(plain)["vision.adapter.fc2.weight"], gradients_of(other)["vision.adapter.fc2.weight"]
    assert after.any() and not torch.equal(before, after)


def test_what_is_left_out_teaches_the_encoder_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all of it left out no weight of the encoder has a gradient, and those that read it have."""
    monkeypatch.setattr(Scattered, "left_out", lambda *_: torch.tensor(True))
    stage = fp32_stage()
    stage.gradients(2)
    found = gradients_of(stage)
    assert not any(gradient.any() for name, gradient in found.items() if name.startswith("vision."))
    assert any(gradient.any() for name, gradient in found.items() if name.startswith("fusion."))


def test_what_changes_the_tokens_is_what_the_encoder_said_at_the_beginning() -> None:
    """A run that is stopped makes the stage anew and then puts the saved weights into the model."""
    stage, anew = fp32_stage(astray=0.9), fp32_stage(astray=0.9)
    optims = optimisers(stage.masters, (), stage.plan)
    before = stage.model.vision.adapter.fc2.weight.detach().clone()
    for step in range(2):
        update(stage, optims, step)
    assert not torch.equal(stage.model.vision.adapter.fc2.weight, before), "it has learnt"
    anew.model.load_state_dict(stage.model.state_dict())
    assert torch.equal(anew.tokens.tokens, stage.tokens.tokens) and torch.equal(anew.tokens.mean, stage.tokens.mean)


def test_names_are_of_more_pictures_in_english_and_one_language() -> None:
    assert_names(fp32_stage(followed_pictures=9, followed_questions=2).named(100), 9, 2)


def test_lists_come_from_a_step_on() -> None:
    """From the fourth on; `scatter` never has them."""
    lists = (Scene("row", 2, 1, trunks=4),)
    stage, other = (fp32_stage(kind, listing_scenes=lists, listing_from=3) for kind in (Follow, Scatter))
    before, layouts = stage.before(), [stage.layouts(stage.before() + step) for step in range(6)]
    assert layouts == [RECIPE.broad_scenes] * 3 + [lists] * 3
    assert [len(stage.trees(before + step)[1].trunk_PS) for step in (2, 3)] == [3, 4]
    assert all(other.layouts(other.before() + step) == RECIPE.broad_scenes for step in range(6))


def test_artists_draw_by_the_followed_shares() -> None:
    """Nine in twelve of the last artist's: 45 of 60 and four standard deviations of 3.4 to either side."""
    stage = fp32_stage(followed_shares=EVEN | {LAST_ARTIST: 9.0}, followed_pictures=12)
    drawn = Counter(drawer(tile)[0] for number in range(100, 105) for tile in stage.named(number).tiles)
    assert 45 - 14 <= drawn[LAST_ARTIST] <= 45 + 14 and len(drawn) == 4


def test_it_does_not_depend_on_what_the_stage_before_named(tmp_path: Path) -> None:
    train(follow_stage(), tmp_path, until=1)
    other = replace(RECIPE, settled_pictures=4, settled_questions=2, settled_shares=EVEN)
    assert not train(follow_stage(other), tmp_path, until=2)


def test_the_recipe_counts_one_drawing_in_three_manners_once() -> None:
    recipe = Recipe()
    manners = {"fluent", "fluent-3d", "fluent-flat"}
    assert STAGES[-3] == "follow" and recipe.follow.encoder == 1
    assert sum(recipe.followed_shares[name] for name in manners) == pytest.approx(1.0)
    assert len({recipe.followed_shares[name] for name in manners}) == 1
    others = {name: share for name, share in recipe.followed_shares.items() if name not in manners}
    assert others == {name: share for name, share in recipe.settled_shares.items() if name not in manners}
    assert set(recipe.followed_shares) == set(LEARNT_ARTISTS) and HELD_OUT_ARTIST not in recipe.followed_shares
    assert recipe.followed_pictures > recipe.settled_pictures and recipe.followed_questions < recipe.settled_questions


def test_the_recipe_shows_three_in_most_late_scenes() -> None:
    """Nothing that was shown before is missing."""
    recipe = Recipe()
    share = {(scene.layout, scene.count): scene.weight for scene in recipe.listing_scenes}
    assert set(share) == {(scene.layout, scene.count) for scene in BROAD_SCENES}
    assert (share["row", 3] + share["apart", 3]) / sum(share.values()) > 0.5
    assert 0 < recipe.listing_from < recipe.follow.steps
