"""A small language model in memory, with a vocabulary of 512 byte pairs and drawn weights: what the generation tests ask.

Four layers (two chunked with RoPE, two global without positions), experts in all, chunks of 13 that divide no prompt here, and a
vision encoder whose tile of 28 px becomes four tokens. `speak_only` and `script` put words into its mouth where a test must know
what comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image
from random_weights import draw_weights
from torch import Tensor

from llama4.config import Config, Temperature, VisionConfig, irope_layers
from llama4.generate import LLM
from llama4.model import Llama4
from llama4.tokenizer import Tokenizer

CHUNK = 13
VISION = VisionConfig(
    tile_side=28, patch_side=7, width=16, layers=1, heads=2, mlp_width=64, shuffle=2, adapter_width=12
)


@cache
def tiny_tokenizer() -> Tokenizer:
    """The tests' own tokenizer: 512 base tokens."""
    return Tokenizer.from_file(Path(__file__).parent / "tokenizer512" / "tokenizer.model")


def tiny_config(vision: bool = True, max_context: int = 600) -> Config:
    """The configuration of `tiny_llm`."""
    tokenizer = tiny_tokenizer()
    config = Config(
        vocab_size=tokenizer.vocab_size,
        width=32,
        layers=irope_layers(4, moe_every=1, nope_every=2),
        heads=4,
        kv_heads=2,
        head_width=8,
        experts=3,
        expert_width=24,
        dense_width=24,
        chunk=CHUNK,
        qk_norm=True,
        temperature=Temperature(floor=10, scale=0.2),
        max_context=max_context,
        patch_id=tokenizer.patch_id,
        bos_id=tokenizer.bos_id,
        stop_ids=tokenizer.stop_ids,
        vision=VISION,
    )
    return config if vision else replace(config, vision=None)


@cache
def tiny_llm(vision: bool = True, max_context: int = 600) -> LLM:
    """A model that says varied nonsense, the same on every call: tests must not change it (`script` undoes itself)."""
    model = Llama4(tiny_config(vision, max_context)).eval()
    draw_weights(dict(model.named_parameters()), seed=5)
    return LLM(model, tiny_tokenizer())


def picture(width: int = 50, height: int = 30, seed: int = 0) -> Image.Image:
    """Noise of the given size: 50 x 30 px become a grid of tiles and the whole image."""
    generator = torch.Generator().manual_seed(seed)
    pixels_YXC = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels_YXC.numpy())


def with_picture(text: str, seed: int = 0) -> list[dict]:
    """A user message of a picture and a text."""
    content = [{"type": "image", "image": picture(seed=seed)}, {"type": "text", "text": text}]
    return [{"role": "user", "content": content}]


def speak_only(monkeypatch: pytest.MonkeyPatch, llm: LLM, ids: Sequence[int]) -> None:
    """Let the model choose among `ids` only, by its own scores."""
    decoder = llm.model.decoder
    true_logits, allowed = decoder.logits, torch.tensor(sorted(ids))

    def logits(x_BSD: Tensor) -> Tensor:
        logits_BSV = true_logits(x_BSD)
        barred_BSV = torch.full_like(logits_BSV, -1e4)
        return barred_BSV.index_copy(2, allowed, logits_BSV.index_select(2, allowed))

    monkeypatch.setattr(decoder, "logits", logits)


def script(monkeypatch: pytest.MonkeyPatch, llm: LLM, *rows: Sequence[int]) -> None:
    """Let row b say `rows[b]`, token by token, then repeat its last token; for prompts that are read in one piece."""
    decoder = llm.model.decoder
    true_logits, calls = decoder.logits, []

    def logits(x_BSD: Tensor) -> Tensor:
        logits_BSV = torch.zeros_like(true_logits(x_BSD))
        for row, ids in enumerate(rows):
            logits_BSV[row, :, ids[min(len(calls), len(ids) - 1)]] = 50.0
        calls.append(None)
        return logits_BSV

    monkeypatch.setattr(decoder, "logits", logits)


def forward(llm: LLM, ids: Sequence[int], tiles: Tensor | None = None) -> Tensor:
    """Uncached logits `[S, V]` of one row; the patch id barred, as generation bars it."""
    with torch.no_grad():
        logits_SV = llm.model(torch.tensor([list(ids)]), images=tiles)[0]
    if llm.config.vision is not None:
        logits_SV[:, llm.config.patch_id] = float("-inf")
    return logits_SV
