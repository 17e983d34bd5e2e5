"""The layers that hold int4 weights. Each computes what its namesake in bf16 does, on the weights that the integers stand for.

    Int4Linear(x)            = x dequantise(q, scale)^T
    Int4Experts(x, ends)     as moe.Experts, with gate_up and down held the other way round: [E, out, in], groups along `in`

On a card, in 16 bits and without a gradient, the kernels multiply the bytes as they lie. Everywhere else a weight is dequantised
for the call and thrown away: correct, not fast, and what the kernels are tested against. Only experts that have rows are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama4 import ops
from llama4.layers import FeedForward
from llama4.quant.int4 import Int4, dequantise


class Packed(nn.Module):
    """An `Int4` as two buffers, so that a module moves and is saved with it."""

    def __init__(self, packed: Int4) -> None:
        super().__init__()
        self.register_buffer("q", packed.q)
        self.register_buffer("scale", packed.scale)

    @property
    def packed(self) -> Int4:
        """Both."""
        return Int4(self.q, self.scale)

    @property
    def pair(self) -> tuple[Tensor, Tensor]:
        """As the kernels take them."""
        return self.q, self.scale


class Int4Linear(Packed):
    """`[..., D]` -> `[..., F]`, no bias."""

    def forward(self, x: Tensor) -> Tensor:
        if ops.runs_int4(x):
            return ops.linear_int4(x, self.pair)
        return ops.linear(x, dequantise(self.packed).to(x.dtype))


class Int4Experts(nn.Module):
    """E SwiGLU experts: `gate_up` `[E, 2F, D]`, gate then up, and `down` `[E, D, F]`, packed along their last dimension."""

    def __init__(self, gate_up: Int4, down: Int4) -> None:
        super().__init__()
        self.gate_up, self.down = Packed(gate_up), Packed(down)

    def forward(self, x_ND: Tensor, group_ends_E: Tensor) -> Tensor:
        """Rows sorted by expert in, rows in the same order out."""
        gate_NF, up_NF = _grouped(x_ND, self.gate_up.packed, group_ends_E).chunk(2, dim=-1)
        return _grouped(F.silu(gate_NF) * up_NF, self.down.packed, group_ends_E)

    def fuses(self, x_ND: Tensor) -> bool:
        """Can the whole layer run as one operator?"""
        return ops.runs_int4(x_ND)

    def fused(self, x_ND: Tensor, logits_NE: Tensor, shared: FeedForward) -> Tensor:
        """The whole layer behind its router; the shared expert in int4 too."""
        weights = (self.gate_up, self.down, shared.gate, shared.up, shared.down)
        return ops.moe_mlp_int4(x_ND, logits_NE, *(weight.pair for weight in weights))


def _grouped(x_ND: Tensor, packed: Int4, group_ends_E: Tensor) -> Tensor:
    sizes = torch.diff(group_ends_E, prepend=group_ends_E.new_zeros(1)).tolist()
    out_NF = x_ND.new_zeros(len(x_ND), packed.q.shape[1])
    first = 0
    for expert, size in enumerate(sizes):
        if size:
            own = Int4(packed.q[expert], packed.scale[expert])
            out_NF[first : first + size] = ops.linear(x_ND[first : first + size], dequantise(own).to(x_ND.dtype))
        first += size
    return out_NF
