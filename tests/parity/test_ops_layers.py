"""Ops, norms and vision: RMS norm in fp32 and bf16, patch cutting, pixel shuffle; against both references."""

from __future__ import annotations

import pytest
import torch
from compare import assert_close
from tolerances import EXACT, QK_NORM_EPS

from llama4.config import VisionConfig
from llama4.layers import RMSNorm, rms_norm
from llama4.vision import VisionEncoder, pixel_shuffle

GENERATOR_SEED = 5


def _drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(GENERATOR_SEED))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_rms_norm_against_both(dtype: torch.dtype, eps: float) -> None:
    """In bf16 too, bit for bit: the rounding before the weight is where an implementation goes its own way."""
    pytest.importorskip("transformers")
    pytest.importorskip("llama_models")
    from llama_models.llama4.model import RMSNorm as MetaNorm
    from transformers.models.llama4.modeling_llama4 import Llama4TextRMSNorm

    x_BSD = (_drawn(2, 9, 33) * 0.05).to(dtype)  # small, so that eps counts
    weight_D = (0.5 + _drawn(33).abs()).to(dtype)
    results = []
    for norm in (RMSNorm(33, eps), MetaNorm(33, eps), Llama4TextRMSNorm(33, eps)):
        norm.weight.data = weight_D
        results.append(norm(x_BSD).float())
    tolerance = {} if dtype == torch.float32 else {"tolerance": EXACT}
    assert_close(results[0], results[1], "against Meta", **tolerance)
    assert_close(results[0], results[2], "against transformers", **tolerance)


def test_qk_norm_is_each_heads_own() -> None:
    pytest.importorskip("transformers")
    from transformers.models.llama4.modeling_llama4 import Llama4TextL2Norm

    q_BSHK = _drawn(2, 9, 3, 10) * torch.tensor([0.1, 1.0, 10.0])[:, None]
    ours = rms_norm(q_BSHK, 1e-5)
    assert_close(ours, Llama4TextL2Norm(1e-5)(q_BSHK), "against transformers")
    assert_close(ours.square().mean(-1), torch.ones(2, 9, 3), "mean square of a head", tolerance=QK_NORM_EPS)


def test_patches_are_cut_as_both_references_unfold_them() -> None:
    vision = VisionConfig(tile_side=42, patch_side=7, width=4, layers=1, heads=1, mlp_width=8, adapter_width=4)
    encoder = VisionEncoder(vision)
    tiles = _drawn(3, 3, 42, 42)
    encoder.patch_embedding.weight.data = _drawn(4, 3 * 49)
    encoder.class_embedding.data = _drawn(4)
    unfolded = torch.nn.Unfold(kernel_size=7, stride=7)(tiles).transpose(1, 2)  # what both references call
    ours = encoder.embed(tiles)
    assert_close(ours[:, :-1], unfolded @ encoder.patch_embedding.weight.T, "patches")
    assert_close(ours[:, -1], encoder.class_embedding.expand(3, -1), "the class token, last", EXACT)


@pytest.mark.parametrize("shuffle", [1, 2, 4])
def test_pixel_shuffle_moves_every_value_where_both_references_do(shuffle: int) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("llama_models")
    from llama_models.llama4.vision.embedding import PixelShuffle
    from transformers.models.llama4.modeling_llama4 import pixel_shuffle as hf_shuffle

    vision = VisionConfig(tile_side=8 * 14, width=12, heads=3, shuffle=shuffle)
    x_RPC = torch.arange(2 * 64 * 12.0).reshape(2, 64, 12)
    ours = pixel_shuffle(x_RPC, vision)
    assert_close(ours, hf_shuffle(x_RPC, 1 / shuffle), "against transformers", EXACT)
    assert_close(ours, PixelShuffle(1 / shuffle)(x_RPC), "against Meta", EXACT)
