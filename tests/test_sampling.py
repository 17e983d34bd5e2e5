"""Pins the distribution that tokens are drawn from: against the definitions written out token by token, and by counting draws."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama4.errors import InputError
from llama4.sampling import Sampling, choose, log_probability, probabilities, seeded


def by_definition(logits: list[float], sampling: Sampling) -> list[float]:
    """The module's docstring, in plain Python: softmax, then top-k, top-p and min-p, each on what the one before left."""
    top = max(logits)
    weights = [math.exp((logit - top) / sampling.temperature) for logit in logits]
    likeliest_first = sorted(range(len(logits)), key=lambda token: (-weights[token], token))
    kept = likeliest_first if sampling.top_k is None else likeliest_first[: sampling.top_k]
    total = sum(weights[token] for token in kept)
    nucleus, mass = [], 0.0
    for token in kept:
        if mass >= sampling.top_p < 1:
            break
        nucleus.append(token)
        mass += weights[token] / total
    kept = [token for token in nucleus if weights[token] >= sampling.min_p * weights[nucleus[0]]]
    total = sum(weights[token] for token in kept)
    return [weights[token] / total if token in kept else 0.0 for token in range(len(logits))]


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[float], Sampling]:
    """Logits with ties (quarters of whole numbers) or without, and filters off, mild or harsh."""
    size = draw(st.integers(1, 23))
    quarter = st.integers(-40, 40).map(lambda number: number / 4)
    number = st.floats(-12, 12, width=32)
    logits = draw(st.lists(draw(st.sampled_from([quarter, number])), min_size=size, max_size=size))
    sampling = Sampling(
        temperature=draw(st.sampled_from([0.3, 0.9999, 1.0, 2.5])),
        top_p=draw(st.sampled_from([1e-6, 0.31, 0.77, 0.999, 1.0])),
        top_k=draw(st.sampled_from([None, 1, 2, 7, 100])),
        min_p=draw(st.sampled_from([0.0, 0.049, 0.61, 1.0])),
    )
    return logits, sampling


@settings(max_examples=400, deadline=None)
@given(cases())
def test_the_distribution_is_the_definition(case: tuple[list[float], Sampling]) -> None:
    logits, sampling = case
    found_V = probabilities(torch.tensor(logits, dtype=torch.float32), sampling)
    np.testing.assert_allclose(found_V.numpy(), by_definition(logits, sampling), rtol=1e-9, atol=0)


def test_the_worked_example_of_the_docstring() -> None:
    logits_V = torch.tensor([0.15, 0.5, 0.05, 0.3]).log()
    kept = lambda **filters: (probabilities(logits_V, Sampling(1.0, **filters)) > 0).tolist()  # noqa: E731
    assert kept(top_p=0.7) == [False, True, False, True]
    assert kept(min_p=0.25) == [True, True, False, True]
    assert kept(top_k=3) == [True, True, False, True]


def test_filters_act_in_the_order_top_k_top_p_min_p() -> None:
    """Each pair of filters in the other order would keep something else."""
    logits_V = torch.tensor([0.4, 0.25, 0.2, 0.15]).log()
    keep = lambda **filters: int((probabilities(logits_V, Sampling(1.0, **filters)) > 0).sum())  # noqa: E731
    # top_k = 2 leaves 0.615 and 0.385, so that 0.6 is reached by the first; of all four, 0.6 takes two.
    assert keep(top_k=2, top_p=0.6) == 1 and keep(top_p=0.6) == 2
    # Of all four, 0.61 takes two and min_p = 0.6 keeps both; min_p first would leave 0.615 alone to reach 0.61.
    assert keep(top_p=0.61, min_p=0.6) == 2 and keep(min_p=0.6) == 2


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-46, 1e-8])
def test_a_vanishing_temperature_is_greedy(temperature: float) -> None:
    logits_V = torch.tensor([-3.0, 7.0, 6.999, float("-inf")])
    assert probabilities(logits_V, Sampling(temperature)).tolist() == pytest.approx([0, 1, 0, 0])


@pytest.mark.parametrize("temperature", [1e30, 1e300])
def test_an_enormous_temperature_is_uniform_over_what_is_not_barred(temperature: float) -> None:
    logits_V = torch.tensor([-3.0, 7.0, 6.999, float("-inf")])
    assert probabilities(logits_V, Sampling(temperature)).tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])


def test_greedy_is_argmax_and_ignores_the_filters_and_the_seed() -> None:
    generator = torch.Generator().manual_seed(3)
    for logits_V in torch.randn(50, 97, generator=generator):
        sampling = Sampling(0.0, top_p=0.1, top_k=90, min_p=0.5)
        assert choose(logits_V, sampling, seeded(None)) == logits_V.argmax()


@pytest.mark.parametrize(
    "sampling",
    [Sampling(1.0), Sampling(0.6, top_p=0.9), Sampling(1.7, top_k=5), Sampling(1.2, min_p=0.1)],
    ids=["plain", "top-p", "top-k", "min-p"],
)
def test_draws_follow_the_distribution(sampling: Sampling) -> None:
    """4000 draws; Pearson's statistic has mean k - 1 and deviation sqrt(2 (k - 1)) with k cells: five deviations are allowed."""
    logits_V = 1.5 * torch.randn(12, generator=torch.Generator().manual_seed(1))
    draws, generator = 4000, seeded(11)
    counts_V = torch.bincount(
        torch.tensor([choose(logits_V, sampling, generator) for _ in range(draws)]), minlength=len(logits_V)
    )
    expected_V = draws * torch.tensor(by_definition(logits_V.tolist(), sampling))
    assert not counts_V[expected_V == 0].any()
    cells_V = expected_V > 0
    freedom = int(cells_V.sum()) - 1
    assert freedom >= 3
    statistic = ((counts_V - expected_V)[cells_V] ** 2 / expected_V[cells_V]).sum()
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5


def test_a_seed_repeats_its_draws_and_another_does_not() -> None:
    logits_V = torch.zeros(1000)

    def draws(seed: int | None) -> list[int]:
        generator = seeded(seed)
        return [choose(logits_V, Sampling(1.0), generator) for _ in range(20)]

    assert draws(5) == draws(5) == draws(np.int64(5))
    assert draws(5) != draws(6)
    assert draws(None) != draws(None)
    assert draws(2**64 - 1) == draws(2**64 - 1)


def test_log_probability_is_the_models_own() -> None:
    logits_V = torch.randn(300, generator=torch.Generator().manual_seed(2)) * 4
    expected = logits_V.double() - logits_V.double().exp().sum().log()
    for token in (0, 17, 299):
        assert log_probability(logits_V, token) == pytest.approx(expected[token].item(), abs=1e-5)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"temperature": None}, "temperature is None"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.01}, "top_p is 1.01"),
        ({"top_p": -1}, "top_p is -1"),
        ({"top_p": float("nan")}, "top_p is nan"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_k": -3}, "top_k is -3"),
        ({"top_k": 2.5}, "top_k is 2.5"),
        ({"min_p": -0.01}, "min_p is -0.01"),
        ({"min_p": 1.5}, "min_p is 1.5"),
        ({"min_p": float("nan")}, "min_p is nan"),
    ],
)
def test_values_out_of_range_are_named_in_one_sentence(bad: dict, says: str) -> None:
    with pytest.raises(InputError) as caught:
        Sampling(**bad)
    message = str(caught.value)
    assert message.startswith(says) and "must be" in message.replace("must lie", "must be")
    assert message.endswith(".") and "\n" not in message


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "7"])
def test_a_seed_out_of_range_is_an_error(seed: object) -> None:
    with pytest.raises(InputError, match="seed is"):
        seeded(seed)


def test_the_defaults_are_greedy_with_no_filter() -> None:
    assert {field.name: field.default for field in fields(Sampling)} == {
        "temperature": 0.0,
        "top_p": 1.0,
        "top_k": None,
        "min_p": 0.0,
    }
