"""Measure the kernels, one command, under eight minutes on a GPU:

    python kernels/benchmarks/run.py                  writes kernels/benchmarks/results/DEVICE.json
    python kernels/benchmarks/plot.py                 draws the tables and plots of docs/kernels/ from it
    python kernels/benchmarks/run.py --dry-run        every benchmark at a small size, in Triton's interpreter, without a figure

Correctness comes first: every side of every case is compared with float32 before it is timed, and a wrong one stops the run.
All figures of a file are of one run; ratios are to the ceilings and the peers in the same file.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
FORMAT = "llama4-kernels-1"
NO_GPU = "no GPU: correctness and compile checks only"
DRY_TOKENS = (1, 5, 48)
LEARNT = 1024  # the fewest tokens of a training step that are measured
Record = dict[str, Any]
Side = Callable[[], Tensor | tuple[Tensor, ...]]


def grouped_cases(shape: Any, tokens: int, routing: str) -> list[Record]:
    """The grouped matmul `[N, D] x [E, D, F]` and its gradients, ours and the peers'."""
    import peers
    from llama4_kernels import grouped_matmul, naive
    from llama4_kernels.grouped import multiply, weight_gradient
    from llama4_kernels.moe import route
    from shapes import routes
    from timing import device, narrow

    generator = torch.Generator(device=device()).manual_seed(tokens)
    logits_NE = routes(tokens, shape.experts, routing, device())
    _, _, ends_E = route(logits_NE)
    x_ND = torch.randn(tokens, shape.width, device=device(), generator=generator).to(narrow())
    w_EDF = _weights(generator, shape.experts, shape.width, shape.hidden)
    dy_NF = torch.randn(tokens, shape.hidden, device=device(), generator=generator).to(narrow())
    forward = {
        "ours": lambda: grouped_matmul(x_ND, w_EDF, ends_E),
        "naive": lambda: naive.multiply(x_ND, w_EDF, ends_E),
        "loop": lambda: peers.loop(x_ND, w_EDF, ends_E),
        "grouped_mm": lambda: peers.grouped_mm(x_ND, w_EDF, ends_E),
    }
    dx = {
        "ours": lambda: multiply(dy_NF, w_EDF.mT, ends_E),
        "grouped_mm": lambda: peers.grouped_mm(dy_NF, w_EDF.mT, ends_E),
    }
    dw = {
        "ours": lambda: weight_gradient(x_ND, dy_NF, ends_E),
        "grouped_mm": lambda: peers.grouped_mm(x_ND.mT, dy_NF, ends_E),
    }
    flops = 2 * tokens * shape.width * shape.hidden
    named = {"shape": shape.name, "tokens": tokens, "routing": routing, "flops": flops}
    return [
        *timed({"table": "grouped matmul", **named}, forward, lambda: _loop_fp32(x_ND, w_EDF, ends_E)),
        *timed({"table": "grouped matmul, dX", **named}, dx, lambda: _loop_fp32(dy_NF, w_EDF.mT, ends_E)),
        *timed({"table": "grouped matmul, dW", **named}, dw, lambda: _gradient_fp32(x_ND, dy_NF, ends_E)),
    ]


def layer_cases(shape: Any, tokens: int, routing: str) -> list[Record]:
    """The whole MoE layer, forward; ours, composed of grouped_mm, and transformers' eager one."""
    import peers
    from llama4_kernels import moe_mlp
    from shapes import routes
    from timing import device, narrow

    generator = torch.Generator(device=device()).manual_seed(tokens)
    d, f, e = shape.width, shape.hidden, shape.experts
    x_ND = torch.randn(tokens, d, device=device(), generator=generator).to(narrow())
    weights = (
        _weights(generator, e, d, 2 * f),
        _weights(generator, e, f, d),
        *(_weights(generator, *size) for size in ((f, d), (f, d), (d, f))),
    )
    logits_NE = routes(tokens, e, routing, device())
    sides = {
        "ours": lambda: moe_mlp(x_ND, logits_NE, *weights),
        "composed": lambda: peers.composed(x_ND, logits_NE, *weights),
    }
    named = {"shape": shape.name, "tokens": tokens, "routing": routing, "flops": shape.layer_flops(tokens)}
    used = int(logits_NE.argmax(-1).unique().numel())
    named["bytes"] = shape.layer_bytes(used)
    with torch.no_grad():
        records = timed({"table": "MoE layer", **named}, sides, lambda: _layer_fp32(x_ND, logits_NE, *weights))
        return records + _transformers(shape, x_ND, weights, named, generator)


def training_cases(shape: Any, tokens: int, routing: str) -> list[Record]:
    """The whole MoE layer, forward and backward, to the gradients of tokens, router and all weights; ours, and composed."""
    import peers
    from llama4_kernels import moe_mlp
    from shapes import routes
    from timing import device, narrow

    generator = torch.Generator(device=device()).manual_seed(tokens)
    d, f, e = shape.width, shape.hidden, shape.experts
    sizes = ((e, d, 2 * f), (e, f, d), (f, d), (f, d), (d, f))
    x_ND, dy_ND = (torch.randn(tokens, d, device=device(), generator=generator).to(narrow()) for _ in range(2))
    inputs = (x_ND, routes(tokens, e, routing, device()), *(_weights(generator, *size) for size in sizes))
    for tensor in inputs:
        tensor.requires_grad_(True)

    def learnt(layer: Callable[..., Tensor]) -> Side:
        return lambda: torch.autograd.grad(layer(*inputs), inputs, dy_ND)

    sides = {"ours": learnt(moe_mlp), "composed": learnt(peers.composed)}
    named = {"table": "MoE layer, forward and backward", "shape": shape.name, "tokens": tokens, "routing": routing}
    return timed({**named, "flops": 3 * shape.layer_flops(tokens)}, sides, learnt(_layer_fp32))


def _transformers(shape: Any, x_ND: Tensor, weights: tuple, named: Record, generator: torch.Generator) -> list[Record]:
    """transformers routes by a router of its own: ours is given that router's logits, so that both do the same."""
    import peers
    from llama4_kernels import moe_mlp

    router_DE = _weights(generator, shape.width, shape.experts)
    layer = peers.transformers_layer(shape, weights, router_DE) if x_ND.is_cuda or shape.name == "small" else None
    if layer is None or shape.name == "Maverick":  # 128 copies of the tokens do not fit, and say nothing
        return []
    logits_NE = (x_ND @ router_DE).float()
    sides = {
        "ours": lambda: moe_mlp(x_ND, logits_NE, *weights),
        "transformers": lambda: layer(x_ND[None])[0].reshape(x_ND.shape),
    }
    named = {**named, "table": "MoE layer, against transformers", "routing": "by a drawn router"}
    return timed(named, sides, lambda: _layer_fp32(x_ND, logits_NE, *weights))


def timed(named: Record, sides: dict[str, Side], exact: Side) -> list[Record]:
    """One record a side: how far from float32 it is, then how long it takes. A wrong side stops everything."""
    from timing import median_ms

    expected, records = exact(), []
    for side, run in sides.items():
        try:
            found = run()
        except (NotImplementedError, RuntimeError) as error:
            if side == "ours":
                raise
            records.append(
                {**named, "side": side, "ms": None, "error": None, "refused": str(error).split("\n")[0][:200]}
            )
            continue
        error = max(itertools.starmap(_distance, zip(_tensors(found), _tensors(expected), strict=True)))
        if not error < 0.02:  # relative RMS; bf16 alone makes 0.002 to 0.006
            raise SystemExit(f"{named}: {side} is wrong by {error:.3f} of the result; nothing is written.")
        records.append({**named, "side": side, "ms": median_ms(run), "error": error})
    return records


def _tensors(found: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)


def _distance(found: Tensor, expected: Tensor) -> float:
    """Relative RMS error; NaN counts as infinite, which max() of NaN would not."""
    error = float((found.float() - expected.float()).norm() / expected.float().norm().clamp_min(1e-30))
    return error if error == error else math.inf


def _weights(generator: torch.Generator, *size: int) -> Tensor:
    """Random, of the scale that keeps a layer's outputs near 1; slice by slice: Maverick's in float32 would not fit."""
    from timing import device, narrow

    made = torch.empty(*size, dtype=narrow(), device=device())
    slices = made if made.dim() == 3 else made[None]
    for part in slices:
        part.copy_(torch.randn(part.shape, device=device(), generator=generator) * part.shape[-1] ** -0.5)
    return made


def _loop_fp32(x_ND: Tensor, w_EDF: Tensor, ends_E: Tensor) -> Tensor:
    ends = ends_E.tolist()
    pairs = zip([0, *ends], ends, w_EDF, strict=False)
    return torch.cat([x_ND[begin:end].float() @ w.float() for begin, end, w in pairs])


def _gradient_fp32(x_ND: Tensor, dy_NF: Tensor, ends_E: Tensor) -> Tensor:
    ends = ends_E.tolist()
    pairs = zip([0, *ends], ends, strict=False)
    return torch.stack([(x_ND[a:b].float().mT @ dy_NF[a:b].float()).to(x_ND.dtype) for a, b in pairs])


def _layer_fp32(x_ND: Tensor, logits_NE: Tensor, *weights: Tensor) -> Tensor:
    """Expert by expert in float32; the reference of the tests goes token by token, too slow for 16384."""
    gate_up_EDF, down_EFD, gate_FD, up_FD, down_DF = weights
    silu, x = torch.nn.functional.silu, x_ND.float()
    shared_ND = (silu(x @ gate_FD.float().mT) * (x @ up_FD.float().mT)) @ down_DF.float().mT
    logit_N, expert_N = logits_NE.max(-1)
    scored = x * torch.sigmoid(logit_N)[:, None]
    order_N, outputs = torch.argsort(expert_N), []
    for expert in expert_N.unique().tolist():  # in rising order, as the rows are
        rows = order_N[expert_N[order_N] == expert]
        gate, up = (scored[rows] @ gate_up_EDF[expert].float()).chunk(2, dim=-1)
        outputs.append((silu(gate) * up) @ down_EFD[expert].float())
    return shared_ND + torch.empty_like(shared_ND).index_copy(0, order_N, torch.cat(outputs))


def provenance(device: torch.device) -> Record:
    """When, on what, with what."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False)
    import triton

    found = {
        "format": FORMAT,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit.stdout.strip() or None,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, interpreted",
    }
    if device.type == "cuda":
        query = [
            "nvidia-smi",
            "--query-gpu=clocks.sm,clocks.max.sm,power.limit,driver_version",
            "--format=csv,noheader",
        ]
        clocks = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
        found["clocks: SM, SM at most, power limit, driver"] = clocks
    return found


def main() -> int:
    """Run everything; write the file whole or not at all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--dry-run", action="store_true", help="small sizes, in the interpreter where there is no GPU")
    parser.add_argument("--into", type=Path, default=None, metavar="FILE", help="results/DEVICE.json beside this file")
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"
        print(NO_GPU)
        if not chosen.dry_run:
            return 0
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    import ceilings
    from shapes import MAVERICK, ROUTINGS, SCOUT, SMALL, TOKENS
    from timing import device, narrow

    small = {"side": 64, "nbytes": 4096} if chosen.dry_run else {}
    result = provenance(device()) | {"dtype": str(narrow()), "ceilings": ceilings.measure(device(), narrow(), **small)}
    records: list[Record] = []
    for shape in [SMALL] if chosen.dry_run else [SCOUT, MAVERICK]:
        for tokens in DRY_TOKENS if chosen.dry_run else TOKENS:
            for routing in ROUTINGS:
                print(f"{shape.name}, {tokens} tokens, {routing}", flush=True)
                records += [*grouped_cases(shape, tokens, routing), *layer_cases(shape, tokens, routing)]
                if (shape.name != "Maverick" and tokens >= LEARNT) or chosen.dry_run:  # its gradients are another 32 GB
                    records += training_cases(shape, tokens, routing)
    if chosen.dry_run:
        refused = sum("refused" in record for record in records)
        print(f"{len(records)} measurements walked through, {refused} refused by a peer; every result is right.")
        return 0
    name = result["device"].lower().replace(" ", "-")
    into = chosen.into or HERE / "results" / f"{name}.json"
    into.parent.mkdir(parents=True, exist_ok=True)
    part = into.with_suffix(".part")
    part.write_text(json.dumps({**result, "records": records}, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    part.rename(into)
    print(into.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
