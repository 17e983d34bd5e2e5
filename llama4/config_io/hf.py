"""Hugging Face's `config.json` <-> `Config`.

Two forms: `llama4` (Llama4ForConditionalGeneration: `text_config` and `vision_config`) and `llama4_text` (Llama4ForCausalLM:
the text keys at the top). A key that is absent has the default of transformers' configuration_llama4.py.

    no_rope_layers   1 means RoPE, despite the name; absent, null or [] means every `no_rope_layer_interval`-th is NoPE
    moe_layers       the MoE layers' numbers; absent or null means every `interleave_moe_layer_step`-th, [] means none
    layer_types      each layer's span; absent means chunked where there is RoPE
    attention_chunk_size: null     no layer is chunked (Llama Guard 4); transformers 5.23 fails on it
    intermediate_size(_mlp)        the experts' width; the dense layers' width has the suffix

Stale values: the first release of Scout's file carries Llama 3's RoPE scaling (factor 8, high_freq_factor 4), and
transformers' conversion script still writes it. Scout was trained with 16 and 1, which Meta's code sets itself, so a file
that is Scout's in every dimension is read as 16 and 1, with a warning; any other file keeps what it says, with a warning.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

from llama4.config import Config, LayerSpec, RopeScaling, Temperature, VisionConfig
from llama4.config_io.fields import Fields
from llama4.errors import InputError

_STALE = RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192)
_SPANS = {"chunked_attention": "chunk", "full_attention": "all"}
_IMAGE_IDS = {"patch_id": "image_token_index", "image_start_id": "boi_token_index", "image_end_id": "eoi_token_index"}
_IMAGE_ALIASES = {
    "image_token_index": "image_token_id",
    "boi_token_index": "boi_token_id",
    "eoi_token_index": "eoi_token_id",
}
_VISION_DROPPED = "Llama4ForCausalLM"
INT4_METHOD = "llama4-int4"  # what config.json says of a folder that quant/ has written


def from_hf(data: dict[str, Any]) -> Config:
    """The `Config` that the contents of a `config.json` describe. Raises InputError for what it cannot express."""
    top = Fields(data, "config.json")
    text = _text_fields(top)
    for fields in (top, text):
        if fields.has("quantization_config") and not (fields is top and _is_int4(data["quantization_config"])):
            raise InputError(
                f"{fields.name} has a quantization_config: quantised checkpoints of other programs are not read, "
                "so start from the unquantised weights."
            )
    text.expect("attention_bias", False)
    text.expect("hidden_act", "silu")
    width, heads = text.integer("hidden_size", 5120), text.integer("num_attention_heads", 40)
    layers, chunk = _layers(text)
    if any(spec.ffn == "moe" for spec in layers):
        text.expect("num_experts_per_tok", 1)
    theta, scaling = _rope(text)
    kv_heads, head_width = text.integer_or_null("num_key_value_heads", 8), text.integer_or_null("head_dim", 128)
    config = Config(
        vocab_size=text.integer("vocab_size", 202048),
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=heads if kv_heads is None else kv_heads,
        head_width=width // max(heads, 1) if head_width is None else head_width,
        experts=text.integer("num_local_experts", 16),
        expert_width=text.integer("intermediate_size", 8192),
        dense_width=text.integer("intermediate_size_mlp", 16384),
        chunk=chunk,
        qk_norm=text.flag("use_qk_norm", True),
        rope_theta=theta,
        rope_scaling=scaling,
        temperature=_temperature(text),
        norm_eps=text.number("rms_norm_eps", 1e-5),
        tied_embeddings=(text if text.has("tie_word_embeddings") else top).flag("tie_word_embeddings", False),
        max_context=text.integer("max_position_embeddings", 131072),
        vision=None if text is top or not top.has("vision_config") else _vision(top.inner("vision_config")),
        **_token_ids(top, text),
    )
    return _correct_stale_scaling(config)


def _text_fields(top: Fields) -> Fields:
    """The keys of the text model, wherever this form has them."""
    model_type = top.data.get("model_type")
    if model_type == "llama4_text":
        return top
    if model_type != "llama4":
        raise InputError(
            f"{top.name} describes a model of type {model_type!r}, which is not Llama 4: "
            "its model_type must be 'llama4' or 'llama4_text'."
        )
    if not top.has("text_config"):
        raise InputError(f"{top.name} has no text_config, which describes the language model: add it.")
    if not top.has("vision_config") and _VISION_DROPPED not in (top.data.get("architectures") or []):
        raise InputError(
            f"{top.name} has no vision_config though its model_type is 'llama4': add it, "
            "or name the architecture 'Llama4ForCausalLM' if the model is text only."
        )
    return top.inner("text_config")


def _layers(text: Fields) -> tuple[tuple[LayerSpec, ...], int | None]:
    """The layer table, and the chunk (None when no layer is chunked)."""
    count = text.integer("num_hidden_layers", 48)
    if count < 1:
        raise InputError(f"{text.name} has num_hidden_layers {count}, so no layers: it must be at least 1.")
    chunk = text.integer_or_null("attention_chunk_size", 8192)
    ropes = text.integers("no_rope_layers")
    if not ropes:
        interval = _interval(text, "no_rope_layer_interval", 4)
        ropes = [int((index + 1) % interval != 0) for index in range(count)]
    if len(ropes) < count or not set(ropes) <= {0, 1}:
        raise InputError(f"{text.name} needs a 0 or 1 in no_rope_layers for each of its {count} layers: correct it.")
    if text.data.get("moe_layers") is not None:
        moe = text.integers("moe_layers")
    else:
        step = _interval(text, "interleave_moe_layer_step", 1)
        moe = list(range(step - 1, count, step))
    if any(index < 0 for index in moe):
        raise InputError(f"{text.name} has the negative layer {min(moe)} in moe_layers: layers count from 0.")
    if any(index >= count for index in moe):
        warnings.warn(f"moe_layers names layer {max(moe)}, and there are {count} layers: ignored.", stacklevel=3)
    spans = _spans(text, ropes[:count], chunk)
    table = tuple(
        LayerSpec(position="rope" if rope else "nope", span=span, ffn="moe" if index in moe else "dense")
        for index, (rope, span) in enumerate(zip(ropes[:count], spans, strict=True))
    )
    return table, chunk


def _spans(text: Fields, ropes: list[int], chunk: int | None) -> list[str]:
    types = text.data.get("layer_types")
    if types is None:
        types = ["chunked_attention" if rope else "full_attention" for rope in ropes]
    if not isinstance(types, list) or len(types) < len(ropes) or any(kind not in _SPANS for kind in types):
        raise InputError(
            f"{text.name} needs 'chunked_attention' or 'full_attention' in layer_types for each of its "
            f"{len(ropes)} layers: correct it."
        )
    return ["all" if chunk is None else _SPANS[kind] for kind in types[: len(ropes)]]


def _interval(text: Fields, key: str, default: int) -> int:
    interval = text.integer(key, default)
    if interval < 1:
        raise InputError(f"{text.name} has {key} {interval}: it must be at least 1.")
    return interval


def _rope(text: Fields) -> tuple[float, RopeScaling | None]:
    """Theta and scaling, from `rope_theta` and `rope_scaling` (old) or `rope_parameters` (new)."""
    old, new = text.inner("rope_scaling"), text.inner("rope_parameters")
    shared = {key for key in old.data.keys() & new.data.keys() if old.data[key] != new.data[key]}
    if shared:
        raise InputError(
            f"{text.name} gives {min(shared)} twice with different values, under rope_scaling and rope_parameters: "
            "remove the wrong one."
        )
    rope = Fields({**new.data, **old.data}, "rope_scaling" if old.data else "rope_parameters")
    theta = rope.number("rope_theta", text.data.get("rope_theta", 500000.0))
    if text.has("rope_theta") and theta != text.number("rope_theta"):
        raise InputError(f"{text.name} gives rope_theta twice with different values: remove the wrong one.")
    if theta <= 0:
        raise InputError(f"{text.name} has rope_theta {theta}: it must be above 0.")
    kind = rope.data.get("rope_type", rope.data.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise InputError(f"{text.name} has RoPE of type {kind!r}: Llama 4 uses 'default' or 'llama3'.")
    return theta, RopeScaling(
        factor=rope.number("factor"),
        low_freq_factor=rope.number("low_freq_factor"),
        high_freq_factor=rope.number("high_freq_factor"),
        original_context=rope.integer("original_max_position_embeddings"),
    )


def _temperature(text: Fields) -> Temperature | None:
    if not text.flag("attn_temperature_tuning", True):
        return None
    return Temperature(floor=text.number("floor_scale", 8192.0), scale=text.number("attn_scale", 0.1))


def _token_ids(top: Fields, text: Fields) -> dict[str, Any]:
    """Special ids; transformers' defaults (1, 2, none) where the file is silent, since its own files leave those out."""
    ids: dict[str, Any] = {}
    for ours, key in _IMAGE_IDS.items():
        name = key if top.has(key) else _IMAGE_ALIASES[key]
        if top.has(name):
            ids[ours] = top.integer(name)
    stops = text.data.get("eos_token_id", 2)
    listed = stops is None or isinstance(stops, list)
    stop_ids = tuple(text.integers("eos_token_id")) if listed else (text.integer("eos_token_id", 2),)
    bos, pad = text.integer_or_null("bos_token_id", 1), text.integer_or_null("pad_token_id", -1)
    if pad is None or pad < 0:  # none: any token may fill a batch's rows, so take a stop id that the vocabulary has
        pad = next((stop for stop in stop_ids if stop < text.integer("vocab_size", 202048)), Config.pad_id)
    return {**ids, "bos_id": 1 if bos is None else bos, "stop_ids": stop_ids, "pad_id": pad}


def _vision(fields: Fields) -> VisionConfig:
    """The encoder. transformers has one `intermediate_size` for the encoder's MLP and the adapter's input: both must fit."""
    fields.expect("hidden_act", "gelu")
    fields.expect("num_channels", 3)
    fields.expect("multi_modal_projector_bias", False)
    ratio = fields.number("pixel_shuffle_ratio", 0.5)
    shuffle = round(1 / ratio) if ratio > 0 else 0
    if shuffle < 1 or abs(shuffle * ratio - 1) > 1e-6:
        raise InputError(f"{fields.name} has pixel_shuffle_ratio {ratio}: it must be one over a whole number.")
    rope = Fields({**fields.inner("rope_parameters").data, **fields.inner("rope_scaling").data}, fields.name)
    if rope.data.get("rope_type", "default") != "default":
        raise InputError(f"{fields.name} has RoPE of type {rope.data['rope_type']!r}: the encoder uses 'default'.")
    vision = VisionConfig(
        tile_side=fields.side("image_size", 448),
        patch_side=fields.side("patch_size", 14),
        width=fields.integer("hidden_size", 768),
        layers=fields.integer("num_hidden_layers", 34),
        heads=fields.integer("num_attention_heads", 16),
        mlp_width=fields.integer("intermediate_size", 5632),
        shuffle=shuffle,
        adapter_width=fields.integer("projector_output_dim", 4096),
        rope_theta=rope.number("rope_theta", fields.data.get("rope_theta", 10000.0)),
    )
    for key, default in (("projector_input_dim", 4096), ("vision_output_dim", 7680)):
        if fields.integer(key, default) != vision.adapter_width:
            raise InputError(
                f"{fields.name} has {key} {fields.integer(key, default)} beside projector_output_dim "
                f"{vision.adapter_width}: the adapter needs them equal."
            )
    if vision.mlp_width != vision.width * shuffle**2:
        raise InputError(
            f"{fields.name} has intermediate_size {vision.mlp_width}, but pixel shuffle makes rows of {vision.width} x "
            f"{shuffle} x {shuffle}: transformers uses one number for both, so they must agree."
        )
    return vision


def _correct_stale_scaling(config: Config) -> Config:
    if config.rope_scaling != _STALE:
        return config
    scout = Config.scout()
    shape = ("vocab_size", "width", "layers", "heads", "kv_heads", "head_width", "experts", "expert_width", "qk_norm")
    is_scout = all(getattr(config, name) == getattr(scout, name) for name in shape)
    warnings.warn(
        "RoPE scaling 8 with high_freq_factor 4 is Llama 3's, and Scout was trained with 16 and 1: "
        + ("16 and 1 are used." if is_scout else "kept as written, since this is not Scout's shape."),
        stacklevel=3,
    )
    return replace(config, rope_scaling=RopeScaling()) if is_scout else config


def _is_int4(told: Any) -> bool:
    return isinstance(told, dict) and told.get("quant_method") == INT4_METHOD


def to_hf(config: Config) -> dict[str, Any]:
    """The contents of a `config.json`; `from_hf` gives the same `Config` back. Raises InputError for what it lacks a key for.

    RoPE values are written in the old form, which every version of transformers (and other programs) reads.
    """
    text = _text_to_hf(config)
    image_ids = {key: getattr(config, ours) for ours, key in _IMAGE_IDS.items()}
    if config.vision is None:
        extra = {key: image_ids[key] for ours, key in _IMAGE_IDS.items() if image_ids[key] != getattr(Config, ours)}
        return {"architectures": ["Llama4ForCausalLM"], **text, **extra}
    return {
        "architectures": ["Llama4ForConditionalGeneration"],
        "model_type": "llama4",
        **image_ids,
        "tie_word_embeddings": config.tied_embeddings,
        "text_config": text,
        "vision_config": _vision_to_hf(config.vision),
    }


def _text_to_hf(config: Config) -> dict[str, Any]:
    spans = {ours: kind for kind, ours in _SPANS.items()}
    temperature = config.temperature or Temperature()
    if not float(temperature.floor).is_integer():
        raise InputError(
            f"config.json holds a whole floor_scale only, and this config has {temperature.floor}: round it."
        )
    return {
        "model_type": "llama4_text",
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": len(config.layers),
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.expert_width,
        "intermediate_size_mlp": config.dense_width,
        "num_local_experts": config.experts,
        "num_experts_per_tok": 1,
        "moe_layers": [index for index, spec in enumerate(config.layers) if spec.ffn == "moe"],
        "no_rope_layers": [int(spec.position == "rope") for spec in config.layers],
        "layer_types": [spans[spec.span] for spec in config.layers],
        "attention_chunk_size": config.chunk,
        "attention_bias": False,
        "hidden_act": "silu",
        "use_qk_norm": config.qk_norm,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": _scaling_to_hf(config.rope_scaling),
        "attn_temperature_tuning": config.temperature is not None,
        "floor_scale": int(temperature.floor),
        "attn_scale": temperature.scale,
        "max_position_embeddings": config.max_context,
        "tie_word_embeddings": config.tied_embeddings,
        "bos_token_id": config.bos_id,
        "eos_token_id": list(config.stop_ids),
        "pad_token_id": config.pad_id if config.pad_id < config.vocab_size else None,  # transformers would stop at it
    }


def _scaling_to_hf(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_context,
    }


def _vision_to_hf(vision: VisionConfig) -> dict[str, Any]:
    if vision.mlp_width != vision.width * vision.shuffle**2:
        raise InputError(
            f"config.json has one intermediate_size for the vision MLP ({vision.mlp_width}) and the pixel-shuffled rows "
            f"({vision.width * vision.shuffle**2}), so this model cannot be written in Hugging Face's layout: use Meta's."
        )
    return {
        "model_type": "llama4_vision_model",
        "hidden_size": vision.width,
        "num_hidden_layers": vision.layers,
        "num_attention_heads": vision.heads,
        "intermediate_size": vision.mlp_width,
        "num_channels": 3,
        "image_size": vision.tile_side,
        "patch_size": vision.patch_side,
        "pixel_shuffle_ratio": 1 / vision.shuffle,
        "projector_input_dim": vision.adapter_width,
        "projector_output_dim": vision.adapter_width,
        "vision_output_dim": vision.adapter_width,
        "hidden_act": "gelu",
        "norm_eps": 1e-5,
        "rope_theta": vision.rope_theta,
        "multi_modal_projector_bias": False,
    }
