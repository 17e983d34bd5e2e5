"""Pins what `scatter` changes: tokens of drawings are led astray as two drawings of one emoji differ, and some are left out; the
encoder rests; half of what is drawn is untouched; and what it shows and asks is else `settle`'s."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from late_stages import assert_goes_on, shown
from small_training import NONE, RECIPE, SHORT, TILE, gradients_of, small_model, small_tokenizer, studio
from task_emoji import EMOJI

from llama4.train.emoji.dataset import LAST_ARTIST, LATE_ARTIST
from llama4.train.pictures import plain
from llama4.train.recipe import STAGES, Recipe
from llama4.train.render import Renderer, eight_bit
from llama4.train.scatter import Scatter, Scattered, changed

STEPS = {"speak": 5, "rehearse": 7, "relate": 9, "together": 10, "discern": 11, "broaden": 12, "vary": 13, "settle": 14}
EVEN = {"noto": 1.0, "fluent": 1.0, LATE_ARTIST: 1.0, LAST_ARTIST: 1.0}


def fp32_stage(**changed: object) -> Scatter:
    """Weights, sums and gradients in float32; pictures as they were drawn; tokens as they are, but for what is given."""
    plans = {name: replace(SHORT, steps=steps) for name, steps in STEPS.items()}
    numbers = {"scattered": NONE, "settled_shares": EVEN, "many_tiles": 0.0, "astray": 0.0, "left_out": 0.0}
    recipe = replace(RECIPE, **numbers | plans | changed)
    return Scatter(small_model(), small_tokenizer(), Renderer(studio()), recipe)


@cache
def tokens() -> Scattered:
    return fp32_stage().tokens


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_the_tokens_are_what_the_encoder_says_of_every_drawing() -> None:
    """Of all four artists, thirteen drawings each, plain on white."""
    stage, data = fp32_stage(), studio().dataset
    assert stage.tokens.tokens.shape == (4 * len(EMOJI), 4, 24)
    pixels = np.concatenate([data.artists[name].pixels for name in stage.renderer.studio.artists])
    tiles = eight_bit(plain(pixels, TILE)).bfloat16().float()
    with torch.no_grad():
        expected = stage.model.vision(tiles)
    assert (stage.tokens.tokens - expected).abs().max() <= 1e-5
    assert torch.equal(stage.tokens.mean, stage.tokens.tokens.mean(dim=0))


def test_a_difference_is_between_two_drawings_of_one_emoji(rng: np.random.Generator) -> None:
    """A multiple of it, up to 1, is what is drawn; all emoji and all pairs of artists come up."""
    drawn = tokens().differences(400, 1.0, rng)
    each = tokens().tokens.reshape(4, len(EMOJI), -1)  # artist after artist
    between = (each[:, None] - each[None]).permute(2, 0, 1, 3)[:, ~torch.eye(4, dtype=torch.bool)].reshape(13 * 12, -1)
    cosine = torch.nn.functional.normalize(drawn.flatten(1), dim=1) @ torch.nn.functional.normalize(between, dim=1).T
    found = cosine.argmax(dim=1)
    assert cosine.max(dim=1).values.min() > 0.9999
    far = (drawn.flatten(1) / between[found]).nanmedian(dim=1).values
    assert 0 <= far.min() < 0.05 and 0.95 < far.max() <= 1.0001 and abs(far.mean() - 0.5) < 4 * 0.289 / 20
    assert len({int(one) // 12 for one in found}) == 13 and len({int(one) % 12 for one in found}) == 12


def test_an_emoji_that_one_artist_drew_has_no_differences() -> None:
    """Noto drew emoji 0, 1 and 2 here, and Fluent 1, 2 and 3."""
    data = studio().dataset
    some = {
        name: replace(data.artists[name], pixels=data.artists[name].pixels[first : first + 3], index=index)
        for name, first, index in (("noto", 0, np.arange(3)), ("fluent", 1, np.arange(1, 4)))
    }
    found = Scattered(small_model().vision, replace(data, artists=some), ("noto", "fluent"), TILE)
    assert [rows.tolist() for rows in found.rows] == [[1, 3], [2, 4]]  # their second and third and its first and second


def test_a_share_is_led_astray(rng: np.random.Generator) -> None:
    """Of 400, four standard deviations of 9 to either side."""
    drawn = tokens().differences(400, 0.7, rng)
    assert abs(int((drawn.flatten(1) != 0).any(dim=1).sum()) - 280) <= 36
    assert not tokens().differences(9, 0.0, rng).any()


def test_whole_tokens_or_the_same_numbers_of_all_are_left_out(rng: np.random.Generator) -> None:
    """Half of the tiles lose tokens and half numbers; a fourth of them on the mean where at most a half are."""
    out = tokens().left_out(800, 0.5, rng)
    assert out.shape == (800, 4, 24) and out.dtype == torch.bool
    whole = (out == out[:, :, :1]).all(dim=(1, 2))
    alike = (out == out[:, :1]).all(dim=(1, 2))
    assert (whole | alike).all()
    some = out.any(dim=(1, 2)) & ~out.all(dim=(1, 2))
    assert 0.3 < float((whole & ~alike & some).sum() / some.sum()) < 0.6  # few tokens: more often none
    assert abs(float(out.float().mean()) - 0.25) < 0.03
    assert float(out[alike & ~whole].float().mean(dim=(1, 2)).max()) < 0.5 + 0.35
    assert not tokens().left_out(50, 0.0, rng).any()


def test_what_is_left_out_is_the_mean_and_the_rest_is_led_astray() -> None:
    """As the two say, from the same draws; behind the block the encoder says what it said."""
    stage = fp32_stage()
    tiles = shown(stage, 90)["names"].float()
    with torch.no_grad():
        before = stage.model.vision(tiles)
        with changed(stage.model, tokens(), 0.8, 0.5, np.random.default_rng(5)):
            after = stage.model.vision(tiles)
        assert torch.equal(stage.model.vision(tiles), before)
    rng = np.random.default_rng(5)
    far, out = tokens().differences(len(tiles), 0.8, rng), tokens().left_out(len(tiles), 0.5, rng)
    assert torch.equal(after, torch.where(out, tokens().mean, before + far))
    assert far.any() and out.any()


def test_an_error_in_the_block_leaves_the_encoder_as_it_was() -> None:
    stage = fp32_stage()
    with pytest.raises(ZeroDivisionError), changed(stage.model, tokens(), 1.0, 0.5, np.random.default_rng(5)):
        _ = 1 / 0
    assert not stage.model.vision._forward_hooks


def test_it_goes_on_behind_eight_stages_and_the_encoder_rests() -> None:
    """With tokens as they are: the mean of the batch's tokens; no weight of the encoder is among those that learn."""
    assert_goes_on(fp32_stage, 81, [5, 3, 1])
    assert not [name for name in fp32_stage().masters.weights if name.startswith("vision.")]


@pytest.mark.parametrize("number", ["astray", "left_out"])
def test_a_step_learns_from_changed_tokens_the_same_each_time(number: str) -> None:
    """What is changed follows from the step; names, scenes and conversations all have other losses."""
    plain, once, again = fp32_stage(), fp32_stage(**{number: 0.9}), fp32_stage(**{number: 0.9})
    for stage in (plain, once, again):
        stage.gradients(2)
    as_it_is, first, second = (gradients_of(stage) for stage in (plain, once, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["decoder.embedding.weight"], as_it_is["decoder.embedding.weight"])
    more = fp32_stage(**{number: 0.9})
    more.gradients(3)
    assert not torch.equal(first["decoder.head.weight"], gradients_of(more)["decoder.head.weight"])


def test_each_step_draws_changes_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its number alone."""
    drawn: list[float] = []
    monkeypatch.setattr(
        Scattered, "left_out", lambda self, count, most, rng: drawn.append(rng.random()) or torch.tensor(False)
    )
    firsts = []
    for step in (2, 3, 2):
        drawn.clear()
        fp32_stage().gradients(step)
        assert len(set(drawn)) == len(drawn) >= 2, "each piece of a step has its own"
        firsts.append(drawn[0])
    assert firsts[0] == firsts[2] != firsts[1]


def test_validation_reads_the_tokens_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = fp32_stage(astray=1.0, left_out=0.9)
    monkeypatch.setattr(Scattered, "differences", lambda *_: pytest.fail("led astray"))
    monkeypatch.setattr(Scattered, "left_out", lambda *_: pytest.fail("left out"))
    assert len(stage.validate()) == 16


def test_a_share_of_what_a_step_shows_is_untouched() -> None:
    """Where all is turned by any angle, only an untouched drawing is what its artist drew. Of five names a step, half."""
    stage = fp32_stage(scattered=replace(NONE, turn=180.0, untouched=0.5))
    data = stage.renderer.studio.dataset
    as_drawn = torch.cat([eight_bit(plain(data.artists[name].pixels, TILE)) for name in stage.renderer.studio.artists])
    drawn = torch.cat([stage.named(number).tiles for number in range(90, 110)])
    found = [(tile == as_drawn).all(dim=(1, 2, 3)).any() for tile in drawn]
    assert len(found) == 100 and abs(sum(found) - 50) <= 20  # four standard deviations of 5


def test_the_recipe_rests_the_encoder_and_begins_where_two_stages_meet() -> None:
    recipe = Recipe()
    assert STAGES[-4] == "scatter" and recipe.scatter.encoder == 0
    assert recipe.averaged == STAGES[-6:-4]
    assert replace(recipe.scattered, untouched=0.0) == recipe.varied and 0 < recipe.scattered.untouched < 1
    assert 0 < recipe.astray <= 1 and 0 < recipe.left_out < 1
