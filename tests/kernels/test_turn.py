"""Rotation and QK norm in one launch: the reference's, and the model's own, at odd numbers of heads and positions."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import random
from kernel_machine import DEVICE, NARROW
from llama4_kernels import reference, rotate, rotate_and_norm, turn

from llama4 import rope

# Rows, positions, query heads, key/value heads, head width; a program has eight heads.
CASES = {
    "one token of the default model": (1, 1, 6, 2, 32),
    "Scout's heads: programs are full": (1, 2, 40, 8, 128),
    "one head more than a program has, in a batch": (2, 3, 9, 9, 16),
}
# Two products and a sum, in fp32, and one rounding: half a unit in the last place of the largest.
CLOSE = {torch.float32: 1e-6, torch.float16: 2**-11, torch.bfloat16: 2**-8}


def given(case: tuple[int, ...], dtype: torch.dtype = NARROW) -> list[torch.Tensor]:
    batch, length, heads, kv_heads, width = case
    q_BSHK, k_BSGK = (random(batch, length, n, width, dtype=dtype, seed=n, scale=3.0) for n in (heads, kv_heads))
    angles_BSK = random(batch, length, width // 2, scale=5.0)
    return [q_BSHK, k_BSGK, angles_BSK.cos(), angles_BSK.sin()]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_rotation_and_norm_are_the_references(case: tuple[int, ...], dtype: torch.dtype) -> None:
    tensors = given(case, dtype)
    tensors[0][0, 0, 0] *= 1e-3  # a head so small that eps counts
    found = rotate_and_norm(*tensors, 1e-2)
    exact = reference.rotate_and_norm(*[x.double() for x in tensors], 1e-2)
    for ours, theirs in zip(found, exact, strict=True):
        assert ours.dtype == dtype and ours.shape == theirs.shape
        assert (ours.double() - theirs).abs().max() <= CLOSE[dtype] * theirs.abs().max()


@pytest.mark.usefixtures("poisoned")
def test_rotation_alone_is_the_models(dtype: torch.dtype) -> None:
    """Without QK norm, as in Maverick: `rope.rotate` and one rounding."""
    q_BSHK, k_BSGK, cos_BSK, sin_BSK = given((2, 3, 6, 2, 16), dtype)
    angles = cos_BSK[:, :, None], sin_BSK[:, :, None]
    for ours, x in zip(rotate(q_BSHK, k_BSGK, cos_BSK, sin_BSK), (q_BSHK, k_BSGK), strict=True):
        theirs = rope.rotate(x.double(), tuple(a.double() for a in angles)).double()
        assert (ours.double() - theirs).abs().max() <= CLOSE[dtype] * theirs.abs().max()


def test_any_layout_gives_the_same_bits() -> None:
    q_BSHK, k_BSGK, *angles = given((2, 3, 6, 2, 16))
    together = torch.cat((q_BSHK, k_BSGK), dim=2)  # one projection for q and k: two slices of it
    sliced = rotate_and_norm(together[:, :, :6], together[:, :, 6:], *angles, 1e-5)
    assert all(torch.equal(a, b) for a, b in zip(sliced, rotate_and_norm(q_BSHK, k_BSGK, *angles, 1e-5), strict=True))


def test_nan_of_one_head_stays_in_it() -> None:
    tensors = given((1, 2, 9, 3, 16))
    expected = rotate_and_norm(*tensors, 1e-5)
    tensors[0][0, 1, 4] = torch.nan
    q_BSHK, k_BSGK = rotate_and_norm(*tensors, 1e-5)
    others = torch.arange(9, device=DEVICE) != 4
    assert q_BSHK[0, 1, 4].isnan().all() and torch.equal(k_BSGK, expected[1])
    assert torch.equal(q_BSHK[:, :, others], expected[0][:, :, others])


def test_a_compiler_is_told_the_truth() -> None:
    tensors = given((1, 2, 6, 2, 16))
    torch.library.opcheck(turn._turned, (*tensors, 1e-5, True), test_utils=("test_schema", "test_faketensor"))


WRONG = {
    "a key for each query": lambda q, k, c, s: (q, k[:, :1], c, s),
    "cos as float32 \\[2, 3, 8\\]": lambda q, k, c, s: (q, k, c[..., :4], s),
    "sin as float32": lambda q, k, c, s: (q, k, c, s.double()),
    "heads of width": lambda q, k, c, s: (q[..., :10], k[..., :10], c, s),
}


@pytest.mark.parametrize("told", WRONG, ids=list(WRONG))
def test_what_it_cannot_take_is_told(told: str) -> None:
    with pytest.raises(ValueError, match=told):
        rotate_and_norm(*WRONG[told](*given((2, 3, 6, 2, 16))), 1e-5)
    with pytest.raises(ValueError, match=told):
        rotate(*WRONG[told](*given((2, 3, 6, 2, 16))))
