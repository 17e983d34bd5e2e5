"""Attention's fast paths (folded chunks, cached pieces, blocks, unmasked decode) against the definition in fp64
(attention_reference.py), outputs and gradients; and what each row of an uneven batch may see."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import pytest
import torch
from attention_reference import reference_attention
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import CHUNK, GRADIENT, NOPE_DENSE, ROPE_ALL, ROPE_DENSE, assert_close, drawn, small_config
from torch import Tensor

from llama4.attention import Attention, temperature_scale
from llama4.cache import LayerCache, Step
from llama4.config import Config, LayerSpec, Temperature

NOPE_CHUNK = LayerSpec("nope", "chunk", "dense")  # not a released combination, but the table allows it
SPECS = {"rope-chunk": ROPE_DENSE, "nope-all": NOPE_DENSE, "rope-all": ROPE_ALL, "nope-chunk": NOPE_CHUNK}
CPU = torch.device("cpu")


def layer_of(spec: LayerSpec, seed: int = 0, **changes: object) -> tuple[Attention, Config]:
    """A drawn layer and its config."""
    config = small_config(**changes)
    return drawn(Attention(config, spec), seed), config


def hidden(batch: int, width: int, config: Config, seed: int = 1) -> Tensor:
    """Random float32 `[B, S, D]`."""
    return torch.randn(batch, width, config.width, generator=torch.Generator().manual_seed(seed))


def whole(batch: int, width: int) -> Step:
    """One call of full rows from position 0."""
    return Step((0,) * batch, (width,) * batch, width, CPU)


def empty_cache(config: Config, spec: LayerSpec, batch: int, limit: int = 64) -> LayerCache:
    """A layer's cache as KVCache makes it."""
    period = config.chunk if spec.span == "chunk" else limit
    return LayerCache(torch.empty(0), batch, config.kv_heads, config.head_width, period=period, limit=limit)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("width", [1, 4, 5, 6, 10, 23])  # below, at and past one chunk; whole chunks; chunks and a rest
@pytest.mark.parametrize("heads", [(6, 2), (5, 5), (7, 1)], ids=str)
def test_uncached_is_the_definition(spec: LayerSpec, width: int, heads: tuple[int, int]) -> None:
    layer, config = layer_of(spec, heads=heads[0], kv_heads=heads[1])
    x_BSD = hidden(3, width, config)
    expected = reference_attention(layer, config, spec, x_BSD)
    assert_close(layer(x_BSD, whole(3, width), None), expected, "attention")
    cache = empty_cache(config, spec, 3)
    assert_close(layer(x_BSD, whole(3, width), cache), expected, "attention that fills a cache")


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("changes", [{"qk_norm": False}, {"temperature": None}, {"rope_scaling": None}], ids=str)
def test_options_of_the_config(spec: LayerSpec, changes: dict[str, object]) -> None:
    layer, config = layer_of(spec, **changes)
    x_BSD = hidden(2, 13, config)
    assert_close(layer(x_BSD, whole(2, 13), None), reference_attention(layer, config, spec, x_BSD), "attention")


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_gradients_are_the_definitions(spec: LayerSpec) -> None:
    layer, config = layer_of(spec)
    out_gradient = hidden(2, 13, config, seed=2)
    gradients = []
    for run in (
        lambda x: layer(x, whole(2, 13), None),
        lambda x: reference_attention(layer, config, spec, x),
    ):
        x_BSD = hidden(2, 13, config).requires_grad_()
        layer.zero_grad()
        out = run(x_BSD)
        (out * out_gradient.to(out.dtype)).sum().backward()
        gradients.append({"x": x_BSD.grad, **{name: weight.grad for name, weight in layer.named_parameters()}})
    assert len(gradients[0]) == 5
    for name, expected in gradients[1].items():
        assert_close(gradients[0][name], expected, f"gradient of {name}", GRADIENT)


@torch.no_grad()
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(SPECS)),
    st.integers(1, 29).flatmap(lambda width: st.tuples(st.just(width), st.sets(st.integers(1, width)))),
)
def test_any_pieces_give_what_one_call_gives(kind: str, call: tuple[int, set[int]]) -> None:
    """Prefill cut anywhere, down to one token a call: every piece is what the definition says of its positions."""
    spec, (width, cuts) = SPECS[kind], call
    layer, config = layer_of(spec)
    x_BSD = hidden(2, width, config)
    expected = reference_attention(layer, config, spec, x_BSD)
    cache, edges = empty_cache(config, spec, 2), sorted(cuts | {0, width})
    for first, last in pairwise(edges):
        step = Step((first, first), (last - first,) * 2, last - first, CPU)
        found = layer(x_BSD[:, first:last], step, cache)
        assert_close(found, expected[:, first:last], f"columns {first} to {last - 1}")


@torch.no_grad()
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(SPECS)),
    st.lists(st.lists(st.integers(0, 8), min_size=3, max_size=3), min_size=1, max_size=6),
)
def test_uneven_rows_keep_their_own_positions(kind: str, calls: list[list[int]]) -> None:
    """Three rows advance by different counts, 0 among them, and so stand in different chunks at one time."""
    spec = SPECS[kind]
    layer, config = layer_of(spec)
    x_BSD = hidden(3, 48, config)
    expected = reference_attention(layer, config, spec, x_BSD)
    cache, starts = empty_cache(config, spec, 3), (0, 0, 0)
    for counts in calls:
        width = max(1, *counts)
        step = Step(starts, tuple(counts), width, CPU)
        padded = torch.full((3, width, config.width), 1e4)  # large and wrong, where a row has no token
        for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
            padded[row, :count] = x_BSD[row, start : start + count]
        found = layer(padded, step, cache)
        for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
            assert_close(found[row, :count], expected[row, start : start + count], f"row {row} from {start}")
        starts = tuple(start + count for start, count in zip(starts, counts, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("counts", [(3, 3), (1, 1), (1, 0), (2, 7)], ids=str)
def test_stale_and_unused_slots_are_never_seen(spec: LayerSpec, counts: tuple[int, int]) -> None:
    """Every slot that holds no visible position is overwritten with large finite values before the next call."""
    layer, config = layer_of(spec)
    start, width = (8, 11), max(counts)
    x_BSD = hidden(2, 24, config)
    expected = reference_attention(layer, config, spec, x_BSD)
    cache = empty_cache(config, spec, 2)
    layer(x_BSD[:, :11], Step((0, 0), start, 11, CPU), cache)
    for row, length in enumerate(start):
        visible = length % CHUNK if spec.span == "chunk" else length
        cache.k_BTGK[row, visible:] = 1e6
        cache.v_BTGK[row, visible:] = 1e6
    tail = torch.full((2, width, config.width), 1e4)
    for row, count in enumerate(counts):
        tail[row, :count] = x_BSD[row, start[row] : start[row] + count]
    found = layer(tail, Step(start, counts, width, CPU), cache)
    for row, count in enumerate(counts):
        assert_close(found[row, :count], expected[row, start[row] : start[row] + count], f"row {row}")


@torch.no_grad()
def test_a_token_past_the_chunk_sees_itself_alone() -> None:
    """Position 5 with a chunk of 5: its output is its own value vector, whatever came before. Meta's decode step sees all."""
    layer, config = layer_of(ROPE_DENSE)
    x_BSD = hidden(1, 6, config)
    alone = layer(x_BSD[:, 5:], whole(1, 1), None)
    assert_close(layer(x_BSD, whole(1, 6), None)[:, 5:], alone, "uncached")
    cache = empty_cache(config, ROPE_DENSE, 1)
    layer(x_BSD[:, :5], whole(1, 5), cache)
    assert_close(layer(x_BSD[:, 5:], Step((5,), (1,), 1, CPU), cache), alone, "decode")


def test_norm_is_of_each_head_by_itself() -> None:
    """vLLM #16311: one norm over all heads lets a loud head silence the others."""
    layer, config = layer_of(ROPE_DENSE, norm_eps=1e-12)
    with torch.no_grad():
        layer.q.weight[: config.head_width] *= 100.0  # the first head is loud
    x_BSD = hidden(1, 4, config)
    q_BSHK = layer.q(x_BSD).unflatten(-1, (-1, config.head_width))
    k_BSGK = layer.k(x_BSD).unflatten(-1, (-1, config.head_width))
    q_normed, k_normed = layer.positions(q_BSHK, k_BSGK, whole(1, 4))
    for normed in (q_normed, k_normed):
        assert_close(normed.square().mean(-1), torch.ones(normed.shape[:-1]), "mean square")


@pytest.mark.parametrize(
    ("position", "expected"),
    [(0, 1.0), (8190, 1.0), (8191, 1.069), (16382, 1.069), (16383, 1.110), (10_485_759, 1.716)],
)
def test_temperature_at_the_released_floor(position: int, expected: float) -> None:
    found = float(temperature_scale(torch.tensor([[position]]), Temperature()))
    assert found == pytest.approx(expected, abs=5e-4)
    assert found == pytest.approx(1 + 0.1 * math.log(1 + (position + 1) // 8192), rel=1e-6)


def test_temperature_keeps_the_dtype() -> None:
    """Meta's code crashes here: fp32 scales promote a bfloat16 q."""
    layer, config = layer_of(NOPE_DENSE)
    assert layer.bfloat16()(hidden(1, 9, config).bfloat16(), whole(1, 9), None).dtype == torch.bfloat16


@torch.no_grad()
def test_positions_past_the_context_do_not_wrap() -> None:
    """A RoPE layer that sees everything turns by the position itself, however long the prompt."""
    layer, config = layer_of(ROPE_ALL, max_context=4)
    short = dataclasses.replace(config, max_context=4096)
    x_BSD = hidden(1, 9, config)
    assert_close(layer(x_BSD, whole(1, 9), None), reference_attention(layer, short, ROPE_ALL, x_BSD), "attention")
