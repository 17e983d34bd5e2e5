"""What the decoder's stages minimise, and how it is summed over the parts of a batch.

    loss = cross entropy of the answers' tokens
         + b · E · Σ_e f_e p_e, mean over the MoE layers            f: share of tokens that expert e got, p: its mean softmax

The second term keeps the experts busy (Fedus et al., arXiv 2101.03961): 1 at balance, and E with everything at one expert. It is
taken over patches and over words apart, and the two averaged: experts that share all tokens evenly may still leave the patches
to two of them, and a large picture is nearly all patches. The loss-free way (a bias added to the logits for the choice alone,
arXiv 2408.15664) would need that bias at inference too, and Llama 4's router has none in either format.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama4.cache import Step
from llama4.model import Llama4
from llama4.moe import Router
from llama4.train.data import Part


@dataclass(frozen=True)
class Measured:
    """Sums over one part, and each token's own. `answers` (cross entropy over tokens) and `balance` (over MoE layers) have
    gradients."""

    answers: Tensor
    answer_tokens: int
    right_tokens: int
    balance: Tensor
    busiest: list[float]  # of each MoE layer: the busiest expert's share of tokens, times E
    answers_N: Tensor  # of each token by itself, without a gradient


def measure(model: Llama4, part: Part, tiles: Tensor) -> Measured:
    """Run a part and its tiles forward. Logits are computed where a token of an answer comes next, and nowhere else."""
    real_BS = torch.arange(part.tokens_BS.shape[1]) < torch.tensor(part.counts)[:, None]
    patch_BS = (part.tokens_BS == model.config.patch_id) & real_BS
    x_BSD = model.decoder.embedding(part.tokens_BS)
    if len(tiles):
        encoded = model.vision(tiles.to(x_BSD.dtype))
        x_BSD = model.fusion(x_BSD, patch_BS, encoded)
    step = Step((0,) * len(part.counts), part.counts, part.tokens_BS.shape[1], part.tokens_BS.device)
    with listening(model) as heard:
        x_BSD = model.decoder(x_BSD, step, None)
    next_BS = part.answer_BS[:, 1:]
    logits_NV = model.decoder.logits(x_BSD[:, :-1][next_BS])
    target_N = part.tokens_BS[:, 1:][next_BS]
    answers_N = F.cross_entropy(logits_NV, target_N, reduction="none")
    balance, busiest = balance_of(heard, patch_BS, real_BS & ~patch_BS)
    right = int((logits_NV.argmax(-1) == target_N).sum())
    return Measured(answers_N.sum(), len(target_N), right, balance, busiest, answers_N.detach())


@contextmanager
def listening(model: nn.Module) -> Iterator[list[Tensor]]:
    """The router logits `[N, E]` of every MoE layer that runs meanwhile, in order."""
    heard: list[Tensor] = []
    routers = [module for module in model.modules() if isinstance(module, Router)]
    hooks = [router.register_forward_hook(lambda _, __, logits_NE: heard.append(logits_NE)) for router in routers]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def balance_of(heard: list[Tensor], *kinds_BS: Tensor) -> tuple[Tensor, list[float]]:
    """The balance term, summed over the layers, the mean over the kinds of token; and each layer's busiest expert over all kinds.

    kinds_BS: bool masks that do not overlap; a token in none of them, padding, does not count, nor does a kind without tokens.
    """
    kinds = [kind_BS.flatten() for kind_BS in kinds_BS if kind_BS.any()]
    total, busiest = torch.zeros(()), []
    for logits_NE in heard:
        experts = logits_NE.shape[1]
        taken_KE = torch.zeros(len(kinds), experts)
        for kind, kind_N in enumerate(kinds):
            kind_NE = logits_NE[kind_N]
            taken_KE[kind] = torch.bincount(kind_NE.argmax(-1), minlength=experts)
            mean_E = kind_NE.softmax(-1).mean(0)
            total = total + experts * (taken_KE[kind] / len(kind_NE) * mean_E).sum() / len(kinds)
        busiest.append(float(taken_KE.sum(0).max() / taken_KE.sum()) * experts)
    return total, busiest
