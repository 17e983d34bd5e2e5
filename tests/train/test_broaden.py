"""Pins what `broaden` changes: more pictures in fewer languages, artists by their shares, scenes of its own; and that the stages
before it draw as they did."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_training import NONE, RECIPE, SHORT, TILE, broaden_stage, dataset, small_model, small_tokenizer, studio
from task_emoji import EMOJI

from llama4.train import names
from llama4.train.emoji.dataset import HELD_OUT_ARTIST, TRAIN_ARTISTS, VALIDATION_ARTIST, Artist, Dataset
from llama4.train.loop import train
from llama4.train.pictures import views
from llama4.train.recipe import Recipe
from llama4.train.render import Renderer, eight_bit
from llama4.train.speak import Broaden, Discern
from llama4.train.tasks import Picture

BEFORE = {"speak": 5, "rehearse": 7, "relate": 9, "together": 10, "discern": 11}  # 42 batches in all


def fp32_stage(kind: type[Discern] = Broaden, **changed: object) -> Discern:
    """Weights, sums and gradients in float32."""
    plans = {name: replace(SHORT, steps=steps) for name, steps in BEFORE.items()}
    return kind(small_model(), small_tokenizer(), Renderer(studio()), replace(RECIPE, **plans, **changed))


def who_drew(tiles: torch.Tensor, emoji: int) -> str:
    """The artist whose drawing of the emoji, as it is, the tile equals."""
    data, any_state = dataset("noto", "fluent", "blob"), torch.Generator()
    for name in ("noto", "fluent"):
        if torch.equal(tiles, eight_bit(views(data.artists[name].pixels, TILE, NONE, any_state))[emoji]):
            return name
    raise AssertionError(f"no artist drew emoji {emoji} like that")


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_an_artist_draws_as_often_as_its_share(share: float) -> None:
    """800 pictures; four standard deviations, none where the share leaves no choice."""
    renderer = Renderer(replace(studio(), shares={"noto": 2 * share, "fluent": 2 * (1 - share)}))
    pictures = [Picture((number % len(EMOJI),)) for number in range(800)]
    drawn = renderer.tiles(pictures, np.random.default_rng(5))
    seen = Counter(who_drew(tiles[0], picture.emoji[0]) for picture, (tiles, _) in zip(pictures, drawn, strict=True))
    assert abs(seen["noto"] - 800 * share) <= 4 * np.sqrt(800 * share * (1 - share))


def test_an_emoji_is_drawn_by_who_drew_it_whatever_the_shares() -> None:
    data = dataset("noto", "fluent")
    few = Artist("fluent", data.artists["fluent"].pixels[3:5], data.artists["fluent"].index[3:5])
    alone = studio(data=Dataset(EMOJI, {"noto": data.artists["noto"], "fluent": few}))
    renderer = Renderer(replace(alone, shares={"noto": 1e-9, "fluent": 1.0}))
    assert {name for name, _ in renderer.drawn_by[0]} == {"noto"}
    ((tiles, _),) = renderer.tiles([Picture((0,))], np.random.default_rng(1))
    assert who_drew(tiles[0], 0) == "noto"


def test_names_are_of_more_pictures_in_fewer_languages_by_the_artist_with_the_share() -> None:
    """Seven pictures in two languages, English and another; with all of the share, noto draws them all."""
    stage = fp32_stage(broad_pictures=7, broad_questions=2, shares={"noto": 1.0, "fluent": 0.0})
    tree = stage.named(50)
    assert len(tree.trunk_PS) == len(tree.tiles) == 7
    asked = Counter(number for one in tree.branches for number in one.picture_B.tolist())
    assert asked == dict.fromkeys(range(7), 2)
    tokenizer, english = small_tokenizer(), Counter()
    for one in tree.branches:
        for number, ids in zip(one.picture_B.tolist(), one.part.tokens_BS.tolist(), strict=True):
            said = tokenizer.decode([token for token in ids if token != tokenizer.pad_id])
            (emoji,) = [which for which in range(13) if _equals(tree.tiles[number], which)]
            assert any(name in said for name in EMOJI[emoji].names.values()), said
            english[number] += EMOJI[emoji].names["en"] in said
    assert all(english[number] >= 1 for number in range(7))


def _equals(tile: torch.Tensor, emoji: int) -> bool:
    """Noto's drawing of the emoji, whatever the augmentation has left: it has left all."""
    noto = dataset("noto", "fluent", "blob").artists["noto"].pixels
    return torch.equal(tile, eight_bit(views(noto, TILE, NONE, torch.Generator()))[emoji])


def test_it_goes_on_behind_five_stages_with_scenes_of_its_own() -> None:
    """Step 1 is batch 43; the gradient is that of the batch and of the trees of that number."""
    stage, plain = fp32_stage(balance_weight=0.0), fp32_stage(balance_weight=0.0)
    assert plain.before() == 42
    batch, trees = plain.batches.batch(43), plain.trees(43)
    assert [len(tree.trunk_PS) for tree in trees] == [3, 3, 1]  # `broad_pictures`, its scene's trunks, one of text
    sums = stage.gradients(1)
    told = [names.measure(plain.model, tree) for tree in trees]
    tokens = batch.answer_tokens + sum(one.answer_tokens for one in told)
    assert sums["answer_tokens"] == tokens
    assert sums["right_tokens"] >= sum(one.right_tokens for one in told)


def test_the_stage_before_draws_as_if_there_were_no_shares() -> None:
    """The two share the model and the dataset; `discern` made first, or behind `broaden`, draws the same tiles."""
    renderer = Renderer(studio())
    recipe = replace(RECIPE, shares={"noto": 0.0, "fluent": 1.0})
    first = Discern(small_model(), small_tokenizer(), renderer, recipe).named(3)
    broaden = Broaden(small_model(), small_tokenizer(), renderer, recipe)
    again = Discern(small_model(), small_tokenizer(), renderer, recipe).named(3)
    assert torch.equal(first.tiles, again.tiles) and renderer.studio.shares is None
    assert broaden.renderer.studio.shares == recipe.shares


def test_the_numbers_of_names_in_other_stages_may_change(tmp_path: object) -> None:
    """`pictures` is not its number of pictures."""
    train(broaden_stage(), tmp_path, until=1)
    assert not train(broaden_stage(replace(RECIPE, pictures=5)), tmp_path, until=2)


def test_the_recipe_has_every_scene_in_more_trunks_and_names_every_artist() -> None:
    recipe = Recipe()
    before, after = (
        {(scene.layout, scene.count): scene for scene in scenes}
        for scenes in (recipe.discerning_scenes, recipe.broad_scenes)
    )
    assert set(before) == set(after)
    for kind, scene in after.items():
        assert scene.trunks >= before[kind].trunks
        assert (scene.questions or recipe.questions) <= (before[kind].questions or recipe.questions)
    assert recipe.broad_pictures * recipe.broad_questions == recipe.pictures * recipe.questions
    assert set(recipe.shares) == {*TRAIN_ARTISTS, VALIDATION_ARTIST} and HELD_OUT_ARTIST not in recipe.shares
    assert all(share > 0 for share in recipe.shares.values())
