"""Measure attention, one command:

    python kernels/benchmarks/attention.py                  writes kernels/benchmarks/results/DEVICE-attention.json
    python kernels/benchmarks/plot.py FILE                  draws the tables of docs/kernels/attention.md from it
    python kernels/benchmarks/attention.py --dry-run        everything at a small size, in Triton's interpreter, without a figure

As in run.py: every side is compared with float32 before it is timed, with all new tensors filled with NaN; ours, wrong, ends the
run; a peer that is wrong or refuses is told and not timed. Ceilings and peers are of the same run.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import torch
from run import HERE, NO_GPU, Record, Side, clocks, provenance, timed, write
from torch import Tensor

DRY_PREFILL, DRY_CONTEXTS = (32, 75), {1: (40,), 3: (70,)}


def prefill_cases(shape: Any, tokens: int) -> list[Record]:
    """Chunked attention of one row, forward; and full causal attention of the same, which is what chunks save."""
    import attention_peers as peers
    from llama4_kernels import chunked_attention
    from timing import device
    from torch.nn.attention import SDPBackend

    q_BSHK, k_BSGK, v_BSGK = qkv = _drawn(shape, 1, tokens, tokens)
    mask, ends = peers.chunk_mask(tokens, shape.chunk, device()), peers.chunk_ends(tokens, shape.chunk, device())
    sides = {
        "ours": lambda: chunked_attention(*qkv, shape.chunk),
        "folded": lambda: peers.folded(*qkv, shape.chunk),
        "flex": lambda: peers.flex(*qkv, mask),
        "varlen": lambda: peers.varlen_chunks(*qkv, ends, shape.chunk),
    }
    k_copied, v_copied = (peers.copied(x, shape.heads) for x in (k_BSGK, v_BSGK))
    full = {
        "causal": lambda: peers.causal(*qkv),
        "causal, flash": lambda: peers.causal(*qkv, SDPBackend.FLASH_ATTENTION),
        "causal, cudnn": lambda: peers.causal(q_BSHK, k_copied, v_copied, SDPBackend.CUDNN_ATTENTION),
    }
    named = {"shape": shape.name, "tokens": tokens, "routing": "", "bytes": shape.prefill_bytes(tokens)}
    chunked, whole = (shape.flops(shape.pairs(tokens, chunk)) for chunk in (shape.chunk, tokens))
    with torch.no_grad():
        return [
            *timed(
                {"table": "chunked attention", **named, "flops": chunked}, sides, lambda: peers.exact(*qkv, shape.chunk)
            ),
            *timed(
                {"table": "full causal attention", **named, "flops": whole}, full, lambda: peers.exact(*qkv, tokens)
            ),
        ]


def learning_cases(shape: Any, tokens: int) -> list[Record]:
    """Forward and backward. FLOPs: two products forward, five backward, one of them the scores again."""
    import attention_peers as peers
    from llama4_kernels import chunked_attention
    from timing import device, narrow

    inputs = tuple(x.requires_grad_() for x in _drawn(shape, 1, tokens, tokens))
    dout_BSHK = torch.randn(inputs[0].shape, device=device()).to(narrow())
    mask = peers.chunk_mask(tokens, shape.chunk, device())

    def learnt(attend: Any, *more: Any) -> Side:
        return lambda: torch.autograd.grad(attend(*inputs, *more), inputs, dout_BSHK)

    def exact() -> tuple[Tensor, ...]:
        """A chunk at a time, since all of their scores would not fit."""
        parts = []
        for begin in range(0, tokens, shape.chunk):
            here = [x[:, begin : begin + shape.chunk].detach().requires_grad_() for x in inputs]
            out_BSHK = peers.exact(*here, shape.chunk)
            parts.append(torch.autograd.grad(out_BSHK, here, dout_BSHK[:, begin : begin + shape.chunk].float()))
        return tuple(torch.cat(of, dim=1) for of in zip(*parts, strict=True))

    sides = {
        "ours": learnt(chunked_attention, shape.chunk),
        "folded": learnt(peers.folded, shape.chunk),
        "flex": learnt(peers.flex, mask),
    }
    named = {"table": "chunked attention, forward and backward", "shape": shape.name, "tokens": tokens, "routing": ""}
    flops = 3.5 * shape.flops(shape.pairs(tokens, shape.chunk))
    return timed({**named, "flops": flops, "bytes": 3 * shape.prefill_bytes(tokens)}, sides, exact)


def decode_cases(shape: Any, rows: int, slots: int) -> list[Record]:
    """One token a row from a cache of `slots`; several rows see from an eighth of it to all."""
    import attention_peers as peers
    from llama4_kernels import decode_attention
    from timing import device

    tensors = _drawn(shape, rows, 1, slots)
    seen_BS = torch.linspace(slots / 8 if rows > 1 else slots, slots, rows, device=device()).long()[:, None]
    seen_B = seen_BS[:, 0].to(torch.int32)
    mask = peers.length_mask(seen_BS[:, 0], slots)
    sides = {
        "ours": lambda: decode_attention(*tensors, seen_BS),
        "masked": lambda: peers.masked(*tensors, seen_BS),
        "flex": lambda: peers.flex(*tensors, mask),
        "varlen": lambda: peers.varlen_cache(*tensors, seen_B),
    }
    if rows == 1:
        sides["level"] = lambda: peers.level(*tensors)
    seen = int(seen_BS.sum())
    named = {"table": "decode attention", "shape": f"{shape.name}, {slots} slots", "tokens": rows}
    named |= {
        "routing": "unequal rows" if rows > 1 else "",
        "flops": shape.flops(seen),
        "bytes": shape.cache_bytes(seen),
    }
    with torch.no_grad():
        return timed(named, sides, lambda: peers.exact_decode(*tensors, seen_BS))


def turn_cases(shape: Any, tokens: int) -> list[Record]:
    """Rotation and QK norm of one row's queries and keys."""
    import attention_peers as peers
    from llama4_kernels import rotate_and_norm
    from timing import device

    q_BSHK, k_BSGK, _ = _drawn(shape, 1, tokens, tokens)
    angles_BSK = torch.rand(1, tokens, shape.width // 2, device=device()) * 6
    cos, sin = angles_BSK.cos(), angles_BSK.sin()
    turn = cos[:, :, None], sin[:, :, None]
    sides = {
        "ours": lambda: rotate_and_norm(q_BSHK, k_BSGK, cos, sin, 1e-5),
        "torch": lambda: peers.rotate_and_norm(q_BSHK, k_BSGK, turn, 1e-5),
    }
    named = {"table": "rotation and QK norm", "shape": shape.name, "tokens": tokens, "routing": "", "flops": 0}
    named["bytes"] = shape.prefill_bytes(tokens)  # as many as attention's: q and k read, q and k written
    with torch.no_grad():
        return timed(named, sides, lambda: peers.rotate_and_norm(q_BSHK.float(), k_BSGK.float(), turn, 1e-5))


def _drawn(shape: Any, rows: int, queries: int, keys: int) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v: normal numbers, as QK norm leaves them."""
    from timing import device, narrow

    generator = torch.Generator(device=device()).manual_seed(keys)
    sizes = ((queries, shape.heads), (keys, shape.kv_heads), (keys, shape.kv_heads))
    return tuple(
        torch.randn(rows, length, heads, shape.width, device=device(), generator=generator, dtype=narrow())
        for length, heads in sizes
    )


def all_cases(dry: bool) -> list[tuple[Any, tuple]]:
    """Every case as a function and its arguments, a few minutes on a card."""
    from shapes import CONTEXTS, LEARNING, PREFILL, SCOUT_HEADS, SMALL_HEADS, TURNED

    shape = SMALL_HEADS if dry else SCOUT_HEADS
    contexts = DRY_CONTEXTS if dry else CONTEXTS
    return [
        *((prefill_cases, (shape, tokens)) for tokens in (DRY_PREFILL if dry else PREFILL)),
        *((learning_cases, (shape, tokens)) for tokens in (DRY_PREFILL if dry else LEARNING)),
        *((decode_cases, (shape, rows, slots)) for rows in contexts for slots in contexts[rows]),
        *((turn_cases, (shape, tokens)) for tokens in (DRY_PREFILL if dry else TURNED)),
    ]


def main() -> int:
    """Run everything; the file has its name when it is whole, and ends in .part until then."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--dry-run", action="store_true", help="small sizes, in the interpreter where there is no GPU")
    parser.add_argument(
        "--into", type=Path, default=None, metavar="FILE", help="results/DEVICE-attention.json beside this file"
    )
    parser.add_argument("--commit", help="what is measured, where git cannot say it")
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"
        print(NO_GPU)
        if not chosen.dry_run:
            return 0
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    import ceilings
    from timing import device, narrow

    small = {"side": 64, "nbytes": 4096} if chosen.dry_run else {}
    result = provenance(device(), chosen.commit)
    result |= {"dtype": str(narrow()), "ceilings": ceilings.measure(device(), narrow(), **small), "clocks": clocks()}
    result["plotted"] = ["chunked attention", "chunked attention, forward and backward", "full causal attention"]
    into = chosen.into or HERE / "results" / f"{result['device'].lower().replace(' ', '-')}-attention.json"
    records: list[Record] = []
    for measure, given in all_cases(chosen.dry_run):
        print(measure.__name__, *(getattr(x, "name", x) for x in given), flush=True)
        records += measure(*given)
        if not chosen.dry_run:  # what was measured stays, should the next case fail
            write(into.with_suffix(".part"), {**result, "records": records})
    if chosen.dry_run:
        refused = [f"{record['side']} ({record['refused']})" for record in records if "refused" in record]
        print(*sorted(set(refused)), sep="\n")
        print(
            f"{len(records)} measurements walked through, {len(refused)} refused by a peer; every result of ours is right."
        )
        return 0
    into.with_suffix(".part").rename(into)
    print(into.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
