"""Modules of the decoder, one by one, on drawn inputs: attention of both kinds, dense feed-forward, mixture of experts.

The weights come from a whole pair, so each module is tested with the values that the name tables bring it.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compare import assert_close
from pairs import HfPair, MetaPair, hf_inputs, hf_pair, meta_inputs, meta_pair, step_of
from torch import Tensor

LENGTH, CHUNK = 23, 7
HF: dict[str, Any] = {
    "model_type": "llama4_text",
    "vocab_size": 101,
    "hidden_size": 40,
    "intermediate_size": 36,
    "intermediate_size_mlp": 52,
    "num_hidden_layers": 4,  # rope dense, rope moe, rope dense, nope moe
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "num_local_experts": 5,
    "interleave_moe_layer_step": 2,
    "attention_chunk_size": CHUNK,
    "floor_scale": 5,
    "attn_scale": 0.3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
}
META: dict[str, Any] = {
    "dim": 84,
    "n_layers": 4,
    "n_heads": 7,
    "n_kv_heads": 1,
    "vocab_size": 2100,
    "multiple_of": 4,
    "ffn_dim_multiplier": 1.2,
    "ffn_exp": 4.0,
    "rope_theta": 500.0,
    "nope_layer_interval": 4,
    "attention_chunk_size": CHUNK,
    "attn_temperature_tuning": True,
    "floor_scale": 5,
    "attn_scale": 0.3,
    "moe_args": {"num_experts": 5, "interleave_moe_layer_step": 2},
}


def _hf(qk_norm: bool = True) -> HfPair:
    pytest.importorskip("transformers")
    return hf_pair({**HF, "use_qk_norm": qk_norm}, seed=3, attn="eager")


def _meta(qk_norm: bool = True) -> MetaPair:
    pytest.importorskip("llama_models")
    return meta_pair({**META, "use_qk_norm": qk_norm}, seed=3)


def _hidden(width: int) -> Tensor:
    return torch.randn(2, LENGTH, width, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("qk_norm", [True, False], ids=["qk norm", "no qk norm"])
@pytest.mark.parametrize("layer", [0, 3], ids=["rope", "nope"])
def test_attention_against_transformers(layer: int, qk_norm: bool) -> None:
    pair, x_BSD = _hf(qk_norm), _hidden(40)
    theirs, _ = pair.text.layers[layer].self_attn(x_BSD, **hf_inputs(pair, x_BSD, layer))
    ours = pair.ours.decoder.layers[layer].attention(x_BSD, step_of(x_BSD), None)
    assert_close(ours, theirs, "attention")


@pytest.mark.parametrize("qk_norm", [True, False], ids=["qk norm", "no qk norm"])
@pytest.mark.parametrize("layer", [0, 3], ids=["rope", "nope"])
def test_attention_against_meta(layer: int, qk_norm: bool) -> None:
    pair, x_BSD = _meta(qk_norm), _hidden(84)
    freqs, causal, chunked = meta_inputs(pair, LENGTH)
    mask = causal if pair.reference.layers[layer].is_nope_layer else chunked
    theirs = pair.reference.layers[layer].attention(x_BSD, 0, freqs, mask)
    ours = pair.ours.decoder.layers[layer].attention(x_BSD, step_of(x_BSD), None)
    assert_close(ours, theirs, "attention")


@pytest.mark.parametrize("layer", [0, 1], ids=["dense", "moe"])
def test_feed_forward_against_transformers(layer: int) -> None:
    pair, x_BSD = _hf(), _hidden(40)
    theirs = pair.text.layers[layer].feed_forward(x_BSD)
    theirs = theirs[0].reshape(x_BSD.shape) if layer == 1 else theirs
    assert_close(pair.ours.decoder.layers[layer].ffn(x_BSD), theirs, "feed-forward")


@pytest.mark.parametrize("layer", [0, 1], ids=["dense", "moe"])
def test_feed_forward_against_meta(layer: int) -> None:
    pair, x_BSD = _meta(), _hidden(84)
    theirs = pair.reference.layers[layer].feed_forward(x_BSD)
    assert_close(pair.ours.decoder.layers[layer].ffn(x_BSD), theirs, "feed-forward")


def test_routing_is_exact_against_transformers() -> None:
    """The same expert for every token, out of five that are all used."""
    pair, x_BSD = _hf(), _hidden(40)
    _, logits_NE = pair.text.layers[1].feed_forward(x_BSD)
    expert_N, _ = pair.ours.decoder.layers[1].ffn.route(x_BSD.flatten(0, 1))
    assert torch.equal(expert_N, logits_NE.argmax(-1))
    assert len(set(expert_N.tolist())) == 5
