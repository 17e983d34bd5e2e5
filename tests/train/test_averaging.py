"""Pins the running mean: of every point alike, in fp32, rounded once; kept with the state; and none of nothing."""

from __future__ import annotations

import pytest
import torch

from llama4.train.averaging import Mean


def points(count: int) -> list[dict[str, torch.Tensor]]:
    """Weights along a stage, by names with dots in them."""
    generator = torch.Generator().manual_seed(4)
    shapes = {"decoder.layers.0.q": (3, 5), "vision.norm": (7,)}
    return [{name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} for _ in range(count)]


@pytest.mark.parametrize("count", [1, 2, 37])
def test_every_point_counts_the_same(count: int) -> None:
    """Sums in float64 against a running mean in float32: 37 roundings of 2⁻²⁴ of numbers below 4."""
    taken = points(count)
    mean, into = Mean(taken[0]), points(1)[0]
    for weights in taken:
        mean.take(weights)
    mean.give(into)
    for name, found in into.items():
        expected = torch.stack([weights[name].double() for weights in taken]).mean(dim=0)
        assert (found - expected).abs().max() <= count * 4 * 2**-24


def test_it_is_rounded_once() -> None:
    """bf16's numbers behind 1 lie 2u apart, u = 2⁻⁸. Of 1 + 0.9 u and 1 + 1.3 u the mean, 1 + 1.1 u, is nearer to 1 + 2 u; if
    they are rounded first, to 1 and 1 + 2 u, their mean lies half-way and is rounded to 1."""
    mean = Mean({"w": torch.zeros(3)})
    for units in (0.9, 1.3):
        mean.take({"w": torch.full((3,), 1 + units * 2**-8)})
    into = {"w": torch.zeros(3, dtype=torch.bfloat16)}
    mean.give(into)
    assert into["w"].tolist() == [1 + 2**-7] * 3


def test_it_goes_on_from_what_was_saved() -> None:
    taken = points(5)
    whole, first, second = Mean(taken[0]), Mean(taken[0]), Mean(taken[0])
    for number, weights in enumerate(taken):
        whole.take(weights)
        if number < 2:
            first.take(weights)
    second.load_state_dict(first.state_dict())
    for weights in taken[2:]:
        second.take(weights)
    held = whole.state_dict()
    assert all(torch.equal(found, held[name]) for name, found in second.state_dict().items())


def test_it_keeps_its_own_numbers_and_learns_nothing() -> None:
    """The weights go on beside it, and no optimiser finds it."""
    weights = {"w": torch.ones(2)}
    mean, into = Mean(weights), {"w": torch.zeros(2)}
    mean.take(weights)
    weights["w"].fill_(9)
    mean.give(into)
    assert into["w"].tolist() == [1, 1] and not list(mean.parameters())
    assert {buffer.dtype for buffer in mean.buffers()} == {torch.float32, torch.int64}


def test_a_mean_of_nothing_is_refused() -> None:
    into = points(1)[0]
    with pytest.raises(ValueError, match="no mean of no weights"):
        Mean(into).give(into)
    assert all(torch.equal(weight, points(1)[0][name]) for name, weight in into.items())
