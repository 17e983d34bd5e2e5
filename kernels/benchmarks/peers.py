"""What the kernels are measured against, in the same run on the same tensors. Each computes what ours computes.

loop            one torch matmul an expert; the host asks the device for the group sizes
grouped_mm      torch.nn.functional.grouped_mm, PyTorch's own kernel (CUTLASS)
composed        the layer made of grouped_mm and elementwise torch: gather, score, matmul, SwiGLU, matmul, scatter, sum
transformers    Llama4TextMoe of transformers, eager: every expert on every token, what is not wanted set to zero
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # gate_up, down, shared gate, up, down


def loop(x_ND: Tensor, w_EDF: Tensor, group_ends_E: Tensor) -> Tensor:
    """One matmul an expert."""
    ends = group_ends_E.tolist()
    return torch.cat([x_ND[begin:end] @ w for begin, end, w in zip([0, *ends], ends, w_EDF, strict=False)])


def grouped_mm(x_ND: Tensor, w_EDF: Tensor, group_ends_E: Tensor) -> Tensor:
    """PyTorch's grouped matmul. It wants int32 group ends; given those, nothing is converted while it is timed."""
    return F.grouped_mm(x_ND, w_EDF, offs=group_ends_E.to(torch.int32))


def composed(x_ND: Tensor, logits_NE: Tensor, *weights: Tensor) -> Tensor:
    """The layer by grouped_mm, as one would write it in torch."""
    gate_up_EDF, down_EFD, shared_gate_FD, shared_up_FD, shared_down_DF = weights
    logit_N, expert_N = logits_NE.max(-1)
    grouped_N, order_N = torch.sort(expert_N, stable=True)
    ends_E = torch.searchsorted(grouped_N, torch.arange(logits_NE.shape[1], device=x_ND.device), right=True)
    score_N = torch.sigmoid(logit_N).to(x_ND.dtype)
    scored_ND = x_ND[order_N] * score_N[order_N][:, None]
    gate_NF, up_NF = grouped_mm(scored_ND, gate_up_EDF, ends_E).chunk(2, dim=-1)
    routed_ND = grouped_mm(F.silu(gate_NF) * up_NF, down_EFD, ends_E)
    shared_ND = F.linear(F.silu(F.linear(x_ND, shared_gate_FD)) * F.linear(x_ND, shared_up_FD), shared_down_DF)
    return (
        shared_ND.index_add(0, order_N, routed_ND)
        if shared_ND.requires_grad
        else shared_ND.index_add_(0, order_N, routed_ND)
    )


def transformers_layer(shape: object, weights: Weights, router_DE: Tensor) -> torch.nn.Module | None:
    """transformers' layer on the same weights, or None where transformers is not installed."""
    try:
        from transformers.models.llama4.configuration_llama4 import Llama4TextConfig
        from transformers.models.llama4.modeling_llama4 import Llama4TextMoe
    except ImportError:
        return None
    config = Llama4TextConfig(
        hidden_size=shape.width,
        intermediate_size=shape.hidden,
        num_local_experts=shape.experts,
        num_experts_per_tok=1,
    )
    with torch.device("meta"):
        layer = Llama4TextMoe(config)
    gate_up, down, shared_gate, shared_up, shared_down = weights
    held = {
        "router.weight": router_DE.mT.contiguous(),
        "experts.gate_up_proj": gate_up,
        "experts.down_proj": down,
        "shared_expert.gate_proj.weight": shared_gate,
        "shared_expert.up_proj.weight": shared_up,
        "shared_expert.down_proj.weight": shared_down,
    }
    layer.load_state_dict(held, assign=True)
    return layer
