"""Ask a model many questions: in batches of equal length, each distinct tile encoded once.

A batch pads its rows to the longest and decodes until its slowest row is done, so questions are sorted by the length of
their prompt, then of the right answer, within a window; the window bounds the memory (256 pictures of 512 px are 17 tiles each,
200 MB). Greedy answers do not depend on the batch they were in, but for the rounding of bf16.

Fifteen languages ask about the same picture: `encoded_once` puts a memory in front of the vision encoder, from outside, and
takes it away again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from llama4.generate import LLM
from llama4.model import Llama4

WINDOW, ROWS = 256, 64
MAX_NEW_TOKENS = 64  # the longest name of the sixteen languages is shorter


@dataclass(frozen=True)
class Question:
    """One user message, the right answer to it, and how an answer is judged; it counts for one row of the table."""

    row: str
    content: list[dict[str, Any]]
    expected: str
    right: Callable[[str], bool]


def answers(
    llm: LLM, questions: Iterable[Question], total: int, label: str, max_new_tokens: int = MAX_NEW_TOKENS
) -> Iterator[tuple[Question, str]]:
    """Each question with the model's greedy answer, in the order of the questions."""
    questions = iter(questions)
    with tqdm(total=total, unit="answer", desc=label, delay=2, leave=False, disable=None) as bar:
        while window := list(islice(questions, WINDOW)):
            prompts = [llm.encode([{"role": "user", "content": question.content}]) for question in window]
            order = sorted(range(len(window)), key=lambda place: (len(prompts[place].ids), len(window[place].expected)))
            said: dict[int, str] = {}
            for first in range(0, len(order), ROWS):
                places = order[first : first + ROWS]
                batch = llm.generate_batch([prompts[place] for place in places], max_new_tokens=max_new_tokens)
                said |= dict(zip(places, batch, strict=True))
                bar.update(len(places))
            yield from ((question, said[place]) for place, question in enumerate(window))


class _Remembering(nn.Module):
    """The vision encoder with a memory: a tile that has been seen is not encoded again."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.seen: dict[bytes, Tensor] = {}

    def forward(self, tiles: Tensor) -> Tensor:
        keys = [blake2b(tile.cpu().numpy().tobytes(), digest_size=16).digest() for tile in tiles]
        fresh = {key: row for row, key in enumerate(keys) if key not in self.seen}
        if fresh:
            encoded = self.encoder(tiles[list(fresh.values())])
            self.seen |= dict(zip(fresh, encoded, strict=True))
        return torch.stack([self.seen[key] for key in keys])


@contextmanager
def encoded_once(model: Llama4) -> Iterator[None]:
    """Within the block, `model` encodes each distinct tile once; afterwards it is as it was."""
    encoder = getattr(model, "vision", None)
    if encoder is None:
        yield
        return
    model.vision = _Remembering(encoder)
    try:
        yield
    finally:
        model.vision = encoder
