"""The drawn configurations cover what they are drawn for. A change of the drawing that loses a case fails here."""

from __future__ import annotations

import drawn_configs
import pytest

from llama4 import Config
from llama4.config_io.hf import from_hf
from llama4.config_io.meta import from_meta

SOURCES = {
    "transformers, text": lambda seed: from_hf(drawn_configs.hf_text(seed)),
    "transformers, multimodal": lambda seed: from_hf(drawn_configs.hf_multimodal(seed)),
    "Meta": lambda seed: from_meta(drawn_configs.meta(seed)),
}


def _irregular(config: Config) -> bool:
    nope = [index for index, spec in enumerate(config.layers) if spec.position == "nope"]
    return nope != [index for index in range(len(config.layers)) if index % 4 == 3]


CASES = {
    "an odd head ratio": lambda c: (c.heads // c.kv_heads) % 2 == 1 and c.heads > c.kv_heads,
    "one key/value head a query head": lambda c: c.heads == c.kv_heads,
    "dense and MoE layers together": lambda c: len({spec.ffn for spec in c.layers}) == 2,
    "a single expert": lambda c: c.experts == 1 and any(spec.ffn == "moe" for spec in c.layers),
    "five experts or more": lambda c: c.experts >= 5 and any(spec.ffn == "moe" for spec in c.layers),
    "QK norm": lambda c: c.qk_norm,
    "no QK norm": lambda c: not c.qk_norm,
    "RoPE scaling": lambda c: c.rope_scaling is not None,
    "RoPE scaling with a blended band": lambda c: (
        c.rope_scaling is not None and c.rope_scaling.low_freq_factor < c.rope_scaling.high_freq_factor
    ),
    "RoPE scaling without a band": lambda c: (
        c.rope_scaling is not None and c.rope_scaling.low_freq_factor == c.rope_scaling.high_freq_factor
    ),
    "no RoPE scaling": lambda c: c.rope_scaling is None,
    "temperature on a NoPE layer": lambda c: c.temperature is not None and any(s.position == "nope" for s in c.layers),
    "NoPE not at every fourth layer": _irregular,
    "no chunk at all": lambda c: c.chunk is None,
    "tied embeddings": lambda c: c.tied_embeddings,
    "heads that do not make up the width": lambda c: c.heads * c.head_width != c.width,
}
NOT_IN_METAS_LAYOUT = {"tied embeddings", "heads that do not make up the width"}


@pytest.mark.parametrize("source", SOURCES)
def test_every_case_is_drawn(source: str) -> None:
    configs = [SOURCES[source](seed) for seed in drawn_configs.SEEDS]
    missing = {case for case, holds in CASES.items() if not any(map(holds, configs))}
    assert missing <= (NOT_IN_METAS_LAYOUT if source == "Meta" else set())


def test_no_prompt_is_a_multiple_of_its_chunk() -> None:
    for seed in drawn_configs.SEEDS:
        chunk = SOURCES["transformers, text"](seed).chunk
        length = drawn_configs.prompt(seed, 90, chunk).shape[1]
        assert chunk is None or (length > 2 * chunk and length % chunk)
