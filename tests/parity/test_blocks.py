"""Blocks: norm, attention, residual, norm, feed-forward, residual, for every kind of layer, text and vision."""

from __future__ import annotations

import pytest
import torch
from compare import assert_close
from pairs import hf_inputs, hf_pair, meta_inputs, meta_pair, step_of
from test_modules_text import HF, META
from test_modules_vision import HF_VISION, META_VISION

from llama4 import rope

KINDS = ["rope dense", "rope moe", "rope dense", "nope moe"]


@pytest.mark.parametrize("layer", range(4), ids=KINDS)
def test_decoder_block_against_transformers(layer: int) -> None:
    pytest.importorskip("transformers")
    pair = hf_pair(HF, seed=11, attn="eager")
    x_BSD = torch.randn(2, 23, 40, generator=torch.Generator().manual_seed(layer))
    theirs = pair.text.layers[layer](x_BSD, **hf_inputs(pair, x_BSD, layer))
    assert_close(pair.ours.decoder.layers[layer](x_BSD, step_of(x_BSD), None), theirs, f"block {layer}")


@pytest.mark.parametrize("layer", range(4), ids=KINDS)
def test_decoder_block_against_meta(layer: int) -> None:
    pytest.importorskip("llama_models")
    pair = meta_pair({**META, "use_qk_norm": True}, seed=11)
    x_BSD = torch.randn(2, 23, 84, generator=torch.Generator().manual_seed(layer))
    theirs = pair.reference.layers[layer](x_BSD, 0, *meta_inputs(pair, 23))
    assert_close(pair.ours.decoder.layers[layer](x_BSD, step_of(x_BSD), None), theirs, f"block {layer}")


def test_vision_block_against_both() -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("llama_models")
    x_RPC = torch.randn(3, 37, 24, generator=torch.Generator().manual_seed(0))
    pair = hf_pair(HF_VISION, seed=11)
    turn = rope.vision_rotation(pair.config.vision)
    encoder = pair.reference.vision_model
    theirs = encoder.model.layers[1](x_RPC, freqs_ci=encoder.rotary_embedding(x_RPC))[0]
    assert_close(pair.ours.vision.layers[1](x_RPC, turn), theirs, "against transformers")
    pair = meta_pair(META_VISION, seed=11)
    encoder = pair.reference.vision_embeddings.vision_encoder
    theirs = encoder.transformer.resblocks[1](x_RPC, freq_cis=encoder.freq_cis)
    assert_close(pair.ours.vision.layers[1](x_RPC, turn), theirs, "against Meta")
