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
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(f"temperature is {self.temperature}: it must be 0 (greedy) or a positive number.")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}: it must lie in (0, 1].")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k is {self.top_k}: it must be at least 1, or left out.")
        if not 0 <= self.min_p <= 1:
            raise InputError(f"min_p is {self.min_p}: it must lie in [0, 1].")


def choose(logits_V: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """The next token of one row, from its float32 logits."""
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    return int(torch.multinomial(probabilities(logits_V, sampling), 1, generator=generator))


def probabilities(logits_V: Tensor, sampling: Sampling) -> Tensor:
    """The distribution that is drawn from: float32 `[V]`, sums to 1, zero where a filter cut."""
    probs_V, order_V = torch.softmax(logits_V.float() / sampling.temperature, dim=-1).sort(descending=True, stable=True)
    if sampling.top_k is not None:
        probs_V = _normalised(probs_V * (torch.arange(len(probs_V), device=probs_V.device) < sampling.top_k))
    before_V = probs_V.cumsum(-1) - probs_V  # what the likelier tokens add up to
    keep_V = before_V < sampling.top_p if sampling.top_p < 1 else torch.ones_like(probs_V, dtype=torch.bool)
    keep_V[0] = True
    probs_V = _normalised(probs_V * keep_V)
    probs_V = _normalised(probs_V * (probs_V >= sampling.min_p * probs_V[0]))
    return torch.empty_like(probs_V).scatter(0, order_V, probs_V)


def log_probability(logits_V: Tensor, token: int) -> float:
    """Natural logarithm of the probability that the model itself gives to `token`."""
    return float(torch.log_softmax(logits_V.float(), dim=-1)[token])


def _normalised(probs_V: Tensor) -> Tensor:
    return probs_V / probs_V.sum()
