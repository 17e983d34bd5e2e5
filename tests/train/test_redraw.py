"""Pins what `redraw` changes: drawings redrawn part by part among what is shown, the validation artist's not without the
artist; lists of three from its first step on; and that what is redrawn says nothing of how artists differ."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from late_stages import assert_goes_on, assert_names, drawer, who_draws
from small_training import (
    DRAWN,
    NONE,
    RECIPE,
    SHORT,
    redraw_stage,
    small_model,
    small_tokenizer,
    studio,
)

from llama4.train.emoji.dataset import HELD_OUT_ARTIST, LAST_ARTIST, LATE_ARTIST, LEARNT_ARTISTS, REDRAWN
from llama4.train.loop import train
from llama4.train.recipe import STAGES, Recipe, Scene
from llama4.train.render import Renderer
from llama4.train.scatter import Follow, Redraw

STEPS = {"speak": 5, "rehearse": 7, "relate": 9, "together": 10, "discern": 11, "broaden": 12, "vary": 13, "settle": 14}
STEPS |= {"scatter": 15, "follow": 16}  # 112 in all
EVEN = dict.fromkeys(DRAWN[:-1], 1.0)


def fp32_stage(kind: type[Follow] = Redraw, **changed: object) -> Follow:
    """Weights, sums and gradients in float32; pictures as they were drawn; tokens as they are."""
    plans = {name: replace(SHORT, steps=steps) for name, steps in STEPS.items()}
    numbers = {"scattered": NONE, "followed_shares": EVEN, "redrawn_shares": EVEN}
    numbers |= {"many_tiles": 0.0, "astray": 0.0, "left_out": 0.0}
    recipe = replace(RECIPE, **numbers | plans | {"redraw": replace(SHORT, encoder=1.0)} | changed)
    return kind(small_model(), small_tokenizer(), Renderer(studio()), recipe)


def test_it_goes_on_behind_ten_stages_and_the_encoder_learns() -> None:
    stage = partial(fp32_stage, listing_scenes=RECIPE.broad_scenes)
    assert_goes_on(stage, 112, [7, 3, 1])  # `followed_pictures`, a scene's trunks, one of text
    assert [name for name in stage().masters.weights if name.startswith("vision.")]


def test_all_that_a_step_shows_may_be_redrawn() -> None:
    """Over sixteen steps; `follow` shows none of it. Blob's, whom this run validates on, is not shown redrawn either."""
    scenes = {"listing_scenes": RECIPE.broad_scenes, "broad_scenes": RECIPE.broad_scenes}
    for kind, artists in ((Redraw, set(EVEN)), (Follow, {"noto", "fluent", LATE_ARTIST, LAST_ARTIST})):
        seen = who_draws(fp32_stage(kind, **scenes), range(120, 136))
        assert seen["names"] == seen["scene"] == seen["conversations"] - {None} == artists


def test_what_is_redrawn_of_an_artist_comes_and_goes_with_the_artist() -> None:
    stage = fp32_stage()
    assert stage.shown(("noto",)) == ("noto", LATE_ARTIST, LAST_ARTIST, "noto-redrawn", "streamline-redrawn")
    assert "blob-redrawn" in stage.shown(("noto", "blob")) and "blob-redrawn" not in stage.shown(("noto",))


def test_it_is_drawn_by_the_redrawn_shares() -> None:
    """Fifteen in twenty of one's redrawn drawings: 45 of 60 and four standard deviations of 3.4 to either side."""
    stage = fp32_stage(redrawn_shares=EVEN | {"noto-redrawn": 15.0}, followed_pictures=12)
    drawn = Counter(drawer(tile)[0] for number in range(120, 125) for tile in stage.named(number).tiles)
    assert 45 - 14 <= drawn["noto-redrawn"] <= 45 + 14


def test_names_are_of_as_many_pictures_as_in_the_stage_before() -> None:
    assert_names(fp32_stage(followed_pictures=9, followed_questions=2).named(120), 9, 2)


def test_what_is_redrawn_leads_no_token_astray() -> None:
    """Of 13 emoji, four artists' drawings."""
    redrawing, following = fp32_stage(), fp32_stage(Follow)
    assert len(redrawing.tokens.tokens) == 4 * 13 and torch.equal(redrawing.tokens.tokens, following.tokens.tokens)


def test_lists_come_from_the_first_step_on() -> None:
    lists = (Scene("row", 2, 1, trunks=4),)
    stage = fp32_stage(listing_scenes=lists, listing_from=3)
    assert all(stage.layouts(stage.before() + step) == lists for step in range(6))
    assert len(stage.trees(stage.before())[1].trunk_PS) == 4


def test_it_does_not_depend_on_when_the_lists_began_or_who_drew_then(tmp_path: Path) -> None:
    train(redraw_stage(), tmp_path, until=1)
    other = replace(RECIPE, listing_from=4, followed_shares=EVEN, settled_shares=EVEN)
    assert not train(redraw_stage(other), tmp_path, until=2)


def test_the_recipe_adds_what_is_redrawn_to_what_follow_shows() -> None:
    recipe = Recipe()
    assert STAGES[-1] == "redraw" and recipe.redraw.encoder == 1
    assert (
        set(recipe.redrawn_shares) == {*LEARNT_ARTISTS, *REDRAWN.values()}
        and HELD_OUT_ARTIST not in recipe.redrawn_shares
    )
    assert {name: recipe.redrawn_shares[name] for name in LEARNT_ARTISTS} == recipe.followed_shares
    assert len({recipe.redrawn_shares[name] for name in REDRAWN.values()}) == 1
