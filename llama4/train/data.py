"""Batches: conversations drawn, rendered, tokenised, sorted by length and cut into parts.

A batch depends on the seed and its number alone, so a run that was stopped goes on with the batch that it would have had:

    rng = default_rng((seed of the recipe, stage, number))

Rows of like length go together into one part, as many as fit `tokens` once they are padded to the longest: a question about one
small picture has some 45 tokens, one about a picture of 17 tiles 320, and 64 rows padded to the longest are mostly padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llama4.train.render import Renderer, Tiles
from llama4.train.rows import Row, Writer
from llama4.train.tasks import Mixture, draw

PART = 600  # what running one more part costs, in tokens
STEP = 16  # a part's width is a multiple of it: oneDNN builds a kernel for every new shape, which takes as long as ten products


@dataclass(frozen=True)
class Part:
    """Rows of like length, right-padded.

    tokens_BS: int64. counts: each row's real tokens. answer_BS: bool, tokens that the model has to have said. tiles: which of the
    batch's tiles are this part's, in the order of its rows.
    """

    tokens_BS: Tensor
    counts: tuple[int, ...]
    answer_BS: Tensor
    tiles: slice


@dataclass(frozen=True)
class Batch:
    """All parts, and their tiles in one: float32 `[R, 3, side, side]`."""

    parts: list[Part]
    tiles: Tensor

    @property
    def answer_tokens(self) -> int:
        """How many tokens have to be said, in all parts."""
        return sum(int(part.answer_BS[:, 1:].sum()) for part in self.parts)


@dataclass(frozen=True)
class Drawn:
    """A conversation's ids and the tiles of its pictures."""

    row: Row
    tiles: list[Tiles]


@dataclass(frozen=True)
class Batches:
    """Draws batch after batch, the same for the same number."""

    renderer: Renderer
    writer: Writer
    mixture: Mixture
    rows: int
    tokens: int
    pad_id: int
    seed: tuple[int, ...]

    def batch(self, number: int) -> Batch:
        """Batch `number`, its parts from the shortest rows to the longest."""
        rng = np.random.default_rng((*self.seed, number))
        conversations = [draw(rng, self.renderer.studio.dataset, self.mixture) for _ in range(self.rows)]
        shown = [[picture for turn in c.turns for picture in turn.pictures] for c in conversations]
        tiles = iter(self.renderer.tiles([picture for pictures in shown for picture in pictures], rng))
        drawn = []
        for conversation, pictures in zip(conversations, shown, strict=True):
            own = [next(tiles) for _ in pictures]
            drawn.append(Drawn(self.writer.row(conversation, [grid for _, grid in own]), own))
        return gather(drawn, self.tokens, self.pad_id)


def gather(drawn: list[Drawn], tokens: int, pad_id: int) -> Batch:
    """Sort by length, cut into parts of at most `tokens` tokens with their padding, and put the tiles in the same order."""
    parts, pieces, before = [], [], 0
    for group in cut(sorted(drawn, key=lambda one: len(one.row.ids)), tokens):
        first = before
        for one in group:
            for tile, _ in one.tiles:
                before += len(tile)
                pieces.append(tile)
        parts.append(pad([one.row for one in group], slice(first, before), pad_id))
    tiles = torch.cat(pieces) if pieces else torch.zeros(0, 3, 1, 1)
    return Batch(parts, tiles)


def cut(drawn: list[Drawn], tokens: int) -> list[list[Drawn]]:
    """Consecutive groups of rows sorted by length, at the least cost: padded tokens, and PART for each group.

    A group's rows x longest is at most `tokens`, or the group is one row. cost[n] of the first n rows = min over the last group.
    """
    lengths = [padded(len(one.row.ids)) for one in drawn]
    best = [(0, 0)]  # of the first n rows: the cost, and where their last group begins
    for end, longest in enumerate(lengths, start=1):
        fitting = range(max(0, end - max(1, tokens // longest)), end)
        best.append(min((best[begin][0] + (end - begin) * longest + PART, begin) for begin in fitting))
    groups: list[list[Drawn]] = []
    end = len(drawn)
    while end:
        begin = best[end][1]
        groups.append(drawn[begin:end])
        end = begin
    return groups[::-1]


def padded(length: int) -> int:
    """A row's length in a part: the next multiple of STEP."""
    return -(-length // STEP) * STEP


def pad(rows: list[Row], tiles: slice, pad_id: int) -> Part:
    """Rows as one rectangle."""
    width = padded(max(len(row.ids) for row in rows))
    tokens_BS = torch.full((len(rows), width), pad_id)
    answer_BS = torch.zeros(len(rows), width, dtype=torch.bool)
    for number, row in enumerate(rows):
        tokens_BS[number, : len(row.ids)] = torch.tensor(row.ids)
        answer_BS[number, : len(row.ids)] = torch.tensor(row.answer)
    return Part(tokens_BS, tuple(len(row.ids) for row in rows), answer_BS, tiles)
