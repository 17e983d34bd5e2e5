"""The whole model with a cache is the whole model without: any pieces, decode across chunks, uneven batches with an image in
one row, the last position alone; and neither padding nor stale slots can be felt."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import (
    CHUNK,
    NOPE_DENSE,
    NOPE_MOE,
    ROPE_ALL,
    VISION,
    assert_close,
    drawn_model,
    random_tokens,
    small_config,
)
from torch import Tensor

from llama4 import Llama4

PATCH, GROUP = 60, 4
CONFIGS = {
    "irope": small_config(),
    "maverick's": small_config(qk_norm=False, rope_scaling=None, tied_embeddings=True),
    "guard's": small_config(layers=(ROPE_ALL, NOPE_DENSE, ROPE_ALL), chunk=None, temperature=None),
    "ends on a global layer": small_config(layers=(*small_config().layers, NOPE_MOE), heads=7, kv_heads=1),
}


@pytest.fixture(scope="module", autouse=True)
def _without_gradients() -> None:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def multimodal() -> Llama4:
    """A drawn model with vision."""
    return drawn_model(small_config(vision=True))


def uncached(model: Llama4, tokens_BS: Tensor, images: Tensor | None = None) -> Tensor:
    """The logits of each row's tokens, one row a call, no cache."""
    return model(tokens_BS, images=images)


def tiles(count: int) -> Tensor:
    """Random tiles of the small model."""
    return torch.randn(count, 3, VISION.tile_side, VISION.tile_side, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_one_token_at_a_time_across_four_chunks(config: object) -> None:
    model = drawn_model(config)
    tokens_BS, cache = random_tokens(2, 4 * CHUNK + 3), model.new_cache(2, 64)
    steps = [model(tokens_BS[:, at : at + 1], cache=cache) for at in range(tokens_BS.shape[1])]
    assert_close(torch.cat(steps, dim=1), uncached(model, tokens_BS), "decode")


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(CONFIGS)),
    st.integers(2, 26).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(1, n)))),
)
def test_prefill_in_any_pieces(kind: str, call: tuple[int, set[int]]) -> None:
    width, cuts = call
    model = drawn_model(CONFIGS[kind])
    tokens_BS, cache = random_tokens(2, width), model.new_cache(2, 26)
    edges = sorted(cuts | {0, width})
    pieces = [model(tokens_BS[:, first:last], cache=cache) for first, last in pairwise(edges)]
    assert_close(torch.cat(pieces, dim=1), uncached(model, tokens_BS), f"pieces {edges}")
    assert cache.lengths_B.tolist() == [width, width]


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(CONFIGS)),
    st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=1, max_size=5),
    st.booleans(),
)
def test_uneven_batch_is_its_rows_one_by_one(kind: str, calls: list[list[int]], last: bool) -> None:
    """Each call gives row b `counts[b]` tokens, 0 among them, padded with other tokens; logits "all" and "last"."""
    model = drawn_model(CONFIGS[kind])
    rows_BS, cache, starts = random_tokens(3, 45), model.new_cache(3, 45), [0, 0, 0]
    expected = uncached(model, rows_BS)
    for number, counts in enumerate(calls):
        tokens_BS = random_tokens(3, max(1, *counts), seed=100 + number)
        for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
            tokens_BS[row, :count] = rows_BS[row, start : start + count]
        found = model(tokens_BS, cache=cache, lengths_B=torch.tensor(counts), logits="last" if last else "all")
        for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
            mine = found[row, :1] if last else found[row, :count]
            span = slice(start + count - 1, start + count) if last else slice(start, start + count)
            if count:
                assert_close(mine, expected[row, span], f"call {number}, row {row}")
        starts = [start + count for start, count in zip(starts, counts, strict=True)]
    assert cache.lengths_B.tolist() == starts


def test_uneven_batch_without_a_cache() -> None:
    """Right padding cannot be felt, and each row's temperature counts its own tokens (lm-evaluation-harness #2885)."""
    model, tokens_BS, lengths = drawn_model(small_config()), random_tokens(4, 17), [17, 1, 6, 11]
    found = model(tokens_BS, lengths_B=torch.tensor(lengths))
    last = model(tokens_BS, lengths_B=torch.tensor(lengths), logits="last")
    assert last.shape == (4, 1, 61)
    for row, length in enumerate(lengths):
        expected = uncached(model, tokens_BS[row : row + 1, :length])
        assert_close(found[row : row + 1, :length], expected, f"row {row}")
        assert_close(last[row : row + 1], expected[:, -1:], f"row {row}, last position")


def test_image_in_one_row_of_an_uneven_batch(multimodal: Llama4) -> None:
    """Prompts of 13, 4 and 9 tokens, two tiles in row 0 (across a chunk boundary), then decode: as each row by itself."""
    lengths, tokens_BS, images = [13, 4, 9], random_tokens(3, 13), tiles(2)
    tokens_BS[0, 3 : 3 + GROUP] = tokens_BS[0, 8 : 8 + GROUP] = PATCH
    more_BS = random_tokens(3, 7, seed=5)
    cache = multimodal.new_cache(3, 20)
    found = [multimodal(tokens_BS, images=images, cache=cache, lengths_B=torch.tensor(lengths), logits="last")]
    found += [multimodal(more_BS[:, at : at + 1], cache=cache) for at in range(7)]
    for row, length in enumerate(lengths):
        whole = torch.cat((tokens_BS[row : row + 1, :length], more_BS[row : row + 1]), dim=1)
        expected = uncached(multimodal, whole, images if row == 0 else None)[:, length - 1 :]
        assert_close(torch.cat(found, dim=1)[row : row + 1], expected, f"row {row}")


def test_image_in_a_later_piece(multimodal: Llama4) -> None:
    """Each call brings its own tiles: text, a tile, text, a tile. Meta's code fills images at the first step only."""
    tokens_BS, images = random_tokens(1, 21), tiles(2)
    tokens_BS[0, 6 : 6 + GROUP] = tokens_BS[0, 14 : 14 + GROUP] = PATCH
    cache = multimodal.new_cache(1, 21)
    pieces = [((0, 5), None), ((5, 12), images[:1]), ((12, 13), None), ((13, 21), images[1:])]
    found = [multimodal(tokens_BS[:, slice(*span)], images=piece, cache=cache) for span, piece in pieces]
    assert_close(torch.cat(found, dim=1), uncached(multimodal, tokens_BS, images), "pieces")


def test_many_images_in_one_prompt(multimodal: Llama4) -> None:
    """vLLM #16280: several images crashed. Nine tiles in two rows, batched as alone."""
    tokens_BS, images = random_tokens(2, 40), tiles(9)
    for row, starts in enumerate(((0, 5, 10, 20, 25, 30, 35), (3, 17))):
        for start in starts:
            tokens_BS[row, start : start + GROUP] = PATCH
    found = multimodal(tokens_BS, images=images)
    assert_close(found[:1], uncached(multimodal, tokens_BS[:1], images[:7]), "row 0")
    assert_close(found[1:], uncached(multimodal, tokens_BS[1:], images[7:]), "row 1")


@pytest.mark.parametrize("cached", [False, True])
def test_padding_full_of_nan_does_not_leak(cached: bool) -> None:
    """The padding token's embedding is NaN: 0 * NaN would reach every query that masks it."""
    model, pad, lengths = drawn_model(small_config()), 59, torch.tensor([12, 5, 9])
    tokens_BS = random_tokens(3, 12, below=59)
    expected = uncached(model, tokens_BS)
    model.decoder.embedding.weight[pad] = float("nan")
    cache = model.new_cache(3, 40) if cached else None
    if cached:  # the first tokens of each row, so that the padded call goes on from a cache
        first_BS = random_tokens(3, 7, seed=3, below=59)
        expected = uncached(model, torch.cat((first_BS, tokens_BS), dim=1))[:, 7:]
        model(first_BS, cache=cache)
    padded_BS = tokens_BS.masked_fill(torch.arange(12) >= lengths[:, None], pad)
    found = model(padded_BS, cache=cache, lengths_B=lengths)
    for row, length in enumerate(lengths.tolist()):
        assert_close(found[row, :length], expected[row, :length], f"row {row}")
    if cached:
        assert all(torch.isfinite(layer.k_BTGK).all() and torch.isfinite(layer.v_BTGK).all() for layer in cache.layers)


@pytest.mark.parametrize("lengths", [[8, 8], [8, 11]], ids=str)
def test_poisoned_slots_do_not_leak(lengths: list[int]) -> None:
    """Whatever lies in slots that hold no visible position, three more chunks of decode do not feel it."""
    model, rows_BS = drawn_model(small_config()), random_tokens(2, 30)
    cache, expected = model.new_cache(2, 30), uncached(drawn_model(small_config()), rows_BS)
    model(rows_BS[:, :11], cache=cache, lengths_B=torch.tensor(lengths))
    for at in range(15):
        for layer in cache.layers:
            for row, length in enumerate(cache.lengths_B.tolist()):
                visible = length % layer.period
                layer.k_BTGK[row, visible:] = 1e6
                layer.v_BTGK[row, visible:] = -1e6
        tokens_BS = torch.stack([rows_BS[row, length + at] for row, length in enumerate(lengths)])[:, None]
        found = model(tokens_BS, cache=cache)
        for row, length in enumerate(lengths):
            assert_close(found[row, 0], expected[row, length + at], f"row {row}, position {length + at}")


def test_all_rows_empty_is_no_step() -> None:
    model = drawn_model(small_config())
    for lengths in ([0, 0], [0, 3]):
        cache = model.new_cache(2, 20)
        model(random_tokens(2, 3), cache=cache, lengths_B=torch.tensor(lengths))
        before = [layer.k_BTGK.clone() for layer in cache.layers]
        model(random_tokens(2, 4), cache=cache, lengths_B=torch.tensor([0, 0]))
        assert cache.lengths_B.tolist() == lengths
        assert all(torch.equal(layer.k_BTGK, b) for layer, b in zip(cache.layers, before, strict=True))


def test_a_cache_holds_no_graph() -> None:
    """Or a loop that forgets `no_grad` would keep every step it ever took."""
    model = drawn_model(small_config())
    cache = model.new_cache(1, 16)
    model(random_tokens(1, 5), cache=cache)
    model(random_tokens(1, 1), cache=cache)
    assert not any(layer.k_BTGK.requires_grad or layer.v_BTGK.requires_grad for layer in cache.layers)
