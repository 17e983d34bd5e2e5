"""Pins the schedule's numbers, and that the model which ships has the size and the shape that the recipe promises."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
import torch
from small_training import dataset

from llama4.config import LayerSpec
from llama4.config_io import to_hf
from llama4.model import Llama4
from llama4.tokenizer import Tokenizer
from llama4.train.recipe import STAGES, Plan, Recipe, small_config
from llama4.train.tasks import TASKS, draw
from llama4.train.tokenizer import RANKS


def rates(**numbers: float) -> list[float]:
    plan = Plan(steps=1000, rows=1, muon_lr=0.01, adam_lr=0.001, warmup=10, **numbers)
    return [plan.rate(step) for step in range(1001)]


def test_the_rate_rises_stays_and_falls_in_a_line() -> None:
    """Ten steps up; down over the last 60 %: half way at step 700."""
    rate = rates()
    assert rate[0] == 0.1 and rate[4] == 0.5 and rate[9] == 1.0
    assert set(rate[9:401]) == {1.0}
    assert rate[700] == pytest.approx(0.5) and rate[999] == pytest.approx(1 / 600) and rate[1000] == 0
    falls = [before - after for before, after in pairwise(rate[400:])]
    assert all(fall == pytest.approx(1 / 600) for fall in falls)


def test_the_floor_is_where_the_rate_ends() -> None:
    rate = rates(floor=0.1)
    assert rate[0] == 0.1 and rate[400] == 1.0 and rate[700] == pytest.approx(0.55) and rate[1000] == pytest.approx(0.1)


def test_the_share_of_steps_over_which_it_falls() -> None:
    rate = rates(decay=0.2)
    assert set(rate[9:801]) == {1.0} and rate[900] == pytest.approx(0.5)


def test_all_plans_warm_up_before_they_fall() -> None:
    for name in STAGES:
        plan = getattr(Recipe(), name)
        assert plan.warmup < plan.steps * (1 - plan.decay) and max(map(plan.rate, range(plan.steps))) == 1.0


def test_the_model_that_ships_fits_and_is_what_the_recipe_says() -> None:
    """A tokenizer of the recipe's size; no merge matters to the shape."""
    ranks = {bytes([number]): number for number in range(256)}
    ranks |= {b"%06d" % number: number for number in range(256, RANKS)}
    config = small_config(Tokenizer(ranks))
    with torch.device("meta"):
        model = Llama4(config)
    assert 2 * sum(weight.numel() for weight in model.parameters()) <= 16 * 2**20
    chunked = LayerSpec("rope", "chunk", "moe")
    assert config.layers == (chunked, chunked, chunked, LayerSpec("nope", "all", "moe"))
    assert (
        to_hf(config)["vision_config"]["intermediate_size"] == 768
    )  # or two hours end in a model that cannot be exported
    assert config.vision.tile_side == 64 and config.vision.tokens_per_tile == 16
    assert config.chunk > 17 * config.vision.tokens_per_tile + 19 + 50  # a picture of 17 tiles, and a question
    assert config.vocab_size == RANKS + 2048 and config.pad_id not in (config.patch_id, *config.stop_ids)


def test_the_first_words_are_one_question_in_english_and_the_whole_mixture_has_every_task() -> None:
    rng, made_up, recipe = Random(0), dataset("noto"), Recipe()
    first = [draw(rng, made_up, recipe.first_words) for _ in range(300)]
    assert {(c.task, c.language, len(c.turns)) for c in first} == {("name_one", "en", 1)}
    assert {draw(rng, made_up, recipe.mixture).task for _ in range(1000)} == set(TASKS)


def test_few_emoji_come_before_all_and_all_come_before_the_end() -> None:
    recipe = Recipe()
    assert all(scene.few and scene.english == 1.0 for scene in recipe.few_scenes)
    # To list, to say which, to say where.
    assert {scene.layout for scene in recipe.few_scenes} == {"row", "apart", "side"}
    assert max(scene.count for scene in recipe.few_scenes) <= recipe.pool.first
    assert [scene.layout for scene in recipe.scenes if scene.few] == ["side"]
    assert recipe.pool.size(recipe.speak.steps // 2, 1585) == 1585


def test_the_encoder_learns_in_its_own_stages_and_along_in_eight_late_ones() -> None:
    shares = {name: getattr(Recipe(), name).encoder for name in STAGES}
    low, whole = ("together", "discern", "broaden"), ("vary", "settle", "follow", "again", "redraw")
    assert {name for name, share in shares.items() if share} == {*low, *whole}
    assert 0 < shares["broaden"] <= shares["discern"] <= shares["together"] < 1
    assert {shares[name] for name in whole} == {1.0}


@pytest.mark.parametrize("plan", STAGES)
def test_a_stages_numbers_are_its_plan_and_what_it_is_drawn_from(plan: str) -> None:
    recipe = Recipe()
    numbers = recipe.numbers(plan, "smoothing")
    assert {"steps", "muon_lr", "seed", "augmentation", "smoothing"} <= set(numbers)
    changed = replace(recipe, seed=1, smoothing=0.2, **{plan: replace(getattr(recipe, plan), clip=0.5)})
    other = changed.numbers(plan, "smoothing")
    assert {name for name in numbers if numbers[name] != other[name]} == {"seed", "smoothing", "clip"}
