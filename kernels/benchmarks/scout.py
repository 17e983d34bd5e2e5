"""The whole of Scout in int4 on one card, with random weights: tokens a second, each beside its roofline.

    python kernels/benchmarks/scout.py              writes kernels/benchmarks/results/scout-DEVICE.json
    python kernels/benchmarks/scout.py --dry-run    counts bytes and FLOPs, walks a small shape through, measures nothing
    python kernels/benchmarks/scout.py --render FILE    the tables of a result, in Markdown

48 layers, weights made on the device, bf16. Decode: the static step of llama4/graph.py, a CUDA graph, at 1 K, 64 K and 1 M tokens
of context, which are random keys and values; once as replays alone, once with the next token chosen on the host as `generate`
does. Prefill: 8 K and 64 K tokens through `engine.prefill`. Where the time of a replay goes is told kernel by kernel.

Maverick's weights do not fit one card: as many layers as do are measured, a time is multiplied by layers over layers, the head's
share aside, and the row says that it is scaled. What does not fit is a row that says what it would need.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import counting
from run import NO_GPU, clocks, provenance, write

from llama4 import ops
from llama4.cache import KVCache
from llama4.chat import Prompt
from llama4.checkpoint import parameter_shapes
from llama4.config import Config, irope_layers
from llama4.engine import prefill
from llama4.graph import Plain, Static, capture
from llama4.model import Llama4
from llama4.quant.apply import packable, packed_shape, put_in
from llama4.quant.int4 import Int4, group_of

HERE = Path(__file__).resolve().parent
FORMAT = "llama4-scout-1"
BATCHES, CONTEXTS, PROMPTS = (1, 16), (2**10, 2**16, 2**20), (2**13, 2**16)
DRY_CONTEXTS, DRY_PROMPTS = (1, 8, 19), (24, 150)
SPARE = 12e9  # bytes of a card that are kept for activations, graphs and torch itself
ROUNDS, TOP = 32, 12
Record = dict[str, Any]


def shapes(small: bool) -> dict[str, Config]:
    """Scout and Maverick, text only; small, in the same pattern of layers, for a dry run."""
    named = {"Scout": Config.scout(), "Maverick": Config.maverick()}
    if not small:
        return {name: replace(config, vision=None) for name, config in named.items()}
    sizes = {
        "width": 64,
        "heads": 4,
        "kv_heads": 2,
        "head_width": 16,
        "expert_width": 96,
        "dense_width": 64,
        "experts": 4,
    }
    sizes |= {"vocab_size": 96, "chunk": 4, "max_context": 256, "vision": None}
    return {
        name: replace(config, layers=irope_layers(2, 1 if name == "Scout" else 2, nope_every=2), **sizes)
        for name, config in named.items()
    }


@torch.no_grad()
def built(config: Config, device: torch.device, dtype: torch.dtype) -> Llama4:
    """The model, its weights drawn on the device, as int4 from the start: unquantised they would not fit."""
    torch.manual_seed(0)
    with torch.device("meta"):
        model = Llama4(config)
    wanted, pairs = set(packable(config)), {}
    for name, shape in parameter_shapes(config).items():
        if name in wanted:
            *lead, width = packed_shape(name, shape)
            q = torch.randint(0, 256, (*lead, width // 2), dtype=torch.uint8, device=device)
            scale = torch.full((*lead, width // group_of(width)), width**-0.5 / 4.6, dtype=dtype, device=device)
            pairs[name] = Int4(q, scale)  # integers from -8 to 7 have an rms of 4.6
            continue
        drawn = torch.ones(shape) if "norm" in name else torch.empty(shape, device=device).normal_(0, shape[-1] ** -0.5)
        module, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(module), leaf, torch.nn.Parameter(drawn.to(device, dtype)))
    return put_in(model, pairs).eval()


@torch.inference_mode()
def check(model: Llama4) -> None:
    """The static step, recorded where there is a card, gives the plain call's scores: else nothing is measured."""
    feeds = [Plain(model, model.new_cache(2, 64)), Static(model, model.new_cache(2, 64), _record(model))]
    turns = 6 if torch.cuda.is_available() else 1  # over a chunk; interpreted, a token takes seconds
    for turn in range(turns):
        expected_BV, found_BV = (feed([turn + 1, 2 * turn]) for feed in feeds)
        off = float((found_BV - expected_BV).norm() / expected_BV.norm())
        if not off < 0.02:
            raise SystemExit(f"The static step is off by {off:.3f} of the scores at token {turn}: nothing is measured.")


@torch.inference_mode()
def decoding(model: Llama4, batch: int, context: int) -> tuple[Static, list[int]]:
    """A static feed whose cache holds all but one of `context` random tokens a row, and has run once; and its tokens."""
    cache = model.new_cache(batch, context)
    cache.reserve(context)
    for layer in cache.layers:
        layer.k_BTGK.normal_()
        layer.v_BTGK.normal_()
    feed, tokens = Static(model, cache, _record(model)), [7 + row for row in range(batch)]
    _rewind(cache, batch, context)
    feed(tokens)
    return feed, tokens


def _rewind(cache: KVCache, batch: int, context: int) -> None:
    """All but one of `context` tokens a row: a step further, a chunked layer might see one token and not a whole chunk."""
    cache.reset()
    if context > 1:
        cache.advance(cache.plan((context - 1,) * batch, context - 1))


@torch.inference_mode()
def decode_record(name: str, model: Llama4, batch: int, context: int) -> Record:
    """Replays of one step, then ROUNDS times the same step with its token chosen on the host; times are None without a card."""
    feed, tokens = decoding(model, batch, context)
    replay = feed.recorded[0] if feed.recorded else feed.step
    record = {"table": "decode", "shape": name, "batch": batch, "context": context, "graph": feed.recorded is not None}
    record["ms"] = _median_ms(replay)
    seconds = []
    for _ in range(ROUNDS if torch.cuda.is_available() else 1):
        _rewind(feed.cache, batch, context)
        began = time.perf_counter()
        tokens = feed(tokens).cpu().argmax(-1).tolist()  # all scores are copied, as `generate` does
        seconds.append(time.perf_counter() - began)
    record["with_host_ms"] = 1e3 * median(seconds) if torch.cuda.is_available() else None
    record["kernels"] = _kernels(replay)
    return record


def prefill_record(name: str, model: Llama4, tokens: int) -> Record:
    """One prompt of random ids, from an empty cache."""
    ids = torch.randint(0, model.config.vocab_size, (tokens,)).tolist()

    def read() -> None:
        prefill(model, model.new_cache(1, tokens), [Prompt(ids, None)])

    return {"table": "prefill", "shape": name, "tokens": tokens, "ms": _median_ms(read)}


def counted(record: Record, config: Config) -> Record:
    """With the bytes and FLOPs that it cannot do without."""
    if record["table"] == "decode":
        work = counting.decode(config, record["batch"], record["context"])
    else:
        work = counting.prefill(config, record["tokens"])
    return {**record, "bytes": work.bytes, "flops": work.flops}


def needs(config: Config, batch: int, context: int) -> float:
    """Bytes on the card: weights, the cache of one measurement, and what is kept free."""
    return counting.model_bytes(config) + counting.cache_bytes(config, batch, context + ROUNDS + 1) + SPARE


def layers_that_fit(config: Config, batch: int, context: int, memory: float) -> int:
    """The most layers, in whole groups of four (three chunked, one global), with which `needs` stays within `memory`."""
    fitting = (
        count for count in range(len(config.layers), 0, -4) if needs(_first(config, count), batch, context) <= memory
    )
    return next(fitting, 0)


def measured(
    name: str, config: Config, memory: float, device: torch.device, dtype: torch.dtype, dry: bool
) -> list[Record]:
    """Every record of one shape. Scout is measured whole or not at all; of Maverick, as many layers as fit."""
    contexts, prompts = (DRY_CONTEXTS, DRY_PROMPTS) if dry else (CONTEXTS, PROMPTS)
    count = len(config.layers) if name == "Scout" else layers_that_fit(config, BATCHES[-1], contexts[1], memory)
    held = _first(config, count)
    model, records = built(held, device, dtype), []
    for batch in BATCHES:
        for context in contexts:
            case = {"table": "decode", "shape": name, "batch": batch, "context": context}
            if needs(held, batch, context) > memory:
                records.append(counted(case | {"ms": None, "needs_bytes": needs(held, batch, context)}, config))
                continue
            print(f"{name}, {count} of {len(config.layers)} layers, batch {batch}, context {context}", flush=True)
            records.append(counted(_scaled(decode_record(name, model, batch, context), held, config), config))
            _empty_cache()
    for tokens in prompts:
        print(f"{name}, {count} of {len(config.layers)} layers, prompt of {tokens}", flush=True)
        records.append(counted(_scaled(prefill_record(name, model, tokens), held, config), config))
        _empty_cache()
    return records


def _scaled(record: Record, held: Config, config: Config) -> Record:
    """A time of some layers as that of all: in proportion, but for the head, which is there once (by its share of the bytes)."""
    if len(held.layers) == len(config.layers):
        return record
    works = [
        counting.decode(of, record["batch"], record["context"])
        if record["table"] == "decode"
        else counting.prefill(of, record["tokens"])
        for of in (held, config)
    ]
    factor = works[1].bytes / works[0].bytes if record["table"] == "decode" else works[1].flops / works[0].flops
    times = {key: record[key] and record[key] * factor for key in ("ms", "with_host_ms") if key in record}
    return {**record, **times, "scaled_from_layers": len(held.layers)}


def _first(config: Config, count: int) -> Config:
    return replace(config, layers=config.layers[:count])


def _record(model: Llama4) -> Callable | None:
    device = model.decoder.embedding.weight.device
    return partial(capture, device=device) if device.type == "cuda" else None


def _median_ms(function: Callable[[], object]) -> float | None:
    if not torch.cuda.is_available():
        function()
        return None
    from triton.testing import do_bench

    return float(do_bench(function, warmup=100, rep=1000, return_mode="median"))


def _kernels(replay: Callable[[], object]) -> list[Record]:
    """Time on the device by kernel, the longest TOP; empty without a card."""
    if not torch.cuda.is_available():
        return []
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        replay()
        torch.cuda.synchronize()
    found = [event for event in profiled.key_averages() if event.self_device_time_total > 0]
    whole = sum(event.self_device_time_total for event in found)
    longest = sorted(found, key=lambda event: -event.self_device_time_total)[:TOP]
    return [
        {"kernel": event.key[:80], "launches": event.count, "ms": event.self_device_time_total / 1e3,
         "share": event.self_device_time_total / whole}
        for event in longest
    ]  # fmt: skip


def _empty_cache() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def counts() -> str:
    """What the full shapes need, in Markdown: arithmetic, not measurement."""
    rows = ["| | batch | context | GB read | TFLOP | GB of cache |", "|---|---|---|---|---|---|"]
    for name, config in shapes(small=False).items():
        cases = [(batch, context, counting.decode(config, batch, context)) for batch in BATCHES for context in CONTEXTS]
        told = [("one token a row", *case) for case in cases]
        told += [("prompt", 1, tokens, counting.prefill(config, tokens)) for tokens in PROMPTS]
        for what, batch, tokens, work in told:
            cache = counting.cache_bytes(config, batch, tokens) / 1e9
            sizes = f"{work.bytes / 1e9:.1f} | {work.flops / 1e12:.2f} | {cache:.1f}"
            rows.append(f"| {name}, {what} | {batch} | {tokens:,} | {sizes} |")
    return "\n".join(rows)


def table(result: Record) -> str:
    """A measured result in Markdown: a row a case with its roofline at the same run's ceilings, then where the time goes."""
    ceilings = result["ceilings"]
    rows = ["| | batch | tokens | floor | replay | tokens/s | with the host | of the floor |", "|---" * 8 + "|"]
    for record in result["records"]:
        floor = counting.Work(record["bytes"], record["flops"]).floor_ms(
            ceilings["read_tb_s"], ceilings["product_tflops"]
        )
        batch, tokens = record.get("batch", 1), record.get("context", record.get("tokens"))
        scaled = f", scaled from {record['scaled_from_layers']} layers" if "scaled_from_layers" in record else ""
        head = f"| {record['shape']}, {record['table']}{scaled} | {batch} | {tokens:,} | {floor:.2f} ms "
        if record["ms"] is None:
            rows.append(head + f"| left out: needs {record['needs_bytes'] / 1e9:.0f} GB | | | |")
            continue
        made = batch if record["table"] == "decode" else tokens
        host = f"{1e3 * batch / record['with_host_ms']:.0f} tokens/s" if record.get("with_host_ms") else ""
        rows.append(
            head + f"| {record['ms']:.2f} ms | {1e3 * made / record['ms']:.0f} | {host} | {floor / record['ms']:.0%} |"
        )
    for record in result["records"]:
        if record.get("kernels"):
            rows += ["", f"{record['shape']}, batch {record['batch']}, context {record['context']:,}:", ""]
            rows += ["| kernel | launches | ms | share |", "|---|---|---|---|"]
            rows += [
                f"| `{k['kernel']}` | {k['launches']} | {k['ms']:.3f} | {k['share']:.0%} |" for k in record["kernels"]
            ]
    return "\n".join(rows)


def _walked(memory: float, device: torch.device, dtype: torch.dtype) -> int:
    """Every measurement at a small size, where there is no card on the layers' plain path: the kernels have run in `check`."""
    with ops.use("triton" if device.type == "cuda" else "eager"):
        walked = [measured(name, config, memory, device, dtype, True) for name, config in shapes(small=True).items()]
    print(counts())
    print(
        f"{sum(map(len, walked))} measurements walked through; the static step is the plain one; nothing was measured."
    )
    return 0


def main() -> int:
    """Measure, or walk through, or draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--dry-run", action="store_true", help="count, and walk a small shape through; measure nothing")
    parser.add_argument("--into", type=Path, metavar="FILE", help="results/scout-DEVICE.json beside this file")
    parser.add_argument("--render", type=Path, metavar="FILE", help="measure nothing: the tables of this result")
    parser.add_argument("--commit", help="what is measured, where git cannot say it")
    chosen = parser.parse_args()
    if chosen.render:
        print(table(json.loads(chosen.render.read_text(encoding="utf-8"))))
        return 0
    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"
        print(NO_GPU)
        if not chosen.dry_run:
            return 0
    import ceilings
    from timing import device, narrow

    memory = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 140e9
    with ops.use("triton"), torch.inference_mode():
        for config in shapes(small=True).values():
            check(built(config, device(), narrow()))
        if chosen.dry_run:
            return _walked(memory, device(), narrow())
        result = provenance(device(), chosen.commit) | {"format": FORMAT, "dtype": str(narrow())}
        result |= {"ceilings": ceilings.measure(device(), narrow()), "memory_bytes": memory, "records": []}
        into = chosen.into or HERE / "results" / f"scout-{result['device'].lower().replace(' ', '-')}.json"
        for name, config in shapes(small=False).items():
            result["records"] += measured(name, config, memory, device(), narrow(), False)
            write(into.with_suffix(".part"), {**result, "clocks": clocks()})
    into.with_suffix(".part").rename(into)
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
