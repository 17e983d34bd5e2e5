"""Make the golden files: tiny checkpoints in both official layouts, and what the references compute on them.

    PYTHONPATH=. python tests/parity/goldens/make_goldens.py            # needs transformers and llama-models

Each folder holds a checkpoint (`config.json` and `model.safetensors`, or `params.json` and `consolidated.00.pth`). Beside it
lies a file of the same name in the format of `llama4 parity --reference` (llama4/parity/recording.py): inputs, the stream after
every layer, each token's expert, logits, and in the metadata the reference's and torch's versions. Weights are stored, not
drawn again, since no generator's stream is promised for ever; they are bfloat16 on disk, half the size, and the reference ran
in float32 on just those values.

What each case is for: see CASES. Together under 1.5 MB (a test counts).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
for folder in (HERE.parents[2], HERE.parents[1], HERE.parent):
    sys.path.append(str(folder))

import torch  # noqa: E402
from compare import recorded  # noqa: E402
from drawn_configs import with_tiles  # noqa: E402
from pairs import MetaPair, Pair, hf_pair, meta_pair  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from llama4.parity.recording import write  # noqa: E402

VOCAB = 101
IDS = {"image_token_index": 98, "boi_token_index": 96, "eoi_token_index": 97}
TEXT: dict[str, Any] = {
    "model_type": "llama4_text",
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "intermediate_size": 20,
    "intermediate_size_mlp": 36,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_local_experts": 3,
    "attention_chunk_size": 7,
    "attn_temperature_tuning": True,
    "floor_scale": 5,
    "attn_scale": 0.4,
    "bos_token_id": 0,
    "eos_token_id": [1, 2],
    "max_position_embeddings": 512,
}
VISION: dict[str, Any] = {
    "model_type": "llama4_vision_model",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vision_output_dim": 12,
    "projector_input_dim": 12,
    "projector_output_dim": 12,
    "image_size": 24,
    "patch_size": 4,  # a grid of 6 x 6 patches, 9 tokens a tile
    "pixel_shuffle_ratio": 0.5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
}
META: dict[str, Any] = {
    "dim": 24,
    "n_heads": 3,
    "n_kv_heads": 1,
    "vocab_size": VOCAB,
    "patch_id": 98,  # Meta's own code knows the id from its tokenizer; without these keys ours derives it from a vocabulary
    "image_start_id": 96,  # of 2048 and more
    "image_end_id": 97,
    "bos_id": 0,
    "stop_ids": [1, 2],
    "multiple_of": 4,
    "ffn_dim_multiplier": 0.6,
    "ffn_exp": 4.0,
    "attention_chunk_size": 7,
    "nope_layer_interval": 4,
    "attn_temperature_tuning": True,
    "floor_scale": 5,
    "attn_scale": 0.4,
}
LLAMA3 = {"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0}
CASES: dict[str, dict[str, Any]] = {
    # Scout's kind: every layer MoE, QK norm, RoPE scaling without a band, images.
    "hf-scout": {
        "model_type": "llama4",
        "architectures": ["Llama4ForConditionalGeneration"],
        **IDS,
        "text_config": {
            **TEXT,
            "num_hidden_layers": 5,
            "interleave_moe_layer_step": 1,
            "use_qk_norm": True,
            "rope_parameters": {**LLAMA3, "rope_theta": 50.0, "original_max_position_embeddings": 40},
        },
        "vision_config": VISION,
    },
    # Maverick's kind: dense and MoE in turn, no QK norm; here with tied embeddings and text only.
    "hf-maverick": {
        **TEXT,
        "architectures": ["Llama4ForCausalLM"],
        "num_hidden_layers": 4,
        "interleave_moe_layer_step": 2,
        "use_qk_norm": False,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 50.0},
    },
    # Llama Guard 4's kind: all dense, no chunk.
    "hf-guard": {
        **TEXT,
        "architectures": ["Llama4ForCausalLM"],
        "num_hidden_layers": 4,
        "moe_layers": [],
        "no_rope_layers": [],
        "attention_chunk_size": None,
        "use_qk_norm": False,
        "attn_temperature_tuning": False,
        "rope_parameters": {
            **LLAMA3,
            "high_freq_factor": 4.0,
            "rope_theta": 50.0,
            "original_max_position_embeddings": 60,
        },
    },
    # Scout's kind in Meta's layout, images.
    "meta-scout": {
        **META,
        "n_layers": 5,
        "use_qk_norm": True,
        "use_scaled_rope": True,
        "rope_theta": 500000.0,
        "moe_args": {"num_experts": 3, "interleave_moe_layer_step": 1},
        "vision_args": {
            "image_size": {"height": 24, "width": 24},
            "patch_size": {"height": 4, "width": 4},
            "dim": 16,
            "n_layers": 2,
            "n_heads": 2,
            "mlp_ratio": 3.0,
            "output_dim": 12,
            "pixel_shuffle_ratio": 0.5,
        },
    },
    # Maverick's kind in Meta's layout, text.
    "meta-maverick": {
        **META,
        "n_layers": 4,
        "use_qk_norm": False,
        "rope_theta": 50.0,
        "moe_args": {"num_experts": 5, "interleave_moe_layer_step": 2},
    },
}
LENGTH = 25  # three chunks of 7 and four tokens; with two tiles of 9, six chunks and one
ROWS = 3


def main() -> None:
    """Write every case's folder."""
    for number, (case, config) in enumerate(CASES.items()):
        folder = HERE / case
        folder.mkdir(exist_ok=True)
        pair = make_pair(config, number)
        (write_meta if isinstance(pair, MetaPair) else write_hf)(folder, config, pair.reference)
        tensors = inputs(pair, number)
        tensors |= run(pair, tensors)
        name = "llama-models" if isinstance(pair, MetaPair) else "transformers"
        write(HERE / f"{case}.safetensors", tensors, name, "float32")
        print(f"{case}: logits of at most {tensors['logits_BSV'].abs().max():.2f}")


def make_pair(config: dict[str, Any], seed: int | None) -> Pair:
    """Both programs, with weights drawn from `seed` and rounded to bfloat16."""
    pair = meta_pair(config, seed) if "n_layers" in config else hf_pair(config, seed)
    for parameter in pair.reference.parameters():
        parameter.data = parameter.data.bfloat16().float()
    return pair


def rerun(case: str) -> dict[str, Tensor]:
    """What the reference computes today on the stored weights and inputs of `case`."""
    folder = HERE / case
    pair = make_pair(CASES[case], seed=None)
    if isinstance(pair, MetaPair):
        weights = torch.load(folder / "consolidated.00.pth", weights_only=True)
    else:
        weights = load_file(folder / "model.safetensors")
        if CASES[case].get("tie_word_embeddings"):
            weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    pair.reference.load_state_dict(weights)
    stored = load_file(HERE / f"{case}.safetensors")
    return run(pair, stored)


def inputs(pair: Pair, seed: int) -> dict[str, Tensor]:
    """Three rows; where there is a vision encoder, two tiles in row 1 alone."""
    generator = torch.Generator().manual_seed(seed)
    tokens_BS = torch.randint(3, 96, (ROWS, LENGTH), generator=generator)
    vision = pair.config.vision
    if vision is None:
        return {"tokens_BS": tokens_BS}
    shape = (pair.config.patch_id, vision.tokens_per_tile, (0, 2, 0), vision.tile_side)
    tokens_BS, images = with_tiles(tokens_BS, *shape, seed=seed)
    return {"tokens_BS": tokens_BS, "images": torch.cat(images)}


@torch.no_grad()
def run(pair: Pair, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """One prefill of the reference, watched: hidden states, routing, logits."""
    layers = pair.reference.layers if isinstance(pair, MetaPair) else pair.text.layers
    watched: dict[str, tuple[nn.Module, bool]] = {"hidden.embedding": (layers[0], True)}
    watched |= {f"hidden.{index}": (layer, False) for index, layer in enumerate(layers)}
    feeds = {index: layer.feed_forward for index, layer in enumerate(layers) if pair.config.layers[index].ffn == "moe"}
    watched |= {
        f"routing.{index}": (feed, True) for index, feed in feeds.items()
    }  # what enters; the logits follow from it
    tokens_BS = tensors["tokens_BS"]
    images = None
    if "images" in tensors:
        images = [tensors["images"][:0], tensors["images"], tensors["images"][:0]]
    with recorded(watched) as seen:
        logits_BSV = pair.run_reference(tokens_BS, images)
    for index, feed in feeds.items():
        seen[f"routing.{index}"] = _router(feed)(seen[f"routing.{index}"]).argmax(-1)
    return {name: tensor.contiguous() for name, tensor in seen.items()} | {"logits_BSV": logits_BSV.contiguous()}


def _router(feed: nn.Module) -> Callable[[Tensor], Tensor]:
    """Router logits `[…, E]` of a reference's mixture of experts."""
    weight_DE = feed.router_DE if hasattr(feed, "router_DE") else feed.router.weight.T
    return lambda x_BSD: x_BSD @ weight_DE


def write_hf(folder: Path, config: dict[str, Any], reference: nn.Module) -> None:
    """`config.json` and `model.safetensors`."""
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    weights = {name: tensor.bfloat16().contiguous() for name, tensor in reference.state_dict().items()}
    if config.get("tie_word_embeddings"):
        del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def write_meta(folder: Path, args: dict[str, Any], reference: nn.Module) -> None:
    """`params.json` and `consolidated.00.pth`."""
    (folder / "params.json").write_text(json.dumps(args, indent=1) + "\n")
    weights = {name: tensor.bfloat16().clone() for name, tensor in reference.state_dict().items()}
    torch.save(weights, folder / "consolidated.00.pth")


if __name__ == "__main__":
    main()
