"""Small configurations drawn at random, so that no test leans on one lucky shape.

Sizes are odd where the architecture allows: 3 query heads a key/value head, a head width that is no power of two, chunks that
divide nothing, a vocabulary of 131. `regular=True` keeps to what Meta's params.json can express.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from llama4.config import Config, LayerSpec, RopeScaling, Temperature, VisionConfig, irope_layers


def random_config(seed: int, regular: bool = False, vision: bool | None = None, shards: int = 1) -> Config:
    """A valid config. vision: None lets the draw decide. shards: heads and widths divide into that many (for save_meta)."""
    draw = random.Random(seed)
    kv_heads = shards * draw.choice([1, 2])
    heads = kv_heads * draw.choice([1, 2, 3])
    head_width = draw.choice([4, 6, 10])
    width = heads * head_width if regular else draw.choice([24, 36, 40])
    width *= 1 if width % shards == 0 else shards
    head_width = width // heads if regular else head_width
    scaling = RopeScaling(draw.choice([8.0, 16.0]), 1.0, draw.choice([1.0, 4.0]), 8192 if regular else 64)
    ids = {"patch_id": 120, "image_start_id": 121, "image_end_id": 122, "bos_id": 0, "stop_ids": (1, 5), "pad_id": 7}
    config = Config(
        vocab_size=131 if shards == 1 else 16 * shards + 128 - 128 % shards,
        width=width,
        layers=_layers(draw, regular),
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        experts=draw.choice([1, 2, 3, 5, 8]),
        expert_width=shards * draw.choice([7, 12, 20]),
        dense_width=shards * draw.choice([9, 16, 33]),
        chunk=draw.choice([5, 7, 64]),
        qk_norm=draw.random() < 0.5,
        rope_theta=draw.choice([500000.0, 1000.0]),
        rope_scaling=scaling if draw.random() < 0.5 else None,
        temperature=Temperature(draw.choice([4.0, 8192.0]), 0.2) if draw.random() < 0.5 else None,
        norm_eps=draw.choice([1e-5, 1e-6]),
        tied_embeddings=not regular and draw.random() < 0.5,
        max_context=draw.choice([1024, 1_048_576]),
        vision=_vision(draw, shards) if (draw.random() < 0.5 if vision is None else vision) else None,
        **ids,
    )
    chunked = any(spec.span == "chunk" for spec in config.layers)
    return config if chunked else replace(config, chunk=None)


def _layers(draw: random.Random, regular: bool) -> tuple[LayerSpec, ...]:
    count = draw.choice([2, 3, 5])
    if regular:
        layers = irope_layers(
            count, moe_every=draw.choice([1, 2, count + 1]), nope_every=draw.choice([2, 4, count + 1])
        )
        return tuple(replace(spec, span="all") for spec in layers) if draw.random() < 0.25 else layers
    pick = [LayerSpec(p, s, f) for p in ("rope", "nope") for s in ("chunk", "all") for f in ("dense", "moe")]
    return tuple(draw.choice(pick) for _ in range(count))


def _vision(draw: random.Random, shards: int) -> VisionConfig:
    heads, shuffle = shards * draw.choice([1, 2]), 2
    width = heads * draw.choice([4, 8])
    patch_side = draw.choice([3, 4])
    return VisionConfig(
        tile_side=patch_side * shuffle * draw.choice([2, 3]),
        patch_side=patch_side,
        width=width,
        layers=2,
        heads=heads,
        mlp_width=width * shuffle**2,  # Hugging Face has one number for this and for the pixel-shuffled rows
        shuffle=shuffle,
        adapter_width=shards * draw.choice([5, 12]),
    )


def text_json(**changes: Any) -> dict[str, Any]:
    """A minimal text-only config.json of four layers; a value of `...` removes the key."""
    base = {"model_type": "llama4_text", "num_hidden_layers": 4, "hidden_size": 64, "vocab_size": 300}
    return {key: value for key, value in {**base, **changes}.items() if value is not ...}


def vision_json(**changes: Any) -> dict[str, Any]:
    """A minimal multimodal config.json, `changes` going to its vision_config."""
    vision = {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "projector_input_dim": 24,
        "projector_output_dim": 24,
        "vision_output_dim": 24,
        "image_size": 28,
        "patch_size": 7,
    }
    return {
        "model_type": "llama4",
        "text_config": text_json(),
        "vision_config": {**vision, **changes},
        "image_token_index": 9,
    }
