"""Pins the loop: a run that was stopped or killed goes on bit for bit, in stages of each kind; Ctrl-C ends the step that runs and
saves; the schedule, the clipping, the log's lines and the saves come when the plan says."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import (
    discern_stage,
    gather_stage,
    redraw_stage,
    see_stage,
    settle_stage,
    speak_stage,
    together_stage,
)
from torch import nn
from toy_stage import PLAN, Toy

from llama4.train import log, loop
from llama4.train.loop import Stage, interrupted, train, update
from llama4.train.weights import optimisers

# One of each kind: what `together`, `broaden`, `vary`, `scatter`, `follow` and `again` have of their own, `discern`, `settle` or
# `redraw`, made of them, has as well.
STAGES = pytest.mark.parametrize(
    "make", [see_stage, gather_stage, speak_stage, discern_stage, settle_stage, redraw_stage, Toy]
)


@pytest.fixture(autouse=True)
def lines_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY", 3)


def assert_equal(a: Any, b: Any) -> None:
    """Nested containers of tensors and plain values, bit for bit."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    else:
        assert a == b


def assert_same_end(one: Stage, first: Path, other: Stage, second: Path) -> None:
    """States on disk, weights in memory, and the log apart from its seconds."""
    name = f"{one.name}.pt"
    assert_equal(torch.load(first / name, weights_only=True), torch.load(second / name, weights_only=True))
    assert_equal(one.model.state_dict(), other.model.state_dict())
    assert_equal(one.extra.state_dict(), other.extra.state_dict())
    assert timeless(first) == timeless(second)


def timeless(folder: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in log.read(folder)]


@STAGES
def test_stopping_half_way_changes_nothing(make: type[Toy], tmp_path: Path) -> None:
    whole, begun, resumed = make(), make(), make()
    before = {name: weight.clone() for name, weight in whole.model.state_dict().items()}
    assert train(whole, tmp_path / "a")
    assert not train(begun, tmp_path / "b", until=0)
    assert not train(begun, tmp_path / "b", until=4)  # between two lines of the log
    assert not train(begun, tmp_path / "b", until=4)  # asked again, it does nothing
    assert train(resumed, tmp_path / "b")
    assert_same_end(whole, tmp_path / "a", resumed, tmp_path / "b")
    assert any(not torch.equal(weight, before[name]) for name, weight in whole.model.state_dict().items())
    assert [line["step"] for line in timeless(tmp_path / "a") if "validation" not in line] == list(
        range(3, whole.plan.steps + 1, 3)
    )


@STAGES
def test_a_killed_run_goes_on_from_its_last_save(
    make: type[Toy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 5 is lost, and its log line with it; both are made again, the same."""
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    whole, killed, resumed = make(), make(), make()
    train(whole, tmp_path / "a")
    gradients = killed.gradients

    def until_the_power_fails(step: int) -> Any:
        if step == 5:
            raise SystemError
        return gradients(step)

    killed.gradients = until_the_power_fails
    with pytest.raises(SystemError):
        train(killed, tmp_path / "b")
    assert torch.load(tmp_path / "b" / f"{killed.name}.pt", weights_only=True)["step"] == 4
    assert timeless(tmp_path / "b")[-1]["step"] == 5
    assert train(resumed, tmp_path / "b")
    assert_same_end(whole, tmp_path / "a", resumed, tmp_path / "b")


def test_a_finished_stage_is_not_run_again(tmp_path: Path) -> None:
    first, again = Toy(), Toy(at=lambda step: pytest.fail("a step was run"))
    assert train(first, tmp_path) and train(again, tmp_path)
    assert_equal(first.model.state_dict(), again.model.state_dict())


def test_the_rate_of_each_step_is_the_plans_share_of_the_peak(tmp_path: Path) -> None:
    stage = Toy()
    optims = optimisers(stage.masters, stage.extra.parameters(), PLAN)
    for step in (0, 1, 5, 11):
        update(stage, optims, step)
        for optim, peak in zip(optims, (PLAN.muon_lr, PLAN.adam_lr), strict=True):
            assert [group["lr"] for group in optim.param_groups] == [peak * PLAN.rate(step)]


def test_an_encoder_that_learns_along_has_its_share_of_the_rate_at_each_step() -> None:
    stage = together_stage()
    plan, optims = stage.plan, optimisers(stage.masters, stage.extra.parameters(), stage.plan)
    for step in (0, 1, 5):
        update(stage, optims, step)
        for optim, peak in zip(optims, (plan.muon_lr, plan.adam_lr), strict=True):
            rates = [group["lr"] for group in optim.param_groups]
            assert rates == pytest.approx([peak * plan.rate(step), plan.encoder * peak * plan.rate(step)])


def test_gradients_are_clipped_together_and_the_log_has_their_norm_before(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Toy()
    stage.size = 1e4
    optims = optimisers(stage.masters, stage.extra.parameters(), PLAN)
    seen: list[float] = []
    weights = [*stage.masters.weights.values(), *stage.extra.parameters()]

    def norm() -> float:
        return torch.stack([weight.grad.norm() for weight in weights]).norm().item()

    monkeypatch.setattr(optims[0], "step", lambda: seen.append(norm()))
    clip = nn.utils.clip_grad_norm_
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda *given: seen.append(norm()) or clip(*given))
    sums = update(stage, optims, 0)
    before, after = seen
    assert before > 100 and sums["norm"] == pytest.approx(before) and after == pytest.approx(PLAN.clip, rel=1e-4)


def test_a_step_leaves_no_gradient_behind(tmp_path: Path) -> None:
    stage = Toy()
    update(stage, optimisers(stage.masters, stage.extra.parameters(), PLAN), 0)
    held = [*stage.masters.weights.values(), *stage.extra.parameters(), *stage.model.parameters()]
    assert not any(weight.grad is not None and weight.grad.any() for weight in held)
    rounded = {name: weight.bfloat16() for name, weight in stage.masters.weights.items()}
    assert_equal({name: weight.detach() for name, weight in stage.model.named_parameters()}, rounded)


def test_lines_hold_the_means_since_the_line_before(tmp_path: Path) -> None:
    losses: list[float] = []
    stage = Toy()
    gradients = stage.gradients

    def watched(step: int) -> Any:
        sums = gradients(step)
        losses.append(sums["loss"])
        return sums

    stage.gradients = watched
    train(stage, tmp_path)
    lines = timeless(tmp_path)
    means = [line["loss"] for line in lines if "loss" in line]
    assert means == [round(sum(losses[first : first + 3]) / 3, 4) for first in (0, 3, 6, 9)]
    assert [(line["stage"], line["step"]) for line in lines if "validation" in line] == [("toy", 5), ("toy", 10)]
    mute = Toy()
    mute.validate = dict
    train(mute, tmp_path / "without")
    assert not [line for line in timeless(tmp_path / "without") if "validation" in line]


def test_seconds_go_on_where_they_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that stands a second further at each look; the pause between two runs does not count."""
    clock = iter(range(10**6))
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(clock)))
    train(Toy(), tmp_path, until=6)
    for _ in range(1000):
        next(clock)
    train(Toy(), tmp_path)
    seconds = [line["seconds"] for line in log.read(tmp_path)]
    assert seconds == sorted(seconds) and seconds[-1] < 20


def test_the_state_is_saved_as_often_as_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    save = loop.state.save
    monkeypatch.setattr(loop.state, "save", lambda *given: saved.append(given[3]) or save(*given))
    train(Toy(replace(PLAN, steps=10)), tmp_path)
    assert saved == [4, 8, 10]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_kill_ends_the_step_saves_and_the_next_run_finishes(number: int, tmp_path: Path) -> None:
    whole, resumed = Toy(), Toy()
    stopped = Toy(at=lambda step: os.kill(os.getpid(), number) if step == 2 else None)
    before = signal.getsignal(number)
    assert train(whole, tmp_path / "a")
    assert not train(stopped, tmp_path / "b")
    assert signal.getsignal(number) is before
    assert torch.load(tmp_path / "b" / "toy.pt", weights_only=True)["step"] == 3
    assert train(resumed, tmp_path / "b")
    assert_same_end(whole, tmp_path / "a", resumed, tmp_path / "b")


def test_a_second_ctrl_c_stops_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interrupted() as stopped:
        assert not stopped
        signal.raise_signal(signal.SIGINT)
        assert stopped
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
