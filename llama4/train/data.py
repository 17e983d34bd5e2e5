"""Batches: conversations drawn, rendered, tokenised, sorted by length and padded.

A batch depends on the seed and its number alone, so a run that was stopped goes on with the batch that it would have had:

    rng = default_rng((seed, number))

Rows of like length go together into one part, which is padded to its longest row: a question with one small picture has
about 45 tokens, one with a picture of 17 tiles 320, and padding the first to the second would be seven times the work.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llama4.train.render import Renderer, Tiles
from llama4.train.rows import Row, Writer
from llama4.train.tasks import Conversation, Mixture, draw


@dataclass(frozen=True)
class Part:
    """Rows of like length, right-padded.

    tokens_BS: int64. counts: each row's real tokens. answer_BS: bool, tokens that the model has to have said. tiles: float32
    `[R, 3, side, side]`, of all rows in order. whole_W, shown_W: int64; the tiles that show one whole emoji, and which emoji.
    """

    tokens_BS: Tensor
    counts: tuple[int, ...]
    answer_BS: Tensor
    tiles: Tensor
    whole_W: Tensor
    shown_W: Tensor


@dataclass(frozen=True)
class Batches:
    """Draws batch after batch, the same for the same number."""

    renderer: Renderer
    writer: Writer
    mixture: Mixture
    rows: int
    parts: int
    pad_id: int
    seed: int

    def batch(self, number: int) -> list[Part]:
        """Batch `number`, in parts from the shortest rows to the longest."""
        rng = np.random.default_rng((self.seed, 2, number))
        conversations = [draw(rng, self.renderer.studio.dataset, self.mixture) for _ in range(self.rows)]
        shown = [[picture for turn in c.turns for picture in turn.pictures] for c in conversations]
        drawn = iter(self.renderer.tiles([picture for pictures in shown for picture in pictures], rng))
        tiles = [[next(drawn) for _ in pictures] for pictures in shown]
        rows = [self.writer.row(c, [grid for _, grid in t]) for c, t in zip(conversations, tiles, strict=True)]
        order = sorted(range(self.rows), key=lambda number: len(rows[number].ids))
        return [
            pad([rows[i] for i in some], [tiles[i] for i in some], [conversations[i] for i in some], self.pad_id)
            for some in np.array_split(order, self.parts)
        ]


def pad(rows: list[Row], tiles: list[list[Tiles]], conversations: list[Conversation], pad_id: int) -> Part:
    """One part of rows and their pictures."""
    width = max(len(row.ids) for row in rows)
    tokens_BS = torch.full((len(rows), width), pad_id)
    answer_BS = torch.zeros(len(rows), width, dtype=torch.bool)
    whole, shown, pieces, total = [], [], [], 0
    for number, (row, row_tiles, conversation) in enumerate(zip(rows, tiles, conversations, strict=True)):
        tokens_BS[number, : len(row.ids)] = torch.tensor(row.ids)
        answer_BS[number, : len(row.ids)] = torch.tensor(row.answer)
        pictures = [picture for turn in conversation.turns for picture in turn.pictures]
        for picture, (tile, _) in zip(pictures, row_tiles, strict=True):
            total += len(tile)
            pieces.append(tile)
            if picture.layout == "one":
                whole.append(total - 1)
                shown.append(picture.emoji[0])
    side = pieces[0].shape[-1] if pieces else 1
    return Part(
        tokens_BS,
        tuple(len(row.ids) for row in rows),
        answer_BS,
        torch.cat(pieces) if pieces else torch.zeros(0, 3, side, side),
        torch.tensor(whole, dtype=torch.int64),
        torch.tensor(shown, dtype=torch.int64),
    )
