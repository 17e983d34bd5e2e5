"""A long prompt costs S * chunk, in memory and in work: no tensor of more than 4 * S * chunk elements a head exists at any
point of a prefill of 64 chunks, uncached, cached in one go, or in pieces; and doubling the prompt doubles the cost.

The detector sees the result of every operation that torch dispatches; it is shown to fire on an S x S mask and on an S x S
score matrix. Fused attention counts as one operation: its tiles are a constant of the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attention_reference import reference_attention
from small_models import NOPE_DENSE, ROPE_ALL, ROPE_DENSE, assert_close, drawn, drawn_model, random_tokens, small_config
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from llama4 import Llama4, masks
from llama4.attention import Attention
from llama4.cache import LayerCache, Step

CHUNK, CHUNKS = 32, 64
S = CHUNK * CHUNKS
BATCH, HEADS = 2, 6
LIMIT = 4 * S * CHUNK
CPU = torch.device("cpu")


class Watch(TorchDispatchMode):
    """Records the largest tensor that any operation returns, in elements a row and head, and the matmul work."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.where, self.work = 0.0, "", 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor) and tensor.numel() / (BATCH * HEADS) > self.largest:
                self.largest, self.where = tensor.numel() / (BATCH * HEADS), f"{func} {list(tensor.shape)}"
        self.work += _multiplications(func, args)
        return out


def _multiplications(func: Any, args: tuple) -> int:
    """Scalar multiplications of the matmuls and the attention that a call of `func` stands for (a causal one: all pairs)."""
    name = func.__name__.split(".")[0]
    if name in ("mm", "bmm"):
        return args[0].numel() * args[1].shape[-1]
    if name.startswith("_scaled_dot_product"):
        q_BHSK, k_BGTK = args[0], args[1]
        return 2 * q_BHSK.numel() * k_BGTK.shape[2]
    assert name not in ("addmm", "baddbmm", "einsum", "linear"), f"{name} is not counted"
    return 0


def prefill(model: Llama4, tokens_BS: Tensor, how: str) -> None:
    """Run `tokens_BS` through the model: without a cache, with one in one go, or in pieces that divide nothing."""
    cache = None if how == "uncached" else model.new_cache(len(tokens_BS), tokens_BS.shape[1])
    width = 37 * CHUNK // 5 if how == "in pieces" else tokens_BS.shape[1]
    for piece_BS in tokens_BS.split(width, dim=1):
        model(piece_BS, cache=cache, logits="last")


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def model() -> Llama4:
    """Chunked and global layers, dense and MoE."""
    return drawn_model(small_config(chunk=CHUNK, width=24))


@pytest.mark.parametrize("how", ["uncached", "in one go", "in pieces"])
def test_no_tensor_over_four_chunks_a_position(model: Llama4, how: str) -> None:
    with Watch() as watch:
        prefill(model, random_tokens(BATCH, S), how)
    assert 0 < watch.largest <= LIMIT, watch.where


def test_no_large_tensor_when_rows_stand_in_different_chunks(model: Llama4) -> None:
    """Row 1 starts 7 tokens in, so every piece boundary of one row falls inside a chunk of the other."""
    cache = model.new_cache(BATCH, S + 7)
    model(random_tokens(BATCH, 7), cache=cache, lengths_B=torch.tensor([0, 7]))
    with Watch() as watch:
        model(random_tokens(BATCH, S), cache=cache, logits="last")
    assert 0 < watch.largest <= LIMIT, watch.where


def test_no_large_tensor_on_the_way_back(model: Llama4) -> None:
    with torch.enable_grad(), Watch() as watch:
        model(random_tokens(BATCH, S), logits="last").sum().backward()
    model.zero_grad()
    assert 0 < watch.largest <= LIMIT, watch.where


def test_detector_fires_on_a_mask_and_on_scores() -> None:
    positions_BS = torch.arange(S).expand(BATCH * HEADS, S)
    with Watch() as watch:
        masks.chunked(positions_BS, positions_BS, CHUNK)
    assert watch.largest > LIMIT
    q = torch.randn(BATCH, HEADS, S, 2)
    with Watch() as watch:
        torch.softmax(q @ q.transpose(-1, -2), dim=-1)
    assert watch.largest > LIMIT
    with Watch() as watch:
        F.scaled_dot_product_attention(q, q, q, is_causal=True)
    assert watch.largest <= LIMIT


def work(spec: object, chunks: int, pieces: int = 1) -> int:
    """Multiplications of one attention layer over `chunks` chunks, cached in `pieces` calls."""
    config, width = small_config(chunk=CHUNK), chunks * CHUNK
    layer, step_width = drawn(Attention(config, spec)), width // pieces
    period = CHUNK if spec.span == "chunk" else width
    cache = LayerCache(torch.empty(0), 1, config.kv_heads, config.head_width, period=period, limit=width)
    with Watch() as watch:
        for start in range(0, width, step_width):
            step = Step((start,), (step_width,), step_width, CPU)
            layer(torch.randn(1, step_width, config.width), step, cache)
    return watch.work


@pytest.mark.parametrize("pieces", [1, 8])
def test_chunked_work_is_linear_in_the_prompt(pieces: int) -> None:
    assert work(ROPE_DENSE, 16, pieces) == 2 * work(ROPE_DENSE, 8, pieces)
    assert work(ROPE_ALL, 16, pieces) > 2.5 * work(ROPE_ALL, 8, pieces)  # the counter does see a square


def test_a_piece_never_attends_beyond_its_chunk() -> None:
    """The work of a chunked layer is projections plus at most S * chunk scores, and as many products with values."""
    config, width = small_config(chunk=CHUNK), 16 * CHUNK
    projections = width * config.width * config.head_width * (2 * config.heads + 2 * config.kv_heads)
    for pieces in (1, 8, 32):
        attention = work(ROPE_DENSE, 16, pieces) - projections
        assert 0 < attention <= 2 * width * CHUNK * config.heads * config.head_width


def test_kept_through_a_call_stays_linear() -> None:
    """What the layers of a call share (angles, slots) adds up to less than the S * T of one mask."""
    model = drawn_model(small_config(chunk=CHUNK, width=24))
    cache = model.new_cache(1, S)
    model(random_tokens(1, S // 2), cache=cache)
    steps = []
    plan = cache.plan
    cache.plan = lambda *args: steps.append(plan(*args)) or steps[-1]
    model(random_tokens(1, S // 2), cache=cache, logits="last")
    held, waiting = 0, list(steps)
    while waiting:
        for value in waiting.pop()._shared.values():
            parts = value if isinstance(value, tuple) else (value,)
            waiting += [part for part in parts if isinstance(part, Step)]
            held += sum(part.numel() for part in parts if isinstance(part, Tensor))
    assert 0 < held <= 4 * S * CHUNK


@pytest.mark.parametrize("spec", [ROPE_DENSE, NOPE_DENSE], ids=["chunked", "global"])
def test_long_prompt_is_still_the_definition(spec: object) -> None:
    """Garbage at long context (ik_llama.cpp #335): 40 chunks and a rest, uncached and in pieces, against fp64."""
    config = small_config(chunk=CHUNK)
    layer, width = drawn(Attention(config, spec)), 40 * CHUNK + 11
    x_BSD = torch.randn(1, width, config.width, generator=torch.Generator().manual_seed(1))
    expected = reference_attention(layer, config, spec, x_BSD)
    assert_close(layer(x_BSD, Step((0,), (width,), width, CPU), None), expected, "uncached")
    period = CHUNK if spec.span == "chunk" else width
    cache = LayerCache(torch.empty(0), 1, config.kv_heads, config.head_width, period=period, limit=width)
    start = 0
    for piece_BSD in x_BSD.split(CHUNK * 7 + 3, dim=1):
        step = Step((start,), (piece_BSD.shape[1],), piece_BSD.shape[1], CPU)
        found = layer(piece_BSD, step, cache)
        assert_close(found, expected[:, start : step.end], f"from {start}")
        start = step.end


def test_ten_million_tokens_in_the_future() -> None:
    """A decode step at position 10 485 759 gives, on a chunked layer, what the same chunk gives at the start of time."""
    config = small_config(max_context=10_485_760)
    layer = drawn(Attention(config, ROPE_DENSE))
    x_BSD = torch.randn(1, 5, config.width, generator=torch.Generator().manual_seed(2))
    expected = reference_attention(layer, config, ROPE_DENSE, x_BSD)
    far = 10_485_760 - 5  # the last chunk of 5
    cache = LayerCache(torch.empty(0), 1, config.kv_heads, config.head_width, period=5, limit=10_485_760)
    for at in range(5):
        found = layer(x_BSD[:, at : at + 1], Step((far + at,), (1,), 1, CPU), cache)
        assert_close(found, expected[:, at : at + 1], f"position {far + at}")
    assert cache.k_BTGK.shape[1] == 5
