"""Ops, the order of rotation and QK norm. In exact arithmetic it does not show; what shows is where bfloat16 rounds.

A rotation keeps a head's length, and the weightless norm only divides by the length: rms(rotate(q)) = rotate(rms(q)), whatever
eps is. So no float32 rung can tell the orders apart. In bfloat16 the order decides what is rounded before what: the references
rotate in float32, round, norm in float32, round. Ours rotates and norms in float32 and rounds once, so it lies closer to the
truth than theirs; the other order would round between the two.
"""

from __future__ import annotations

import pytest
import torch
from compare import assert_close
from tolerances import EXACT, FP32
from torch import Tensor

from llama4 import rope
from llama4.attention import Rotary
from llama4.cache import Step
from llama4.config import Config, LayerSpec
from llama4.layers import rms_norm

LENGTH = 40


def _rotary() -> Rotary:
    spec = LayerSpec("rope", "chunk", "dense")
    sizes = {"vocab_size": 10, "width": 16, "heads": 3, "kv_heads": 3, "head_width": 16, "dense_width": 8}
    sizes |= {"experts": 0, "expert_width": 0, "chunk": LENGTH}
    return Rotary(Config(layers=(spec,), qk_norm=True, rope_theta=50.0, **sizes), spec)


def _drawn() -> Tensor:
    return torch.randn(2, LENGTH, 3, 16, generator=torch.Generator().manual_seed(2)) * 3


def _turn() -> tuple[Tensor, Tensor]:
    return rope.rotation(torch.arange(LENGTH), rope.frequencies(16, 50.0, None))


def _step(x_BSHK: Tensor) -> Step:
    return Step((0, 0), (LENGTH, LENGTH), LENGTH, x_BSHK.device)


def test_qk_norm_comes_after_the_rotation() -> None:
    """bfloat16, bit for bit: rotate in float32, norm in float32, round once."""
    q_BSHK = _drawn().bfloat16()
    ours, _ = _rotary()(q_BSHK, q_BSHK, _step(q_BSHK))
    expected = rms_norm(rope.rotate(q_BSHK, _turn()), 1e-5).bfloat16()
    assert_close(ours, expected, "normed queries", EXACT)


def test_in_float32_both_orders_are_one_function() -> None:
    """Why the mutation list's "QK norm before the rotation" needs a bfloat16 test."""
    q_BSHK = _drawn()
    other = rope.rotate(rms_norm(q_BSHK, 1e-5), _turn())
    assert_close(rms_norm(rope.rotate(q_BSHK, _turn()), 1e-5), other, "the two orders", FP32)


def test_one_rounding_is_closer_to_the_truth_than_the_references_two() -> None:
    pytest.importorskip("transformers")
    from transformers.models.llama4.modeling_llama4 import Llama4TextL2Norm, apply_rotary_emb

    q_BSHK = _drawn().bfloat16()
    cos, sin = _turn()
    theirs, _ = apply_rotary_emb(q_BSHK, q_BSHK, torch.complex(cos[:, 0], sin[:, 0]).expand(2, -1, -1))
    theirs = Llama4TextL2Norm(1e-5)(theirs)
    ours, _ = _rotary()(q_BSHK, q_BSHK, _step(q_BSHK))
    truth = rms_norm(rope.rotate(q_BSHK, _turn()), 1e-5)
    our_error, their_error = ((x.float() - truth).square().mean().sqrt() for x in (ours, theirs))
    assert our_error < 0.9 * their_error
