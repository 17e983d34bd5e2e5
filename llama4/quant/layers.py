"""The layers that hold int4 weights. Each computes what its namesake in bf16 does, on the weights that the integers stand for.

    Int4Linear(x)            = x dequantise(q, scale)^T
    Int4Experts(x, ends)     as moe.Experts, with gate_up and down held the other way round: [E, out, in], groups along `in`

On the CPU a weight is dequantised for the call and thrown away: correct, not fast. Only experts that have rows are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama4 import ops
from llama4.quant.int4 import Int4, dequantise, pack


class Packed(nn.Module):
    """An `Int4` as two buffers, so that a module moves and is saved with it."""

    def __init__(self, packed: Int4) -> None:
        super().__init__()
        self.register_buffer("q", packed.q)
        self.register_buffer("scale", packed.scale)

    @property
    def packed(self) -> Int4:
        """The pair."""
        return Int4(self.q, self.scale)


class Int4Linear(Packed):
    """`[..., D]` -> `[..., F]`, no bias."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.linear(x, dequantise(self.packed).to(x.dtype))


class Int4Experts(nn.Module):
    """E SwiGLU experts: `gate_up` `[E, 2F, D]`, gate then up, and `down` `[E, D, F]`, packed along their last dimension."""

    def __init__(self, gate_up_EDF: Tensor, down_EFD: Tensor) -> None:
        super().__init__()
        self.gate_up = Packed(pack(gate_up_EDF.mT.contiguous()))
        self.down = Packed(pack(down_EFD.mT.contiguous()))

    def forward(self, x_ND: Tensor, group_ends_E: Tensor) -> Tensor:
        """Rows sorted by expert in, rows in the same order out."""
        gate_NF, up_NF = _grouped(x_ND, self.gate_up.packed, group_ends_E).chunk(2, dim=-1)
        return _grouped(F.silu(gate_NF) * up_NF, self.down.packed, group_ends_E)


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
