"""Whole models against Meta's own code: one prefill from position 0, text and vision, random configurations.

Meta's decode and its continuations are not compared: its masks exist for a prefill from position 0 only (docs/divergences.md).
"""

from __future__ import annotations

import drawn_configs
import pytest
from pairs import meta_pair, tiled_prompt

pytest.importorskip("llama_models")


@pytest.mark.parametrize("seed", drawn_configs.SEEDS)
def test_text_logits(seed: int) -> None:
    pair = meta_pair(drawn_configs.meta(seed, vision=False), seed)
    pair.assert_same(drawn_configs.prompt(seed, pair.config.vocab_size, pair.config.chunk, rows=2))


@pytest.mark.parametrize("seed", drawn_configs.SEEDS)
def test_logits_with_images(seed: int) -> None:
    """Two rows, images in the first only: its tiles lie apart and cross chunk boundaries."""
    pair = meta_pair(drawn_configs.meta(seed), seed)
    tokens_BS = drawn_configs.prompt(seed, 2000, pair.config.chunk, rows=2)
    tokens_BS, images = tiled_prompt(pair, tokens_BS, (1 + seed % 3, 0), seed)
    pair.assert_same(tokens_BS, images)
