"""Ops, attention: who sees whom, the grouping of heads, the softmax; against both references. Masks must be exact."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from compare import assert_close
from einops import rearrange

from llama4 import masks
from llama4.attention import Everything, WithinChunk, temperature_scale
from llama4.config import Temperature

LENGTH = 29


def _positions() -> torch.Tensor:
    return torch.arange(LENGTH)[None]


@pytest.mark.parametrize("chunk", [1, 4, 7, 28, 29, 64])
def test_chunk_mask_against_meta(chunk: int) -> None:
    pytest.importorskip("llama_models")
    from llama_models.llama4.model import create_chunked_attention_mask

    theirs = create_chunked_attention_mask(LENGTH, chunk, torch.device("cpu"))
    assert torch.equal(masks.chunked(_positions(), _positions(), chunk)[0], theirs)


@pytest.mark.parametrize("chunk", [1, 4, 7, 28, 64])
def test_masks_against_transformers(chunk: int) -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.masking_utils import create_causal_mask, create_chunked_causal_mask

    config = transformers.Llama4TextConfig(attention_chunk_size=chunk, hidden_size=8)
    config._attn_implementation = "eager"
    settings = {"config": config, "inputs_embeds": torch.zeros(1, LENGTH, 8), "attention_mask": None}
    settings |= {"past_key_values": None, "position_ids": _positions()}
    ours = masks.chunked(_positions(), _positions(), chunk)
    assert torch.equal(ours, create_chunked_causal_mask(**settings)[:, 0] == 0)
    assert torch.equal(masks.causal(_positions(), _positions()), create_causal_mask(**settings)[:, 0] == 0)


@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 2), (5, 5), (7, 1)])
@pytest.mark.parametrize("chunk", [None, 7, 10, 29, 40])
def test_attention_of_a_fresh_prompt(heads: int, kv_heads: int, chunk: int | None) -> None:
    """Folded chunks and shared key/value heads against transformers' eager attention under the mask's definition."""
    pytest.importorskip("transformers")
    from transformers.models.llama4.modeling_llama4 import eager_attention_forward

    generator = torch.Generator().manual_seed(heads)
    q_BSHK = torch.randn(2, LENGTH, heads, 6, generator=generator)
    k_BSGK, v_BSGK = (2 * torch.randn(2, LENGTH, kv_heads, 6, generator=generator) for _ in "kv")
    seen = masks.causal(_positions(), _positions()) if chunk is None else masks.chunked(*2 * (_positions(),), chunk)
    reach = Everything(LENGTH) if chunk is None else WithinChunk(chunk)
    module = SimpleNamespace(num_key_value_groups=heads // kv_heads, training=False)
    bias = torch.zeros(1, 1, LENGTH, LENGTH).masked_fill(~seen[:, None], -math.inf)
    headed = [rearrange(x, "b s h k -> b h s k") for x in (q_BSHK, k_BSGK, v_BSGK)]
    theirs, _ = eager_attention_forward(module, *headed, bias, scaling=6**-0.5)
    assert_close(reach.fresh(q_BSHK, k_BSGK, v_BSGK), theirs, f"attention, chunk {chunk}")


def test_temperature_follows_its_formula_at_the_edges() -> None:
    """The scale is exactly 1 through position 8190 and steps at every multiple of the floor, less one."""
    positions = torch.tensor([[0, 8190, 8191, 16382, 16383, 10_485_759]])
    expected = [1.0 + 0.1 * math.log(1 + (position + 1) // 8192) for position in positions[0].tolist()]
    assert_close(temperature_scale(positions, Temperature())[0], torch.tensor(expected), "temperature")
    assert expected[1] == 1.0 < expected[2] == expected[3] < expected[4]
