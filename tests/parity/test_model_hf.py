"""Whole models against transformers: text, random configurations, both attention implementations, cache and batches."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import drawn_configs
import pytest
import torch
from compare import assert_close
from pairs import HfPair, hf_pair
from torch import Tensor

pytest.importorskip("transformers")


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("seed", drawn_configs.SEEDS)
def test_text_logits(seed: int, attn: str) -> None:
    pair = hf_pair(drawn_configs.hf_text(seed), seed, attn)
    pair.assert_same(drawn_configs.prompt(seed, pair.config.vocab_size, pair.config.chunk, rows=2))


@pytest.mark.parametrize("seed", range(3))
def test_llama_guards_all_dense_form(seed: int) -> None:
    pair = hf_pair(drawn_configs.guard(seed), seed)
    assert {spec.ffn for spec in pair.config.layers} == {"dense"}
    assert {(spec.position, spec.span) for spec in pair.config.layers} == {("rope", "all"), ("nope", "all")}
    pair.assert_same(drawn_configs.prompt(seed, pair.config.vocab_size, None))


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("seed", range(4))
def test_cached_decode_across_chunk_boundaries(seed: int, attn: str) -> None:
    """Both programs on their own caches: a prefill that ends inside a chunk, a second piece, then token by token."""
    chunk = (5, 7, 8, 11)[seed]
    pair = hf_pair({**drawn_configs.hf_text(seed), "attention_chunk_size": chunk}, seed, attn)
    tokens_BS = drawn_configs.prompt(seed, pair.config.vocab_size, chunk, rows=2)
    length = tokens_BS.shape[1]
    cuts = [0, chunk - 2, chunk + 3, *range(chunk + 4, length + 1)]
    cache = pair.ours.new_cache(2, length)
    past = None
    for first, last in pairwise(cuts):
        piece_BS = tokens_BS[:, first:last]
        ours = pair.ours(piece_BS, cache=cache)
        step = pair.reference(input_ids=piece_BS, past_key_values=past, use_cache=True)
        past = step.past_key_values
        assert_close(ours, step.logits, f"logits of positions {first} to {last - 1}, chunk {chunk}")


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("seed", range(6))
def test_batches_of_unequal_length(seed: int, attn: str) -> None:
    """Ours padded on the right, transformers' on the left.

    Without temperature tuning: transformers counts the padding into its positions (docs/divergences.md).
    """
    config = {**drawn_configs.hf_text(seed), "attn_temperature_tuning": False, "attention_chunk_size": 7}
    pair = hf_pair(config, seed, attn)
    lengths = (23, 6, 7, 15)
    rows = drawn_configs.prompt(seed, pair.config.vocab_size, 23, rows=4)
    logits = pair.ours(_padded(rows, lengths, left=False), lengths_B=torch.tensor(lengths))
    mask_BS = _padded(torch.ones_like(rows), lengths, left=True)
    reference = _hf_batch(pair, _padded(rows, lengths, left=True), mask_BS)
    for row, length in enumerate(lengths):
        assert_close(logits[row, :length], reference[row, 23 - length :], f"row {row} of length {length}")


def test_a_failing_rung_names_the_layer() -> None:
    """One weight of layer 2 is moved: the message says layer 2, and that everything before it agrees."""
    config: dict[str, Any] = {**drawn_configs.hf_text(1), "num_hidden_layers": 4, "no_rope_layers": [1, 0, 1, 1]}
    config |= {"moe_layers": [2], "attention_chunk_size": 8}
    pair = hf_pair(config, seed=1)
    pair.ours.decoder.layers[2].attention.o.weight[0, 0] += 0.5
    tokens_BS = drawn_configs.prompt(1, pair.config.vocab_size, 8)
    with pytest.raises(AssertionError, match=r"decoder layer 2 \(rope, chunk, moe\) is the first to diverge"):
        pair.assert_same(tokens_BS)


def _padded(rows: Tensor, lengths: tuple[int, ...], left: bool) -> Tensor:
    """The first `lengths[b]` ids of every row, padded with zeros to the longest."""
    longest = max(lengths)
    sides = [(longest - length, 0) if left else (0, longest - length) for length in lengths]
    return torch.stack([torch.nn.functional.pad(rows[b, :length], sides[b]) for b, length in enumerate(lengths)])


def _hf_batch(pair: HfPair, tokens_BS: Tensor, mask_BS: Tensor) -> Tensor:
    return pair.reference(input_ids=tokens_BS, attention_mask=mask_BS, use_cache=False).logits
