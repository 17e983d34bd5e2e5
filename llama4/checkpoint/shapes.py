"""The name and shape of every parameter that a config means, without building a model.

    >>> parameter_shapes(Config.scout())["decoder.layers.0.ffn.experts.gate_up"]
    (16, 5120, 16384)

Loading checks files against this table before it touches their data, and a test holds the table equal to the model's own
`state_dict()` on the meta device. Tied embeddings have no `decoder.head.weight`. Letters: docs/notation.md.
"""

from __future__ import annotations

import math

from llama4.config import Config, LayerSpec, VisionConfig

Shape = tuple[int, ...]


def parameter_shapes(config: Config) -> dict[str, Shape]:
    """Our parameter names and their shapes."""
    shapes: dict[str, Shape] = {"decoder.embedding.weight": (config.vocab_size, config.width)}
    for number, spec in enumerate(config.layers):
        shapes |= _prefixed(f"decoder.layers.{number}.", _layer(config, spec))
    shapes["decoder.norm.weight"] = (config.width,)
    if not config.tied_embeddings:
        shapes["decoder.head.weight"] = (config.vocab_size, config.width)
    if config.vision is not None:
        shapes |= _prefixed("vision.", _vision(config.vision))
        shapes["fusion.projection.weight"] = (config.width, config.vision.adapter_width)
    return shapes


def parameter_count(config: Config) -> int:
    """How many numbers the model holds: 108 641 793 536 for Scout."""
    return sum(math.prod(shape) for shape in parameter_shapes(config).values())


def _layer(config: Config, spec: LayerSpec) -> dict[str, Shape]:
    D, F = config.width, config.expert_width if spec.ffn == "moe" else config.dense_width
    q, kv = config.heads * config.head_width, config.kv_heads * config.head_width
    shapes: dict[str, Shape] = {
        "attention_norm.weight": (D,),
        "attention.q.weight": (q, D),
        "attention.k.weight": (kv, D),
        "attention.v.weight": (kv, D),
        "attention.o.weight": (D, q),
        "ffn_norm.weight": (D,),
    }
    swiglu: dict[str, Shape] = {"gate.weight": (F, D), "up.weight": (F, D), "down.weight": (D, F)}
    if spec.ffn == "dense":
        return shapes | _prefixed("ffn.", swiglu)
    shapes["ffn.router.weight"] = (config.experts, D)
    shapes["ffn.experts.gate_up"] = (config.experts, D, 2 * F)
    shapes["ffn.experts.down"] = (config.experts, F, D)
    return shapes | _prefixed("ffn.shared.", swiglu)


def _vision(vision: VisionConfig) -> dict[str, Shape]:
    C, M, A = vision.width, vision.mlp_width, vision.adapter_width
    shapes: dict[str, Shape] = {
        "class_embedding": (C,),
        "position_embedding": (vision.patches + 1, C),
        "patch_embedding.weight": (C, 3 * vision.patch_side**2),
        **_affine("norm_pre", C),
    }
    for number in range(vision.layers):
        layer = _affine("attention_norm", C)
        for name in "qkvo":
            layer |= _affine(f"attention.{name}", C, C)
        layer |= _affine("mlp_norm", C) | _affine("mlp.fc1", M, C) | _affine("mlp.fc2", C, M)
        shapes |= _prefixed(f"layers.{number}.", layer)
    shapes |= _affine("norm_post", C)
    return shapes | {"adapter.fc1.weight": (A, C * vision.shuffle**2), "adapter.fc2.weight": (A, A)}


def _affine(name: str, *shape: int) -> dict[str, Shape]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _prefixed(prefix: str, shapes: dict[str, Shape]) -> dict[str, Shape]:
    return {prefix + name: shape for name, shape in shapes.items()}
