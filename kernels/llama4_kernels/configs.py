"""The tiles that each kernel runs with. All of them pass the compile gate (benchmarks/gate.py); none is chosen at run time."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Tile:
    """An output tile of `rows` x `columns`, `depth` of the sum at a time, `stages` blocks in flight, `warps` of 32 threads.

    `band`: row tiles that are taken column by column together (tiles.py); 1 where the order does not matter.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    band: int = 1


SMALL = Tile(rows=32, columns=32, depth=32, warps=4, stages=2, band=2)  # for the interpreter, which is slow, and fp32
HOPPER = {
    "forward": Tile(rows=128, columns=256, depth=64, warps=8, stages=3, band=8),
    "weight_gradient": Tile(rows=128, columns=256, depth=64, warps=8, stages=3),
    "gate_up": Tile(rows=128, columns=128, depth=64, warps=8, stages=3, band=8),
    "down": Tile(rows=128, columns=256, depth=64, warps=8, stages=3, band=8),
    # Here `rows` is the most tokens; fewer run with the same blocks of weights.
    "decode_gate_up": Tile(rows=64, columns=64, depth=128, warps=4, stages=4),
    "decode_down": Tile(rows=64, columns=64, depth=128, warps=4, stages=6),
    "int4": Tile(rows=32, columns=64, depth=128, warps=4, stages=4),  # the depth of a block is a group's
    # Of attention: packed query rows, keys, and the widest head.
    "attention": Tile(rows=128, columns=64, depth=128, warps=8, stages=3),
    "attention_dq": Tile(rows=128, columns=64, depth=128, warps=8, stages=2),
    "attention_dkv": Tile(rows=32, columns=128, depth=128, warps=8, stages=2),
    # Here `rows` is the most packed rows, and two programs share a multiprocessor's memory.
    "attention_decode": Tile(rows=32, columns=64, depth=128, warps=4, stages=3),
    "int4_gate_up": Tile(
        rows=128, columns=128, depth=128, warps=8, stages=3, band=8
    ),  # `rows` are tokens, `columns` weights
    "int4_product": Tile(rows=128, columns=128, depth=128, warps=8, stages=3, band=8),
}


def chosen(kernel: str, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> Tile:
    """The tile of `kernel` on a card; a small one in the interpreter, and for fp32, of which a large one would not fit."""
    return HOPPER[kernel] if device.type == "cuda" and dtype != torch.float32 else SMALL
