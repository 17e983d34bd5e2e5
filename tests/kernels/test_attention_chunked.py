"""Chunked attention and its gradients: the reference's, at odd sizes, from any layout; nothing of a chunk, a row or a head gets
into another; the same bits twice."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import random
from kernel_machine import DEVICE, NARROW
from llama4_kernels import chunked_attention, reference
from llama4_kernels.attention_chunked import _chunked

# Rows, positions, query heads, key/value heads, head width, chunk; tiles are of 32 packed rows and 32 keys in the interpreter.
CASES = {
    "one position": (1, 1, 2, 1, 16, 4),
    "chunks of one position": (1, 3, 2, 1, 16, 1),
    "five heads share, as in Scout; the last chunk is short": (1, 50, 5, 1, 16, 20),
    "three heads share, as in the default model; the last chunk is one position": (2, 29, 6, 2, 32, 7),
    "a tile, a block and a chunk end together": (1, 64, 1, 1, 16, 32),
    "one position more than that": (1, 65, 1, 1, 16, 33),
    "several tiles and blocks in each of two chunks": (1, 150, 3, 1, 16, 80),
    "a chunk that is never full: causal": (2, 37, 4, 2, 16, 8192),
    "as wide as Scout's heads": (1, 9, 5, 1, 128, 8),
}
# Weights are rounded once before they meet v, and the output once: two roundings of at most 2^-11 (fp16) or 2^-8 (bf16) of the
# largest number. A gradient has four, and sums of up to 150 terms that partly cancel. fp32 sums in another order.
CLOSE = {torch.float32: 2e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}
CLOSE_GRADIENT = {torch.float32: 5e-6, torch.float16: 2**-9, torch.bfloat16: 2**-6}


def given(case: tuple[int, ...], dtype: torch.dtype = NARROW) -> tuple[list[torch.Tensor], torch.Tensor]:
    """q, k, v, and a gradient of the output. Queries are large: a softmax that is nearly even would hide a wrong mask."""
    batch, length, heads, kv_heads, width, _ = case
    q_BSHK = random(batch, length, heads, width, dtype=dtype, seed=1, scale=2.0)
    k_BSGK, v_BSGK = (random(batch, length, kv_heads, width, dtype=dtype, seed=seed) for seed in (2, 3))
    return [q_BSHK, k_BSGK, v_BSGK], random(batch, length, heads, width, dtype=dtype, seed=4)


def with_gradients(attend: object, qkv: list[torch.Tensor], dout_BSHK: torch.Tensor, chunk: int) -> list[torch.Tensor]:
    """The output, and the gradients of q, k, v."""
    leaves = [tensor.detach().requires_grad_() for tensor in qkv]
    out_BSHK = attend(*leaves, chunk)
    return [out_BSHK.detach(), *torch.autograd.grad(out_BSHK, leaves, dout_BSHK)]


def assert_near(found: torch.Tensor, exact: torch.Tensor, what: str, close: float) -> None:
    bound = close * max(1.0, float(exact.abs().max()))
    worst = float((found.double() - exact).abs().max())
    assert found.shape == exact.shape and worst <= bound, f"{what}: off by {worst}, {worst / bound:.1f} x the bound"


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_output_and_gradients_are_the_references(case: tuple[int, ...], dtype: torch.dtype) -> None:
    qkv, dout_BSHK = given(case, dtype)
    found = with_gradients(chunked_attention, qkv, dout_BSHK, case[-1])
    exact = with_gradients(reference.chunked_attention, [x.double() for x in qkv], dout_BSHK.double(), case[-1])
    assert all(x.dtype == dtype for x in found)
    assert_near(found[0], exact[0], "output", CLOSE[dtype])
    for name, ours, theirs in zip("qkv", found[1:], exact[1:], strict=True):
        assert_near(ours, theirs, f"gradient of {name}", CLOSE_GRADIENT[dtype])


def test_scores_that_grow_block_by_block() -> None:
    """Each block's scores are 40 above the last one's: what was summed before must shrink to nothing, or the rest overflows."""
    length, width = 100, 16
    q_BSHK = torch.zeros(1, length, 2, width, device=DEVICE)
    q_BSHK[..., 0] = width**0.5
    k_BSGK = torch.zeros(1, length, 1, width, device=DEVICE)
    k_BSGK[0, :, 0, 0] = torch.arange(length, device=DEVICE) // 32 * 40.0 + random(length)
    v_BSGK = random(1, length, 1, width, seed=5)
    exact = reference.chunked_attention(q_BSHK.double(), k_BSGK.double(), v_BSGK.double(), length)
    assert_near(
        chunked_attention(q_BSHK, k_BSGK, v_BSGK, length), exact, "output", 2e-5
    )  # scores of 120 in fp32: 8e-6 of a weight


def test_any_layout_gives_the_same_bits() -> None:
    """Heads before positions, and a slice of something wider: what a projection or a cache may hand over."""
    qkv, dout_BSHK = given((2, 29, 6, 2, 16, 7))
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in qkv[:2]]
    sliced = torch.cat((qkv[2], qkv[2]), dim=-1)[..., :16]
    expected = with_gradients(chunked_attention, qkv, dout_BSHK, 7)
    turned_dout = dout_BSHK.transpose(1, 2).contiguous().transpose(1, 2)
    found = with_gradients(chunked_attention, [*turned, sliced], turned_dout, 7)
    assert not turned[0].is_contiguous() and not sliced.is_contiguous()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("index", "stays"),
    [
        ((slice(None), slice(14, 21)), lambda x: torch.cat((x[:, :14], x[:, 21:]), dim=1)),
        ((1,), lambda x: x[0]),
        ((slice(None), slice(None), -1), lambda x: x[:, :, : x.shape[2] // 2]),
    ],
    ids=["a chunk", "a row", "a key/value head"],
)
def test_nan_stays_in(index: tuple, stays: object) -> None:
    """NaN keys, values, queries and gradients of one chunk, row or head: all else, forward and backward, keeps its bits."""
    qkv, dout_BSHK = given((2, 29, 6, 2, 16, 7))
    expected = with_gradients(chunked_attention, qkv, dout_BSHK, 7)
    for tensor in (*qkv[1:], *([qkv[0], dout_BSHK] if index[-1] != -1 else [])):
        tensor[index] = torch.nan
    found = with_gradients(chunked_attention, qkv, dout_BSHK, 7)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(stays(ours), stays(theirs)) and ours[index].isnan().any()


def test_twice_the_same_bits() -> None:
    qkv, dout_BSHK = given((1, 50, 5, 1, 16, 20))
    once, again = (with_gradients(chunked_attention, qkv, dout_BSHK, 20) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_what_is_kept_for_the_backward_pass_is_the_log_of_the_sum() -> None:
    """lse, of base 2: one number a query and head from which every weight can be had again."""
    qkv, _ = given((1, 40, 2, 1, 16, 24), torch.float32)
    _, lse_BSH = _chunked(*qkv, 24)
    q_BSHK, k_BSGK, _ = (x.double() for x in qkv)
    scores_BHST = torch.einsum("bshk,btgk->bhst", q_BSHK, k_BSGK) / 4.0
    places = torch.arange(40, device=DEVICE)
    seen_ST = (places[None] <= places[:, None]) & (places[None] // 24 == places[:, None] // 24)
    exact = scores_BHST.masked_fill(~seen_ST, -torch.inf).logsumexp(-1).transpose(1, 2) / torch.log(
        torch.tensor(2.0).double()
    )
    assert_near(lse_BSH, exact, "lse", 2e-6)


@pytest.mark.parametrize("shape", [(0, 5, 2, 16), (2, 0, 2, 16)], ids=["no rows", "no positions"])
def test_nothing_at_all(shape: tuple[int, ...]) -> None:
    qkv = [torch.empty(shape, device=DEVICE, requires_grad=True) for _ in range(3)]
    out_BSHK = chunked_attention(*qkv, 4)
    out_BSHK.sum().backward()
    assert out_BSHK.shape == shape and all(x.grad.shape == shape for x in qkv)


def test_a_compiler_is_told_the_truth() -> None:
    """Schema, shapes without data, and the registration of the gradient."""
    qkv, _ = given((1, 9, 2, 1, 16, 4))
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(_chunked, (*[x.requires_grad_() for x in qkv], 4), test_utils=checks)


WRONG = {
    "query heads that are a multiple": lambda q, k, v: (q[:, :, :3], k, v, 4),
    "needs q \\[B, S, H, K\\]": lambda q, k, v: (q, k, v[:, :5], 4),
    "needs q .B, S": lambda q, k, v: (q[0], k, v, 4),
    "heads of width 16, 32, 64 or 128": lambda q, k, v: (q[..., :10], k[..., :10], v[..., :10], 4),
    "a key for each query": lambda q, k, v: (q[:, :5], k, v, 4),
    "a chunk of at least 1": lambda q, k, v: (q, k, v, 0),
    "numbers of a head of k side by side": lambda q, k, v: (q, k.mT.contiguous().mT, v, 4),
    "the same for all": lambda q, k, v: (q, k.double(), v, 4),
    "on one device": lambda q, k, v: (q, k.to("meta"), v, 4),
}


@pytest.mark.parametrize("told", WRONG, ids=list(WRONG))
def test_what_it_cannot_take_is_told(told: str) -> None:
    qkv, _ = given((1, 9, 4, 2, 16, 4))
    with pytest.raises((ValueError, TypeError), match=told) as raised:
        chunked_attention(*WRONG[told](*qkv))
    assert str(raised.value).count(". ") == 0 and str(raised.value).endswith(".")
