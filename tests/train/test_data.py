"""Pins the batches: a number gives the same batch whenever it is asked for, rows are sorted, padded and cut into parts that fit,
and the tiles of whole emoji are told by their emoji's number."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from small_training import TILE, VISION, batches, small_tokenizer, studio
from task_emoji import EMOJI
from test_render import bytes_of, flat

from llama4.train.data import Batch, Batches
from llama4.train.pictures import Augmentation
from llama4.train.render import Renderer
from llama4.train.tasks import TASKS, Mixture

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
    pairs = [(getattr(a, name), getattr(b, name)) for name in ("tiles", "whole_W", "shown_W")]
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


def test_a_part_is_as_full_as_its_limit_allows(varied: Batches) -> None:
    """Padding included; a row that is longer by itself is a part by itself; and one row more would have been too many."""
    several = alone = 0
    for number, limit in ((0, TOKENS), (1, TOKENS), (2, 150), (3, 150), (4, 60)):
        parts = replace(varied, tokens=limit).batch(number).parts
        for part, later in zip(parts, [*parts[1:], None], strict=True):
            rows, width = part.tokens_BS.shape
            assert rows * width <= limit or rows == 1
            assert later is None or (rows + 1) * later.counts[0] > limit
            several += rows > 1
            alone += width > limit
    assert several > 5 and alone > 5


def test_rows_are_padded_to_the_longest_of_their_part(varied: Batches) -> None:
    tokenizer, padded = small_tokenizer(), 0
    for part in varied.batch(1).parts:
        assert part.tokens_BS.shape == part.answer_BS.shape == (len(part.counts), max(part.counts))
        for ids, answer, count in zip(part.tokens_BS, part.answer_BS, part.counts, strict=True):
            assert ids[0] == tokenizer.bos_id and ids[count - 1] == tokenizer.eot_id and answer[count - 1]
            assert (ids[:count] != tokenizer.pad_id).all() and (ids[count:] == tokenizer.pad_id).all()
            assert not answer[count:].any()
            padded += len(ids) - count
    assert padded


def test_answer_tokens_are_counted_over_all_parts(varied: Batches) -> None:
    batch = varied.batch(2)
    marked = [
        column > 0 and bool(answer)
        for part in batch.parts
        for row in part.answer_BS
        for column, answer in enumerate(row)
    ]
    assert batch.answer_tokens == sum(marked) > 12


@pytest.mark.parametrize("task", TASKS)
def test_a_whole_tile_is_told_by_its_emoji(task: str) -> None:
    """Each drawing's green is ten times its emoji's number. Strips show no whole emoji in a tile, and texts none at all."""
    renderer = Renderer(studio(many_tiles=0.4, data=flat({"noto": 40, "fluent": 80})))
    greens: list[int] = []
    for number in range(3):
        batch = batches(renderer, rows=8, tokens=TOKENS, mixture=only(task)).batch(number)
        seen = [int(bytes_of(batch.tiles[tile])[1, TILE // 2, TILE // 2]) for tile in batch.whole_W]
        assert seen == [10 * emoji for emoji in batch.shown_W.tolist()]
        assert batch.whole_W.dtype == batch.shown_W.dtype == torch.int64
        assert len(set(batch.whole_W.tolist())) == len(batch.whole_W)
        greens += seen
    assert (not greens) == (task in ("strip", "translate", "keywords", "category"))
    assert not greens or len(set(greens)) > 1


def test_every_picture_of_one_emoji_has_one_whole_tile() -> None:
    """With single pictures in one tile each, the whole tiles are all tiles."""
    batch = batches(Renderer(studio()), rows=10, tokens=TOKENS, mixture=only("nth", "frames", "name_one")).batch(2)
    assert batch.whole_W.tolist() == list(range(len(batch.tiles)))


def test_conversations_of_text_alone_have_no_tiles() -> None:
    batch = batches(Renderer(studio()), rows=3, tokens=TOKENS, mixture=only("translate")).batch(0)
    assert len(batch.tiles) == len(batch.whole_W) == 0 and all(part.tiles == slice(0, 0) for part in batch.parts)


def test_batches_show_every_emoji() -> None:
    drawn = batches(Renderer(studio()), rows=12, tokens=TOKENS)
    assert {one for number in range(6) for one in drawn.batch(number).shown_W.tolist()} == set(range(len(EMOJI)))
