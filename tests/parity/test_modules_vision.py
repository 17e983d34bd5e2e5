"""Modules of the vision encoder, one by one: attention with 2-D positions, MLP, adapter, the whole encoder, the projection."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compare import assert_close
from pairs import HfPair, MetaPair, hf_pair, meta_pair
from test_modules_text import HF, META
from torch import Tensor

from llama4 import rope

PATCHES, WIDTH = 36, 24
HF_VISION: dict[str, Any] = {
    "model_type": "llama4",
    "image_token_index": 100,
    "text_config": HF,
    "vision_config": {
        "model_type": "llama4_vision_model",
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": WIDTH * 4,
        "vision_output_dim": 20,
        "projector_input_dim": 20,
        "projector_output_dim": 20,
        "image_size": 42,
        "patch_size": 7,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
}
META_VISION: dict[str, Any] = {
    **META,
    "vision_args": {
        "image_size": {"height": 42, "width": 42},
        "patch_size": {"height": 7, "width": 7},
        "dim": WIDTH,
        "n_layers": 2,
        "n_heads": 3,
        "mlp_ratio": 3.0,
        "output_dim": 20,
        "pixel_shuffle_ratio": 0.5,
    },
}


def _hf(attn: str = "eager") -> HfPair:
    pytest.importorskip("transformers")
    return hf_pair(HF_VISION, seed=5, attn=attn)


def _meta() -> MetaPair:
    pytest.importorskip("llama_models")
    return meta_pair(META_VISION, seed=5)


def _drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(8))


def test_vision_attention_against_both() -> None:
    x_RPC = _drawn(3, PATCHES + 1, WIDTH)
    pair = _hf()
    turn = rope.vision_rotation(pair.config.vision)
    theirs, _ = pair.reference.vision_model.model.layers[0].self_attn(
        x_RPC, freqs_ci=pair.reference.vision_model.rotary_embedding(x_RPC)
    )
    assert_close(pair.ours.vision.layers[0].attention(x_RPC, turn), theirs, "against transformers")
    pair = _meta()
    encoder = pair.reference.vision_embeddings.vision_encoder
    theirs = encoder.transformer.resblocks[0].attn(x_RPC, 0, encoder.freq_cis)
    assert_close(pair.ours.vision.layers[0].attention(x_RPC, turn), theirs, "against Meta")


def test_vision_mlp_against_both() -> None:
    x_RPC = _drawn(3, PATCHES + 1, WIDTH)
    pair = _hf()
    assert_close(
        pair.ours.vision.layers[1].mlp(x_RPC), pair.reference.vision_model.model.layers[1].mlp(x_RPC), "transformers"
    )
    pair = _meta()
    theirs = pair.reference.vision_embeddings.vision_encoder.transformer.resblocks[1].mlp(x_RPC)
    assert_close(pair.ours.vision.layers[1].mlp(x_RPC), theirs, "Meta")


def test_adapter_and_projection_against_both() -> None:
    shuffled = _drawn(3, PATCHES // 4, WIDTH * 4)
    encoded = _drawn(3, PATCHES // 4, 20)
    pair = _hf()
    theirs = pair.reference.vision_model.vision_adapter.mlp(shuffled)
    assert_close(pair.ours.vision.adapter(shuffled), theirs, "transformers' adapter")
    assert_close(pair.ours.fusion.projection(encoded), pair.reference.multi_modal_projector(encoded), "projection")
    pair = _meta()
    theirs = pair.reference.vision_embeddings.vision_adapter.mlp(shuffled)
    assert_close(pair.ours.vision.adapter(shuffled), theirs, "Meta's adapter")
    assert_close(pair.ours.fusion.projection(encoded), pair.reference.vision_projection(encoded), "Meta's projection")


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_encoder_against_transformers(attn: str) -> None:
    pair, tiles = _hf(attn), _drawn(3, 3, 42, 42)
    theirs = pair.reference.vision_model(tiles).last_hidden_state
    assert_close(pair.ours.vision(tiles), theirs, "encoded tiles")


def test_encoder_against_meta() -> None:
    pair, tiles = _meta(), _drawn(3, 3, 42, 42)
    embeddings = pair.reference.vision_embeddings
    theirs = embeddings.vision_adapter(embeddings.vision_encoder(tiles[:, None]))
    assert_close(pair.ours.vision(tiles), theirs, "encoded tiles")
