"""Heads that lie 2^30 numbers apart, as those of a cache with heads before slots do at a million tokens and more: the third
begins behind 2^31, and an offset of 32 bits would point in front of the tensor. The bits are those of heads side by side.

Two gigabytes a head, of which only a page or two is ever touched.
"""

from __future__ import annotations

import pytest
import torch
from kernel_cases import random
from kernel_machine import DEVICE, NARROW
from llama4_kernels import chunked_attention, decode_attention, rotate_and_norm

APART = 2**30
HEADS = pytest.mark.parametrize(("heads", "kv_heads"), [(3, 3), (3, 1)], ids=["a head each", "three heads share"])


def far(near_BSHK: torch.Tensor) -> torch.Tensor:
    """The same numbers, head by head `APART`."""
    batch, length, heads, width = near_BSHK.shape
    memory = torch.empty((heads - 1) * APART + batch * length * width, dtype=near_BSHK.dtype, device=DEVICE)
    return memory.as_strided(near_BSHK.shape, (length * width, width, APART, 1)).copy_(near_BSHK)


def drawn(heads: int, length: int, seed: int) -> torch.Tensor:
    return random(1, length, heads, 16, dtype=NARROW, seed=seed)


@HEADS
def test_chunked_attention_and_its_gradients(heads: int, kv_heads: int) -> None:
    near = [drawn(heads, 9, 1), drawn(kv_heads, 9, 2), drawn(kv_heads, 9, 3)]
    dout_BSHK, found = drawn(heads, 9, 4), []
    for qkv in (near, [far(one) for one in near]):
        leaves = [tensor.requires_grad_() for tensor in qkv]
        out_BSHK = chunked_attention(*leaves, 5)
        found.append([out_BSHK.detach(), *torch.autograd.grad(out_BSHK, leaves, dout_BSHK)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@HEADS
def test_decode_attention(heads: int, kv_heads: int) -> None:
    q_BSHK, k_BTGK, v_BTGK = drawn(heads, 1, 1), drawn(kv_heads, 40, 2), drawn(kv_heads, 40, 3)
    seen_BS = torch.tensor([[37]], device=DEVICE)
    expected = decode_attention(q_BSHK, k_BTGK, v_BTGK, seen_BS)
    assert torch.equal(decode_attention(far(q_BSHK), far(k_BTGK), far(v_BTGK), seen_BS), expected)


def test_rotation() -> None:
    q_BSHK, k_BSGK = drawn(3, 5, 1), drawn(3, 5, 2)
    cos_BSK, sin_BSK = (random(1, 5, 8, dtype=torch.float32, seed=seed) for seed in (3, 4))
    expected = rotate_and_norm(q_BSHK, k_BSGK, cos_BSK, sin_BSK, 1e-5)
    found = rotate_and_norm(far(q_BSHK), far(k_BSGK), cos_BSK, sin_BSK, 1e-5)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
