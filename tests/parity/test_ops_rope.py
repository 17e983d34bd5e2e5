"""Ops, RoPE: frequencies, scaling, the pairing of neighbours, 2-D positions; against both references."""

from __future__ import annotations

import pytest
import torch
from compare import assert_close
from tolerances import EXACT
from torch import Tensor

from llama4 import rope
from llama4.attention import Rotary
from llama4.cache import Step
from llama4.config import Config, LayerSpec, RopeScaling, VisionConfig

SCALINGS = [
    None,
    RopeScaling(16.0, 1.0, 1.0, 8192),  # Scout: no band between slow and fast
    RopeScaling(8.0, 1.0, 4.0, 8192),  # Llama 3: a blended band
    RopeScaling(3.5, 0.5, 7.0, 60),
]


def _turned(angles_SK: Tensor) -> tuple[Tensor, Tensor]:
    return angles_SK.cos()[:, None], angles_SK.sin()[:, None]


@pytest.mark.parametrize("scaling", SCALINGS, ids=str)
@pytest.mark.parametrize(("head_width", "theta"), [(128, 500000.0), (22, 37.0)])
def test_frequencies_against_transformers(head_width: int, theta: float, scaling: RopeScaling | None) -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama4.modeling_llama4 import Llama4TextRotaryEmbedding

    parameters = {"rope_type": "default", "rope_theta": theta}
    if scaling is not None:
        parameters |= {"rope_type": "llama3", "factor": scaling.factor, "low_freq_factor": scaling.low_freq_factor}
        parameters |= {"high_freq_factor": scaling.high_freq_factor}
        parameters |= {"original_max_position_embeddings": scaling.original_context}
    config = transformers.Llama4TextConfig(head_dim=head_width, rope_parameters=parameters)
    theirs = Llama4TextRotaryEmbedding(config).inv_freq
    ours = rope.frequencies(head_width, theta, scaling)
    assert_close(ours / theirs, torch.ones_like(theirs), "frequencies, as a ratio")


@pytest.mark.parametrize("scaling", SCALINGS[:3], ids=str)  # Meta fixes low_freq_factor 1 and the original length 8192
def test_frequencies_against_meta(scaling: RopeScaling | None) -> None:
    pytest.importorskip("llama_models")
    from llama_models.llama4.model import precompute_freqs_cis

    factors = (True, scaling.factor, scaling.high_freq_factor) if scaling else (False, 1.0, 1.0)
    theirs = precompute_freqs_cis(128, 50, 500000.0, *factors)
    cos, sin = rope.rotation(torch.arange(50), rope.frequencies(128, 500000.0, scaling))
    assert_close(cos[:, 0], theirs.real, "cosines")
    assert_close(sin[:, 0], theirs.imag, "sines")


def test_scaling_slows_the_slow_pairs_only() -> None:
    """Scout: pairs 0 to 34 take under 8192 tokens for a turn and stay, pairs 35 to 63 are slowed 16 times."""
    ratio = rope.frequencies(128, 500000.0, None) / rope.frequencies(128, 500000.0, RopeScaling())
    assert ratio.tolist() == [1.0] * 35 + [16.0] * 29


def test_rotation_turns_neighbouring_pairs_as_both_references_do() -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("llama_models")
    from llama_models.llama4.model import apply_rotary_emb as meta_rotate
    from transformers.models.llama4.modeling_llama4 import apply_rotary_emb as hf_rotate

    generator = torch.Generator().manual_seed(0)
    q_BSHK = torch.randn(2, 17, 3, 10, generator=generator)
    k_BSGK = torch.randn(2, 17, 1, 10, generator=generator)
    angles_SK = torch.arange(17)[:, None] * rope.frequencies(10, 50.0, None)
    complex_SK = torch.polar(torch.ones_like(angles_SK), angles_SK)
    ours = [rope.rotate(x, _turned(angles_SK)) for x in (q_BSHK, k_BSGK)]
    for name, mine, theirs in zip("qk", ours, meta_rotate(q_BSHK, k_BSGK, complex_SK), strict=True):
        assert_close(mine, theirs, f"{name} against Meta")
    for name, mine, theirs in zip("qk", ours, hf_rotate(q_BSHK, k_BSGK, complex_SK.expand(2, -1, -1)), strict=True):
        assert_close(mine, theirs, f"{name} against transformers")


def test_a_position_inside_the_chunk_gives_the_scores_of_the_absolute_position() -> None:
    """Chunk 13, positions 26 to 38: q . k depends on the difference alone, so both ways agree within a chunk."""
    config = Config(
        vocab_size=10,
        width=16,
        layers=(LayerSpec("rope", "chunk", "dense"),),
        heads=2,
        kv_heads=2,
        head_width=8,
        experts=0,
        expert_width=0,
        dense_width=8,
        chunk=13,
        qk_norm=False,
        rope_theta=50.0,
    )
    generator = torch.Generator().manual_seed(0)
    q_BSHK, k_BSHK = (torch.randn(1, 13, 2, 8, generator=generator) for _ in "qk")
    turned = Rotary(config, config.layers[0])(q_BSHK, k_BSHK, Step((26,), (13,), 13, q_BSHK.device))
    angles_SK = torch.arange(26, 39)[:, None] * rope.frequencies(8, 50.0, None)
    absolute = [rope.rotate(x, _turned(angles_SK)) for x in (q_BSHK, k_BSHK)]
    scores = [torch.einsum("bshk,bthk->bhst", *pair) for pair in (turned, absolute)]
    assert_close(*scores, "scores")


@pytest.mark.parametrize(("grid", "heads", "width"), [(24, 16, 1408), (5, 3, 36)])
def test_vision_rotation(grid: int, heads: int, width: int) -> None:
    """Columns turn the first half of the pairs, rows the second, both counted from 1; the class token stays."""
    pytest.importorskip("transformers")
    from transformers.models.llama4.configuration_llama4 import Llama4VisionConfig
    from transformers.models.llama4.modeling_llama4 import Llama4VisionRotaryEmbedding

    ours = VisionConfig(tile_side=grid * 14, width=width, heads=heads, shuffle=1)
    cos, sin = rope.vision_rotation(ours)
    rope_parameters = {"rope_type": "default", "rope_theta": 10000.0}
    theirs = Llama4VisionRotaryEmbedding(
        Llama4VisionConfig(
            hidden_size=width,
            num_attention_heads=heads,
            image_size=grid * 14,
            patch_size=14,
            rope_parameters=rope_parameters,
        )
    ).freqs_ci
    assert_close(cos, theirs.real, "cosines")
    assert_close(sin, theirs.imag, "sines")
    assert_close(cos[-1], torch.ones_like(cos[-1]), "the class token's cosine", EXACT)
