"""The cache alone: what its buffers hold after any sequence of steps, against a plain list of positions a row; how they grow,
what they weigh, that a full one refuses before it writes, and where a call is cut."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import CHUNK, drawn_model, random_tokens, small_config

from llama4.cache import KVCache, LayerCache, Step
from llama4.config import Config
from llama4.errors import InputError

CPU = torch.device("cpu")


def new_cache(config: Config, batch: int, max_tokens: int, dtype: torch.dtype = torch.float32) -> KVCache:
    """An empty cache on the CPU."""
    return KVCache(config, batch, max_tokens, like=torch.empty(0, dtype=dtype))


def marked(step: Step) -> torch.Tensor:
    """Keys `[B, S, 1, 1]` that say who they are: 1000 * row + position + 1, and -1 on the padding."""
    batch = len(step.counts)
    names_BS = 1000 * torch.arange(batch)[:, None] + step.positions_BS + 1
    return names_BS.masked_fill(~step.valid_BS, -1).float()[:, :, None, None]


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 3).flatmap(
        lambda batch: st.lists(st.lists(st.integers(0, 9), min_size=batch, max_size=batch), min_size=1, max_size=6)
    ),
    st.integers(1, 7),
)
def test_ring_holds_the_last_period_of_each_row(calls: list[list[int]], period: int) -> None:
    """Slot t of row b holds the last position p with p % period == t of those that share a period with the last, or older."""
    batch = len(calls[0])
    cache = LayerCache(torch.empty(0), batch, 1, 1, period=period, limit=100)
    starts = [0] * batch
    for counts in calls:
        step = Step(tuple(starts), tuple(counts), max(max(counts), 1), CPU)
        cache.append(marked(step), -marked(step), step)
        starts = [start + count for start, count in zip(starts, counts, strict=True)]
        k_BTGK, v_BTGK = cache.seen(period)
        for row, end in enumerate(starts):
            if end == 0:
                continue
            for position in range((end - 1) // period * period, end):
                assert int(k_BTGK[row, position % period]) == 1000 * row + position + 1
                assert int(v_BTGK[row, position % period]) == -(1000 * row + position + 1)
        assert not (k_BTGK == -1).any(), "padding was written"


def test_worked_example_of_the_docstring() -> None:
    cache = LayerCache(torch.empty(0), 1, 1, 1, period=4, limit=100)
    for position in range(6):
        step = Step((position,), (1,), 1, CPU)
        cache.append(marked(step), marked(step), step)
    assert (cache.k_BTGK.flatten() - 1).tolist() == [4, 5, 2, 3]


def test_worked_numbers_of_the_docstring() -> None:
    config = Config.scout()
    whole = sum(spec.span == "all" for spec in config.layers)
    chunked = len(config.layers) - whole
    token = 2 * config.kv_heads * config.head_width * 2  # keys and values, bf16
    assert f"{whole * config.max_context * token / 1e9:.0f}" == "515"
    assert f"{chunked * config.chunk * token / 1e9:.1f}" == "1.2"
    assert f"{chunked * config.max_context * token / 1e12:.1f}" == "1.5"


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=4), st.integers(1, 25), st.integers(1, 9))
def test_pieces_cover_the_call_and_stay_in_one_chunk(starts: list[int], width: int, chunk: int) -> None:
    step = Step(tuple(starts), (width,) * len(starts), width, CPU)
    pieces = step.pieces(chunk)
    assert [column for first, last in pieces for column in range(first, last)] == list(range(width))
    for first, last in pieces:
        for start in starts:
            assert (start + first) // chunk == (start + last - 1) // chunk
    cuts = {c for c in range(1, width) for start in starts if (start + c) % chunk == 0}
    assert len(pieces) == len(cuts) + 1, "more pieces than rows crossing into a chunk"


def test_columns_of_rows_that_end_early() -> None:
    step = Step((3, 0, 7), (5, 2, 0), 5, CPU)
    piece = step.columns(1, 4)
    assert (piece.starts, piece.counts, piece.width) == ((4, 1, 7), (3, 1, 0), 3)
    assert piece.positions_BS.tolist() == [[4, 5, 6], [1, 2, 3], [7, 8, 9]]
    assert piece.valid_BS.tolist() == [[True] * 3, [True, False, False], [False] * 3]
    assert step.end == 8 and piece.end == 7 and step.columns(4, 5).end == 8
    assert not step.fresh and Step((0, 0), (1, 0), 1, CPU).fresh


def test_once_makes_a_thing_once_a_call() -> None:
    step, made = Step((0,), (1,), 1, CPU), []
    assert [step.once("a", lambda: made.append(1) or len(made)) for _ in range(3)] == [1, 1, 1]
    assert Step((0,), (1,), 1, CPU).once("a", lambda: made.append(1) or len(made)) == 2


def held(cache: KVCache) -> list[int]:
    """Slots that each layer's buffers have now."""
    assert all(layer.k_BTGK.shape == layer.v_BTGK.shape for layer in cache.layers)
    return [layer.k_BTGK.shape[1] for layer in cache.layers]


@torch.no_grad()
def test_growth_chunked_layers_to_one_chunk_global_layers_by_doubling() -> None:
    model = drawn_model(small_config())
    cache = model.new_cache(2, max_tokens=23)
    assert held(cache) == [0, 0, 0] and cache.nbytes == 0
    seen = []
    for width in (3, 1, 1, 2, 6, 1, 9):  # ends at 3, 4, 5, 7, 13, 14, 23
        model(random_tokens(2, width), cache=cache)
        seen.append(held(cache)[:2])
        slots = sum(held(cache))
        assert cache.nbytes == slots * 2 * 2 * 2 * 10 * 4  # keys and values, rows, heads, width, bytes
    chunked, whole = zip(*seen, strict=True)
    assert chunked == (3, 5, 5, 5, 5, 5, 5)
    assert whole == (3, 6, 6, 12, 23, 23, 23)  # 13 > 12 doubles to 24, which the limit of 23 cuts


@torch.no_grad()
def test_a_chunk_longer_than_the_cache_takes_no_more_than_the_cache() -> None:
    model = drawn_model(small_config(chunk=1000))
    cache = model.new_cache(1, max_tokens=7)
    model(random_tokens(1, 7), cache=cache)
    assert held(cache) == [7, 7, 7]


def test_bfloat16_takes_half() -> None:
    sizes = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = drawn_model(small_config()).to(dtype)
        cache = model.new_cache(1, 10)
        with torch.no_grad():
            model(random_tokens(1, 9), cache=cache)
        sizes[dtype] = cache.nbytes
    assert sizes[torch.float32] == 2 * sizes[torch.bfloat16] > 0


@torch.no_grad()
@pytest.mark.parametrize("lengths", [None, [2, 4]])
def test_full_cache_refuses_before_it_writes(lengths: list[int] | None) -> None:
    model = drawn_model(small_config())
    cache = model.new_cache(2, max_tokens=11)
    model(random_tokens(2, 8), cache=cache)
    before = [(layer.k_BTGK.clone(), layer.v_BTGK.clone()) for layer in cache.layers]
    lengths_B = None if lengths is None else torch.tensor(lengths)
    with pytest.raises(InputError, match=r"holds 11 tokens a row and this call would need 12"):
        model(random_tokens(2, 4, seed=1), cache=cache, lengths_B=lengths_B)
    assert cache.lengths_B.tolist() == [8, 8]
    for layer, (k_BTGK, v_BTGK) in zip(cache.layers, before, strict=True):
        assert torch.equal(layer.k_BTGK, k_BTGK) and torch.equal(layer.v_BTGK, v_BTGK)
    model(random_tokens(2, 3, seed=1), cache=cache)  # what does fit still goes in
    assert cache.lengths_B.tolist() == [11, 11]


@torch.no_grad()
def test_input_at_fault_leaves_the_cache_alone() -> None:
    model = drawn_model(small_config(vision=True))
    cache = model.new_cache(1, 20)
    model(random_tokens(1, 6), cache=cache)
    before = cache.layers[0].k_BTGK.clone()
    with pytest.raises(InputError):
        model(torch.full((1, 4), 60), cache=cache)  # a tile's tokens and no tile
    assert cache.lengths_B.tolist() == [6] and torch.equal(cache.layers[0].k_BTGK, before)


def test_what_grew_in_inference_mode_can_be_written_to_outside_it() -> None:
    """`prefill` grows a cache in that mode; a caller's own next call need not be in it, and may learn."""
    model = drawn_model(small_config())
    cache, tokens_BS = model.new_cache(1, 90), random_tokens(1, 30)
    with torch.inference_mode():
        model(tokens_BS[:, :17], cache=cache)
    later = model(tokens_BS[:, 17:], cache=cache)
    assert later.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(later, model(tokens_BS)[:, 17:], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_reset_forgets_and_keeps_the_memory() -> None:
    model = drawn_model(small_config())
    cache = model.new_cache(2, 16)
    first, second = random_tokens(2, 13, seed=1), random_tokens(2, 7, seed=2)
    model(first, cache=cache)
    size, slots = cache.nbytes, held(cache)
    cache.reset()
    assert cache.lengths_B.tolist() == [0, 0] and cache.nbytes == size
    found = [model(piece, cache=cache) for piece in second.split(3, dim=1)]
    assert held(cache) == slots
    fresh = model.new_cache(2, 16)
    expected = [model(piece, cache=fresh) for piece in second.split(3, dim=1)]
    assert_same_up_to_rounding(found, expected)


def assert_same_up_to_rounding(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    """Buffers of other lengths may sum in another order, nothing else."""
    assert torch.allclose(torch.cat(found, 1), torch.cat(expected, 1), atol=1e-5, rtol=1e-5)


def test_lengths_are_int64_and_advance_by_row() -> None:
    model = drawn_model(small_config())
    cache = model.new_cache(3, 20)
    with torch.no_grad():
        model(random_tokens(3, 6), cache=cache, lengths_B=torch.tensor([6, 0, 2]))
        model(random_tokens(3, 4), cache=cache, lengths_B=torch.tensor([1, 4, 0]))
    assert cache.lengths_B.dtype == torch.int64 and cache.lengths_B.tolist() == [7, 4, 2]


@pytest.mark.parametrize(
    ("batch", "tokens", "message"),
    [
        (0, 5, "0 rows and 5 tokens holds nothing"),
        (2, 0, "2 rows and 0 tokens holds nothing"),
    ],
)
def test_sizes_that_make_no_sense(batch: int, tokens: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        new_cache(small_config(), batch, tokens)


def test_rows_that_differ_from_the_tokens() -> None:
    model = drawn_model(small_config())
    with pytest.raises(InputError, match="2 rows and the tokens have 3"):
        model(random_tokens(3, 2), cache=model.new_cache(2, 8))


def test_the_chunk_of_the_config_is_the_period() -> None:
    cache = new_cache(small_config(), 1, 100)
    assert [layer.period for layer in cache.layers] == [CHUNK, 100, CHUNK]
