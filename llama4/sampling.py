"""From logits to the next token: greedy, temperature, top-k, top-p, min-p.

    p = softmax(logits / temperature), then of the tokens, sorted by p:
    top-k    keeps the k likeliest,
    top-p    keeps the fewest whose probabilities add up to at least top_p       (arXiv 1904.09751)
    min-p    keeps those at least min_p times as likely as the likeliest         (arXiv 2407.01082)

They act in this order, each on what the one before left. Worked example: p = 0.5, 0.3, 0.15, 0.05. top_p = 0.7 keeps the first
two (0.5 alone is short of 0.7); min_p = 0.25 keeps three (0.15 >= 0.125). The likeliest token always stays.

Log-probabilities are those of the model itself: before temperature and before anything is cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

import torch
from torch import Tensor

from llama4.errors import InputError


@dataclass(frozen=True)
class Sampling:
    """How to choose. `temperature=0` is greedy and ignores the rest. Raises InputError for values out of range."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "min_p"):
            if not isinstance(getattr(self, name), Real):
                raise InputError(f"{name} is {getattr(self, name)!r}: it must be a number.")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(f"temperature is {self.temperature}: it must be 0 (greedy) or a positive number.")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}: it must lie in (0, 1].")
        if self.top_k is not None and not (isinstance(self.top_k, Integral) and self.top_k >= 1):
            raise InputError(f"top_k is {self.top_k!r}: it must be a whole number from 1, or left out.")
        if not 0 <= self.min_p <= 1:
            raise InputError(f"min_p is {self.min_p}: it must lie in [0, 1].")


def seeded(seed: int | None) -> torch.Generator:
    """A CPU generator that draws the same for the same seed, or anew each time for None. Raises InputError for a bad seed."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
        return generator
    if not isinstance(seed, Integral) or not 0 <= seed < 2**64:
        raise InputError(f"seed is {seed!r}: it must be a whole number from 0 to 2^64 - 1, or left out.")
    return generator.manual_seed(int(seed))


def choose(logits_V: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """The next token of one row, from its float32 logits."""
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    return int(torch.multinomial(probabilities(logits_V, sampling), 1, generator=generator))


def probabilities(logits_V: Tensor, sampling: Sampling) -> Tensor:
    """The distribution that is drawn from: float64 `[V]`, sums to 1, zero where a filter cut.

    Of tokens with equal probabilities the lower id counts as the likelier. The maximum is subtracted before the division, in
    float64, so that temperatures of 1e-300 (greedy) and 1e300 (uniform) are still arithmetic.
    """
    scaled_V = (logits_V.double() - logits_V.max()) / sampling.temperature
    probs_V, order_V = torch.softmax(scaled_V, dim=-1).sort(descending=True, stable=True)
    if sampling.top_k is not None:
        probs_V = _normalised(probs_V * (torch.arange(len(probs_V), device=probs_V.device) < sampling.top_k))
    if sampling.top_p < 1:
        before_V = probs_V.cumsum(-1).roll(1)  # what the likelier tokens add up to
        before_V[0] = 0
        probs_V = _normalised(probs_V * (before_V < sampling.top_p))
    probs_V = _normalised(probs_V * (probs_V >= sampling.min_p * probs_V[0]))
    return torch.empty_like(probs_V).scatter(0, order_V, probs_V)


def log_probability(logits_V: Tensor, token: int) -> float:
    """Natural logarithm of the probability that the model itself gives to `token`."""
    return float(torch.log_softmax(logits_V.float(), dim=-1)[token])


def _normalised(probs_V: Tensor) -> Tensor:
    return probs_V / probs_V.sum()
