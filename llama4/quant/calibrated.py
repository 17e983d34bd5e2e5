"""Calibrated rounding: int4 for the inputs that a layer really gets, in the very format of int4.py.

    a layer's error     Σ_n |(W - Ŵ) x_n|² = tr((W - Ŵ) H (W - Ŵ)ᵀ)          H = Σ_n x_n x_nᵀ, over a few prompts' tokens
    column after column ŵ_j = scale · q_j, the nearest, and what is left over goes to the columns that are not rounded yet:
                        w_k ← w_k - (w_j - ŵ_j) U_jk / U_jj,   k > j           U upper triangular, Uᵀ U = H⁻¹

Rounding each weight to its nearest integer is best where inputs are independent of each other. They are not: where x_1 and x_2
nearly always agree, a weight rounded up can be made good by its neighbour rounded down. U says by how much.

A group's scale is searched when its turn comes, in the weights as they stand then. A multiple of the identity is added to H,
which makes it invertible and keeps small the corrections of weights that few tokens reach. Layers that get the same input share
an H: q, k and v, and gate and up. An expert has its own, of the tokens routed to it; one that no token reached is rounded
plainly.

All H of Scout are 315 GB, most of it the experts' (16 of 8192 by 8192 a layer). So as many are held as fit into half of the free
memory, and the prompts are read once more for the next ones. All are of the unquantised model.

Sources: Frantar et al., "GPTQ", arXiv 2210.17323 (this order, the Cholesky factor); Hassibi and Stork, "Second order derivatives
for network pruning: Optimal Brain Surgeon", NIPS 1992.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from llama4 import ops
from llama4.chat import Prompt
from llama4.checkpoint import parameter_shapes
from llama4.checkpoint.memory import MemoryProbe, available_memory, require_memory
from llama4.checkpoint.shards import filled
from llama4.config import Config
from llama4.errors import InputError
from llama4.model import Llama4
from llama4.moe import Experts
from llama4.quant.apply import EXPERTS, Packing, is_quantised, pack_parameter, packable, packed_shape, turned
from llama4.quant.int4 import LEAST, MOST, Int4, assembled, searched

# Of H's mean diagonal. With 384 drawings of one artist that the default model has learnt from, judged on another's: KL 0.028 at
# 0.01, 0.024 at 0.1, 0.022 at 0.5, and 0.031 without calibration. Few tokens tell little of rare directions.
DAMPING = 0.5
SAME = {"k": "q", "v": "q", "up": "gate"}  # who gets the same input as whom
Seen = dict[str, Tensor]  # a parameter's name to its H: float32 [in, in], of experts [E, in, in]


def calibrated(model: Llama4, prompts: Sequence[Prompt], *, available: MemoryProbe = available_memory) -> Packing:
    """What packs a parameter in place of `apply.pack_parameter`, for what the model's layers get while it reads `prompts`.

    The model stays as it is as long as parameters are packed. Raises InputError without a prompt, for a model in int4, and where
    the largest H does not fit into half of the free memory.
    """
    if not prompts:
        raise InputError("Calibration needs at least one prompt: give some, or quantise without it.")
    if is_quantised(model):
        raise InputError("This model has no layer left to quantise: it is in int4 already.")
    sizes, device = moment_bytes(model.config), model.decoder.embedding.weight.device
    require_memory(2 * max(sizes.values()), "Calibrating", device, available)
    free = available(device)
    stretches = filled(sizes, sum(sizes.values()) if free is None else free // 2)
    seen: Seen = {}

    def packed(name: str, weight: Tensor, group: int | None) -> Int4:
        source = first_of(name)
        if source not in seen:
            seen.clear()
            seen.update(watched(model, prompts, next(names for names in stretches if source in names)))
        return _pack(name, weight, seen[source], group)

    return packed


def first_of(name: str) -> str:
    """Of the parameters that get the same input as `name`, the one under which their H is kept."""
    own = name.removesuffix(".weight").rpartition(".")[2]
    return name.replace(f".{own}.weight", f".{SAME[own]}.weight") if own in SAME else name


def moment_bytes(config: Config) -> dict[str, int]:
    """Bytes of each H, in the order of the layers."""
    shapes = parameter_shapes(config)
    sizes = {}
    for name in packable(config):
        *experts, _, width = packed_shape(name, shapes[name])
        sizes[first_of(name)] = 4 * math.prod(experts) * width * width
    return sizes


@torch.no_grad()
def watched(model: Llama4, prompts: Sequence[Prompt], names: Collection[str]) -> Seen:
    """The H of `names`, over the tokens of all prompts, one after the other, so that nothing is padded."""
    device = model.decoder.embedding.weight.device
    with _listening(model, names) as seen, ops.use("eager"):
        for prompt in tqdm(prompts, desc="calibrating", unit="prompt", delay=2, leave=False, disable=None):
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
def _listening(model: Llama4, names: Collection[str]) -> Iterator[Seen]:
    """Adds up the second moments of what the layers of `names` are given meanwhile."""
    seen: Seen = {}
    hooks = []
    for name in names:
        if EXPERTS.fullmatch(name):
            parent, _, own = name.rpartition(".")
            hooks.append(model.get_submodule(parent).register_forward_pre_hook(_adding_experts(seen, name, own)))
        else:
            module = model.get_submodule(name.removesuffix(".weight"))
            hooks.append(module.register_forward_pre_hook(_adding(seen, name)))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _adding(seen: Seen, name: str) -> Callable:
    def add(_: nn.Module, given: tuple[Tensor]) -> None:
        x_NK = given[0].flatten(0, -2).float()
        if name in seen:
            seen[name] += x_NK.T @ x_NK
        else:
            seen[name] = x_NK.T @ x_NK

    return add


def _adding_experts(seen: Seen, name: str, own: str) -> Callable:
    """Rows come sorted by expert, scored already; what `down` gets is computed as the module computes it."""

    def add(module: Experts, given: tuple[Tensor, Tensor]) -> None:
        x_NK, group_ends_E = given
        if own == "down":
            gate_NF, up_NF = ops.grouped_matmul(x_NK, module.gate_up, group_ends_E).chunk(2, dim=-1)
            x_NK = F.silu(gate_NF) * up_NF
        sizes = torch.diff(group_ends_E, prepend=group_ends_E.new_zeros(1)).tolist()
        if name not in seen:
            seen[name] = torch.zeros(len(sizes), x_NK.shape[1], x_NK.shape[1], device=x_NK.device)
        for expert, group_NK in enumerate(x_NK.float().split(sizes)):
            seen[name][expert] += group_NK.T @ group_NK

    return add
