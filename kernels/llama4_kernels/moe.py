"""The whole feed-forward of a MoE layer as one operator: routing, shared expert, routed experts, and the gradient of all.

    e, s   = argmax, sigmoid(max) of the router's logits
    y      = shared(x)                          gate_up kernel, then an ordinary matmul
    h      = silu(s x W_gate) * (s x W_up)      gate_up kernel, tokens gathered in expert order as they are loaded
    y[order] += h W_down                        add_down kernel

Three launches of ours and a sort; the device is never asked how many tokens an expert got. Up to 128 tokens without a gradient
take the kernels of decode.py instead, which read each weight once and hardly multiply padding. `reference.moe_mlp` is the
same in a few lines. Backward, with ' for a gradient and everything routed in expert order:

    h'       = y'[order] W_down^T               a', b', s' = swiglu.backward(a, b, h', s)
    W_down'  = h^T y'[order]                    W_gate_up' = x[order]^T [a' b']
    x'[order] += [a' b'] W_gate_up^T            logit'[e] = s' s (1 - s)

and the same without s for the shared expert, by torch's own matmuls.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llama4_kernels import decode, swiglu
from llama4_kernels.checks import check_aligned, check_moe
from llama4_kernels.configs import chosen
from llama4_kernels.down import add_down
from llama4_kernels.grouped import multiply, weight_gradient

Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def moe_mlp(
    x_ND: Tensor,
    router_logits_NE: Tensor,
    gate_up_EDF: Tensor,
    down_EFD: Tensor,
    shared_gate_FD: Tensor,
    shared_up_FD: Tensor,
    shared_down_DF: Tensor,
) -> Tensor:
    """`[N, D]` tokens through their experts and the shared one: `[N, D]` in x's dtype.

    router_logits: fp32 `[N, E]`. gate_up `[E, D, 2F]`, gate then up; down `[E, F, D]`; the shared expert's as `nn.Linear` holds
    them, `[F, D]`, `[F, D]`, `[D, F]`. bf16 or fp16, contiguous, D and F multiples of eight. The same bits each time, and
    differentiable in everything. Raises ValueError or TypeError, in one sentence, for anything else.
    """
    weights = (gate_up_EDF, down_EFD, shared_gate_FD, shared_up_FD, shared_down_DF)
    check_moe(x_ND, router_logits_NE, *weights)
    learning = torch.is_grad_enabled() and any(t.requires_grad for t in (x_ND, router_logits_NE, *weights))
    return _moe_mlp(x_ND, router_logits_NE, *weights, learning)[0]


@torch.library.custom_op("llama4::moe_mlp", mutates_args=())
def _moe_mlp(
    x_ND: Tensor,
    router_logits_NE: Tensor,
    gate_up_EDF: Tensor,
    down_EFD: Tensor,
    shared_gate_FD: Tensor,
    shared_up_FD: Tensor,
    shared_down_DF: Tensor,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The output; and for a backward pass what SwiGLU was given, a, b of the routed experts and of the shared one: `[N, 2F]`."""
    weights = (gate_up_EDF, down_EFD, shared_gate_FD, shared_up_FD, shared_down_DF)
    check_aligned(x_ND, *weights)
    with torch.cuda.device_of(x_ND):  # Triton launches on the current card, which need not be the tensors'
        if not keep and len(x_ND) <= decode.MOST_TOKENS:
            y_ND = decode.moe_mlp(x_ND, route(router_logits_NE), weights)
            return y_ND, x_ND.new_empty(0, gate_up_EDF.shape[2]), x_ND.new_empty(0, 2 * len(shared_gate_FD))
        return _prefill(x_ND, route(router_logits_NE), weights, keep)


def _prefill(
    x_ND: Tensor, routing: tuple[Tensor, Tensor, Tensor], weights: tuple[Tensor, ...], keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Shared expert, routed gate and up, way down: three launches and a matmul."""
    order_N, score_N, group_ends_E = routing
    gate_up_EDF, down_EFD, shared_gate_FD, shared_up_FD, shared_down_DF = weights
    tile, down_tile = chosen("gate_up", x_ND.device), chosen("down", x_ND.device)
    all_rows_1 = torch.full((1,), len(x_ND), dtype=torch.int64, device=x_ND.device)
    h_NF, shared_ab_NF = swiglu.shared(x_ND, shared_gate_FD, shared_up_FD, all_rows_1, tile, keep)
    y_ND = h_NF @ shared_down_DF.mT
    h_NF, ab_NF = swiglu.routed(x_ND, gate_up_EDF, order_N, score_N, group_ends_E, tile, keep)
    add_down(y_ND, h_NF, down_EFD, order_N, group_ends_E, down_tile)
    return y_ND, ab_NF, shared_ab_NF


@_moe_mlp.register_fake
def _(
    x_ND: Tensor,
    router_logits_NE: Tensor,
    gate_up_EDF: Tensor,
    down_EFD: Tensor,
    shared_gate_FD: Tensor,
    shared_up_FD: Tensor,
    shared_down_DF: Tensor,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    rows = x_ND.shape[0] if keep else 0
    both, shared_both = gate_up_EDF.shape[2], 2 * shared_gate_FD.shape[0]
    return torch.empty_like(x_ND), x_ND.new_empty(rows, both), x_ND.new_empty(rows, shared_both)


def route(router_logits_NE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Token of each sorted row, score of each token, end of each expert's rows: int64 `[N]`, fp32 `[N]`, int64 `[E]`.

    The sort is stable: within an expert the tokens keep their order, so equal inputs give equal bits.
    """
    logit_N, expert_N = router_logits_NE.max(dim=-1)
    grouped_N, order_N = torch.sort(expert_N, stable=True)
    experts_E = torch.arange(router_logits_NE.shape[1], device=expert_N.device)
    return order_N, torch.sigmoid(logit_N.float()), torch.searchsorted(grouped_N, experts_E, right=True)


@torch.library.custom_op("llama4::moe_mlp_backward", mutates_args=())
def _backward(
    dy_ND: Tensor,
    ab_NF: Tensor,
    shared_ab_NF: Tensor,
    x_ND: Tensor,
    router_logits_NE: Tensor,
    gate_up_EDF: Tensor,
    down_EFD: Tensor,
    shared_gate_FD: Tensor,
    shared_up_FD: Tensor,
    shared_down_DF: Tensor,
) -> Gradients:
    """The gradients of all seven inputs. Routing is worked out again: a sort costs less than the memory to keep it."""
    with torch.cuda.device_of(x_ND):
        shared = (shared_ab_NF, shared_gate_FD, shared_up_FD, shared_down_DF)
        return _layer_backward(dy_ND, ab_NF, x_ND, router_logits_NE, gate_up_EDF, down_EFD, shared)


def _layer_backward(
    dy_ND: Tensor,
    ab_NF: Tensor,
    x_ND: Tensor,
    router_logits_NE: Tensor,
    gate_up_EDF: Tensor,
    down_EFD: Tensor,
    shared: tuple[Tensor, Tensor, Tensor, Tensor],
) -> Gradients:
    shared_ab_NF, shared_gate_FD, shared_up_FD, shared_down_DF = shared
    dx_ND, *dshared = _shared_backward(dy_ND, shared_ab_NF, x_ND, shared_gate_FD, shared_up_FD, shared_down_DF)
    order_N, score_N, group_ends_E = route(router_logits_NE)
    dy_sorted_ND = dy_ND[order_N]
    dh_NF = multiply(dy_sorted_ND, down_EFD.mT, group_ends_E)
    h_NF, dab_NF, dscore_N = swiglu.backward(ab_NF, dh_NF, score_N[order_N])
    ddown_EFD = weight_gradient(h_NF, dy_sorted_ND, group_ends_E)
    dgate_up_EDF = weight_gradient(x_ND[order_N], dab_NF, group_ends_E)
    dx_sorted_ND = multiply(dab_NF, gate_up_EDF.mT, group_ends_E)
    dx_ND += torch.empty_like(dx_ND).index_copy(0, order_N, dx_sorted_ND)
    dlogit_N = torch.empty_like(dscore_N).index_copy(0, order_N, dscore_N) * score_N * (1 - score_N)
    expert_N = router_logits_NE.argmax(-1)
    dlogits_NE = torch.zeros_like(router_logits_NE).scatter(
        1, expert_N[:, None], dlogit_N[:, None].to(router_logits_NE.dtype)
    )
    return dx_ND, dlogits_NE, dgate_up_EDF, ddown_EFD, *dshared


@_backward.register_fake
def _(dy_ND: Tensor, ab_NF: Tensor, shared_ab_NF: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(tensor) for tensor in inputs)


def _shared_backward(
    dy_ND: Tensor, ab_NF: Tensor, x_ND: Tensor, gate_FD: Tensor, up_FD: Tensor, down_DF: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    h_NF, dab_NF, _ = swiglu.backward(ab_NF, dy_ND @ down_DF, None)
    da_NF, db_NF = dab_NF.chunk(2, dim=1)
    dx_ND = da_NF @ gate_FD + db_NF @ up_FD
    return dx_ND, da_NF.mT @ x_ND, db_NF.mT @ x_ND, dy_ND.mT @ h_NF


def _remember(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, ab_NF, shared_ab_NF = output
    ctx.mark_non_differentiable(ab_NF, shared_ab_NF)
    ctx.save_for_backward(ab_NF, shared_ab_NF, *inputs[:-1])


def _gradients(ctx: torch.autograd.function.FunctionCtx, dy_ND: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return *_backward(dy_ND.contiguous(), *ctx.saved_tensors), None


_moe_mlp.register_autograd(_gradients, setup_context=_remember)
