"""Who sees whom: the three masks against their sentences, read out pair by pair in plain Python."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama4 import masks


def rows(values: list[list[int]]) -> torch.Tensor:
    """int64 `[B, S]`."""
    return torch.tensor(values)


def test_chunk_start_at_the_boundary() -> None:
    assert masks.chunk_start(torch.tensor([0, 8191, 8192, 16383, 16384]), 8192).tolist() == [0, 0, 8192, 8192, 16384]


def test_worked_example_of_the_docstring() -> None:
    seen_ST = masks.chunked(rows([[5, 8]]), torch.arange(10)[None], chunk=4)[0]
    assert [row.nonzero()[:, 0].tolist() for row in seen_ST] == [[4, 5], [8]]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3).flatmap(
        lambda batch: st.tuples(
            st.lists(st.lists(st.integers(0, 40), min_size=3, max_size=3), min_size=batch, max_size=batch),
            st.lists(st.lists(st.integers(0, 40), min_size=7, max_size=7), min_size=batch, max_size=batch),
        )
    ),
    st.integers(1, 45),
)
def test_causal_and_chunked_pair_by_pair(positions: tuple[list[list[int]], list[list[int]]], chunk: int) -> None:
    queries, keys = positions
    causal = masks.causal(rows(queries), rows(keys))
    chunked = masks.chunked(rows(queries), rows(keys), chunk)
    assert causal.dtype == chunked.dtype == torch.bool
    for b, (row_queries, row_keys) in enumerate(zip(queries, keys, strict=True)):
        for s, i in enumerate(row_queries):
            for t, j in enumerate(row_keys):
                assert bool(causal[b, s, t]) == (j <= i)
                assert bool(chunked[b, s, t]) == (j <= i and i // chunk == j // chunk)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 50), st.integers(1, 12), st.integers(0, 11))
def test_cached_hides_what_the_ring_still_holds(last: int, period: int, back: int) -> None:
    """Fill a ring with positions 0 … last; what a query of that period sees is what `chunked` lets it see."""
    ring = {position % period: position for position in range(last + 1)}
    query = max(last - back, last // period * period)  # any position of the last one's period
    slots = max(ring) + 1
    seen_T = masks.cached(rows([[query]]), slots, period)[0, 0]
    found = sorted(ring[slot] for slot in seen_T.nonzero()[:, 0].tolist())
    assert found == [j for j in range(last + 1) if j <= query and j // period == query // period]
