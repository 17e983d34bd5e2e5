"""The full multimodal forward against transformers: vision encoder, adapter, projection, fusion, decoder."""

from __future__ import annotations

from itertools import pairwise

import drawn_configs
import pytest
import torch
from compare import assert_close
from pairs import hf_pair, tiled_prompt

pytest.importorskip("transformers")


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("seed", drawn_configs.SEEDS)
def test_logits_with_images(seed: int, attn: str) -> None:
    """Three rows with 2, 0 and 1 to 3 tiles: the rows' tiles must not be mixed up."""
    pair = hf_pair(drawn_configs.hf_multimodal(seed), seed, attn)
    tokens_BS = drawn_configs.prompt(seed, pair.config.vocab_size - 3, pair.config.chunk, rows=3)
    tokens_BS, images = tiled_prompt(pair, tokens_BS, (2, 0, 1 + seed % 3), seed)
    pair.assert_same(tokens_BS, images)


@pytest.mark.parametrize("seed", range(4))
def test_cached_decode_after_images(seed: int) -> None:
    """The tiles come in one piece in both; then text, token by token, across chunk boundaries."""
    config = drawn_configs.hf_multimodal(seed)
    chunk = config["text_config"]["attention_chunk_size"] = (5, 7, 8, 11)[seed]
    pair = hf_pair(config, seed)
    tokens_BS = drawn_configs.prompt(seed, pair.config.vocab_size - 3, chunk)
    tokens_BS, images = tiled_prompt(pair, tokens_BS, (2,), seed)
    pixels, patches = torch.cat(images), (tokens_BS[0] == pair.config.patch_id).nonzero().flatten()
    cuts = [0, int(patches[-1]) + 1, *range(int(patches[-1]) + 2, tokens_BS.shape[1] + 1)]
    cache, past = pair.ours.new_cache(1, tokens_BS.shape[1]), None
    for first, last in pairwise(cuts):
        piece_BS = tokens_BS[:, first:last]
        ours = pair.ours(piece_BS, images=pixels if first == 0 else None, cache=cache)
        tiles = {"pixel_values": pixels} if first == 0 else {}
        step = pair.reference(input_ids=piece_BS, past_key_values=past, use_cache=True, **tiles)
        past = step.past_key_values
        assert_close(ours, step.logits, f"logits of positions {first} to {last - 1}, chunk {chunk}")


@pytest.mark.parametrize("seed", range(3))
def test_pieces_between_tiles_equal_one_call(seed: int) -> None:
    """Ours on its cache, cut after each tile and inside each chunk, against transformers in one call."""
    pair = hf_pair(drawn_configs.hf_multimodal(seed), seed)
    tokens_BS = drawn_configs.prompt(seed, pair.config.vocab_size - 3, pair.config.chunk)
    tokens_BS, images = tiled_prompt(pair, tokens_BS, (3,), seed)
    reference = pair.run_reference(tokens_BS, images)
    side = pair.config.vision.tokens_per_tile
    cuts = [0, 2, 3 + side, 3 + 2 * side + 1, 3 + 3 * side + 2, tokens_BS.shape[1]]
    cache, used = pair.ours.new_cache(1, tokens_BS.shape[1]), 0
    for first, last in pairwise(cuts):
        piece_BS = tokens_BS[:, first:last]
        tiles = int((piece_BS == pair.config.patch_id).sum()) // side
        ours = pair.ours(piece_BS, images=images[0][used : used + tiles] if tiles else None, cache=cache)
        used += tiles
        assert_close(ours, reference[:, first:last], f"logits of positions {first} to {last - 1}")
    assert used == 3
