"""Meta's `params.json` <-> `Config`.

Layers are regular: every `nope_layer_interval`-th is NoPE, every `interleave_moe_layer_step`-th is MoE, and a layer is chunked
when it has RoPE and there is an `attention_chunk_size`. The feed-forward widths follow from a formula, each step truncated:

    dense    round_up(int(multiplier * int(2/3 * 4 D)),                            multiple_of)
    expert   round_up(int(int(multiplier * int(2/3 * int(ffn_exp D))) / (capacity_factor + 1)), multiple_of)

    Scout: int(2 * 20480 / 3) = 13653, times 1.2 = 16383, rounded up to a multiple of 2048: 16384; halved: 8191 -> 8192.

Sources: llama_models/llama4/args.py, model.py (dense), moe.py (expert). The absent keys' defaults are those of args.py, which
differ from Hugging Face's: temperature tuning is off, and no scaling of RoPE means none. Not in the file at all: token ids,
which follow from the vocabulary's end, and the length of context. `to_meta` adds those that do not follow, under keys that
Meta's own reader ignores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from llama4.config import Config, LayerSpec, RopeScaling, Temperature, VisionConfig
from llama4.config_io.fields import Fields
from llama4.errors import InputError
from llama4.special_tokens import OFFICIAL_NAMES, SPECIAL_TOKENS

_SCALED_CONTEXT, _PLAIN_CONTEXT = 10_485_760, 1_048_576  # Scout's and Maverick's, the two models in this format
_VOCAB_SIZE = 202048
_TOKENS = {
    "patch_id": "<|patch|>",
    "image_start_id": "<|image_start|>",
    "image_end_id": "<|image_end|>",
    "bos_id": "<|begin_of_text|>",
    "pad_id": "<|finetune_right_pad|>",
}
_OFFSETS = {ours: OFFICIAL_NAMES.index(name) for ours, name in _TOKENS.items()}
_STOP_OFFSETS = tuple(OFFICIAL_NAMES.index(name) for name in ("<|end_of_text|>", "<|eom|>", "<|eot|>"))


class _Widths(NamedTuple):
    """The keys that the feed-forward widths follow from."""

    multiple_of: int = 256
    multiplier: float | None = None
    ffn_exp: float = 4.0
    capacity: float = 1.0
    halve: bool = True  # auto_scale_F

    def dense(self, width: int) -> int:
        hidden = int(2 * int(4 * width) / 3)
        if self.multiplier is not None:
            hidden = int(self.multiplier * hidden)
        return self._round_up(hidden)

    def expert(self, width: int) -> int:
        hidden = int((1.0 if self.multiplier is None else self.multiplier) * int(2 * int(self.ffn_exp * width) / 3))
        if self.halve:
            hidden = int(hidden / (self.capacity + 1))
        return self._round_up(hidden)

    def _round_up(self, hidden: int) -> int:
        return self.multiple_of * ((hidden + self.multiple_of - 1) // self.multiple_of)


def from_meta(data: dict[str, Any]) -> Config:
    """The `Config` that the contents of a `params.json` describe. Raises InputError for what it cannot express."""
    args = Fields(data, "params.json")
    for key in ("quantization_args", "lora_args"):
        if args.has(key):
            raise InputError(f"params.json has {key}: start from the plain bfloat16 checkpoint, without it.")
    width, heads, count = args.integer("dim"), args.integer("n_heads"), args.integer("n_layers")
    if heads < 1 or width % heads:
        raise InputError(f"params.json has dim {width} over {heads} heads: Meta's layout needs a whole quotient.")
    args.expect("head_dim", width // heads)
    moe = args.inner("moe_args")
    moe.expect("top_k", 1)
    step = moe.integer("interleave_moe_layer_step", 1) if moe.data else count + 1
    chunk = args.integer("attention_chunk_size") if args.has("attention_chunk_size") else 0
    nope = args.integer("nope_layer_interval") if args.has("nope_layer_interval") else count + 1
    vocab_size = args.integer("vocab_size", -1)
    vocab_size = _VOCAB_SIZE if vocab_size == -1 else vocab_size
    widths = _read_widths(args, moe)
    scaling = _scaling(args)
    return Config(
        vocab_size=vocab_size,
        width=width,
        layers=_layers(count, nope, step, chunked=chunk != 0),
        heads=heads,
        kv_heads=args.integer("n_kv_heads") if args.has("n_kv_heads") else heads,
        head_width=width // heads,
        experts=moe.integer("num_experts") if moe.data else 0,
        expert_width=widths.expert(width) if moe.data else 0,
        dense_width=widths.dense(width),
        chunk=chunk or None,
        qk_norm=args.flag("use_qk_norm", False),
        rope_theta=args.number("rope_theta", 500000.0),
        rope_scaling=scaling,
        temperature=_temperature(args),
        norm_eps=args.number("norm_eps", 1e-5),
        max_context=args.integer("max_position_embeddings", _SCALED_CONTEXT if scaling else _PLAIN_CONTEXT),
        vision=_vision(args.inner("vision_args")) if args.has("vision_args") else None,
        **_read_ids(args, vocab_size),
    )


def _layers(count: int, nope_every: int, moe_every: int, chunked: bool) -> tuple[LayerSpec, ...]:
    for key, interval in (("nope_layer_interval", nope_every), ("interleave_moe_layer_step", moe_every)):
        if interval < 1:
            raise InputError(f"params.json has {key} {interval}: it must be at least 1, or null.")
    return tuple(
        LayerSpec(
            position="nope" if number % nope_every == 0 else "rope",
            span="all" if number % nope_every == 0 or not chunked else "chunk",
            ffn="moe" if number % moe_every == 0 else "dense",
        )
        for number in range(1, count + 1)
    )


def _read_widths(args: Fields, moe: Fields) -> _Widths:
    multiple_of, capacity = args.integer("multiple_of", 256), moe.number("capacity_factor", 1.0)
    if multiple_of < 1 or capacity <= -1:
        raise InputError(
            f"params.json has multiple_of {multiple_of} and capacity_factor {capacity}: no width has them."
        )
    for key in ("ffn_dim_multiplier", "ffn_exp"):
        if moe.data and not args.has(key):
            raise InputError(f"params.json has moe_args but no {key}, which the experts' width follows from: add it.")
    return _Widths(
        multiple_of=multiple_of,
        multiplier=args.number("ffn_dim_multiplier") if args.has("ffn_dim_multiplier") else None,
        ffn_exp=args.number("ffn_exp") if args.has("ffn_exp") else 4.0,
        capacity=capacity,
        halve=moe.flag("auto_scale_F", True),
    )


def _scaling(args: Fields) -> RopeScaling | None:
    """Meta fixes low_freq_factor 1 and the original context 8192, and has 16 and 1 where the file is silent."""
    if not args.flag("use_scaled_rope", False):
        return None
    factor = args.number("rope_scaling_factor") if args.has("rope_scaling_factor") else 16.0
    high = args.number("rope_high_freq_factor") if args.has("rope_high_freq_factor") else 1.0
    return RopeScaling(factor=factor, high_freq_factor=high)


def _temperature(args: Fields) -> Temperature | None:
    if not args.flag("attn_temperature_tuning", False):
        return None
    return Temperature(floor=args.number("floor_scale", 8192.0), scale=args.number("attn_scale", 0.1))


def _vision(args: Fields) -> VisionConfig:
    width, ratio = args.integer("dim"), args.number("pixel_shuffle_ratio")
    shuffle = round(1 / ratio) if ratio > 0 else 0
    if shuffle < 1 or abs(shuffle * ratio - 1) > 1e-6:
        raise InputError(f"vision_args has pixel_shuffle_ratio {ratio}: it must be one over a whole number.")
    return VisionConfig(
        tile_side=args.side("image_size"),
        patch_side=args.side("patch_size"),
        width=width,
        layers=args.integer("n_layers"),
        heads=args.integer("n_heads"),
        mlp_width=int(args.number("mlp_ratio") * width),
        shuffle=shuffle,
        adapter_width=args.integer("output_dim"),
    )


def _derived_ids(vocab_size: int) -> dict[str, Any]:
    """The special tokens are the last 2048: 200000 + offset in the official vocabulary, which smaller ones fall back on."""
    first = (vocab_size if vocab_size >= SPECIAL_TOKENS else _VOCAB_SIZE) - SPECIAL_TOKENS
    ids: dict[str, Any] = {name: first + offset for name, offset in _OFFSETS.items()}
    return {**ids, "stop_ids": tuple(first + offset for offset in _STOP_OFFSETS)}


def _read_ids(args: Fields, vocab_size: int) -> dict[str, Any]:
    ids = _derived_ids(vocab_size)
    ids |= {name: args.integer(name) for name in _OFFSETS if args.has(name)}
    return ids | ({"stop_ids": tuple(args.integers("stop_ids"))} if "stop_ids" in args.data else {})


def to_meta(config: Config) -> dict[str, Any]:
    """The contents of a `params.json`; `from_meta` gives the same `Config` back, but for tied embeddings, which it has not.

    Raises InputError, naming the value, for what Meta's layout cannot express.
    """
    nope, step = _intervals(config)
    args: dict[str, Any] = {
        "dim": config.width,
        "n_layers": len(config.layers),
        "n_heads": config.heads,
        "n_kv_heads": config.kv_heads,
        "vocab_size": config.vocab_size,
        **_write_widths(config, step),
        "norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "use_scaled_rope": config.rope_scaling is not None,
        **_write_scaling(config.rope_scaling),
        "use_qk_norm": config.qk_norm,
        "attn_temperature_tuning": config.temperature is not None,
        "nope_layer_interval": nope,
        "attention_chunk_size": config.chunk if any(spec.span == "chunk" for spec in config.layers) else None,
    }
    if config.head_width * config.heads != config.width:
        raise _inexpressible(f"heads of width {config.head_width} (only dim / n_heads, {config.width}/{config.heads})")
    if config.temperature is not None:
        args |= {"floor_scale": config.temperature.floor, "attn_scale": config.temperature.scale}
    if config.vision is not None:
        args["vision_args"] = _write_vision(config.vision)
    if config.max_context != (_SCALED_CONTEXT if config.rope_scaling else _PLAIN_CONTEXT):
        args["max_position_embeddings"] = config.max_context
    ids = {name: getattr(config, name) for name in (*_OFFSETS, "stop_ids")}
    derived = _derived_ids(config.vocab_size)
    args |= {name: list(i) if isinstance(i, tuple) else i for name, i in ids.items() if i != derived[name]}
    return args


def _inexpressible(what: str) -> InputError:
    return InputError(f"Meta's params.json cannot express {what}: save in Hugging Face's layout.")


def _intervals(config: Config) -> tuple[int | None, int]:
    """(nope_layer_interval, interleave_moe_layer_step) that give this layer table."""
    count = len(config.layers)
    nope = next((number for number, spec in enumerate(config.layers, 1) if spec.position == "nope"), count + 1)
    step = next((number for number, spec in enumerate(config.layers, 1) if spec.ffn == "moe"), count + 1)
    chunked = any(spec.span == "chunk" for spec in config.layers)
    for index, (regular, spec) in enumerate(zip(_layers(count, nope, step, chunked), config.layers, strict=True)):
        if regular != spec:
            raise _inexpressible(f"this layer table, which is irregular from layer {index} ({spec})")
    return (nope if nope <= count else None), step


def _write_widths(config: Config, step: int) -> dict[str, Any]:
    """Keys whose formula gives exactly these widths: the released models' if they fit, else the first that do."""
    if config.experts < 1 and step <= len(config.layers):
        raise InputError("The config has MoE layers but no experts: correct it.")
    for widths in _candidates(config):
        dense_fits = widths.dense(config.width) == config.dense_width
        if dense_fits and (config.experts < 1 or widths.expert(config.width) == config.expert_width):
            break
    else:
        raise _inexpressible(f"feed-forward widths {config.expert_width} (experts) and {config.dense_width} (dense)")
    moe = {
        "num_experts": config.experts,
        "capacity_factor": widths.capacity,
        "auto_scale_F": widths.halve,
        "top_k": 1,
        "interleave_moe_layer_step": step,
    }
    return {
        "multiple_of": widths.multiple_of,
        "ffn_dim_multiplier": widths.multiplier,
        "ffn_exp": widths.ffn_exp,
        "moe_args": moe if config.experts >= 1 else None,
    }


def _candidates(config: Config) -> Iterator[_Widths]:
    """First the released models' values; then with multiple_of 1, where every width can be hit exactly.

    With M = dense / int(8 D / 3) for multiplier, the expert width as a function of int(ffn_exp D) climbs in steps of
    M / (capacity + 1), so a capacity of at least M - 1 leaves none out. Half a unit is added before each truncation.
    """
    for multiple_of in (2048, 256, 64, 16):
        yield _Widths(multiple_of, 1.2)
    base = int(2 * int(4 * config.width) / 3)
    multiplier = (config.dense_width + 0.5) / base
    capacity = float(max(1, math.ceil(multiplier) - 1))
    near = int(1.5 * config.expert_width * (capacity + 1) / multiplier)
    for inner in range(max(0, near - 4), near + 5 + math.ceil(3 * (capacity + 1) / multiplier)):
        yield _Widths(1, multiplier, (inner + 0.5) / config.width, capacity)


def _write_scaling(scaling: RopeScaling | None) -> dict[str, Any]:
    if scaling is None:
        return {}
    if scaling.low_freq_factor != 1 or scaling.original_context != 8192:
        raise _inexpressible(
            f"RoPE scaling with low_freq_factor {scaling.low_freq_factor} and original context "
            f"{scaling.original_context} (only 1 and 8192)"
        )
    return {"rope_scaling_factor": scaling.factor, "rope_high_freq_factor": scaling.high_freq_factor}


def _write_vision(vision: VisionConfig) -> dict[str, Any]:
    if vision.rope_theta != 10000.0:
        raise _inexpressible(f"a vision RoPE theta of {vision.rope_theta} (only 10000)")
    ratio = vision.mlp_width / vision.width
    return {
        "image_size": {"height": vision.tile_side, "width": vision.tile_side},
        "patch_size": {"height": vision.patch_side, "width": vision.patch_side},
        "dim": vision.width,
        "n_layers": vision.layers,
        "n_heads": vision.heads,
        "mlp_ratio": ratio
        if int(ratio * vision.width) == vision.mlp_width
        else (vision.mlp_width + 0.5) / vision.width,
        "output_dim": vision.adapter_width,
        "pixel_shuffle_ratio": 1 / vision.shuffle,
    }
