"""Measure loading, prefill, decode and peak memory: `llama4 bench`, or `python -m llama4.bench`.

    python -m llama4.bench --against transformers --json bench.json      measure, print the table, keep the data
    python -m llama4.bench --render bench.json                           draw the table again

The default model is Scout in small: one period of its pattern (three chunked layers, one global), 16 experts in each layer, 98 M
parameters, 19 % of them active (Scout: 16 %). Its weights are drawn and saved to a temporary folder, from which both load.
Both sides must give the same logits before anything is timed (phases.py).
"""

from __future__ import annotations

import sys
import tempfile
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from llama4 import checkpoint
from llama4.bench import phases, report
from llama4.bench.sides import side
from llama4.config import Config, Temperature, irope_layers
from llama4.errors import InputError
from llama4.load import resolve_dtype
from llama4.model import Llama4, initialise

# Of the 100 M preset, float32, two cores: times faster than transformers' eager mode at least; chunks: cost of 8 over 4 at most.
TARGETS = {"load": 1.0, "prefill": 4.0, "decode": 3.0, "chunks": 2.5}
PHASES = ("load", "prefill", "decode", "memory", "chunks")
SEED = 0
# About 1 / sqrt(D) of the 100 M preset: sublayers as loud as the stream they add to, so that a mistake shows in the logits.
INIT_STD = 0.05

SMALL_SCOUT = Config(
    vocab_size=8192,
    width=384,
    layers=irope_layers(4, moe_every=1),
    heads=6,
    kv_heads=2,
    head_width=64,
    experts=16,
    expert_width=1152,
    dense_width=1024,
    chunk=128,
    qk_norm=True,
    temperature=Temperature(),
    max_context=131072,
)
TOY = replace(
    SMALL_SCOUT,
    vocab_size=307,
    width=48,
    layers=irope_layers(4, moe_every=2),
    heads=4,
    head_width=12,
    experts=4,
    expert_width=40,
    dense_width=56,
    chunk=16,
)
PRESETS = {"100m": SMALL_SCOUT, "toy": TOY}


@dataclass(frozen=True)
class Settings:
    """What to measure. `model`: a preset, a checkpoint folder, or a bare config, whose weights are then drawn."""

    model: str = "100m"
    against: str | None = None  # "transformers" (its eager attention) or "transformers-sdpa"
    threads: int = 2
    dtype: str = "float32"
    prompt: int = 512
    new: int = 64
    repeats: int = 7
    chunk: int = 1024  # of the layers that the chunk phase times
    phases: tuple[str, ...] = PHASES


def run(settings: Settings) -> dict[str, Any]:
    """Measure; the result is plain JSON types. Raises WrongAnswerError, and times nothing, where logits disagree."""
    _check(settings)
    torch.set_num_threads(settings.threads)
    sides = {name: side(name) for name in ("llama4", settings.against) if name is not None}
    result = report.provenance(settings.threads)
    dtype = resolve_dtype(settings.dtype)
    targets = TARGETS if settings.model == "100m" else {}
    rows: list[dict[str, Any]] = []
    with _checkpoint(settings) as folder:
        config = Config.from_dir(folder)
        tokens_BS = _tokens(config, settings.prompt)
        models = {name: program.load(folder, dtype) for name, program in sides.items()}
        checks = phases.gate(sides, models, tokens_BS, min(settings.new, settings.prompt - 1))
        if "prefill" in settings.phases:
            rows.append(phases.time_prefill(sides, models, tokens_BS, settings.repeats, targets.get("prefill")))
        if "decode" in settings.phases:
            longer_BS = _tokens(config, settings.prompt + settings.new)
            rows.append(
                phases.time_decode(sides, models, longer_BS, settings.new, settings.repeats, targets.get("decode"))
            )
        del models
        if "load" in settings.phases:
            rows = phases.time_load(sides, folder, dtype, settings.repeats, targets.get("load")) + rows
        if "memory" in settings.phases:
            rows += phases.measure_memory(
                sides, folder, settings.dtype, settings.prompt, settings.new, settings.threads
            )
    chunks: list[dict[str, Any]] = []
    if "chunks" in settings.phases:
        chunks = phases.time_chunks(config, settings.chunk, settings.repeats, targets.get("chunks"))
    described = {
        "model": settings.model if settings.model in PRESETS else Path(settings.model).name,
        "parameters": checkpoint.parameter_count(config),
        "against": settings.against,
        "dtype": settings.dtype,
        "prompt": settings.prompt,
        "new": settings.new,
        "repeats": settings.repeats,
        "shapes": {"layers": len(config.layers), "width": config.width, "heads": config.heads}
        | {"kv_heads": config.kv_heads, "head_width": config.head_width, "experts": config.experts}
        | {"expert_width": config.expert_width, "chunk": config.chunk, "vocab_size": config.vocab_size},
    }
    return result | {"settings": described, "gate": checks, "rows": rows, "chunks": chunks}


def add_arguments(parser: ArgumentParser) -> None:
    """The options of `llama4 bench`."""
    default = Settings()
    parser.add_argument(
        "--model", default=default.model, metavar="MODEL", help="100m, toy, a checkpoint folder or a bare config (100m)"
    )
    parser.add_argument("--against", choices=("transformers", "transformers-sdpa"), help="measure it in the same run")
    parser.add_argument("--threads", type=int, default=default.threads, metavar="N", help="threads of each (2)")
    parser.add_argument("--dtype", default=default.dtype, choices=("float32", "bfloat16"), help="(float32)")
    parser.add_argument("--prompt", type=int, default=default.prompt, metavar="N", help="tokens to prefill (512)")
    parser.add_argument("--new", type=int, default=default.new, metavar="N", help="tokens to decode (64)")
    parser.add_argument("--repeats", type=int, default=default.repeats, metavar="N", help="of each timing (7)")
    parser.add_argument("--chunk", type=int, default=default.chunk, metavar="N", help="of the chunk phase (1024)")
    parser.add_argument(
        "--phases", default=",".join(PHASES), metavar="LIST", help="(load,prefill,decode,memory,chunks)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    parser.add_argument("--render", type=Path, metavar="FILE", help="measure nothing: draw the table of this result")
    parser.add_argument(
        "--into", type=Path, metavar="PAGE", help="put the table into this Markdown page, at its markers"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the ratios as bars (needs matplotlib)")


def run_command(arguments: Namespace) -> int:
    """Measure or draw, as the arguments say. Returns the exit code: 1 where logits disagree."""
    if arguments.render is not None:
        result, source = report.read(arguments.render), arguments.render
    else:
        names = Settings.__dataclass_fields__.keys() - {"phases"}
        settings = Settings(
            **{name: getattr(arguments, name) for name in names}, phases=tuple(arguments.phases.split(","))
        )
        try:
            result, source = run(settings), arguments.json
        except phases.WrongAnswerError as error:
            print(f"llama4 bench: {error}", file=sys.stderr)
            return 1
    print(report.table(result))
    if arguments.json is not None:
        report.write(result, arguments.json)
    if arguments.into is not None:
        if source is None:
            raise InputError("A page shows what a file holds: give --json FILE (or --render FILE) with --into.")
        report.insert(result, source.name, arguments.into)
    if arguments.plot is not None:
        report.plot(result, arguments.plot)
    return 0


def main(argv: list[str] | None = None) -> int:
    """`python -m llama4.bench`."""
    parser = ArgumentParser("python -m llama4.bench", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add_arguments(parser)
    try:
        return run_command(parser.parse_args(argv))
    except InputError as error:
        print(f"llama4 bench: {error}", file=sys.stderr)
        return 2


@contextmanager
def _checkpoint(settings: Settings) -> Iterator[Path]:
    """The folder that both sides load; for a preset or a bare config, a temporary one with drawn weights."""
    path = Path(settings.model)
    if settings.model not in PRESETS and path.is_dir():
        yield path
        return
    config = PRESETS[settings.model] if settings.model in PRESETS else Config.from_dir(path)
    torch.manual_seed(SEED)
    model = Llama4(config)
    initialise(model, INIT_STD)
    with tempfile.TemporaryDirectory(prefix="llama4-bench-") as folder:
        checkpoint.save_hf(model.to(resolve_dtype(settings.dtype)), Path(folder))
        del model
        yield Path(folder)


def _tokens(config: Config, count: int) -> torch.Tensor:
    """int64 `[1, count]` of ordinary ids: no patch among them."""
    below = min(config.vocab_size, config.patch_id)
    return torch.randint(0, below, (1, count), generator=torch.Generator().manual_seed(SEED))


def _check(settings: Settings) -> None:
    for name in ("threads", "prompt", "new", "repeats", "chunk"):
        if getattr(settings, name) < (2 if name == "prompt" else 1):
            raise InputError(f"--{name} is {getattr(settings, name)}: it is too small to measure anything.")
    for phase in settings.phases:
        if phase not in PHASES:
            raise InputError(f"There is no phase {phase!r}: choose among {','.join(PHASES)}.")
