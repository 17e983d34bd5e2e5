"""Exact names on an artist that the run does not learn from, measured while it runs.

A greedy answer equals the name exactly when, given the name so far, the most likely next token is the right one every time, the
closing `<|eot|>` included. So no answer need be generated: one forward pass over question and name tells.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from llama4.cache import Step
from llama4.model import Llama4
from llama4.train.data import Batch, Drawn, Part, gather
from llama4.train.emoji.dataset import LANGUAGES, Dataset
from llama4.train.pictures import plain
from llama4.train.render import eight_bit
from llama4.train.rows import Writer
from llama4.train.tasks import Conversation, Picture, Turn, naming_question

AT_ONCE = 64
TOKENS = 4096


@torch.no_grad()
def right_names(model: Llama4, part: Part, tiles: Tensor) -> Tensor:
    """bool `[B]`: is every token of the row's answers the most likely one?"""
    patch_BS = part.tokens_BS == model.config.patch_id
    encoded = model.vision(tiles.to(model.decoder.embedding.weight.dtype))
    x_BSD = model.fusion(model.decoder.embedding(part.tokens_BS), patch_BS, encoded)
    step = Step((0,) * len(part.counts), part.counts, part.tokens_BS.shape[1], part.tokens_BS.device)
    x_BSD = model.decoder(x_BSD, step, None)
    next_BS = part.answer_BS[:, 1:]
    right_BS = torch.ones_like(next_BS)
    logits_NV = model.decoder.logits(x_BSD[:, :-1][next_BS])
    right_BS[next_BS] = logits_NV.argmax(-1) == part.tokens_BS[:, 1:][next_BS]
    return right_BS.all(dim=1)


def names(
    model: Llama4, dataset: Dataset, writer: Writer, artist: str, language: str, positions: Sequence[int], pad_id: int
) -> float:
    """The share of exact names in `language` over the artist's pictures at `positions`, plain on white, one tile each."""
    right = 0
    for first in range(0, len(positions), AT_ONCE):
        some = positions[first : first + AT_ONCE]
        batch = _batch(model, dataset, writer, artist, language, some, pad_id)
        right += sum(int(right_names(model, part, batch.tiles[part.tiles]).sum()) for part in batch.parts)
    return right / max(1, len(positions))


def table(model: Llama4, dataset: Dataset, writer: Writer, artist: str, each: int, pad_id: int) -> dict[str, float]:
    """`names` for every language, over `each` pictures spread evenly over the artist's; English over four times as many."""
    count = len(dataset.artists[artist].index)
    spread = {code: np.linspace(0, count - 1, min(count, each * (4 if code == "en" else 1))) for code in LANGUAGES}
    model.eval()
    found = {
        code: names(model, dataset, writer, artist, code, places.round().astype(int).tolist(), pad_id)
        for code, places in spread.items()
    }
    model.train()
    return found


def _batch(
    model: Llama4, dataset: Dataset, writer: Writer, artist: str, language: str, positions: Sequence[int], pad_id: int
) -> Batch:
    drawn = dataset.artists[artist]
    views = plain(np.stack([drawn.pixels[position] for position in positions]), model.config.vision.tile_side)
    rows = []
    for emoji, tile in zip(drawn.index[list(positions)].tolist(), eight_bit(views), strict=True):
        turn = Turn(naming_question(language), dataset.emoji[emoji].names[language], (Picture((emoji,)),))
        conversation = Conversation("name_one", language, (turn,))
        rows.append(Drawn(writer.row(conversation, [(1, 1)]), [(tile[None], (1, 1))]))
    return gather(rows, TOKENS, pad_id)
