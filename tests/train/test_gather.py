"""Pins the encoder's second stage: centres begin at the means of what it sees and follow it, the head begins at the nearest, and
views come closer to their centre than they were, against their distance from each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import LEARN_BY_HEART, Taught
from small_training import RECIPE, SHORT, gather_stage, see_stage, small_model, studio
from task_emoji import EMOJI

from llama4.train import loop, see
from llama4.train.gather import FOLLOW, SHARPNESS, Gather, Gathered
from llama4.train.pictures import Augmentation
from llama4.train.render import Renderer
from llama4.train.weights import optimisers

TOKENS, WIDTH = 4, 24


def gathered(emoji: int = 5, tokens: int = 3, width: int = 6) -> Gathered:
    torch.manual_seed(2)
    made = Gathered(tokens, width, emoji)
    made.centres.normal_()
    return made


def test_centres_begin_at_the_mean_of_the_views_however_they_are_batched() -> None:
    views, emoji = torch.randn(11, 3, 6) + 4, torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 0])
    made = gathered()
    made.begin((views[some], emoji[some]) for some in (slice(0, 4), slice(4, 11)))
    for one in range(5):
        assert (made.centres[one] - views[emoji == one].mean(dim=0)).abs().max() < 1e-5


def test_the_head_begins_at_the_nearest_centre() -> None:
    """Its score is half a squared distance, up to what is the same for all emoji, between means normed by the centres' spread."""
    views, emoji = torch.randn(40, 3, 6), torch.arange(40) % 5
    made = gathered()
    made.begin(iter([(views, emoji)]))
    centre_ED = made.centres.mean(dim=1)
    spread_D = (centre_ED.var(dim=0) + 1e-5).sqrt()
    z_RD = torch.randn(7, 3, 6).mean(dim=1)
    distance_RE = torch.cdist(z_RD / spread_D, centre_ED / spread_D).square()
    made.eval()
    scores_RE = made.which(z_RD[:, None].expand(-1, 3, -1))
    difference = scores_RE + SHARPNESS / 2 * distance_RE
    assert (difference - difference[:, :1]).abs().max() < 1e-4
    assert (scores_RE.argmax(dim=1) == distance_RE.argmin(dim=1)).all()


def test_loose_is_the_share_of_the_spread_that_centres_leave() -> None:
    made, emoji = gathered(), torch.tensor([3, 0, 4])
    assert made.loose(made.centres[emoji], emoji) == 0
    z = made.centres[emoji] + 0.5 * torch.randn(3, 3, 6)
    mean = sum(z) / 3
    expected = sum(((a - made.centres[e]) ** 2).sum() for a, e in zip(z, emoji, strict=True))
    assert made.loose(z, emoji) == pytest.approx(float(expected / sum(((a - mean) ** 2).sum() for a in z)), rel=1e-5)
    before = made.loose(z, emoji)
    made.centres.mul_(0.01)
    assert made.loose(0.01 * z, emoji) == pytest.approx(float(before), rel=1e-4), "smaller tokens are not closer ones"


def test_centres_follow_a_part_of_the_way_and_the_others_stay() -> None:
    made, emoji = gathered(), torch.tensor([3, 0])
    before, z = made.centres.clone(), torch.randn(2, 3, 6)
    made.follow(z, emoji)
    assert (made.centres[emoji] - (before[emoji] + FOLLOW * (z - before[emoji]))).abs().max() < 1e-6
    assert torch.equal(made.centres[[1, 2, 4]], before[[1, 2, 4]])


def test_the_drawings_are_all_that_the_run_learns_from_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(see, "AT_ONCE", 6)
    stage = gather_stage()
    emoji = torch.cat([emoji for _, emoji in stage.learnt_from()])
    assert sorted(emoji.tolist()) == sorted(2 * list(range(len(EMOJI)))), "noto's and fluent's, not blob's"
    assert all(encoded.shape[1:] == (TOKENS, WIDTH) for encoded, _ in stage.learnt_from())


def test_the_loss_is_the_cross_entropy_and_the_pull() -> None:
    """One step from the first weights, computed again from the same tiles."""
    stage, other = gather_stage(), gather_stage()
    sums = stage.gradients(0)
    other.extra.begin(other.learnt_from())
    tiles, shown = other.batch(0)
    encoded = other.model.vision(tiles)
    which = F.cross_entropy(other.extra.which(encoded), shown, label_smoothing=RECIPE.smoothing)
    z = encoded.float()
    loose = (z - other.extra.centres[shown]).square().sum() / (z - z.mean(dim=0)).square().sum()
    assert sums["which"] == pytest.approx(which.item(), rel=1e-4) and sums["loose"] == pytest.approx(
        loose.item(), rel=1e-4
    )
    (which + RECIPE.pull * loose).backward()
    for name, weight in stage.masters.weights.items():
        grad = dict(other.model.vision.named_parameters())[name].grad
        assert torch.allclose(weight.grad, grad.float(), rtol=0.02, atol=1e-3), name
    assert not torch.equal(stage.extra.centres, other.extra.centres), "the centres have followed"


def test_batches_are_not_those_of_the_stage_before() -> None:
    before, stage = see_stage(), gather_stage()
    assert not torch.equal(before.batch(0)[0], stage.batch(0)[0])
    assert torch.equal(stage.batch(3)[0], gather_stage().batch(3)[0])


def test_an_encoder_that_rested_learns_on() -> None:
    """As the decoder's stages leave it."""
    model = small_model(dtype=torch.bfloat16)
    model.vision.requires_grad_(False)
    renderer = Renderer(studio())
    stage = Gather(model, renderer.studio.dataset, renderer, RECIPE)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    loop.update(stage, optimisers(stage.masters, stage.extra.parameters(), stage.plan), 0)
    moved = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert moved and all(name.startswith("vision.") for name in moved)


def test_views_come_closer_and_are_still_told_apart(taught: Taught) -> None:
    """From an encoder that knows plain drawings, on turned ones: the same steps without the pull leave more loose."""
    plan = replace(SHORT, steps=60, rows=13, muon_lr=0.01, adam_lr=1e-3)
    told = {}
    for pull in (0.0, 2.0):
        recipe = replace(LEARN_BY_HEART, augmentation=Augmentation(), gather=plan, pull=pull)
        stage = gather_stage(recipe, taught.see)
        optims = optimisers(stage.masters, stage.extra.parameters(), plan)
        last = [loop.update(stage, optims, step) for step in range(plan.steps)][-10:]
        told[pull] = sum(sums["loose"] for sums in last)
        assert sum(sums["right"] for sums in last) > 6
    assert told[2.0] < 0.85 * told[0.0]
