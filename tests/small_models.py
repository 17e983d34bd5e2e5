"""Small models of this package for the unit tests, with drawn weights, and the one comparison that these tests use.

The sizes are odd on purpose: 6 query heads over 2, a head width of 10 that does not make up the model's 26, a chunk of 5 that
divides no prompt, 3 experts, a temperature whose floor of 3 positions makes it act from the third token on.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch
from random_weights import draw_weights
from torch import Tensor, nn

from llama4 import Config, Llama4
from llama4.config import LayerSpec, RopeScaling, Temperature, VisionConfig

sys.path.append(str(Path(__file__).parent / "parity"))
import compare
from tolerances import FP32, Tolerance

__all__ = ["FP32", "GRADIENT", "Tolerance", "assert_close", "drawn", "drawn_model", "random_tokens", "small_config"]

GRADIENT = Tolerance(
    5e-5, "a gradient passes every sum twice, and sums over all tokens besides: five times the forward's"
)

CHUNK = 5
ROPE_MOE = LayerSpec("rope", "chunk", "moe")
ROPE_DENSE = LayerSpec("rope", "chunk", "dense")
NOPE_MOE = LayerSpec("nope", "all", "moe")
NOPE_DENSE = LayerSpec("nope", "all", "dense")
ROPE_ALL = LayerSpec("rope", "all", "dense")  # Llama Guard 4's

VISION = VisionConfig(
    tile_side=12, patch_side=3, width=24, layers=2, heads=3, mlp_width=32, shuffle=2, adapter_width=20, rope_theta=100.0
)  # 4 x 4 patches, 4 tokens a tile


def small_config(vision: bool = False, **changes: Any) -> Config:
    """Three layers (RoPE+MoE, NoPE+dense, RoPE+dense) over a vocabulary of 61, the patch id being 60."""
    config = Config(
        vocab_size=61,
        width=26,
        layers=(ROPE_MOE, NOPE_DENSE, ROPE_DENSE),
        heads=6,
        kv_heads=2,
        head_width=10,
        experts=3,
        expert_width=18,
        dense_width=34,
        chunk=CHUNK,
        qk_norm=True,
        rope_theta=100.0,
        rope_scaling=RopeScaling(factor=4.0, original_context=40),
        temperature=Temperature(floor=3.0, scale=0.4),
        max_context=4096,
        vision=VISION if vision else None,
        patch_id=60,
    )
    return dataclasses.replace(config, **changes)


def assert_close(ours: Tensor, reference: Tensor, what: str, tolerance: Tolerance = FP32) -> None:
    """Fail, naming `what`, unless max|ours - reference| is within `tolerance` (fp32's: 1e-5 of max(1, max|reference|))."""
    compare.assert_close(ours.detach(), reference.detach(), what, tolerance)


def drawn(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with every parameter drawn (norms and biases too), in evaluation mode."""
    draw_weights(dict(module.named_parameters()), seed)
    return module.eval()


def drawn_model(config: Config, seed: int = 0) -> Llama4:
    """A model with drawn weights."""
    return drawn(Llama4(config), seed)


def random_tokens(batch: int, width: int, seed: int = 0, below: int = 60) -> Tensor:
    """int64 ids `[batch, width]` that do not contain the patch id."""
    return torch.randint(0, below, (batch, width), generator=torch.Generator().manual_seed(seed))
