"""Pins what `vary` changes: one artist more and tinged drawings, in all that is drawn; more pictures in two languages; the
encoder at the whole rate; and that `broaden`, made of the same renderer, draws as before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
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
    small_model,
    small_tokenizer,
    studio,
    vary_stage,
)
from task_emoji import EMOJI

from llama4.train import names, objective
from llama4.train.emoji.dataset import HELD_OUT_ARTIST, LAST_ARTIST, LATE_ARTIST, LEARNT_ARTISTS
from llama4.train.loop import train
from llama4.train.pictures import views
from llama4.train.recipe import Recipe
from llama4.train.render import Renderer, eight_bit
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


@pytest.fixture(scope="module")
def drawer() -> Callable[[torch.Tensor], tuple[str, int] | None]:
    """Whose drawing a tile is, and of which emoji; None where it is nobody's as it was drawn."""
    data, any_state = dataset("noto", "fluent", LATE_ARTIST, "blob"), torch.Generator()
    looks = {name: eight_bit(views(data.artists[name].pixels, TILE, NONE, any_state)) for name in EVEN}

    def find(tile: torch.Tensor) -> tuple[str, int] | None:
        found = [(name, e) for name, look in looks.items() for e in range(len(EMOJI)) if torch.equal(tile, look[e])]
        return found[0] if found else None

    return find


def shown(stage: Broaden, number: int) -> dict[str, torch.Tensor]:
    """The tiles of a step, by what they are for: names, a scene, conversations."""
    named, scene, _ = stage.trees(number)
    return {"names": named.tiles, "scene": scene.tiles, "conversations": stage.batches.batch(number).tiles}


def test_all_that_a_step_shows_is_by_one_artist_more(drawer: Callable[..., tuple[str, int] | None]) -> None:
    """Over twelve steps; by nobody else, where nothing is tinged. `broaden` knows the artist's share and not the artist."""
    for kind, artists in ((Vary, set(EVEN)), (Broaden, {"noto", "fluent"})):
        stage, seen = fp32_stage(kind), {}
        for number in range(60, 72):
            for where, tiles in shown(stage, number).items():
                seen.setdefault(where, set()).update(found and found[0] for found in map(drawer, tiles))
        assert seen["names"] == seen["scene"] == artists
        assert seen["conversations"] - {None} == artists  # None: a strip squeezed into one tile


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


def test_all_that_a_step_shows_is_drawn_as_varied_says(drawer: Callable[..., tuple[str, int] | None]) -> None:
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
    assert all(torch.equal(first[where], again[where]) for where in first)


def test_the_stage_before_draws_the_same_with_this_one_beside_it() -> None:
    renderer = Renderer(studio())
    first = shown(fp32_stage(Broaden, renderer, varied=ALL_TINGED), 60)
    fp32_stage(Vary, renderer, varied=ALL_TINGED)
    again = shown(fp32_stage(Broaden, renderer, varied=NONE, varied_pictures=2), 60)
    assert all(torch.equal(first[where], again[where]) for where in first)
    assert renderer.studio.artists == ("noto", "fluent") and renderer.studio.how == NONE


def test_names_are_of_more_pictures_in_english_and_one_language(drawer: Callable[..., tuple[str, int]]) -> None:
    stage = fp32_stage(varied_pictures=9, varied_questions=2)
    tree = stage.named(60)
    assert len(tree.trunk_PS) == len(tree.tiles) == 9
    tokenizer, asked, english = small_tokenizer(), Counter(), Counter()
    for one in tree.branches:
        for number, ids in zip(one.picture_B.tolist(), one.part.tokens_BS.tolist(), strict=True):
            said = tokenizer.decode([token for token in ids if token != tokenizer.pad_id])
            asked[number] += 1
            _, emoji = drawer(tree.tiles[number])
            assert any(name in said for name in EMOJI[emoji].names.values()), said
            english[number] += EMOJI[emoji].names["en"] in said
    assert asked == dict.fromkeys(range(9), 2)
    assert all(english[number] >= 1 for number in range(9))


def test_it_goes_on_behind_six_stages() -> None:
    """Step 1 is batch 55, whose tokens are learnt with the gradient of their mean."""
    stage, plain = fp32_stage(balance_weight=0.0), fp32_stage(balance_weight=0.0)
    assert plain.before() == 54
    batch, trees = plain.batches.batch(55), plain.trees(55)
    assert [len(tree.trunk_PS) for tree in trees] == [6, 3, 1]  # `varied_pictures`, a scene's trunks, one of text
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
