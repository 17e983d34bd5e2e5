"""The MoE layer on int4 weights, beside the same layer on the same numbers in 16 bits: what a quarter of the bytes is worth.

Bytes of a case are those of the packed weights and scales that must be read, of the experts used and the shared one; so its share
of the read ceiling is of what int4 has to read, and the 16-bit layer beside it has four times as many.
"""

from __future__ import annotations

from typing import Any

import torch
from run import Record, _layer_fp32, timed
from torch import Tensor

Pair = tuple[Tensor, Tensor]  # bytes and scales, as llama4.quant.int4 packs them


def int4_cases(shape: Any, tokens: int, routing: str) -> list[Record]:
    """One layer of `shape`, forward, its weights drawn as int4."""
    from llama4_kernels import moe_mlp, moe_mlp_int4
    from shapes import routes
    from timing import device, narrow

    from llama4.quant.int4 import Int4, dequantise

    generator = torch.Generator(device=device()).manual_seed(tokens)
    d, f, e = shape.width, shape.hidden, shape.experts
    pairs = [drawn(generator, *size) for size in ((e, 2 * f, d), (e, d, f), (f, d), (f, d), (d, f))]
    gate_up, down, *shared = (dequantise(Int4(*pair)) for pair in pairs)
    weights = (gate_up.mT.contiguous(), down.mT.contiguous(), *shared)
    x_ND = torch.randn(tokens, d, device=device(), generator=generator).to(narrow())
    logits_NE = routes(tokens, e, routing, device())
    used = int(logits_NE.argmax(-1).unique().numel())
    named = {"table": "MoE layer, int4", "shape": shape.name, "tokens": tokens, "routing": routing}
    named |= {"flops": shape.layer_flops(tokens), "bytes": bytes_read(pairs, used)}
    sides = {
        "ours": lambda: moe_mlp_int4(x_ND, logits_NE, *pairs),
        "16 bits": lambda: moe_mlp(x_ND, logits_NE, *weights),
    }
    with torch.no_grad():
        return timed(named, sides, lambda: _layer_fp32(x_ND, logits_NE, *weights))


def drawn(generator: torch.Generator, *size: int) -> Pair:
    """Any bytes, which are any integers from -8 to 7, and scales that keep a layer's outputs near 1."""
    from timing import device, narrow

    from llama4.quant.int4 import group_of

    *lead, width = size
    q = torch.randint(0, 256, (*lead, width // 2), device=device(), generator=generator, dtype=torch.uint8)
    spread = 1 + torch.rand(*lead, width // group_of(width), device=device(), generator=generator)
    return q, (spread / (7 * width**0.5)).to(narrow())


def bytes_read(pairs: list[Pair], used: int) -> float:
    """Of `used` routed experts' packed weights and scales, and the shared expert's."""
    whole = [sum(tensor.nbytes for tensor in pair) for pair in pairs]
    return sum(whole[:2]) * used / len(pairs[0][0]) + sum(whole[2:])
