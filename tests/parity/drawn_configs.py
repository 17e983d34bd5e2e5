"""Tiny models, drawn: the contents of a `config.json` or a `params.json`, and the prompts to run them on.

One configuration proves little: with 4 heads over 2, or a chunk that divides the prompt, whole classes of mistake cancel out.
So each seed draws its own: odd head ratios (7/1, 5/5), head widths that do not make up the model's width, one to eight
experts, dense and MoE mixes, irregular layer lists, chunks that do not divide the prompt, tied embeddings, RoPE scaling with
and without a blended band, and a temperature whose floor of a few tokens makes it act.

The drawing is plain `random.Random(seed)`, so a failure is repeated by its seed; `test_drawn_configs.py` checks that the
seeds used do cover every one of these cases.
"""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

SEEDS = range(12)
HEADS = ((6, 2), (5, 5), (7, 1), (8, 2), (9, 3), (4, 4), (3, 1))
PATCH_SLOT = 92  # Meta's vocabularies: <|patch|> is the 93rd of the last 2048 ids


def hf_text(seed: int) -> dict[str, Any]:
    """The contents of a text-only `config.json` (Llama4ForCausalLM)."""
    draw = random.Random(seed)
    heads, kv_heads = draw.choice(HEADS)
    layers = draw.randint(3, 6)
    return {
        "model_type": "llama4_text",
        "architectures": ["Llama4ForCausalLM"],
        "vocab_size": draw.randint(97, 251),
        "hidden_size": draw.choice((24, 40, 56, 72)),
        "intermediate_size": draw.choice((24, 36, 52)),
        "intermediate_size_mlp": draw.choice((44, 60, 84)),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": draw.choice((6, 8, 12, 16)),
        "rms_norm_eps": draw.choice((1e-5, 1e-6, 1e-3)),
        "tie_word_embeddings": draw.random() < 0.4,
        "use_qk_norm": draw.random() < 0.5,
        "attention_chunk_size": draw.choice((5, 7, 8, 11, 16, None)),
        "rope_parameters": _rope(draw),
        **_layer_lists(draw, layers),
        **_temperature(draw),
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": None,
    }


def hf_multimodal(seed: int) -> dict[str, Any]:
    """The contents of a multimodal `config.json` (Llama4ForConditionalGeneration)."""
    draw = random.Random(1000 + seed)
    text = hf_text(500 + seed)
    shuffle, heads = draw.choice((2, 2, 4)), draw.choice((1, 2, 3))
    width, adapter = heads * draw.choice((4, 8, 12)), draw.choice((20, 28))
    patch = draw.choice((4, 7))
    return {
        "model_type": "llama4",
        "architectures": ["Llama4ForConditionalGeneration"],
        "image_token_index": text["vocab_size"] - 1,
        "boi_token_index": text["vocab_size"] - 2,
        "eoi_token_index": text["vocab_size"] - 3,
        "tie_word_embeddings": text["tie_word_embeddings"],
        "text_config": text,
        "vision_config": {
            "model_type": "llama4_vision_model",
            "hidden_size": width,
            "num_hidden_layers": draw.randint(1, 3),
            "num_attention_heads": heads,
            "intermediate_size": width * shuffle**2,  # transformers reads the adapter's input width from this key too
            "vision_output_dim": adapter,
            "projector_input_dim": adapter,
            "projector_output_dim": adapter,
            "image_size": patch * shuffle * draw.choice((1, 2, 3)),
            "patch_size": patch,
            "pixel_shuffle_ratio": 1 / shuffle,
            "rope_parameters": {"rope_type": "default", "rope_theta": draw.choice((100.0, 10000.0))},
        },
    }


def guard(seed: int) -> dict[str, Any]:
    """Llama Guard 4's form: every layer dense, no chunk, and an empty `no_rope_layers`, which means the regular pattern."""
    text = hf_text(seed)
    dense = {"moe_layers": [], "no_rope_layers": [], "interleave_moe_layer_step": 0, "attention_chunk_size": None}
    return {**text, **dense, "num_hidden_layers": 5}


def meta(seed: int, vision: bool = True) -> dict[str, Any]:
    """The contents of a `params.json`. Its layout ties the head width to dim / n_heads, and layer lists to intervals."""
    draw = random.Random(2000 + seed)
    heads, kv_heads = draw.choice(HEADS)
    scaled = draw.random() < 0.5
    args: dict[str, Any] = {
        "dim": heads * draw.choice((8, 16)),
        "n_layers": draw.randint(3, 6),
        "n_heads": heads,
        "n_kv_heads": kv_heads,
        "vocab_size": 2048 + draw.randint(20, 90),
        "multiple_of": draw.choice((4, 8)),
        "ffn_dim_multiplier": draw.choice((1.0, 1.2)),
        "ffn_exp": draw.choice((2.0, 4.0)),
        "norm_eps": draw.choice((1e-5, 1e-3)),
        "rope_theta": draw.choice((10000.0, 500000.0)),
        "use_scaled_rope": scaled,
        "use_qk_norm": draw.random() < 0.5,
        "nope_layer_interval": draw.choice((2, 3, 4, None)),
        "attention_chunk_size": draw.choice((5, 7, 8, 11, None)),
        "attn_temperature_tuning": draw.random() < 0.5,
        "floor_scale": draw.randint(3, 9),
        "attn_scale": draw.choice((0.2, 0.5)),
        "moe_args": _moe_args(draw),
    }
    if scaled and draw.random() < 0.5:  # absent, they mean 16 and 1
        args |= {"rope_scaling_factor": 8.0, "rope_high_freq_factor": 4.0}
    if vision:
        args["vision_args"] = _vision_args(draw)
    return args


def prompt(seed: int, vocabulary: int, chunk: int | None, rows: int = 1) -> Tensor:
    """Token ids `[rows, S]`, with S over two chunks and no multiple of the chunk."""
    draw = random.Random(3000 + seed)
    chunk = chunk or 9
    length = chunk * draw.randint(2, 4) + draw.randint(1, chunk - 1)
    return torch.randint(0, vocabulary, (rows, length), generator=torch.Generator().manual_seed(seed))


def with_tiles(
    tokens_BS: Tensor, patch_id: int, tokens_per_tile: int, tiles: tuple[int, ...], side: int, seed: int
) -> tuple[Tensor, list[Tensor]]:
    """Put `tiles[b]` groups of patch ids into row b, an ordinary token between them, and draw their pixels.

    Returns the ids, right-padded by ordinary ones to a common length, and for every row its tiles `[R, 3, side, side]`.
    """
    generator = torch.Generator().manual_seed(4000 + seed)
    rows, images = [], []
    for row_S, count in zip(tokens_BS.masked_fill(tokens_BS == patch_id, 0), tiles, strict=True):
        pieces = [row_S[:3]]
        for number in range(count):
            pieces += [torch.full((tokens_per_tile,), patch_id), row_S[3 + number : 4 + number]]
        rows.append(torch.cat((*pieces, row_S[3 + count :])))
        images.append(torch.randn(count, 3, side, side, generator=generator))
    longest = max(map(len, rows))
    return torch.stack([torch.nn.functional.pad(row_S, (0, longest - len(row_S)), value=2) for row_S in rows]), images


def _rope(draw: random.Random) -> dict[str, Any]:
    """Scout's own scaling has low = high factors; Llama 3's (1, 4) blends the band between. Original lengths that bite."""
    rope = {"rope_type": "default", "rope_theta": draw.choice((50.0, 10000.0, 500000.0))}
    low, high = draw.choice(((0, 0), (1.0, 1.0), (1.0, 4.0), (0.5, 3.0)))
    if high:
        original = draw.choice((16, 40, 100))
        rope |= {"rope_type": "llama3", "factor": draw.choice((8.0, 16.0)), "low_freq_factor": low}
        rope |= {"high_freq_factor": high, "original_max_position_embeddings": original}
    return rope


def _layer_lists(draw: random.Random, layers: int) -> dict[str, Any]:
    lists: dict[str, Any] = {
        "num_local_experts": draw.choice((1, 2, 3, 5, 1, 8)),
        "interleave_moe_layer_step": draw.randint(1, 3),
    }
    if draw.random() < 0.4:
        lists["moe_layers"] = sorted(draw.sample(range(layers), draw.randint(0, layers)))
    if draw.random() < 0.5:
        lists["no_rope_layers"] = [draw.randint(0, 1) for _ in range(layers)]
    return lists


def _temperature(draw: random.Random) -> dict[str, Any]:
    return {
        "attn_temperature_tuning": draw.random() < 0.6,
        "floor_scale": draw.randint(3, 9),
        "attn_scale": draw.choice((0.1, 0.3, 0.5)),
    }


def _moe_args(draw: random.Random) -> dict[str, Any] | None:
    if draw.random() < 0.2:
        return None
    return {
        "num_experts": draw.choice((1, 1, 2, 3, 5, 8)),
        "capacity_factor": 1.0,
        "auto_scale_F": draw.random() < 0.7,
        "top_k": 1,
        "interleave_moe_layer_step": draw.randint(1, 3),
    }


def _vision_args(draw: random.Random) -> dict[str, Any]:
    patch, shuffle, heads = draw.choice((4, 7)), draw.choice((2, 2, 4)), draw.choice((1, 2, 3))
    side = patch * shuffle * draw.choice((1, 2, 3))
    return {
        "image_size": {"height": side, "width": side},
        "patch_size": {"height": patch, "width": patch},
        "dim": heads * draw.choice((4, 8, 12)),
        "n_layers": draw.randint(1, 3),
        "n_heads": heads,
        "mlp_ratio": draw.choice((2.0, 4.0)),
        "output_dim": draw.choice((20, 28)),
        "pixel_shuffle_ratio": 1 / shuffle,
    }
