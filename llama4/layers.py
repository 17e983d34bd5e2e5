"""The layers that every block is made of: a linear map without bias, RMSNorm, the SwiGLU feed-forward.

    rms_norm(x) = x / sqrt(mean(x^2) + eps)            arXiv 1910.07467
    swiglu(x)   = (silu(x W_gate) * (x W_up)) W_down   arXiv 2002.05202

RMSNorm computes in fp32 and rounds to the input's dtype *before* it multiplies by the weight: the order of both
references (`llama_models/llama4/model.py`, `modeling_llama4.py`), and in bf16 not the same number as the other order.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama4 import ops


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


class Linear(nn.Linear):
    """`x @ weight.T`, weight `[out, in]`, without bias: nothing in the text model has one."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(width_in, width_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return ops.linear(x, self.weight)


class FeedForward(nn.Module):
    """SwiGLU: the dense layers' feed-forward, and the shared expert of the MoE layers."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = Linear(width, hidden)
        self.up = Linear(width, hidden)
        self.down = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))
