"""Rotation and QK norm of a RoPE layer's queries and keys, in one launch.

    (x[2i], x[2i+1]) -> turned by the angle of pair i          y = x / sqrt(mean(x^2) + eps)        each head by itself

For the token of a decoding step this is 48 heads of 128 numbers, nothing to compute; what costs is that torch takes nine small
kernels for q and nine for k (docs/kernels/attention.md counts them), in 36 of Scout's 48 layers. One launch instead. It stands
before attention and not in it: keys have to be turned before they are kept, so q, which goes the same way, costs no launch of
its own; and in attention each of a head's splits would turn it again.

Neighbours are pairs: a tile of [heads, K] is seen as [heads, K/2, 2] and split along its last dimension. All of it in fp32,
rounded once, as llama4/attention.py does; the order is rotation first, norm after.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from llama4_kernels.checks import check_turn

HEADS = 8  # of a program


@triton.jit
def _turn(
    q_ptr, k_ptr, cos_ptr, sin_ptr, q_out_ptr, k_out_ptr, length, heads, kv_heads, eps,
    q_row, q_token, q_head, k_row, k_token, k_head,
    WIDTH: tl.constexpr, HEADS: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    token, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    q_blocks = tl.cdiv(heads, HEADS)
    place, depths = tl.arange(0, HEADS), tl.arange(0, WIDTH)
    row, column = token // length, token % length
    if block < q_blocks:
        here, count = block * HEADS + place, heads
        x_at = q_ptr + row * q_row + column * q_token + here[:, None].to(tl.int64) * q_head
        out_at = q_out_ptr + (token * heads + here)[:, None] * WIDTH
    else:
        here, count = (block - q_blocks) * HEADS + place, kv_heads
        x_at = k_ptr + row * k_row + column * k_token + here[:, None].to(tl.int64) * k_head
        out_at = k_out_ptr + (token * kv_heads + here)[:, None] * WIDTH
    inside = (here < count)[:, None]
    x = tl.load(x_at + depths[None, :], mask=inside, other=0.0).to(tl.float32)
    pairs = tl.arange(0, WIDTH // 2)
    cos = tl.load(cos_ptr + token * (WIDTH // 2) + pairs)[None, :]
    sin = tl.load(sin_ptr + token * (WIDTH // 2) + pairs)[None, :]
    even, odd = tl.split(x.reshape(HEADS, WIDTH // 2, 2))
    turned = tl.join(even * cos - odd * sin, even * sin + odd * cos).reshape(HEADS, WIDTH)
    if NORM:
        turned = turned * tl.rsqrt(tl.sum(turned * turned, 1) / WIDTH + eps)[:, None]
    tl.store(out_at + depths[None, :], turned.to(q_out_ptr.dtype.element_ty), mask=inside)


def rotate_and_norm(
    q_BSHK: Tensor, k_BSGK: Tensor, cos_BSK: Tensor, sin_BSK: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """q and k turned, then each head normed to a mean square of 1: two contiguous tensors in their dtype. Forward only.

    cos, sin: fp32 `[B, S, K / 2]`, of each token's angles. bf16, fp16 or fp32; any strides but the last, which is 1; K a power of
    two from 16 to 128. Raises ValueError or TypeError, in one sentence, for anything else.
    """
    check_turn("rotate_and_norm", q_BSHK, k_BSGK, cos_BSK, sin_BSK)
    return _turned(q_BSHK, k_BSGK, cos_BSK, sin_BSK, eps, True)


def rotate(q_BSHK: Tensor, k_BSGK: Tensor, cos_BSK: Tensor, sin_BSK: Tensor) -> tuple[Tensor, Tensor]:
    """The rotation alone, for models without QK norm, such as Maverick; otherwise as `rotate_and_norm`."""
    check_turn("rotate", q_BSHK, k_BSGK, cos_BSK, sin_BSK)
    return _turned(q_BSHK, k_BSGK, cos_BSK, sin_BSK, 0.0, False)


@torch.library.custom_op("llama4::turn", mutates_args=())
def _turned(
    q_BSHK: Tensor, k_BSGK: Tensor, cos_BSK: Tensor, sin_BSK: Tensor, eps: float, norm: bool
) -> tuple[Tensor, Tensor]:
    (batch, length, heads, width), kv_heads = q_BSHK.shape, k_BSGK.shape[2]
    q_out_BSHK, k_out_BSGK = (x.new_empty(x.shape) for x in (q_BSHK, k_BSGK))
    if q_out_BSHK.numel() == 0:
        return q_out_BSHK, k_out_BSGK
    grid = (batch * length, triton.cdiv(heads, HEADS) + triton.cdiv(kv_heads, HEADS))
    with torch.cuda.device_of(q_BSHK):
        _turn[grid](
            q_BSHK, k_BSGK, cos_BSK, sin_BSK, q_out_BSHK, k_out_BSGK, length, heads, kv_heads, eps,
            *q_BSHK.stride()[:3], *k_BSGK.stride()[:3], WIDTH=width, HEADS=HEADS, NORM=norm, num_warps=4,
        )  # fmt: skip
    return q_out_BSHK, k_out_BSGK


@_turned.register_fake
def _(
    q_BSHK: Tensor, k_BSGK: Tensor, cos_BSK: Tensor, sin_BSK: Tensor, eps: float, norm: bool
) -> tuple[Tensor, Tensor]:
    return q_BSHK.new_empty(q_BSHK.shape), k_BSGK.new_empty(k_BSGK.shape)
