"""Meta's own `generate` loop (`llama_models.llama4.generation.Llama4`) on a plain CPU, for what it does to a batch.

The loop asks for CUDA tensors by name and needs a tokenizer for nothing but three ids. Both are stood in for here; the model,
the batching and the image handling are Meta's.
"""

from __future__ import annotations

import types
from typing import Any
from unittest import mock

import pytest
import torch
from torchvision_stand_in import install

PAD = 1


def meta_prompt_logits(model: Any, prompts: list[list[int]], images: list[torch.Tensor], patch_id: int) -> torch.Tensor:
    """Run one batch through Meta's loop; the logits of the step that ends the longest prompt: `[B, V]`.

    images: per row its tiles `[R, 3, side, side]`, R = 0 for a row of text.
    """
    generation = _import_generation()
    loop = object.__new__(generation.Llama4)
    loop.model, loop.args = model, model.args
    loop.tokenizer = types.SimpleNamespace(
        pad_id=PAD, stop_tokens=[0], special_tokens={"<|patch|>": patch_id}, decode=lambda ids: ""
    )
    inputs = [
        types.SimpleNamespace(tokens=tokens, images=[tiles] if len(tiles) else [])
        for tokens, tiles in zip(prompts, images, strict=True)
    ]
    longest, seen = max(map(len, prompts)), []

    def keep(tokens_BS: torch.Tensor, logits_BSV: torch.Tensor) -> torch.Tensor:
        if tokens_BS.shape[1] == longest:
            seen.append(logits_BSV[:, -1].clone())
        return logits_BSV

    with mock.patch.object(generation, "torch", _OnCpu()):
        for _ in loop.generate(inputs, temperature=0.0, max_gen_len=2, logits_processor=keep):
            if seen:
                return seen[0]
    raise AssertionError("Meta's loop ended before the longest prompt did")


class _OnCpu:
    """torch, with `device="cuda"` left out of the two constructors that the loop calls."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def full(self, *args: Any, device: str, **kwargs: Any) -> torch.Tensor:
        return torch.full(*args, **kwargs)

    def tensor(self, *args: Any, device: str, **kwargs: Any) -> torch.Tensor:
        return torch.tensor(*args, **kwargs)


def _import_generation() -> Any:
    """Import the module without its side effect: it tells torch to trust two classes in every pickle from then on."""
    install()
    trusted = torch.serialization.get_safe_globals()
    try:
        return pytest.importorskip("llama_models.llama4.generation")
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(trusted)
