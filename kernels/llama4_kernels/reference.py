"""What the kernels compute, in plain torch: read this first. Any dtype; the tests run it in float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def grouped_matmul(x_ND: Tensor, w_EDF: Tensor, group_ends_E: Tensor) -> Tensor:
    """`y[n] = x[n] @ w[e]`, rows sorted by expert."""
    ends = group_ends_E.tolist()
    parts = [x_ND[begin:end] @ w for begin, end, w in zip([0, *ends], ends, w_EDF, strict=False)]
    return torch.cat(parts)


def moe_mlp(
    x_ND: Tensor,
    router_logits_NE: Tensor,
    gate_up_EDF: Tensor,
    down_EFD: Tensor,
    shared_gate_FD: Tensor,
    shared_up_FD: Tensor,
    shared_down_DF: Tensor,
) -> Tensor:
    """The shared expert plus, for every token, its best expert on the token times its score."""
    shared_ND = F.linear(F.silu(F.linear(x_ND, shared_gate_FD)) * F.linear(x_ND, shared_up_FD), shared_down_DF)
    logit_N, expert_N = router_logits_NE.max(-1)
    scored_ND = x_ND * torch.sigmoid(logit_N)[:, None].to(x_ND.dtype)
    routed = []
    for row_D, expert in zip(scored_ND, expert_N.tolist(), strict=True):
        gate_F, up_F = (row_D @ gate_up_EDF[expert]).chunk(2)
        routed.append((F.silu(gate_F) * up_F) @ down_EFD[expert])
    return shared_ND + torch.stack(routed) if routed else shared_ND
