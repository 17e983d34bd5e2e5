"""Prefill and decode: run a batch of prompts through the model, then one token a row at a time.

A long prompt goes in pieces of at most `PIECE` tokens, cut between tiles, never inside one. Rows are independent: each has its
own position in the cache, so in one call a row may take a whole piece, another its last three tokens and a third nothing.

Ids that a model must not say are barred: `<|patch|>` stands for pixels, and a model that writes cannot supply them.

Logits come to the CPU, once a step for all rows: choosing looks at them several times, and each look would wait for a device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor
from tqdm import tqdm

from llama4.cache import KVCache
from llama4.chat import Prompt
from llama4.errors import InputError
from llama4.graph import Feed, Plain
from llama4.model import Llama4

PIECE = 4096


@dataclass(frozen=True)
class Piece:
    """Columns `first` to `last - 1` of a prompt, and the tiles `tiles_first` to `tiles_last - 1` that lie in them."""

    first: int
    last: int
    tiles_first: int
    tiles_last: int


def cut(prompt: Prompt, patch_id: int, tokens_per_tile: int, size: int = PIECE) -> list[Piece]:
    """Cut a prompt into pieces of at most `size` tokens (or one tile, if that is longer), never inside a tile's tokens.

    Worked example: size 10, two tokens of text, a tile of 9, three of text: pieces [0, 2), [2, 12), [12, 14).
    """
    patches = [0]  # patches[i]: patch ids among the first i tokens
    for token in prompt.ids:
        patches.append(patches[-1] + (token == patch_id))
    pieces, first = [], 0
    while first < len(prompt.ids):
        last = min(first + size, len(prompt.ids))
        end = last
        while last > first and patches[last] % tokens_per_tile:
            last -= 1
        if last == first:  # a tile longer than a piece: take it whole
            last = end
            while patches[last] % tokens_per_tile:
                last += 1
        pieces.append(Piece(first, last, patches[first] // tokens_per_tile, patches[last] // tokens_per_tile))
        first = last
    return pieces


def check_budget(max_new_tokens: int) -> None:
    """Raise InputError unless at least one token is asked for."""
    if not isinstance(max_new_tokens, Integral) or max_new_tokens < 1:
        raise InputError(f"max_new_tokens is {max_new_tokens!r}: ask for a whole number from 1.")


def check_prompt(prompt: Prompt, model: Llama4, max_new_tokens: int) -> None:
    """Raise InputError for a prompt that this model cannot take."""
    config = model.config
    if not prompt.ids:
        raise InputError("The prompt is empty: give at least one token of text.")
    wrong = next((token for token in prompt.ids if not 0 <= token < config.vocab_size), None)
    if wrong is not None:
        raise InputError(
            f"The prompt has token id {wrong}, outside the vocabulary of {config.vocab_size}: "
            "use the tokenizer that belongs to this checkpoint."
        )
    check_budget(max_new_tokens)
    if len(prompt.ids) + max_new_tokens > config.max_context:
        raise InputError(
            f"The prompt's {len(prompt.ids)} tokens and {max_new_tokens} new ones exceed the context of "
            f"{config.max_context}: shorten the prompt or lower max_new_tokens."
        )
    _check_tiles(prompt, model)


def _check_tiles(prompt: Prompt, model: Llama4) -> None:
    tiles = 0 if prompt.tiles is None else len(prompt.tiles)
    if model.config.vision is None:
        if tiles:
            raise InputError("This model has no vision encoder: leave out the images or load a multimodal checkpoint.")
        return
    patches = prompt.ids.count(model.config.patch_id)
    if patches != tiles * model.config.vision.tokens_per_tile:
        raise InputError(
            f"The prompt has {patches} <|patch|> tokens and {tiles} tiles of {model.config.vision.tokens_per_tile} tokens "
            "each: encode images and text together with llama4.chat.encode."
        )


@torch.inference_mode()
def prefill(model: Llama4, cache: KVCache, prompts: list[Prompt], size: int = PIECE, progress: bool = False) -> Tensor:
    """Feed prompts, one a row, into `cache`; returns the logits after each row's last token, float32 `[B, V]`, CPU."""
    vision = model.config.vision
    per_tile = 1 if vision is None else vision.tokens_per_tile  # without vision a prompt may be cut anywhere
    plans = [cut(prompt, model.config.patch_id, per_tile, size) for prompt in prompts]
    total = sum(len(prompt.ids) for prompt in prompts)
    logits_BV = None
    with tqdm(total=total, unit="tok", desc="reading", delay=2, leave=False, disable=None if progress else True) as bar:
        for turn in range(max(len(plan) for plan in plans)):
            pieces = [plan[turn] if turn < len(plan) else None for plan in plans]
            now_BV = _feed(model, cache, prompts, pieces)
            took_B = torch.tensor([piece is not None for piece in pieces], device=now_BV.device)
            logits_BV = now_BV if logits_BV is None else torch.where(took_B[:, None], now_BV, logits_BV)
            bar.update(sum(piece.last - piece.first for piece in pieces if piece is not None))
    return _sayable(model, logits_BV)


def _feed(model: Llama4, cache: KVCache, prompts: list[Prompt], pieces: list[Piece | None]) -> Tensor:
    spans = [(0, 0) if piece is None else (piece.first, piece.last) for piece in pieces]
    counts = [last - first for first, last in spans]
    tokens_BS = torch.zeros(len(prompts), max(counts), dtype=torch.int64)
    for row, (prompt, (first, last)) in enumerate(zip(prompts, spans, strict=True)):
        tokens_BS[row, : last - first] = torch.tensor(prompt.ids[first:last])
    tiles = [
        prompt.tiles[piece.tiles_first : piece.tiles_last]
        for prompt, piece in zip(prompts, pieces, strict=True)
        if piece is not None and prompt.tiles is not None and piece.tiles_last > piece.tiles_first
    ]
    device = cache.device
    images = torch.cat(tiles).to(device) if tiles else None
    lengths_B = None if len(set(counts)) == 1 else torch.tensor(counts)
    return model(tokens_BS.to(device), images=images, cache=cache, lengths_B=lengths_B, logits="last")[:, 0]


@torch.inference_mode()
def decode(
    model: Llama4,
    cache: KVCache,
    logits_BV: Tensor,
    budget: int,
    choose: Callable[[int, Tensor], int | None],
    feed: Feed | None = None,
) -> Iterator[list[int | None]]:
    """Yield each row's next token, `None` once it is done, until all are or `budget` tokens are out.

    `choose(row, logits_V)` returns the row's next token, or None to end the row; it is not asked again.
    `feed`, made for this model and cache, runs the steps; plain forward calls do without one (graph.py).
    The token of the last round is chosen but not fed to the model.
    """
    feed = feed or Plain(model, cache)
    alive = [True] * len(logits_BV)
    for turn in range(budget):
        tokens = [choose(row, logits_BV[row]) if alive[row] else None for row in range(len(alive))]
        alive = [token is not None for token in tokens]
        if not any(alive):
            return
        yield tokens
        if turn + 1 < budget:
            logits_BV = _sayable(model, feed(tokens))


def _sayable(model: Llama4, logits_BV: Tensor) -> Tensor:
    logits_BV = logits_BV.cpu()
    if model.config.vision is None:
        return logits_BV
    return logits_BV.index_fill(1, torch.tensor([model.config.patch_id]), float("-inf"))
