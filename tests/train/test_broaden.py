"""Pins what `broaden` changes: more pictures in fewer languages, artists by their shares in all that is drawn, scenes of its own;
and that the stage before it draws each artist as often as another."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from late_stages import assert_goes_on, assert_names, drawer
from small_training import RECIPE, SHORT, broaden_stage, dataset, small_model, small_tokenizer, studio
from task_emoji import EMOJI

from llama4.train.emoji.dataset import HELD_OUT_ARTIST, TRAIN_ARTISTS, VALIDATION_ARTIST, Artist, Dataset
from llama4.train.loop import train
from llama4.train.recipe import Recipe
from llama4.train.render import Renderer
from llama4.train.speak import Broaden, Discern
from llama4.train.tasks import Picture

BEFORE = {"speak": 5, "rehearse": 7, "relate": 9, "together": 10, "discern": 11}  # 42 batches in all
NOTO_ALONE = {"noto": 1.0, "fluent": 0.0}


def fp32_stage(**changed: object) -> Broaden:
    """Weights, sums and gradients in float32; pictures without augmentation."""
    plans = {name: replace(SHORT, steps=steps) for name, steps in BEFORE.items()}
    return Broaden(small_model(), small_tokenizer(), Renderer(studio()), replace(RECIPE, **plans, **changed))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_an_artist_draws_as_often_as_its_share(share: float) -> None:
    """800 pictures; four standard deviations, none where the share leaves no choice."""
    renderer = Renderer(replace(studio(), shares={"noto": 2 * share, "fluent": 2 * (1 - share)}))
    pictures = [Picture((number % len(EMOJI),)) for number in range(800)]
    drawn = renderer.tiles(pictures, np.random.default_rng(5))
    seen = Counter(drawer(tiles[0])[0] for tiles, _ in drawn)
    assert abs(seen["noto"] - 800 * share) <= 4 * np.sqrt(800 * share * (1 - share))


def test_an_emoji_is_drawn_by_who_drew_it_whatever_the_shares() -> None:
    data = dataset("noto", "fluent")
    few = Artist("fluent", data.artists["fluent"].pixels[3:5], data.artists["fluent"].index[3:5])
    alone = studio(data=Dataset(EMOJI, {"noto": data.artists["noto"], "fluent": few}))
    renderer = Renderer(replace(alone, shares={"noto": 1e-9, "fluent": 1.0}))
    assert {name for name, _ in renderer.drawn_by[0]} == {"noto"}
    ((tiles, _),) = renderer.tiles([Picture((0,))], np.random.default_rng(1))
    assert drawer(tiles[0]) == ("noto", 0)


def test_names_are_of_more_pictures_in_fewer_languages() -> None:
    """Seven pictures in two languages, English and another."""
    assert_names(fp32_stage(broad_pictures=7, broad_questions=2).named(50), 7, 2)


def test_all_that_a_step_shows_is_drawn_by_the_shares() -> None:
    """Conversations, names and scenes, which draw from both artists where the shares are even."""
    for shares, expected in ((NOTO_ALONE, {"noto"}), ({"noto": 1.0, "fluent": 1.0}, {"noto", "fluent"})):
        stage = fp32_stage(shares=shares, many_tiles=0.0)
        names_tree, scene, _ = stage.trees(60)
        scenes_tiles = [scene.tiles, *(stage.trees(number)[1].tiles for number in (61, 62))]
        single = [Picture((number,)) for number in range(len(EMOJI))]
        beside = stage.batches.renderer.tiles(single, np.random.default_rng(2))
        for tiles in (names_tree.tiles, torch.cat(scenes_tiles), torch.cat([tile for tile, _ in beside])):
            assert {drawer(tile)[0] for tile in tiles} == expected


def test_it_goes_on_behind_five_stages_with_scenes_of_its_own() -> None:
    assert_goes_on(fp32_stage, 42, [4, 3, 1])  # `broad_pictures`, its scene's trunks, one of text


def test_the_stage_before_draws_every_artist_as_often() -> None:
    """`discern` made before and after a `broaden` of the same renderer: the same tiles, by both artists."""
    renderer = Renderer(studio())
    recipe = replace(RECIPE, pictures=13, shares=NOTO_ALONE)
    first = Discern(small_model(), small_tokenizer(), renderer, recipe).named(3)
    broaden = Broaden(small_model(), small_tokenizer(), renderer, recipe)
    again = Discern(small_model(), small_tokenizer(), renderer, recipe).named(3)
    assert {drawer(tile)[0] for tile in first.tiles} == {"noto", "fluent"}
    assert torch.equal(first.tiles, again.tiles) and renderer.studio.shares is None
    assert {drawer(tile)[0] for tile in broaden.named(3).tiles} == {"noto"}


def test_it_does_not_depend_on_how_many_pictures_the_stages_before_named(tmp_path: Path) -> None:
    train(broaden_stage(), tmp_path, until=1)
    assert not train(broaden_stage(replace(RECIPE, pictures=5)), tmp_path, until=2)


def test_the_recipe_shows_more_and_asks_less_and_knows_every_artist() -> None:
    """Large pictures of many tiles cost too much to show more of; sides and sameness have many pairs as it is."""
    recipe = Recipe()
    before, after = (
        {(scene.layout, scene.count): scene for scene in scenes}
        for scenes in (recipe.discerning_scenes, recipe.broad_scenes)
    )
    assert set(before) == set(after)
    alike = {("large", 3), ("large", 4), ("side", 2), ("same", 2)}
    for kind, scene in after.items():
        asked, asked_before = scene.questions or recipe.questions, before[kind].questions or recipe.questions
        more = scene.trunks > before[kind].trunks and asked < asked_before
        same = (scene.trunks, asked) == (before[kind].trunks, asked_before)
        assert same if kind in alike else more, kind
    assert recipe.broad_pictures > recipe.pictures and recipe.broad_questions < recipe.questions
    assert set(recipe.shares) >= {*TRAIN_ARTISTS, VALIDATION_ARTIST} and HELD_OUT_ARTIST not in recipe.shares
