"""Trees: names in sixteen languages, many questions about one picture at once.

    trunk      <|begin_of_text|> user: [picture]                      P rows, run once
    branches   What is this?<|eot|> assistant: dog<|eot|>             P · Q rows, each goes on from its picture
               Was ist das?<|eot|> assistant: Hund<|eot|>             and sees no other branch

25,000 names (1585 emoji in sixteen languages) have to be said to a picture some dozens of times each. A conversation of its own
costs a name 45 tokens, 20 of them the picture's, and a view through the vision encoder; a branch costs 25 tokens. A list of
names in one answer would cost 10, but each name can be told from the one before; three minutes of lists, four to a name, moved
nothing when a picture was asked about in one language (nor did three minutes of single questions, one to a name).

The trunk's keys and values stand where a cache stands in generation, with their gradients, so the sum over the branches is the
gradient of P · Q separate conversations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llama4.cache import Step
from llama4.model import Llama4
from llama4.train.data import Drawn, Part, cut, pad
from llama4.train.decoding import Decoding
from llama4.train.emoji.dataset import LANGUAGES
from llama4.train.objective import Measured, balance_of, listening
from llama4.train.render import Tiles
from llama4.train.rows import Row
from llama4.train.tasks import Conversation, same_picture


@dataclass(frozen=True)
class Branches:
    """Rows of like length; the picture that each goes on from, and the emoji that each seeks (-1: none), int64 `[B]`."""

    part: Part
    picture_B: Tensor
    sought_B: Tensor

    @property
    def real_N(self) -> Tensor:
        """bool `[B · S]`: False on the right padding."""
        columns = torch.arange(self.part.tokens_BS.shape[1])
        return (columns < torch.tensor(self.part.counts)[:, None]).flatten()


@dataclass(frozen=True)
class Tree:
    """P trunks (a picture each, several, or none) and what is asked about them.

    tiles: float32 `[R, 3, side, side]`, trunk after trunk. trunk_PS: int64, the same ids in every row. weight: of a token that is
    to be said.
    """

    tiles: Tensor
    trunk_PS: Tensor
    branches: list[Branches]
    weight: float = 1.0

    @property
    def answer_tokens(self) -> int:
        """How many tokens have to be said."""
        return sum(int(branches.part.answer_BS[:, 1:].sum()) for branches in self.branches)

    @property
    def sought_N(self) -> Tensor:
        """The emoji that the question of each answer token seeks, or -1, in the order of `Measured.answers_N`."""
        return torch.cat([one.sought_B[one.part.answer_BS[:, 1:].nonzero()[:, 0]] for one in self.branches])


def draw(
    stage: Decoding, number: tuple[int, int], pictures: int, always: Sequence[str] = (), questions: int | None = None
) -> Tree:
    """Tree `number` (stream and step): so many different emoji, each asked about in `questions` languages, or the recipe's.

    `always`: languages that are among them.
    """
    rng = np.random.default_rng((stage.recipe.seed, *number))
    emoji, words = stage.renderer.studio.dataset.emoji, Random(int(rng.integers(1 << 62)))
    drawn = rng.choice(len(emoji), min(pictures, len(emoji)), replace=False)
    count = questions or stage.recipe.questions
    asked = [same_picture(words, emoji, int(one), languages(words, count, always)) for one in drawn]
    shown = stage.renderer.tiles([conversations[0].turns[0].pictures[0] for conversations in asked], rng)
    return grow(stage, asked, [[tiles] for tiles in shown])


def languages(rng: Random, count: int, always: Sequence[str]) -> list[str]:
    """So many different languages, `always` among them."""
    return [*always, *rng.sample([code for code in LANGUAGES if code not in always], count - len(always))]


def grow(
    stage: Decoding, asked: Sequence[Sequence[Conversation]], shown: Sequence[Sequence[Tiles]], weight: float = 1.0
) -> Tree:
    """A trunk for each of `shown` (the tiles of its pictures, cut alike for all trunks) and its conversations as branches."""
    grids = [grid for _, grid in shown[0]]
    opening = stage.writer.opening(grids)
    rows = [
        (number, sought(conversation), stage.writer.row(conversation, grids))
        for number, conversations in enumerate(asked)
        for conversation in conversations
    ]
    trunk_PS = torch.tensor(opening).expand(len(asked), -1)
    branches = branch_off(rows, len(opening), stage.plan.tokens, stage.pad_id)
    pieces = [tiles for pictures in shown for tiles, _ in pictures]
    return Tree(torch.cat(pieces) if pieces else torch.zeros(0, 3, 1, 1), trunk_PS, branches, weight)


def sought(conversation: Conversation) -> int:
    """The emoji that the first question of a branch seeks, -1 where it seeks none."""
    one = conversation.turns[0].sought
    return -1 if one is None else one


def branch_off(rows: Sequence[tuple[int, int, Row]], opening: int, tokens: int, pad_id: int) -> list[Branches]:
    """(picture, emoji, row) each: what of the row comes after its `opening` tokens, in parts of like length, at most `tokens`."""
    ordered = sorted(rows, key=lambda row: len(row[2].ids))
    drawn = [Drawn(Row(row.ids[opening:], row.answer[opening:]), []) for _, _, row in ordered]
    found: list[Branches] = []
    first = 0
    for group in cut(drawn, tokens):
        pictures, emoji, _ = zip(*ordered[first : first + len(group)], strict=True)
        part = pad([one.row for one in group], slice(0), pad_id)
        found.append(Branches(part, torch.tensor(pictures), torch.tensor(emoji)))
        first += len(group)
    return found


def measure(model: Llama4, tree: Tree) -> Measured:
    """Run the trunk, then every branch from it."""
    pictures, opening = tree.trunk_PS.shape
    trunks = Trunks(model, opening + max(branches.part.tokens_BS.shape[1] for branches in tree.branches))
    patch_PS = tree.trunk_PS == model.config.patch_id
    x_PSD = model.decoder.embedding(tree.trunk_PS)
    if len(tree.tiles):
        x_PSD = model.fusion(x_PSD, patch_PS, model.vision(tree.tiles.to(x_PSD.dtype)))
    step = Step((0,) * pictures, (opening,) * pictures, opening, tree.trunk_PS.device)
    with listening(model) as heard:
        model.decoder(x_PSD, step, trunks)
        told = [say(model, trunks, opening, branches) for branches in tree.branches]
    logits_NV, target_N = (torch.cat(pieces) for pieces in zip(*told, strict=True))
    answers_N = F.cross_entropy(logits_NV, target_N, reduction="none")
    right = int((logits_NV.argmax(-1) == target_N).sum())
    balance, busiest = balance_of(by_layer(heard, 1 + len(told)), *kinds(tree, patch_PS))
    return Measured(answers_N.sum(), len(target_N), right, balance, busiest, answers_N.detach())


def separate(tree: Tree, pad_id: int) -> tuple[Part, Tensor]:
    """The same as separate conversations, each behind its own copy of its trunk, and their tiles: what `measure` must equal.

    For `objective.measure`, whose loss and gradient are then those of the tree, at many times the cost.
    """
    each, rows, tiles = len(tree.tiles) // len(tree.trunk_PS), [], []
    for branches in tree.branches:
        part = branches.part
        for row, trunk in enumerate(branches.picture_B.tolist()):
            opening, count = tree.trunk_PS[trunk].tolist(), part.counts[row]
            answer = [False] * len(opening) + part.answer_BS[row, :count].tolist()
            rows.append(Row(opening + part.tokens_BS[row, :count].tolist(), answer))
            tiles.append(tree.tiles[trunk * each : (trunk + 1) * each])
    part = pad(rows, slice(0, sum(map(len, tiles))), pad_id)
    return part, torch.cat(tiles)


def say(model: Llama4, trunks: Trunks, opening: int, branches: Branches) -> tuple[Tensor, Tensor]:
    """Logits where a token of an answer comes next, and that token: `[N, V]`, `[N]`."""
    part = branches.part
    rows, width = part.tokens_BS.shape
    step = Step((opening,) * rows, part.counts, width, part.tokens_BS.device)
    trunks.go_on_from(branches.picture_B)
    x_BSD = model.decoder(model.decoder.embedding(part.tokens_BS), step, trunks)
    next_BS = part.answer_BS[:, 1:]
    return model.decoder.logits(x_BSD[:, :-1][next_BS]), part.tokens_BS[:, 1:][next_BS]


def by_layer(heard: list[Tensor], passes: int) -> list[Tensor]:
    """Router logits as they were heard, pass after pass and layer after layer, put together for each layer."""
    layers = len(heard) // passes
    return [torch.cat(heard[layer::layers]) for layer in range(layers)]


def kinds(tree: Tree, patch_PS: Tensor) -> tuple[Tensor, Tensor]:
    """Which of all tokens are patches, and which words: bool `[N]`, the trunk's first."""
    real = [branches.real_N for branches in tree.branches]
    patch_N = torch.cat([patch_PS.flatten(), *(torch.zeros_like(one) for one in real)])
    return patch_N, torch.cat([~patch_PS.flatten(), *real])


class Trunk:
    """One layer's keys and values of the pictures, with their gradients, where a `LayerCache` stands in generation."""

    def __init__(self, period: int) -> None:
        self.period = period
        self.kept: tuple[Tensor, Tensor]
        self.picture_B: Tensor
        self.shown: tuple[Tensor, Tensor]

    def append(self, k_BSGK: Tensor, v_BSGK: Tensor, step: Step) -> None:
        """The trunk's own pass keeps; a branch's pass puts what it adds behind its picture's."""
        if step.fresh:
            self.kept = (k_BSGK, v_BSGK)
        else:
            (k, v), picture_B = self.kept, self.picture_B
            self.shown = (torch.cat((k[picture_B], k_BSGK), dim=1), torch.cat((v[picture_B], v_BSGK), dim=1))

    def seen(self, slots: int) -> tuple[Tensor, Tensor]:
        """Keys and values `[B, slots, G, K]`."""
        return self.shown[0][:, :slots], self.shown[1][:, :slots]


class Trunks:
    """A `Trunk` a layer, where a `KVCache` stands in generation. Trunk and branch lie in one chunk together."""

    def __init__(self, model: Llama4, longest: int) -> None:
        """`longest`: tokens of trunk and branch. Raises ValueError where they do not fit into a chunk."""
        chunk = model.config.chunk or longest
        if longest > chunk:
            raise ValueError(
                f"A picture and a question of {longest} tokens are longer than the chunk of {chunk}: shorten it."
            )
        self.layers = [Trunk(chunk if spec.span == "chunk" else longest) for spec in model.config.layers]

    def go_on_from(self, picture_B: Tensor) -> None:
        """The rows of the next pass go on from these pictures."""
        for layer in self.layers:
            layer.picture_B = picture_B
