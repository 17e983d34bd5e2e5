"""Write the checkpoint that ships inside the package: `python -m llama4.assets.make_tiny`.

Every idea of the architecture is in it, at about a million parameters: chunked RoPE layers with QK norm, a NoPE layer with
temperature, dense and MoE layers, a vision encoder with dynamic tiles, Hugging Face's file layout and the official special tokens
behind a vocabulary of 512 byte pairs. Its weights are drawn, not trained: it speaks nonsense, fluently and repeatably. The head's
rows of the special tokens are zero, so that the nonsense is made of letters.
"""

from __future__ import annotations

from pathlib import Path

import torch

from llama4.checkpoint import save_hf
from llama4.config import Config, RopeScaling, Temperature, VisionConfig, irope_layers
from llama4.model import Llama4, initialise
from llama4.tokenizer import Tokenizer

SEED = 20250405  # the day Llama 4 was released
STD = 0.08  # larger than `initialise`'s own, or a narrow model's attention would see no difference between tokens
TINY = Path(__file__).parent / "tiny"


def tiny_config(tokenizer: Tokenizer) -> Config:
    """Four layers: RoPE dense, RoPE MoE, RoPE dense, NoPE MoE. A chunk holds 256 positions, an image tile 16."""
    special = tokenizer.special_id
    return Config(
        vocab_size=tokenizer.vocab_size,
        width=96,
        layers=irope_layers(4, moe_every=2),
        heads=6,
        kv_heads=2,
        head_width=16,
        experts=4,
        expert_width=96,
        dense_width=192,
        chunk=256,
        qk_norm=True,
        rope_scaling=RopeScaling(),
        temperature=Temperature(floor=256.0, scale=0.1),
        max_context=4096,
        vision=VisionConfig(
            tile_side=112, patch_side=14, width=48, layers=2, heads=4, mlp_width=192, shuffle=2, adapter_width=96
        ),
        patch_id=tokenizer.patch_id,
        image_start_id=special("<|image_start|>"),
        image_end_id=special("<|image_end|>"),
        bos_id=tokenizer.bos_id,
        stop_ids=tuple(tokenizer.stop_ids),
        pad_id=tokenizer.pad_id,
    )


def main() -> None:
    """Draw the weights from `SEED` and write them in bfloat16 beside the tokenizer."""
    tokenizer = Tokenizer.from_file(TINY)
    model = Llama4(tiny_config(tokenizer))
    torch.manual_seed(SEED)
    initialise(model, STD)
    with torch.no_grad():
        model.decoder.head.weight[min(tokenizer.special_tokens.values()) :] = 0.0
    save_hf(model.to(torch.bfloat16), TINY)
    print(f"Wrote {sum(weight.numel() for weight in model.parameters()):,} parameters to {TINY}.")


if __name__ == "__main__":
    main()
