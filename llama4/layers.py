"""The two layers that every block is made of: RMSNorm and the SwiGLU feed-forward.

    rms_norm(x) = x / sqrt(mean(x^2) + eps)            arXiv 1910.07467
    swiglu(x)   = (silu(x W_gate) * (x W_up)) W_down   arXiv 2002.05202

RMSNorm computes in fp32 and rounds to the input's dtype *before* it multiplies by the weight: the order of both
references (`llama_models/llama4/model.py`, `modeling_llama4.py`), and in bf16 not the same number as the other order.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """Normalise the last dimension to a mean square of 1; fp32 inside, the input's dtype outside."""
    x_fp32 = x.float()
    return (x_fp32 * torch.rsqrt(x_fp32.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


class RMSNorm(nn.Module):
    """`rms_norm(x) * weight`, over the last dimension of width D."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.eps) * self.weight


class FeedForward(nn.Module):
    """SwiGLU: the dense layers' feed-forward, and the shared expert of the MoE layers."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))
