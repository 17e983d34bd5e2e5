"""Pins what `vary` changes: one artist more and tinged drawings, in all that is drawn; more pictures in two languages; the
encoder at the whole rate; and that `broaden`, made of the same renderer, draws as before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from late_stages import assert_goes_on, assert_names, assert_same, drawer, shown, who_draws
from small_training import NONE, RECIPE, SHORT, dataset, small_model, small_tokenizer, studio, vary_stage

from llama4.train.emoji.dataset import HELD_OUT_ARTIST, LAST_ARTIST, LATE_ARTIST, LEARNT_ARTISTS
from llama4.train.loop import train
from llama4.train.recipe import Recipe
from llama4.train.render import Renderer
from llama4.train.speak import Broaden, Vary
from llama4.train.tasks import Picture
from llama4.train.weights import optimisers

BEFORE = {"speak": 5, "rehearse": 7, "relate": 9, "together": 10, "discern": 11, "broaden": 12}  # 54 batches in all
EVEN = {"noto": 1.0, "fluent": 1.0, LATE_ARTIST: 1.0}
ALL_TINGED = replace(NONE, tinged=1.0)


def fp32_stage(kind: type[Broaden] = Vary, renderer: Renderer | None = None, **changed: object) -> Broaden:
    """Weights, sums and gradients in float32; pictures without augmentation, but for what `varied` says."""
    plans = {name: replace(SHORT, steps=steps) for name, steps in BEFORE.items()}
    recipe = replace(RECIPE, **{"varied": NONE, "shares": EVEN, "many_tiles": 0.0} | plans | changed)
    return kind(small_model(), small_tokenizer(), renderer or Renderer(studio()), recipe)


def test_all_that_a_step_shows_is_by_one_artist_more() -> None:
    """Over twelve steps; by nobody else, where nothing is tinged. `broaden` knows the artist's share and not the artist."""
    for kind, artists in ((Vary, set(EVEN)), (Broaden, {"noto", "fluent"})):
        seen = who_draws(fp32_stage(kind), range(60, 72))
        assert seen["names"] == seen["scene"] == seen["conversations"] - {None} == artists


def single(renderer: Renderer) -> list[torch.Tensor]:
    """Three pictures of one emoji."""
    return [tiles for tiles, _ in renderer.tiles([Picture((n,)) for n in (1, 5, 9)], np.random.default_rng(2))]


def strips(renderer: Renderer) -> list[torch.Tensor]:
    """A row and a column."""
    pictures = [Picture((1, 2, 3), "row"), Picture((4, 5), "column")]
    return [tiles for tiles, _ in renderer.tiles(pictures, np.random.default_rng(3))]


def large(renderer: Renderer) -> list[torch.Tensor]:
    """Two pictures of four tiles and the whole."""
    return [tiles for tiles, _ in renderer.large([6, 7], 2, np.random.default_rng(4))]


def test_all_that_a_step_shows_is_drawn_as_varied_says() -> None:
    """Of tinged drawings none is what an artist drew; `broaden` tinges none, with the same recipe."""
    for kind, tinged in ((Vary, True), (Broaden, False)):
        stage = fp32_stage(kind, varied=ALL_TINGED)
        for where in ("names", "scene"):
            assert {drawer(tile) is None for tile in shown(stage, 60)[where]} == {tinged}
        drawn = [picture(stage.batches.renderer) for picture in (single, strips, large)]
        as_drawn = [picture(Renderer(replace(stage.renderer.studio, how=NONE))) for picture in (single, strips, large)]
        for one, other in zip(drawn, as_drawn, strict=True):
            assert [not torch.equal(a, b) for a, b in zip(one, other, strict=True)] == [tinged] * len(one)


def test_the_stage_before_draws_the_same_whether_there_is_one_artist_more_or_not() -> None:
    """A folder and shares without the late artist, and with it."""
    without = Renderer(studio(data=dataset("noto", "fluent", "blob")))
    first = shown(fp32_stage(Broaden, without, shares={"noto": 1.0, "fluent": 1.0}), 60)
    again = shown(fp32_stage(Broaden), 60)
    assert_same(first, again)


def test_the_stage_before_draws_the_same_with_this_one_beside_it() -> None:
    renderer = Renderer(studio())
    first = shown(fp32_stage(Broaden, renderer, varied=ALL_TINGED), 60)
    fp32_stage(Vary, renderer, varied=ALL_TINGED)
    again = shown(fp32_stage(Broaden, renderer, varied=NONE, varied_pictures=2), 60)
    assert_same(first, again)
    assert renderer.studio.artists == ("noto", "fluent") and renderer.studio.how == NONE


def test_names_are_of_more_pictures_in_english_and_one_language() -> None:
    assert_names(fp32_stage(varied_pictures=9, varied_questions=2).named(60), 9, 2)


def test_it_goes_on_behind_six_stages() -> None:
    assert_goes_on(fp32_stage, 54, [6, 3, 1])  # `varied_pictures`, a scene's trunks, one of text


def test_the_encoder_learns_at_the_whole_rate() -> None:
    """Of the recipe's plan, not the small one's."""
    plan = Recipe().vary
    stage = fp32_stage()
    for optimiser in optimisers(stage.masters, (), plan):
        others, encoder = optimiser.param_groups
        assert encoder["peak"] == others["peak"] > 0


def test_it_does_not_depend_on_what_the_stage_before_named(tmp_path: Path) -> None:
    train(vary_stage(), tmp_path, until=1)
    assert not train(vary_stage(replace(RECIPE, broad_pictures=5, broad_questions=3)), tmp_path, until=2)


def test_the_recipe_shows_still_more_and_asks_still_less() -> None:
    recipe = Recipe()
    assert recipe.varied_pictures > recipe.broad_pictures and 2 == recipe.varied_questions < recipe.broad_questions
    assert recipe.varied == replace(recipe.augmentation, tinged=recipe.varied.tinged) and recipe.varied.tinged > 0
    assert recipe.augmentation.tinged == 0
    assert set(recipe.shares) == set(LEARNT_ARTISTS) - {LAST_ARTIST} and HELD_OUT_ARTIST not in recipe.shares
    assert all(share > 0 for share in recipe.shares.values())
