"""The names of weights, as data: one table a format, each read in both directions.

Hugging Face: a row is (our module or parameter, theirs). `.weight` and `.bias` carry over. Text names have the prefix
`language_model.`, except in text-only files.

Meta: a row is one tensor of the file, and says what it is made of:

    Row("layers.{n}.attention.wqkv.weight", ("…q.weight", "…k.weight", "…v.weight"), split=0)

    name      the tensor's name in each consolidated.NN.pth
    ours      our parameters, stacked along the first dimension of the file's tensor
    split     the dimension of *our* parameter that tensor parallelism cuts into as many pieces as there are shards;
              None: every shard holds the whole, and all must hold the same
    half      0 or 1: only that half of our parameter's last dimension (gate | up)
    form      how the file holds the piece: "same", "transposed", "flat" (first two dimensions joined), or "raw position"
    where     the kind of layer the name belongs to, where both kinds have the parameter

Worked example, Scout in 8 shards: wqkv is [896, 5120] in each, 640 rows of q, 128 of k and 128 of v.

Two styles: "load" names are what Meta's modules register, "training" names are what its load hooks translate from (the hooks
are spread over model.py, moe.py, ffn.py, vision/). Reading takes any mixture of both; writing one or the other. q and k are
permuted in neither format: both rotate adjacent pairs. Sources: those hooks, `reshard_mp` in llama_models/checkpoint.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from llama4.checkpoint.shapes import parameter_shapes
from llama4.config import Config

Style = Literal["load", "training"]

TEXT_PREFIX = "language_model."

_T, _V = "decoder.layers.{n}.", "vision.layers.{n}."
_HT, _HV = "model.layers.{n}.", "vision_model.model.layers.{n}."

HF_TEXT: tuple[tuple[str, str], ...] = (
    ("decoder.embedding", "model.embed_tokens"),
    (_T + "attention_norm", _HT + "input_layernorm"),
    (_T + "attention.q", _HT + "self_attn.q_proj"),
    (_T + "attention.k", _HT + "self_attn.k_proj"),
    (_T + "attention.v", _HT + "self_attn.v_proj"),
    (_T + "attention.o", _HT + "self_attn.o_proj"),
    (_T + "ffn_norm", _HT + "post_attention_layernorm"),
    (_T + "ffn.gate", _HT + "feed_forward.gate_proj"),
    (_T + "ffn.up", _HT + "feed_forward.up_proj"),
    (_T + "ffn.down", _HT + "feed_forward.down_proj"),
    (_T + "ffn.router", _HT + "feed_forward.router"),
    (_T + "ffn.experts.gate_up", _HT + "feed_forward.experts.gate_up_proj"),
    (_T + "ffn.experts.down", _HT + "feed_forward.experts.down_proj"),
    (_T + "ffn.shared.gate", _HT + "feed_forward.shared_expert.gate_proj"),
    (_T + "ffn.shared.up", _HT + "feed_forward.shared_expert.up_proj"),
    (_T + "ffn.shared.down", _HT + "feed_forward.shared_expert.down_proj"),
    ("decoder.norm", "model.norm"),
    ("decoder.head", "lm_head"),
)

HF_VISION: tuple[tuple[str, str], ...] = (
    ("vision.class_embedding", "vision_model.class_embedding"),
    ("vision.position_embedding", "vision_model.positional_embedding_vlm"),
    ("vision.patch_embedding", "vision_model.patch_embedding.linear"),
    ("vision.norm_pre", "vision_model.layernorm_pre"),
    (_V + "attention_norm", _HV + "input_layernorm"),
    (_V + "attention.q", _HV + "self_attn.q_proj"),
    (_V + "attention.k", _HV + "self_attn.k_proj"),
    (_V + "attention.v", _HV + "self_attn.v_proj"),
    (_V + "attention.o", _HV + "self_attn.o_proj"),
    (_V + "mlp_norm", _HV + "post_attention_layernorm"),
    (_V + "mlp.fc1", _HV + "mlp.fc1"),
    (_V + "mlp.fc2", _HV + "mlp.fc2"),
    ("vision.norm_post", "vision_model.layernorm_post"),
    ("vision.adapter.fc1", "vision_model.vision_adapter.mlp.fc1"),
    ("vision.adapter.fc2", "vision_model.vision_adapter.mlp.fc2"),
    ("fusion.projection", "multi_modal_projector.linear_1"),
)


@dataclass(frozen=True)
class Row:
    """One tensor of Meta's files: see the module's docstring."""

    name: str
    ours: tuple[str, ...]
    split: int | None = None
    half: int | None = None
    form: Literal["same", "transposed", "flat", "raw position"] = "same"
    where: Literal["any", "moe", "dense"] = "any"


_M, _E = "layers.{n}.", "vision_embeddings.vision_encoder."
_B = _E + "transformer.resblocks.{n}."
_Q, _K, _VV, _O = (_T + f"attention.{name}.weight" for name in "qkvo")
_GATE, _UP, _DOWN = (_T + f"ffn.{name}.weight" for name in ("gate", "up", "down"))
_SHARED_GATE, _SHARED_UP, _SHARED_DOWN = (_T + f"ffn.shared.{name}.weight" for name in ("gate", "up", "down"))
_GATE_UP, _EXPERT_DOWN = _T + "ffn.experts.gate_up", _T + "ffn.experts.down"

META_BOTH: tuple[Row, ...] = (
    Row("tok_embeddings.weight", ("decoder.embedding.weight",), split=0),
    Row(_M + "attention.wo.weight", (_O,), split=1),
    Row(_M + "feed_forward.router_DE", (_T + "ffn.router.weight",), form="transposed"),
    Row("norm.weight", ("decoder.norm.weight",)),
    Row("output.weight", ("decoder.head.weight",), split=0),
    Row(_E + "class_embedding", ("vision.class_embedding",)),
    Row(_E + "positional_embedding_vlm", ("vision.position_embedding",)),
    Row(_E + "conv1._linear.weight", ("vision.patch_embedding.weight",), split=0),
    *(
        Row(f"{_E}ln_{end}.{leaf}", (f"vision.norm_{end}.{leaf}",))
        for end in ("pre", "post")
        for leaf in ("weight", "bias")
    ),
    *(
        Row(f"{_B}attn.w{name}.{leaf}", (f"{_V}attention.{name}.{leaf}",), 0)
        for name in "qkv"
        for leaf in ("weight", "bias")
    ),
    Row(_B + "attn.wo.weight", (_V + "attention.o.weight",), split=1),
    Row(_B + "attn.wo.bias", (_V + "attention.o.bias",)),
    *(Row(f"{_B}ln_1.{leaf}", (f"{_V}attention_norm.{leaf}",)) for leaf in ("weight", "bias")),
    *(Row(f"{_B}ln_2.{leaf}", (f"{_V}mlp_norm.{leaf}",)) for leaf in ("weight", "bias")),
    *(Row(f"{_B}mlp.c_fc.{leaf}", (f"{_V}mlp.fc1.{leaf}",), split=0) for leaf in ("weight", "bias")),
    Row(_B + "mlp.c_proj.weight", (_V + "mlp.fc2.weight",), split=1),
    Row(_B + "mlp.c_proj.bias", (_V + "mlp.fc2.bias",)),
    Row("vision_embeddings.vision_adapter.mlp.c_fc.weight", ("vision.adapter.fc1.weight",), split=0),
    Row("vision_embeddings.vision_adapter.mlp.c_proj.weight", ("vision.adapter.fc2.weight",), split=1),
    Row("vision_projection.weight", ("fusion.projection.weight",), split=0),
)

META_LOAD: tuple[Row, ...] = (
    Row(_M + "attention_norm.weight", (_T + "attention_norm.weight",)),
    Row(_M + "attention.wq.weight", (_Q,), split=0),
    Row(_M + "attention.wk.weight", (_K,), split=0),
    Row(_M + "attention.wv.weight", (_VV,), split=0),
    Row(_M + "ffn_norm.weight", (_T + "ffn_norm.weight",)),
    Row(_M + "feed_forward.w1.weight", (_GATE,), split=0),
    Row(_M + "feed_forward.w3.weight", (_UP,), split=0),
    Row(_M + "feed_forward.w2.weight", (_DOWN,), split=1),
    Row(_M + "feed_forward.experts.w1", (_GATE_UP,), split=2, half=0),
    Row(_M + "feed_forward.experts.w3", (_GATE_UP,), split=2, half=1),
    Row(_M + "feed_forward.experts.w2", (_EXPERT_DOWN,), split=1),
    Row(_M + "feed_forward.shared_expert.w1.weight", (_SHARED_GATE,), split=0),
    Row(_M + "feed_forward.shared_expert.w3.weight", (_SHARED_UP,), split=0),
    Row(_M + "feed_forward.shared_expert.w2.weight", (_SHARED_DOWN,), split=1),
)

META_TRAINING: tuple[Row, ...] = (
    Row(_M + "attention.wqkv.layer_norm_weight", (_T + "attention_norm.weight",)),
    Row(_M + "attention.wqkv.weight", (_Q, _K, _VV), split=0),
    Row(_M + "feed_forward.mlp.layer_norm_weight", (_T + "ffn_norm.weight",), where="dense"),
    Row(_M + "feed_forward.norm.weight", (_T + "ffn_norm.weight",), where="moe"),
    Row(_M + "feed_forward.mlp.fc1_weight", (_GATE, _UP), split=0),
    Row(_M + "feed_forward.mlp.fc2_weight", (_DOWN,), split=1),
    Row(_M + "feed_forward.experts.moe_w_in_eD_F", (_GATE_UP,), split=2, half=0, form="flat"),
    Row(_M + "feed_forward.experts.moe_w_swiglu_eD_F", (_GATE_UP,), split=2, half=1, form="flat"),
    Row(_M + "feed_forward.experts.moe_w_out_eF_D", (_EXPERT_DOWN,), split=1, form="flat"),
    Row(_M + "feed_forward.w_in_shared_FD.weight", (_SHARED_GATE,), split=0),
    Row(_M + "feed_forward.w_swiglu_FD.weight", (_SHARED_UP,), split=0),
    Row(_M + "feed_forward.w_out_shared_DF.weight", (_SHARED_DOWN,), split=1),
)

# Read, never written.
META_READ: tuple[Row, ...] = (
    Row(_E + "positional_embedding", ("vision.position_embedding",), form="raw position"),
    Row(_B + "attn.wqkv.weight", tuple(f"{_V}attention.{name}.weight" for name in "qkv"), split=0),
    Row(_M + "feed_forward.norm.weight", (_T + "ffn_norm.weight",), where="dense"),
    Row(_M + "feed_forward.mlp.layer_norm_weight", (_T + "ffn_norm.weight",), where="moe"),
)

# In Meta's files, and not weights: frequencies, fp8 bookkeeping, statistics of training.
META_DROPPED = re.compile(r"(^|\.)(rope\.freqs|freqs?_cis|_extra_state|expert_activation_DE)$|gate_stats")


def hf_names(config: Config, prefix: str | None = None) -> dict[str, str]:
    """Our name of every parameter of this config -> its name in a Hugging Face file.

    prefix: what text names begin with; None means what transformers writes: `language_model.` beside a vision model, else "".
    """
    if prefix is None:
        prefix = TEXT_PREFIX if config.vision is not None else ""
    table = {ours: prefix + theirs for ours, theirs in HF_TEXT} | dict(HF_VISION)
    return {name: _translate(name, table) for name in parameter_shapes(config)}


def meta_rows(config: Config, style: Style | None) -> list[Row]:
    """Every row of a file in this style, layer numbers filled in; None: all the rows that may be met when reading."""
    tables = {"load": META_LOAD, "training": META_TRAINING, None: META_LOAD + META_TRAINING + META_READ}
    shapes, rows = parameter_shapes(config), []
    vision_layers = 0 if config.vision is None else config.vision.layers
    for row in META_BOTH + tables[style]:
        is_text = row.name.startswith("layers.")
        numbers = range(len(config.layers) if is_text else vision_layers) if "{n}" in row.name else range(1)
        for number in numbers:
            ours = tuple(name.format(n=number) for name in row.ours)
            here = row.where == "any" or row.where == config.layers[number].ffn
            if here and all(name in shapes for name in ours):
                rows.append(replace(row, name=row.name.format(n=number), ours=ours))
    return rows


def _translate(name: str, table: dict[str, str]) -> str:
    """One name through a table of patterns: the whole of it, or its module with the last part carried over."""
    number = re.search(r"\.(\d+)\.", name)
    pattern = name if number is None else name.replace(number[0], ".{n}.", 1)
    module, _, leaf = pattern.rpartition(".")
    theirs = table.get(pattern) or f"{table[module]}.{leaf}"
    return theirs if number is None else theirs.format(n=number[1])
