"""Calibrated rounding: int4 for the inputs that a layer really gets, in the very format of int4.py.

    a layer's error     Σ_n |(W - Ŵ) x_n|² = tr((W - Ŵ) H (W - Ŵ)ᵀ)          H = Σ_n x_n x_nᵀ, over a few prompts' tokens
    column after column ŵ_j = scale · q_j, the nearest, and what is left over goes to the columns that are not rounded yet:
                        w_k ← w_k - (w_j - ŵ_j) U_jk / U_jj,   k > j           U upper triangular, Uᵀ U = H⁻¹

Rounding each weight to its nearest integer is best where inputs are independent of each other. They are not: where x_1 and x_2
nearly always agree, a weight rounded up can be made good by its neighbour rounded down. U says by how much.

A group's scale is searched when its turn comes, in the weights as they stand then. A multiple of the identity is added to H,
which makes it invertible and keeps small the corrections of weights that few tokens reach. An expert has its own H, of the
tokens routed to it; one that no token reached is rounded plainly.

Sources: Frantar et al., "GPTQ", arXiv 2210.17323 (this order, the Cholesky factor); Hassibi and Stork, "Second order derivatives
for network pruning: Optimal Brain Surgeon", NIPS 1992.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama4 import ops
from llama4.chat import Prompt
from llama4.errors import InputError
from llama4.model import Llama4
from llama4.moe import Experts
from llama4.quant.apply import EXPERTS, Packing, is_quantised, pack_parameter, packable, turned
from llama4.quant.int4 import LEAST, MOST, Int4, assembled, searched

# Of H's mean diagonal. With 384 drawings of one artist that the default model has learnt from, judged on another's: KL 0.028 at
# 0.01, 0.024 at 0.1, 0.022 at 0.5, and 0.031 without calibration. Few tokens tell little of rare directions.
DAMPING = 0.5
Seen = dict[str, Tensor]  # a parameter's name to its H: float32 [in, in], of experts [E, in, in]


def calibrated(model: Llama4, prompts: Sequence[Prompt]) -> Packing:
    """What packs a parameter in place of `apply.pack_parameter`, for what the model's layers get while it reads `prompts`.

    Raises InputError without a prompt, and for a model in int4.
    """
    if not prompts:
        raise InputError("Calibration needs at least one prompt: give some, or quantise without it.")
    if is_quantised(model):
        raise InputError("This model has no layer left to quantise: it is in int4 already.")
    seen = watched(model, prompts)
    return lambda name, weight, group: _pack(name, weight, seen[name], group)


@torch.no_grad()
def watched(model: Llama4, prompts: Sequence[Prompt]) -> Seen:
    """H of every layer that int4 is for, over the tokens of all prompts, one after the other, so that nothing is padded."""
    device = model.decoder.embedding.weight.device
    with _listening(model) as seen, ops.use("eager"):
        for prompt in prompts:
            images = None if prompt.tiles is None else prompt.tiles.to(device)
            model(torch.tensor([prompt.ids], device=device), images=images, logits="last")
    return seen


@torch.no_grad()
def pack_for(w: Tensor, h: Tensor, group: int) -> Int4:
    """Quantise `[out, in]` for inputs of second moments `h` `[in, in]`, float32; like `int4.pack` where `h` is zero."""
    rows, width = w.float().clone(), w.shape[1]
    upper = _factor(h.float())
    integers, scales = [], []
    for first in range(0, width, group):
        last = first + group
        scale = searched(rows[:, None, first:last], w.dtype)[:, 0]
        step = torch.where(scale == 0, 1.0, scale)
        left = torch.empty_like(rows[:, first:last])
        for column in range(first, last):
            q = (rows[:, column] / step).round().clamp(LEAST, MOST)
            left[:, column - first] = (rows[:, column] - q * scale) / upper[column, column]
            rows[:, column + 1 : last] -= left[:, column - first, None] * upper[column, column + 1 : last]
            integers.append(q)
        rows[:, last:] -= left @ upper[first:last, last:]  # the other groups at once: the same sums in one product
        scales.append(scale)
    q = torch.stack(integers, dim=1).unflatten(1, (-1, group))
    return assembled(q, torch.stack(scales, dim=1).to(w.dtype))


def _factor(h: Tensor) -> Tensor:
    """U of the damped h; the identity for an h of zeros, which moves nothing."""
    mean = h.diagonal().mean()
    if mean == 0:
        return torch.eye(len(h), device=h.device)
    damped = h + DAMPING * mean * torch.eye(len(h), device=h.device)
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)


def _pack(name: str, weight: Tensor, h: Tensor, group: int | None) -> Int4:
    plain, whole = pack_parameter(name, weight, group), turned(name, weight)  # which refuses what has no int4
    if whole.dim() == 2:
        return pack_for(whole, h, plain.group)
    packed = [pack_for(one, expert_h, plain.group) for one, expert_h in zip(whole, h, strict=True)]
    return Int4(torch.stack([one.q for one in packed]), torch.stack([one.scale for one in packed]))


@contextmanager
def _listening(model: Llama4) -> Iterator[Seen]:
    """Adds up the second moments of what the layers are given meanwhile."""
    seen: Seen = {}
    hooks = []
    for name in packable(model.config):
        if EXPERTS.fullmatch(name):
            continue
        module = model.get_submodule(name.removesuffix(".weight"))
        hooks.append(module.register_forward_pre_hook(_adding(seen, name)))
    for name, module in model.named_modules():
        if isinstance(module, Experts):
            hooks.append(module.register_forward_pre_hook(_adding_experts(seen, name)))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _adding(seen: Seen, name: str) -> Callable:
    def add(_: nn.Module, given: tuple[Tensor]) -> None:
        x = given[0].flatten(0, -2).float()
        seen[name] = seen.get(name, 0) + x.T @ x

    return add


def _adding_experts(seen: Seen, name: str) -> Callable:
    """Rows come sorted by expert, scored already; what `down` gets is computed as the module computes it."""

    def add(module: Experts, given: tuple[Tensor, Tensor]) -> None:
        x_ND, group_ends_E = given
        gate_NF, up_NF = ops.grouped_matmul(x_ND, module.gate_up, group_ends_E).chunk(2, dim=-1)
        sizes = torch.diff(group_ends_E, prepend=group_ends_E.new_zeros(1)).tolist()
        for own, rows in (("gate_up", x_ND), ("down", F.silu(gate_NF) * up_NF)):
            h_EKK = torch.stack([group.T @ group for group in rows.float().split(sizes)])
            seen[f"{name}.{own}"] = seen.get(f"{name}.{own}", 0) + h_EKK

    return add
