"""Pins what `settle` changes: one artist more again, and shares of its own; fewer pictures, in three languages; and that `vary`,
made of the same renderer, draws as before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_training import (
    NONE,
    RECIPE,
    SHORT,
    TILE,
    assert_near,
    dataset,
    gradients_of,
    settle_stage,
    small_model,
    small_tokenizer,
    studio,
)
from task_emoji import EMOJI

from llama4.train import names, objective
from llama4.train.emoji.dataset import HELD_OUT_ARTIST, LAST_ARTIST, LATE_ARTIST, LEARNT_ARTISTS
from llama4.train.loop import train
from llama4.train.pictures import views
from llama4.train.recipe import Recipe
from llama4.train.render import Renderer, eight_bit
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


@pytest.fixture(scope="module")
def drawer() -> Callable[[torch.Tensor], tuple[str, int] | None]:
    """Whose drawing a tile is, and of which emoji; None where it is nobody's as it was drawn."""
    data, any_state = dataset("noto", "fluent", LATE_ARTIST, LAST_ARTIST, "blob"), torch.Generator()
    looks = {name: eight_bit(views(data.artists[name].pixels, TILE, NONE, any_state)) for name in WITH_LAST}

    def find(tile: torch.Tensor) -> tuple[str, int] | None:
        found = [(name, e) for name, look in looks.items() for e in range(len(EMOJI)) if torch.equal(tile, look[e])]
        return found[0] if found else None

    return find


def shown(stage: Vary, number: int) -> dict[str, torch.Tensor]:
    """The tiles of a step, by what they are for: names, a scene, conversations."""
    named, scene, _ = stage.trees(number)
    return {"names": named.tiles, "scene": scene.tiles, "conversations": stage.batches.batch(number).tiles}


def test_all_that_a_step_shows_is_by_one_artist_more(drawer: Callable[..., tuple[str, int] | None]) -> None:
    """Over sixteen steps; by nobody else. `vary` knows neither the artist nor the shares."""
    for kind, artists in ((Settle, set(WITH_LAST)), (Vary, set(EVEN))):
        stage, seen = fp32_stage(kind), {}
        for number in range(70, 86):
            for where, tiles in shown(stage, number).items():
                seen.setdefault(where, set()).update(found and found[0] for found in map(drawer, tiles))
        assert seen["names"] == seen["scene"] == artists
        assert seen["conversations"] - {None} == artists  # None: a strip squeezed into one tile


def test_artists_draw_by_the_settled_shares(drawer: Callable[..., tuple[str, int]]) -> None:
    """Nine in twelve of the last artist's: 45 of 60 and four standard deviations of 3.4 to either side."""
    stage = fp32_stage(settled_shares=WITH_LAST | {LAST_ARTIST: 9.0}, settled_pictures=12)
    drawn = Counter(drawer(tile)[0] for number in range(70, 75) for tile in stage.named(number).tiles)
    assert 45 - 14 <= drawn[LAST_ARTIST] <= 45 + 14 and len(drawn) == 4


def test_the_stage_before_draws_the_same_with_this_one_beside_it() -> None:
    renderer = Renderer(studio())
    first = shown(fp32_stage(Vary, renderer), 60)
    fp32_stage(Settle, renderer)
    again = shown(fp32_stage(Vary, renderer, settled_pictures=2, settled_shares=EVEN | {LAST_ARTIST: 5.0}), 60)
    assert all(torch.equal(first[where], again[where]) for where in first)
    assert renderer.studio.artists == ("noto", "fluent") and renderer.studio.how == NONE


def test_names_are_of_some_pictures_in_english_and_two_languages(drawer: Callable[..., tuple[str, int]]) -> None:
    tree = fp32_stage(settled_pictures=9, settled_questions=3).named(70)
    assert len(tree.trunk_PS) == len(tree.tiles) == 9
    tokenizer, asked, english = small_tokenizer(), Counter(), Counter()
    for one in tree.branches:
        for number, ids in zip(one.picture_B.tolist(), one.part.tokens_BS.tolist(), strict=True):
            said = tokenizer.decode([token for token in ids if token != tokenizer.pad_id])
            asked[number] += 1
            _, emoji = drawer(tree.tiles[number])
            assert any(name in said for name in EMOJI[emoji].names.values()), said
            english[number] += EMOJI[emoji].names["en"] in said
    assert asked == dict.fromkeys(range(9), 3)
    assert all(english[number] >= 1 for number in range(9))


def test_it_goes_on_behind_seven_stages() -> None:
    """Step 1 is batch 68, whose tokens are learnt with the gradient of their mean."""
    stage, plain = fp32_stage(balance_weight=0.0), fp32_stage(balance_weight=0.0)
    assert plain.before() == 67
    batch, trees = plain.batches.batch(68), plain.trees(68)
    assert [len(tree.trunk_PS) for tree in trees] == [5, 3, 1]  # `settled_pictures`, a scene's trunks, one of text
    sums = stage.gradients(1)
    told = [objective.measure(plain.model, part, batch.tiles[part.tiles]) for part in batch.parts]
    told += [names.measure(plain.model, tree) for tree in trees]
    tokens = sum(one.answer_tokens for one in told)
    assert sums["answer_tokens"] == tokens
    (sum(one.answers for one in told) / tokens).backward()
    plain.masters.collect()
    ours = gradients_of(stage)
    assert set(ours) == set(stage.masters.weights)
    assert_near(ours, gradients_of(plain))


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
