"""Pins the encoder's first stage: it learns to tell pictures apart, a step's pictures depend on its number alone, and the share
told apart is counted over all pictures without touching what is learnt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import Taught
from small_training import RECIPE, VISION, see_stage, small_model
from task_emoji import EMOJI

from llama4.train import see
from llama4.train.emoji.dataset import Artist, Dataset
from llama4.train.see import WhichEmoji


def test_the_loss_falls_and_every_picture_is_told_apart(taught: Taught) -> None:
    """The artist to validate on draws the same patterns in colours a little off: nothing was learnt from it."""
    losses = taught.of("see", "which")
    assert losses[0] > 1.5 and losses[-1] < losses[0] / 2
    assert taught.of("see", "right")[-1] == 1.0
    assert taught.of("see", "validation") == [{"blob": 1.0}]


def test_a_step_shows_as_many_different_emoji_as_asked_and_its_number_decides() -> None:
    stage = see_stage(replace(RECIPE, see=replace(RECIPE.see, rows=9)))
    asked: list[list[int]] = []
    tiles = stage.renderer.tiles

    def watched(pictures: list, rng: np.random.Generator) -> list:
        assert all(picture.layout == "one" and picture.frame for picture in pictures)
        asked.append([picture.emoji[0] for picture in pictures])
        return tiles(pictures, rng)

    stage.renderer.tiles = watched
    for step in (0, 1, 0):
        stage.gradients(step)
    assert asked[0] == asked[2] != asked[1]
    assert all(len(set(shown)) == 9 for shown in asked)


def test_the_loss_is_the_cross_entropy_with_smoothed_labels() -> None:
    """One step from the first weights, computed again from the same tiles."""
    stage, other = see_stage(), see_stage()
    caught: list[torch.Tensor] = []
    tiles = stage.renderer.tiles

    def watched(pictures: list, rng: np.random.Generator) -> list:
        drawn = tiles(pictures, rng)
        caught.append(torch.tensor([picture.emoji[0] for picture in pictures]))
        caught.append(torch.cat([tile for tile, _ in drawn]))
        return drawn

    stage.renderer.tiles = watched
    sums = stage.gradients(3)
    shown, pixels = caught
    scores = other.extra(other.model.vision(pixels.bfloat16())).log_softmax(-1)
    named = -scores[torch.arange(len(shown)), shown].mean()
    expected = 0.9 * named - 0.1 * scores.mean()
    assert abs(sums["which"] - expected.item()) < 1e-5
    expected.backward()
    for name, weight in stage.masters.weights.items():
        grad = dict(other.model.vision.named_parameters())[name].grad
        assert torch.allclose(weight.grad, grad.float(), rtol=0.05, atol=2e-3), name  # bf16 backward, summed otherwise
    assert all(p.grad is None for p in stage.model.parameters())


@pytest.mark.parametrize("at_once", [1, 5, 128])
def test_the_share_told_apart_counts_every_picture_once(
    taught: Taught, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """The encoder knows all thirteen pictures, which are not in the order of the emoji; four are filed under others' numbers."""
    stage = taught.see
    artist = stage.dataset.artists["blob"]
    index = artist.index.copy()
    index[:4] = np.roll(index[:4], 1)
    monkeypatch.setattr(see, "AT_ONCE", at_once)
    monkeypatch.setattr(stage, "dataset", Dataset(EMOJI, {"blob": Artist("blob", artist.pixels, index)}))
    before = {name: value.clone() for name, value in stage.extra.state_dict().items()}
    assert stage.told_apart("blob") == 9 / 13
    assert stage.extra.training
    assert all(torch.equal(value, before[name]) for name, value in stage.extra.state_dict().items())


def test_only_the_artists_that_are_not_learnt_from_are_validated(taught: Taught) -> None:
    assert set(taught.see.validate()) == {"blob"}


def test_scores_are_of_the_mean_token_normalised() -> None:
    torch.manual_seed(1)
    which = WhichEmoji(VISION.adapter_width, len(EMOJI))
    encoded = small_model().vision(torch.rand(7, 3, 16, 16) * 2 - 1)
    mean = encoded.mean(dim=1)
    spread = (mean - mean.mean(0)) / (mean.var(0, unbiased=False) + 1e-5).sqrt()
    expected = spread @ which.head.weight.T + which.head.bias
    assert (which(encoded) - expected).abs().max() < 1e-5 and which(encoded.bfloat16()).dtype == torch.float32
