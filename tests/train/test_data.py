"""Pins the batches: a number gives the same batch whenever it is asked for, rows are sorted, padded and cut into parts that fit,
and every row keeps its tiles."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise, product

import pytest
import torch
from small_training import TILE, VISION, batches, small_tokenizer, studio
from test_render import bytes_of, flat

from llama4.train.data import PART, STEP, Batch, Batches, Drawn, gather, padded
from llama4.train.pictures import Augmentation
from llama4.train.render import Renderer
from llama4.train.rows import Row
from llama4.train.tasks import TASKS, Conversation, Mixture

TOKENS = 420


def only(*tasks: str) -> Mixture:
    return Mixture(**{task: float(task in tasks) for task in TASKS})


def drawn_batches(seed: int = 7) -> Batches:
    return batches(Renderer(studio(Augmentation(), many_tiles=0.3)), rows=12, tokens=TOKENS, seed=seed)


@pytest.fixture(scope="module")
def varied() -> Batches:
    return drawn_batches()


def equal(a: Batch, b: Batch) -> bool:
    """Tensors bit for bit, parts in order."""
    if len(a.parts) != len(b.parts):
        return False
    pairs = [(getattr(a, name), getattr(b, name)) for name in ("tiles",)]
    for one, other in zip(a.parts, b.parts, strict=True):
        pairs += [(getattr(one, field.name), getattr(other, field.name)) for field in fields(one)]
    return all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in pairs)


def test_a_batch_depends_on_its_number_alone(varied: Batches) -> None:
    seventh = varied.batch(7)
    varied.batch(3)
    assert equal(varied.batch(7), seventh) and equal(drawn_batches().batch(7), seventh)
    assert not equal(varied.batch(8), seventh) and not equal(drawn_batches(seed=8).batch(7), seventh)


def test_parts_hold_all_rows_from_short_to_long_with_their_tiles(varied: Batches) -> None:
    for number in range(4):
        batch = varied.batch(number)
        counts = [count for part in batch.parts for count in part.counts]
        assert len(counts) == 12 and counts == sorted(counts)
        seen = 0
        for part in batch.parts:
            assert part.tiles.start == seen
            seen = part.tiles.stop
            patches = int((part.tokens_BS == small_tokenizer().patch_id).sum())
            assert patches == len(batch.tiles[part.tiles]) * VISION.tokens_per_tile
        assert seen == len(batch.tiles) and batch.tiles.shape[1:] == (3, TILE, TILE)


def least_cost(lengths: list[int], limit: int) -> int:
    """Over every way to cut the sorted rows: padded tokens, and `PART` for each part, which fits or is one row."""
    costs = []
    for ends in product((False, True), repeat=len(lengths) - 1):
        bounds = [0, *(n + 1 for n, cut_here in enumerate(ends) if cut_here), len(lengths)]
        sizes = [(last - first, lengths[last - 1]) for first, last in pairwise(bounds)]
        if all(rows == 1 or rows * longest <= limit for rows, longest in sizes):
            costs.append(sum(rows * longest + PART for rows, longest in sizes))
    return min(costs)


def test_parts_fit_and_cost_the_least_that_any_cut_does(varied: Batches) -> None:
    """Padding included; a row that is longer by itself is a part by itself."""
    several = alone = 0
    for number, limit in ((0, TOKENS), (1, TOKENS), (2, 3000), (3, 3000), (4, 60)):
        parts = replace(varied, tokens=limit).batch(number).parts
        sizes = [part.tokens_BS.shape for part in parts]
        assert all(rows * width <= limit or rows == 1 for rows, width in sizes)
        cost = sum(rows * width + PART for rows, width in sizes)
        assert cost == least_cost([padded(count) for part in parts for count in part.counts], limit)
        several += sum(rows > 1 for rows, _ in sizes)
        alone += sum(width > limit for _, width in sizes)
    assert several > 5 and alone > 5


def test_rows_are_padded_to_the_longest_of_their_part(varied: Batches) -> None:
    tokenizer, filled = small_tokenizer(), 0
    for part in varied.batch(1).parts:
        width = padded(max(part.counts))
        assert width % STEP == 0 and 0 <= width - max(part.counts) < STEP
        assert part.tokens_BS.shape == part.answer_BS.shape == (len(part.counts), width)
        for ids, answer, count in zip(part.tokens_BS, part.answer_BS, part.counts, strict=True):
            assert ids[0] == tokenizer.bos_id and ids[count - 1] == tokenizer.eot_id and answer[count - 1]
            assert (ids[:count] != tokenizer.pad_id).all() and (ids[count:] == tokenizer.pad_id).all()
            assert not answer[count:].any()
            filled += len(ids) - count
    assert filled


def test_answer_tokens_are_counted_over_all_parts(varied: Batches) -> None:
    batch = varied.batch(2)
    marked = [
        column > 0 and bool(answer)
        for part in batch.parts
        for row in part.answer_BS
        for column, answer in enumerate(row)
    ]
    assert batch.answer_tokens == sum(marked) > 12


def test_tiles_follow_their_rows_through_sorting_and_cutting() -> None:
    """Rows of 40, 3, 70, 3 and 20 tokens; a tile's value says whose it is, and which of a row's pictures."""
    lengths, pictures = (40, 3, 70, 3, 20), ((1, 5), (), (3,), (1,), (2, 1))
    drawn = []
    for row, (length, counts) in enumerate(zip(lengths, pictures, strict=True)):
        tiles = [(torch.full((count, 3, 2, 2), 10.0 * row + number), (1, 1)) for number, count in enumerate(counts)]
        drawn.append(Drawn(Row(list(range(length)), [False] * (length - 1) + [True]), tiles))
    batch = gather(drawn, 40, pad_id=99)
    assert [part.counts for part in batch.parts] == [(3, 3), (20,), (40,), (70,)]
    values = [batch.tiles[part.tiles][:, 0, 0, 0].tolist() for part in batch.parts]
    assert values == [[30], [40, 40, 41], [0, 1, 1, 1, 1, 1], [20, 20, 20]]
    assert batch.parts[1].tokens_BS.tolist() == [[*range(20), *[99] * 12]] and batch.answer_tokens == 5


def test_every_picture_of_a_batch_is_in_its_tiles() -> None:
    """Each drawing's green is ten times its emoji's number: those shown are those that the batch's conversations ask about."""
    renderer = Renderer(studio(data=flat({"noto": 40, "fluent": 80})))
    made = batches(renderer, rows=9, tokens=TOKENS, mixture=only("nth", "frames", "name_one"))
    conversations: list[Conversation] = []
    row = made.writer.row

    def watched(conversation: Conversation, grids: list[tuple[int, int]]) -> Row:
        conversations.append(conversation)
        return row(conversation, grids)

    made.writer.row = watched
    batch = made.batch(2)
    shown = [picture.emoji[0] for one in conversations for turn in one.turns for picture in turn.pictures]
    greens = [int(bytes_of(tile)[1, TILE // 2, TILE // 2]) for tile in batch.tiles]
    assert sorted(greens) == sorted(10 * emoji for emoji in shown) and len(set(shown)) > 3


def test_conversations_of_text_alone_have_no_tiles() -> None:
    batch = batches(Renderer(studio()), rows=3, tokens=TOKENS, mixture=only("translate")).batch(0)
    assert len(batch.tiles) == 0 and all(part.tiles == slice(0, 0) for part in batch.parts)
