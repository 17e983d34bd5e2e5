"""transformers' Llama 4 on CPU in float32, with drawn weights (its own initialisation has norms of one, biases of zero).

model = hf_model(config, seed=0)                       # config: a config.json's contents, or a transformers config
logits_BSV = model(input_ids=tokens_BS).logits
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from random_weights import draw_weights

pytest.importorskip("transformers")


def hf_config(config: dict[str, Any] | Any) -> Any:
    """A `Llama4Config` or `Llama4TextConfig` from the contents of a `config.json`; a config object is given back as is."""
    from transformers import Llama4Config, Llama4TextConfig

    if not isinstance(config, dict):
        return config
    kind = Llama4TextConfig if config.get("model_type") == "llama4_text" else Llama4Config
    return kind.from_dict(copy.deepcopy(config))


def hf_model(config: dict[str, Any] | Any, seed: int | None = 0, attn: str = "sdpa") -> Any:
    """`Llama4ForConditionalGeneration` or, from a text config, `Llama4ForCausalLM`: float32, evaluation mode.

    attn: "sdpa" or "eager". Every parameter is drawn from `seed` (tied ones once); `seed=None` keeps their own.
    """
    from transformers import Llama4ForCausalLM, Llama4ForConditionalGeneration, Llama4TextConfig

    settings = hf_config(config)
    settings._attn_implementation = attn
    text_only = isinstance(settings, Llama4TextConfig)
    kind = Llama4ForCausalLM if text_only else Llama4ForConditionalGeneration
    model = kind._from_config(settings, dtype=torch.float32).eval()
    if seed is not None:
        draw_weights(dict(model.named_parameters()), seed)
    return model
