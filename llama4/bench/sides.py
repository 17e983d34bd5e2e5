"""The two programs that a benchmark runs, behind one interface: this one, and Hugging Face's transformers.

Both do the same work: read one checkpoint folder, prefill a prompt into a cache and score its last position, decode given ids
one at a time. No sampling, no tokenizer, no text: those cost either side the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from llama4 import checkpoint
from llama4.errors import InputError
from llama4.parity.recording import load_transformers


class Side(Protocol):
    """What a benchmark asks of a program. `model` and `cache` are its own objects."""

    def load(self, folder: Path, dtype: torch.dtype) -> nn.Module:
        """The model of a checkpoint folder, on the CPU."""

    def logits(self, model: Any, tokens_BS: Tensor) -> Tensor:
        """float32 `[B, S, V]`, without a cache."""

    def prefill(self, model: Any, tokens_BS: Tensor, room: int) -> tuple[Tensor, Any]:
        """Scores `[B, 1, V]` of the last position, and a cache that holds the prompt and has room for `room` tokens in all."""

    def decode(self, model: Any, token_B1: Tensor, cache: Any) -> Tensor:
        """Scores `[B, 1, V]` after one more token."""


class Ours:
    """This package."""

    def load(self, folder: Path, dtype: torch.dtype) -> nn.Module:
        return checkpoint.load_model(folder, device="cpu", dtype=dtype)

    def logits(self, model: Any, tokens_BS: Tensor) -> Tensor:
        return model(tokens_BS)

    def prefill(self, model: Any, tokens_BS: Tensor, room: int) -> tuple[Tensor, Any]:
        cache = model.new_cache(tokens_BS.shape[0], room)
        return model(tokens_BS, cache=cache, logits="last"), cache

    def decode(self, model: Any, token_B1: Tensor, cache: Any) -> Tensor:
        return model(token_B1, cache=cache, logits="last")


class Transformers:
    """Hugging Face's implementation; `attention` is its "eager" (plain matmul and softmax) or "sdpa" (torch's fused kernel)."""

    def __init__(self, attention: str = "eager") -> None:
        self.attention = attention

    def load(self, folder: Path, dtype: torch.dtype) -> nn.Module:
        return load_transformers(folder, dtype, self.attention)

    def logits(self, model: Any, tokens_BS: Tensor) -> Tensor:
        return model(input_ids=tokens_BS, use_cache=False).logits.float()

    def prefill(self, model: Any, tokens_BS: Tensor, room: int) -> tuple[Tensor, Any]:
        out = model(input_ids=tokens_BS, use_cache=True, logits_to_keep=1)
        return out.logits.float(), out.past_key_values

    def decode(self, model: Any, token_B1: Tensor, cache: Any) -> Tensor:
        out = model(input_ids=token_B1, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return out.logits.float()


def side(name: str) -> Side:
    """ "llama4", "transformers" or "transformers-sdpa"."""
    sides = {"llama4": Ours(), "transformers": Transformers("eager"), "transformers-sdpa": Transformers("sdpa")}
    if name not in sides:
        raise InputError(f"There is nothing called {name!r} to measure: choose one of {', '.join(sides)}.")
    return sides[name]
