"""What a checkpoint is, without loading it: config, layer table, parameter counts, files, memory. Behind `llama4 inspect`.

Counts come from the table of shapes that loading checks files against (checkpoint/shapes.py), so nothing is built: Scout is
108,641,793,536 parameters, Maverick 401,583,781,376. Files are known by their headers alone.

    weights   parameters * bytes a number
    cache     batch * slots * 2 * G * K * bytes a number, added over the layers;
              slots = context on a global layer, min(context, chunk) on a chunked one

Worked example: Scout at 1 M tokens, bf16, one row: 12 global layers * 1,048,576 * 2 * 8 * 128 * 2 bytes = 51.5 GB; its 36
chunked layers hold 8192 positions each, 1.2 GB in all.
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from llama4 import checkpoint
from llama4.checkpoint.folder import meta_files, weights_format
from llama4.config import Config
from llama4.errors import InputError

NUMBER_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
DEFAULT_CONTEXT = 8192
WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "*.pth")
VISION_PARTS = ("vision encoder", "projector")
# Which part a parameter belongs to: the first row whose text occurs in its name. In the order in which data meets them.
PARTS = (
    ("vision.", "vision encoder"),
    ("fusion.projection", "projector"),
    ("decoder.embedding", "embedding"),
    ("norm.", "norms"),
    ("attention.", "attention"),
    ("ffn.router", "router"),
    ("ffn.experts", "routed experts"),
    ("ffn.shared", "shared experts"),
    ("ffn.", "dense ffn"),
    ("decoder.head", "head"),
)


def report(path: str | Path, context: int | None = None, batch: int = 1, dtype: str = "auto") -> dict[str, Any]:
    """All that `llama4 inspect` prints, as plain JSON types.

    path: a checkpoint folder of either format, or a bare `config.json` or `params.json`.
    context: tokens a row that the cache is counted for; without it 8192, or the model's context where that is smaller.
    dtype: "auto" counts memory for bfloat16 and float32; or one name of `NUMBER_BYTES`.
    Raises InputError when the config or a header cannot be read, or the context does not fit the model.
    """
    config = Config.from_dir(path)
    context = min(DEFAULT_CONTEXT, config.max_context) if context is None else context
    dtypes = ("bfloat16", "float32") if dtype == "auto" else (dtype,)
    parameters = count_parameters(config)
    return {
        "path": str(path),
        "config": asdict(config) | {"layers": len(config.layers)},
        "layers": layer_runs(config),
        "parameters": parameters,
        "files": checkpoint_files(Path(path)),
        "memory": {
            "context": context,
            "batch": batch,
            "weights": {name: parameters["total"] * _number_bytes(name) for name in dtypes},
            "cache": {name: cache_bytes(config, batch, context, _number_bytes(name)) for name in dtypes},
        },
    }


def layer_runs(config: Config) -> list[dict[str, Any]]:
    """The layer table with equal neighbours joined: `{"first", "last", "position", "span", "ffn"}` a run."""
    runs = []
    for spec, group in groupby(enumerate(config.layers), key=lambda numbered: numbered[1]):
        numbers = [number for number, _ in group]
        runs.append({"first": numbers[0], "last": numbers[-1], **asdict(spec)})
    return runs


def count_parameters(config: Config) -> dict[str, int]:
    """Parameters by part, then "total" and "active": those one text token passes through, embeddings and head included."""
    parts = {part: 0 for _, part in PARTS}
    for name, shape in checkpoint.parameter_shapes(config).items():
        parts[_part(name)] += math.prod(shape)
    total = sum(parts.values())
    idle = parts["routed experts"] * (config.experts - 1) // max(config.experts, 1)
    vision = sum(parts[part] for part in VISION_PARTS)
    return {**{part: count for part, count in parts.items() if count}, "total": total, "active": total - idle - vision}


def cache_bytes(config: Config, batch: int, context: int, number_bytes: int) -> dict[str, int]:
    """Bytes of a cache that is full to `context` tokens in each of `batch` rows: "chunked", "global" and "total"."""
    if batch < 1 or context < 1:
        raise InputError(f"A cache of {batch} rows and {context} tokens holds nothing: ask for at least 1 and 1.")
    if context > config.max_context:
        raise InputError(f"The context of {context} exceeds the model's {config.max_context}: ask for a smaller one.")
    slot = batch * 2 * config.kv_heads * config.head_width * number_bytes
    chunked = sum(spec.span == "chunk" for spec in config.layers)
    chunked_bytes = chunked * min(context, config.chunk or context) * slot
    global_bytes = (len(config.layers) - chunked) * context * slot
    return {"chunked": chunked_bytes, "global": global_bytes, "total": chunked_bytes + global_bytes}


def checkpoint_files(path: Path) -> dict[str, Any] | None:
    """What the weight files hold, from their headers: None for a bare config.

    "files": `{"name", "bytes"}` of each, as it lies on the disk; "tensors": how many names; "parameters": how many numbers, those
    that Meta's shards repeat counted as often; "dtypes": their bytes, a dtype.
    """
    if path.is_file() or not any(any(path.glob(pattern)) for pattern in WEIGHT_FILES):
        return None
    tensors = checkpoint.list_tensors(path)
    files = meta_files(path) if weights_format(path) == "meta" else [path / tensor.file for tensor in tensors.values()]
    dtypes: Counter[str] = Counter()
    for tensor in tensors.values():
        dtypes[str(tensor.dtype).removeprefix("torch.")] += tensor.bytes
    return {
        "files": [{"name": file.name, "bytes": file.stat().st_size} for file in sorted(set(files))],
        "tensors": len(tensors),
        "parameters": sum(tensor.bytes // tensor.dtype.itemsize for tensor in tensors.values()),
        "dtypes": dict(dtypes),
    }


def render(found: dict[str, Any]) -> str:
    """`report`'s answer as the text that `llama4 inspect` prints."""
    sections = (_render_config, _render_layers, _render_parameters, _render_files, _render_memory)
    return "\n\n".join([found["path"], *("\n".join(section(found)) for section in sections)])


def _render_config(found: dict[str, Any]) -> list[str]:
    flat = {}
    for key, value in found["config"].items():
        nested = value.items() if isinstance(value, dict) else ()
        flat |= {f"{key}.{inner}": number for inner, number in nested} or {key: value}
    return ["config", *(f"  {key:<32}{_plain(value)}" for key, value in flat.items())]


def _render_layers(found: dict[str, Any]) -> list[str]:
    kinds: dict[tuple[str, str, str], list[str]] = {}
    counts: Counter[tuple[str, str, str]] = Counter()
    for run in found["layers"]:
        kind = (run["position"], "its chunk" if run["span"] == "chunk" else "everything", run["ffn"])
        numbers = str(run["first"]) if run["first"] == run["last"] else f"{run['first']}-{run['last']}"
        kinds.setdefault(kind, []).append(numbers)
        counts[kind] += run["last"] - run["first"] + 1
    lines = [f"layers  positions  {'sees':<12}{'feed-forward':<14}numbers"]
    for kind, runs in kinds.items():
        position, sees, ffn = kind
        head = f"  {counts[kind]:>4}  {position:<11}{sees:<12}{ffn:<14}"
        lines += textwrap.wrap(", ".join(runs), 100, initial_indent=head, subsequent_indent=" " * len(head))
    return lines


def _render_parameters(found: dict[str, Any]) -> list[str]:
    notes = {"active": "  (a text token's path, embeddings and head included)"}
    rows = found["parameters"].items()
    return ["parameters", *(f"  {part:<18}{count:>23,}{notes.get(part, '')}" for part, count in rows)]


def _render_files(found: dict[str, Any]) -> list[str]:
    held = found["files"]
    if held is None:
        return ["files", "  none: a bare config"]
    rows = [f"  {entry['name']:<36}{_size(entry['bytes']):>14}" for entry in held["files"]]
    dtypes = ", ".join(f"{name} {_size(size)}" for name, size in held["dtypes"].items())
    return ["files", *rows, f"  {held['tensors']} tensors, {held['parameters']:,} numbers: {dtypes}"]


def _render_memory(found: dict[str, Any]) -> list[str]:
    memory = found["memory"]
    lines = [f"memory at {memory['context']:,} tokens, batch {memory['batch']}"]
    lines.append(f"  {'':<12}{'weights':>14}{'cache':>14}{'chunked layers':>17}{'global layers':>16}{'together':>14}")
    for name, weights in memory["weights"].items():
        cache = memory["cache"][name]
        sizes = (_size(size) for size in (cache["chunked"], cache["global"], weights + cache["total"]))
        chunked, everything, together = sizes
        lines.append(
            f"  {name:<12}{_size(weights):>14}{_size(cache['total']):>14}{chunked:>17}{everything:>16}{together:>14}"
        )
    return lines


def _size(count: int) -> str:
    """Bytes in decimal units, as disks and cards are sold: 217283587072 -> "217.28 GB"."""
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if count >= 10**power:
            return f"{count / 10**power:,.2f} {unit}"
    return f"{count} B"


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    return f"{value:,}" if isinstance(value, int) and value >= 10**6 else str(value)


def _part(name: str) -> str:
    return next(part for text, part in PARTS if text in name)


def _number_bytes(dtype: str) -> int:
    if dtype not in NUMBER_BYTES:
        raise InputError(f"There is no dtype {dtype!r} to count memory for: choose auto or {', '.join(NUMBER_BYTES)}.")
    return NUMBER_BYTES[dtype]
