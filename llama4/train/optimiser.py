"""Muon for the matrices, AdamW for the rest.

    M ← β M + G                      momentum, as in SGD
    O = orthogonalise(G + β M)       U Vᵀ of its singular value decomposition, roughly: every direction counts the same
    W ← W − η √max(1, out/in) O − η λ W

A gradient of a matrix is dominated by a few directions; Adam scales its entries one by one and keeps that. Muon gives all
directions the same length, and learns the rare ones as fast as the common ones. It needs one momentum buffer where Adam
needs two. The orthogonal factor comes from five steps of an odd polynomial X ← aX + b(XXᵀ)X + c(XXᵀ)²X that pushes every
singular value towards 1 (0.7 to 1.2 is near enough); bf16 suffices for it.

Embeddings, head, norms, biases and the router, whose rows are looked up or compared one by one, are left to AdamW.

Sources: Jordan et al., "Muon", 2024; Liu et al., arXiv 2502.16982 (weight decay, update size); AdamW: arXiv 1711.05101.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
STEPS = 5


def orthogonalise(g: Tensor) -> Tensor:
    """Push the singular values of `g` `[..., rows, columns]` towards 1; bf16 inside, g's dtype outside."""
    a, b, c = NEWTON_SCHULZ
    wide = g.shape[-2] <= g.shape[-1]
    x = (g if wide else g.mT).bfloat16()
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True) + 1e-7).bfloat16()
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x if wide else x.mT).to(g.dtype)


class Muon(torch.optim.Optimizer):
    """Muon with decoupled weight decay. Parameters (or groups of them, as torch has them) are matrices `[out, in]` or stacks of
    them `[E, in, out]`, fp32."""

    def __init__(
        self, parameters: Iterable[nn.Parameter] | Iterable[dict], lr: float, momentum: float, weight_decay: float
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """One update; parameters without a gradient stay as they are."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: nn.Parameter, group: dict) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"]
        momentum.mul_(group["momentum"]).add_(parameter.grad)
        direction = orthogonalise(parameter.grad.add(momentum, alpha=group["momentum"]))
        rows, columns = parameter.shape[-2:]
        out, into = (rows, columns) if parameter.dim() == 2 else (columns, rows)
        longer = max(1.0, out / into) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"] * longer)
