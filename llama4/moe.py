"""Mixture of experts: every token runs the shared expert and the one routed expert that the router scores highest.

    logits = x W_router        e = argmax(logits)        score = sigmoid(logits[e])
    y      = shared(x) + expert_e(score * x)             expert(x) = (silu(x W_gate) * (x W_up)) W_down

Sources: llama_models/llama4/moe.py; `Llama4TextMoe` in modeling_llama4.py.

What is not obvious:
- The score multiplies the expert's *input*. SwiGLU is not linear, so this is not the score times the output.
- The score is a sigmoid of one logit, not a softmax over experts: scores of a token's experts do not compete.
- Router and sigmoid run in fp32, whatever the model runs in: a near-tie decided by bf16 rounding sends a token elsewhere.
- Both references run every expert on every token and zero what is not wanted, 8.5 times Scout's needed work. Here tokens are
  sorted by expert, each expert multiplies its own rows, and the rows go back where they came from.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from llama4 import ops
from llama4.config import Config
from llama4.layers import FeedForward


class Router(nn.Linear):
    """One row of weights an expert, `[E, D]`; fp32 logits."""

    def __init__(self, width: int, experts: int) -> None:
        super().__init__(width, experts, bias=False)

    def forward(self, x_ND: Tensor) -> Tensor:
        return F.linear(x_ND.float(), self.weight.float())


class Experts(nn.Module):
    """E SwiGLU experts in Hugging Face's fused layout: `gate_up` `[E, D, 2F]`, gate then up; `down` `[E, F, D]`; used as x W."""

    def __init__(self, experts: int, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(experts, width, 2 * hidden))
        self.down = nn.Parameter(torch.empty(experts, hidden, width))

    def forward(self, x_ND: Tensor, group_ends_E: Tensor) -> Tensor:
        """Rows sorted by expert in, rows in the same order out."""
        gate_NF, up_NF = ops.grouped_matmul(x_ND, self.gate_up, group_ends_E).chunk(2, dim=-1)
        return ops.grouped_matmul(F.silu(gate_NF) * up_NF, self.down, group_ends_E)

    def fuses(self, x_ND: Tensor) -> bool:
        """Can the whole layer run as one operator?"""
        return ops.fuses_moe(x_ND, self.down.shape[1])

    def fused(self, x_ND: Tensor, logits_NE: Tensor, shared: FeedForward) -> Tensor:
        """The whole layer behind its router."""
        return ops.moe_mlp(
            x_ND, logits_NE, self.gate_up, self.down, shared.gate.weight, shared.up.weight, shared.down.weight
        )


class MoE(nn.Module):
    """The feed-forward of a MoE layer: router, routed experts, shared expert. `[B, S, D]` -> `[B, S, D]`."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.router = Router(config.width, config.experts)
        self.experts = Experts(config.experts, config.width, config.expert_width)
        self.shared = FeedForward(config.width, config.expert_width)

    def forward(self, x_BSD: Tensor) -> Tensor:
        x_ND = rearrange(x_BSD, "b s d -> (b s) d")
        if self.experts.fuses(x_ND):
            out_ND = self.experts.fused(x_ND, self.router(x_ND), self.shared)
        else:
            out_ND = self.shared(x_ND) + self.routed(x_ND, *self.route(x_ND))
        return rearrange(out_ND, "(b s) d -> b s d", b=x_BSD.shape[0])

    def route(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Each token's expert, int64 `[N]`, and its score in (0, 1), float32 `[N]`."""
        logit_N, expert_N = self.router(x_ND).max(dim=-1)
        return expert_N, torch.sigmoid(logit_N)

    def routed(self, x_ND: Tensor, expert_N: Tensor, score_N: Tensor) -> Tensor:
        """Sort the scored rows by expert, run each group, put the rows back."""
        grouped_N, order_N = torch.sort(expert_N, stable=True)
        experts_E = torch.arange(self.router.out_features, device=expert_N.device)
        group_ends_E = torch.searchsorted(grouped_N, experts_E, right=True)  # bincount would wait for a device
        scored_ND = (x_ND * score_N[:, None]).to(x_ND.dtype)
        sorted_ND = self.experts(scored_ND[order_N], group_ends_E)
        return torch.empty_like(sorted_ND).index_copy(0, order_N, sorted_ND)
