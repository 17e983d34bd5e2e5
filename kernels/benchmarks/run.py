"""Measure the kernels, one command:

    python kernels/benchmarks/run.py                  writes kernels/benchmarks/results/DEVICE.json
    python kernels/benchmarks/plot.py FILE            draws the tables and plots of docs/kernels/ from it
    python kernels/benchmarks/run.py --dry-run        every benchmark at a small size, in Triton's interpreter, without a figure

Correctness comes first: every side of every case is compared with float32 before it is timed, and ours, wrong, stops the run.
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
    short_E, used = ends_E.to(torch.int32), int(logits_NE.argmax(-1).unique().numel())
    x_ND = torch.randn(tokens, shape.width, device=device(), generator=generator).to(narrow())
    w_EDF = _weights(generator, shape.experts, shape.width, shape.hidden)
    dy_NF = torch.randn(tokens, shape.hidden, device=device(), generator=generator).to(narrow())
    forward = {
        "ours": lambda: grouped_matmul(x_ND, w_EDF, ends_E),
        "naive": lambda: naive.multiply(x_ND, w_EDF, ends_E),
        "loop": lambda: peers.loop(x_ND, w_EDF, ends_E),
        "grouped_mm": lambda: peers.grouped_mm(x_ND, w_EDF, short_E),
    }
    dx = {
        "ours": lambda: multiply(dy_NF, w_EDF.mT, ends_E),
        "grouped_mm": lambda: peers.grouped_mm(dy_NF, w_EDF.mT, short_E),
    }
    dw = {
        "ours": lambda: weight_gradient(x_ND, dy_NF, ends_E),
        "grouped_mm": lambda: peers.grouped_mm(x_ND.mT, dy_NF, short_E),
    }
    flops = 2 * tokens * shape.width * shape.hidden
    rows, weight = tokens * (shape.width + shape.hidden), shape.width * shape.hidden
    named = {"shape": shape.name, "tokens": tokens, "routing": routing, "flops": flops}
    named["bytes"] = 2 * (rows + used * weight)
    written = {"bytes": 2 * (rows + shape.experts * weight)}  # an expert without tokens has zeros written
    return [
        *timed({"table": "grouped matmul", **named}, forward, lambda: _loop_fp32(x_ND, w_EDF, ends_E)),
        *timed({"table": "grouped matmul, dX", **named}, dx, lambda: _loop_fp32(dy_NF, w_EDF.mT, ends_E)),
        *timed({"table": "grouped matmul, dW", **named, **written}, dw, lambda: _gradient_fp32(x_ND, dy_NF, ends_E)),
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
    named = {"table": "MoE layer", "shape": shape.name, "tokens": tokens, "routing": routing}
    with torch.no_grad():
        records = timed(_layer(named, shape, logits_NE), sides, lambda: _layer_fp32(x_ND, logits_NE, *weights))
        if routing == "uniform":  # its own router decides, whatever the routing
            records += _transformers(shape, x_ND, weights, generator)
        return records


def _layer(named: Record, shape: Any, logits_NE: Tensor, passes: int = 1) -> Record:
    """With FLOPs, and the bytes of weights that must be read (and, for a training step, of gradients that must be written)."""
    used = int(logits_NE.argmax(-1).unique().numel())
    read = shape.layer_bytes(used) if passes == 1 else 2 * shape.layer_bytes(used) + shape.layer_bytes(shape.experts)
    return {**named, "flops": passes * shape.layer_flops(len(logits_NE)), "bytes": read}


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
    return timed(_layer(named, shape, inputs[1].detach(), passes=3), sides, learnt(_layer_fp32))


def _transformers(shape: Any, x_ND: Tensor, weights: tuple, generator: torch.Generator) -> list[Record]:
    """transformers routes by a router of its own, in bf16: ours is given the very logits that it computed."""
    import peers
    from llama4_kernels import moe_mlp

    router_DE = (
        torch.randn(shape.width, shape.experts, device=x_ND.device, generator=generator) * shape.width**-0.5
    ).to(x_ND.dtype)
    layer = peers.transformers_layer(shape, weights, router_DE) if x_ND.is_cuda or shape.name == "small" else None
    if layer is None or shape.name == "Maverick":  # 128 copies of the tokens do not fit, and say nothing
        return []
    logits_NE = layer(x_ND[None])[1].reshape(len(x_ND), -1).float()
    # Two experts may tie in bf16, and either choice is right: the one that stands first gets a hair more, as in the layer's topk.
    logits_NE = logits_NE.scatter_add(1, logits_NE.topk(1).indices, torch.full_like(logits_NE[:, :1], 1e-6))
    sides = {
        "ours": lambda: moe_mlp(x_ND, logits_NE, *weights),
        "transformers": lambda: layer(x_ND[None])[0].reshape(x_ND.shape),
    }
    named = {
        "table": "MoE layer, against transformers",
        "shape": shape.name,
        "tokens": len(x_ND),
        "routing": "by a drawn router",
    }
    return timed(_layer(named, shape, logits_NE), sides, lambda: _layer_fp32(x_ND, logits_NE, *weights))


def timed(named: Record, sides: dict[str, Side], exact: Side) -> list[Record]:
    """One record a side: how far from float32 it is, then how long it takes.

    Every tensor begins as NaN while a side is checked. A peer that refuses, or is wrong, is told and not timed; ours, wrong,
    stops everything.
    """
    from poison import poisoned
    from timing import median_ms

    expected, records = exact(), []
    for side, run in sides.items():
        try:
            with poisoned():
                found = run()
        except (NotImplementedError, RuntimeError) as error:
            if side == "ours":
                raise
            records.append(
                {**named, "side": side, "ms": None, "error": None, "refused": str(error).split("\n")[0][:200]}
            )
            continue
        error = max(itertools.starmap(_distance, zip(_tensors(found), _tensors(expected), strict=True)))
        if not error < 0.02 and side == "ours":  # relative RMS; bf16 alone makes 0.002 to 0.006
            raise SystemExit(f"{named}: ours is wrong by {error:.3f} of the result; this case is not in the file.")
        if not error < 0.02:
            records.append({**named, "side": side, "ms": None, "error": None, "refused": f"wrong by {error:.3f}"})
            continue
        ms, how = median_ms(run, named["tokens"])
        records.append({**named, "side": side, "ms": ms, "how": how, "error": error})
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


def provenance(device: torch.device, commit: str | None) -> Record:
    """When, on what, with what. `commit` where the folder is no checkout that could be asked."""
    import triton

    commit = commit or _said(["git", "-C", str(HERE), "rev-parse", "HEAD"])
    return {
        "format": FORMAT,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, interpreted",
    }


def clocks() -> str | None:
    """SM clock now and at most, power limit, driver: asked right after a measurement, since an idle card slows down."""
    return _said(
        ["nvidia-smi", "--query-gpu=clocks.sm,clocks.max.sm,power.limit,driver_version", "--format=csv,noheader"]
    )


def _said(command: list[str]) -> str | None:
    """What a program printed; None where there is no such program, or it failed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None


def main() -> int:
    """Run everything; the file has its name when it is whole, and ends in .part until then."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--dry-run", action="store_true", help="small sizes, in the interpreter where there is no GPU")
    parser.add_argument("--into", type=Path, default=None, metavar="FILE", help="results/DEVICE.json beside this file")
    parser.add_argument("--commit", help="what is measured, where git cannot say it")
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"
        print(NO_GPU)
        if not chosen.dry_run:
            return 0
    sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]
    import ceilings
    from int4_layer import int4_cases
    from shapes import MAVERICK, ROUTINGS, SCOUT, SMALL, TOKENS
    from timing import device, narrow

    small = {"side": 64, "nbytes": 4096} if chosen.dry_run else {}
    result = provenance(device(), chosen.commit)
    result |= {"dtype": str(narrow()), "ceilings": ceilings.measure(device(), narrow(), **small), "clocks": clocks()}
    name = result["device"].lower().replace(" ", "-")
    into = chosen.into or HERE / "results" / f"{name}.json"
    records: list[Record] = []
    for shape in [SMALL] if chosen.dry_run else [SCOUT, MAVERICK]:
        for tokens in DRY_TOKENS if chosen.dry_run else TOKENS:
            for routing in ROUTINGS:
                print(f"{shape.name}, {tokens} tokens, {routing}", flush=True)
                records += [*grouped_cases(shape, tokens, routing), *layer_cases(shape, tokens, routing)]
                records += int4_cases(shape, tokens, routing)
                if (shape.name != "Maverick" and tokens >= LEARNT) or chosen.dry_run:  # its gradients are another 32 GB
                    records += training_cases(shape, tokens, routing)
                if not chosen.dry_run:  # what was measured stays, should the next case fail
                    write(into.with_suffix(".part"), {**result, "records": records})
    if chosen.dry_run:
        refused = sum("refused" in record for record in records)
        print(f"{len(records)} measurements walked through, {refused} refused by a peer; every result is right.")
        return 0
    into.with_suffix(".part").rename(into)
    print(into.name)
    return 0


def write(file: Path, result: Record) -> None:
    """The result so far."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
