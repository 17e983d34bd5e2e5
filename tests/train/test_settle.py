"""Pins what `settle` changes: one artist more again, and shares of its own; fewer pictures, in three languages; and that `vary`,
made of the same renderer, draws as before."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from late_stages import assert_goes_on, assert_names, assert_same, drawer, shown, who_draws
from small_training import NONE, RECIPE, SHORT, settle_stage, small_model, small_tokenizer, studio

from llama4.train.emoji.dataset import HELD_OUT_ARTIST, LAST_ARTIST, LATE_ARTIST, LEARNT_ARTISTS
from llama4.train.loop import train
from llama4.train.recipe import Recipe
from llama4.train.render import Renderer
from llama4.train.speak import Settle, Vary
from llama4.train.weights import optimisers

BEFORE = {"speak": 5, "rehearse": 7, "relate": 9, "together": 10, "discern": 11, "broaden": 12, "vary": 13}  # 67 in all
EVEN = {"noto": 1.0, "fluent": 1.0, LATE_ARTIST: 1.0}
WITH_LAST = EVEN | {LAST_ARTIST: 1.0}


def fp32_stage(kind: type[Vary] = Settle, renderer: Renderer | None = None, **changed: object) -> Vary:
    """Weights, sums and gradients in float32; pictures as they were drawn."""
    plans = {name: replace(SHORT, steps=steps) for name, steps in BEFORE.items()}
    numbers = {"varied": NONE, "shares": EVEN, "settled_shares": WITH_LAST, "many_tiles": 0.0}
    recipe = replace(RECIPE, **numbers | plans | changed)
    return kind(small_model(), small_tokenizer(), renderer or Renderer(studio()), recipe)


def test_all_that_a_step_shows_is_by_one_artist_more() -> None:
    """Over sixteen steps; by nobody else. `vary` knows neither the artist nor the shares."""
    for kind, artists in ((Settle, set(WITH_LAST)), (Vary, set(EVEN))):
        seen = who_draws(fp32_stage(kind), range(70, 86))
        assert seen["names"] == seen["scene"] == seen["conversations"] - {None} == artists


def test_artists_draw_by_the_settled_shares() -> None:
    """Nine in twelve of the last artist's: 45 of 60 and four standard deviations of 3.4 to either side."""
    stage = fp32_stage(settled_shares=WITH_LAST | {LAST_ARTIST: 9.0}, settled_pictures=12)
    drawn = Counter(drawer(tile)[0] for number in range(70, 75) for tile in stage.named(number).tiles)
    assert 45 - 14 <= drawn[LAST_ARTIST] <= 45 + 14 and len(drawn) == 4


def test_the_stage_before_draws_the_same_with_this_one_beside_it() -> None:
    renderer = Renderer(studio())
    first = shown(fp32_stage(Vary, renderer), 60)
    fp32_stage(Settle, renderer)
    again = shown(fp32_stage(Vary, renderer, settled_pictures=2, settled_shares=EVEN | {LAST_ARTIST: 5.0}), 60)
    assert_same(first, again)
    assert renderer.studio.artists == ("noto", "fluent") and renderer.studio.how == NONE


def test_names_are_of_some_pictures_in_english_and_two_languages() -> None:
    assert_names(fp32_stage(settled_pictures=9, settled_questions=3).named(70), 9, 3)


def test_it_goes_on_behind_seven_stages() -> None:
    assert_goes_on(fp32_stage, 67, [5, 3, 1])  # `settled_pictures`, a scene's trunks, one of text


def test_the_encoder_learns_at_the_whole_rate() -> None:
    """Of the recipe's plan, not the small one's."""
    plan, stage = Recipe().settle, fp32_stage()
    for optimiser in optimisers(stage.masters, (), plan):
        others, encoder = optimiser.param_groups
        assert encoder["peak"] == others["peak"] > 0


def test_it_does_not_depend_on_what_the_stages_before_named(tmp_path: Path) -> None:
    train(settle_stage(), tmp_path, until=1)
    other = replace(RECIPE, broad_pictures=5, varied_pictures=3, varied_questions=3, shares=EVEN)
    assert not train(settle_stage(other), tmp_path, until=2)


def test_the_recipe_learns_from_everyone_but_the_held_out_artist() -> None:
    recipe = Recipe()
    assert set(recipe.settled_shares) == set(LEARNT_ARTISTS) and HELD_OUT_ARTIST not in recipe.settled_shares
    assert {name: recipe.settled_shares[name] for name in recipe.shares} == recipe.shares
    assert LAST_ARTIST not in recipe.shares and recipe.settled_shares[LAST_ARTIST] > 0
    assert recipe.varied_questions < recipe.settled_questions < recipe.broad_questions
