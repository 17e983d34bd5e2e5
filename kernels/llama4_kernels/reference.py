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


def chunked_attention(q_BSHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, chunk: int) -> Tensor:
    """Query i sees key j where j <= i and both lie in one chunk; the whole S x S of scores, masked."""
    places = torch.arange(q_BSHK.shape[1], device=q_BSHK.device)
    hidden_ST = (places[None, :] > places[:, None]) | (places[None, :] // chunk != places[:, None] // chunk)
    return _attention(q_BSHK, k_BSGK, v_BSGK, hidden_ST[None])


def decode_attention(q_BSHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, seen_BS: Tensor) -> Tensor:
    """Query s of row b sees the first `seen[b, s]` slots; where that is none, the output is 0. Other slots hold anything."""
    slots_T = torch.arange(k_BTGK.shape[1], device=q_BSHK.device)
    unwritten_BT = slots_T >= seen_BS.amax(1, keepdim=True)
    k_BTGK, v_BTGK = (x.masked_fill(unwritten_BT[:, :, None, None], 0.0) for x in (k_BTGK, v_BTGK))
    out_BSHK = _attention(q_BSHK, k_BTGK, v_BTGK, slots_T >= seen_BS[:, :, None])
    return out_BSHK.masked_fill((seen_BS == 0)[:, :, None, None], 0.0)


def _attention(q_BSHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, hidden_BST: Tensor) -> Tensor:
    sharing = q_BSHK.shape[2] // k_BTGK.shape[2]
    k_BTHK, v_BTHK = (x.repeat_interleave(sharing, dim=2) for x in (k_BTGK, v_BTGK))
    scores_BHST = torch.einsum("bshk,bthk->bhst", q_BSHK, k_BTHK) / q_BSHK.shape[-1] ** 0.5
    weights_BHST = scores_BHST.masked_fill(hidden_BST[:, None], float("-inf")).softmax(-1)
    return torch.einsum("bhst,bthk->bshk", weights_BHST, v_BTHK)


def rotate_and_norm(
    q_BSHK: Tensor, k_BSGK: Tensor, cos_BSK: Tensor, sin_BSK: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Neighbouring pairs turned by their angles, `[B, S, K / 2]`, then each head divided by its root mean square."""
    found = []
    for x in (q_BSHK, k_BSGK):
        even, odd = x[..., 0::2], x[..., 1::2]
        cos, sin = cos_BSK[:, :, None], sin_BSK[:, :, None]
        turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)
        found.append(turned / (turned.square().mean(-1, keepdim=True) + eps).sqrt())
    return found[0], found[1]
