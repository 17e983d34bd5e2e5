"""Rotary embedding: the frequencies and Scout's scaling against their formulas, turning against complex numbers in fp64,
neighbouring pairs, dependence on the distance alone, exact angles at 10 M tokens, and the two dimensions of an image."""

from __future__ import annotations

import math

import pytest
import torch
from small_models import assert_close

from llama4 import rope
from llama4.config import RopeScaling, VisionConfig


def complex_turn(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """The definition in fp64: pair (2i, 2i+1) as a complex number, times e^(i angle)."""
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


@pytest.mark.parametrize(("width", "theta"), [(2, 10.0), (10, 500.0), (128, 500000.0)])
def test_frequencies_are_powers_of_theta(width: int, theta: float) -> None:
    expected = torch.tensor([theta ** (-2 * pair / width) for pair in range(width // 2)], dtype=torch.float64)
    found = rope.frequencies(width, theta, None)
    assert found.dtype == torch.float32
    assert ((found.double() - expected) / expected).abs().max() < 1e-6  # a power in fp32


def test_worked_numbers_of_the_docstring() -> None:
    slowest = float(rope.frequencies(128, 500000.0, None)[63])
    assert f"{slowest:.1e}" == "2.5e-06"
    assert f"{2 * math.pi / slowest / 1e6:.1f}" == "2.6"
    scaled = float(rope.frequencies(128, 500000.0, RopeScaling())[63])
    assert scaled == pytest.approx(slowest / 16, rel=1e-6)


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (1.0, 4.0), (2.0, 3.5)])
def test_scaling_follows_llama3(low: float, high: float) -> None:
    scaling = RopeScaling(factor=16.0, low_freq_factor=low, high_freq_factor=high, original_context=8192)
    freqs = rope.frequencies(128, 500000.0, None)
    kinds = set()
    for plain, scaled in zip(freqs.double().tolist(), rope.scale_frequencies(freqs, scaling).tolist(), strict=True):
        wavelength = 2 * math.pi / plain
        if wavelength > 8192 / low:
            kinds.add("slow")
            expected = plain / 16
        elif wavelength < 8192 / high:
            kinds.add("fast")
            expected = plain
        else:
            kinds.add("between")
            share = (8192 / wavelength - low) / (high - low)
            expected = (1 - share) * plain / 16 + share * plain
        assert scaled == pytest.approx(expected, rel=3e-6)  # the share is a difference of near numbers, in fp32
    assert kinds == ({"slow", "fast"} if low == high else {"slow", "fast", "between"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotate_is_complex_multiplication(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    x_BSHK = torch.randn(2, 7, 3, 10, generator=generator).to(dtype)
    positions_BS = torch.randint(0, 50, (2, 7), generator=generator)
    freqs = rope.frequencies(10, 100.0, None)
    found = rope.rotate(x_BSHK, rope.rotation(positions_BS, freqs))
    assert found.dtype == torch.float32
    angles = positions_BS[:, :, None, None].double() * freqs.double()
    assert_close(found, complex_turn(x_BSHK, angles), "rotated")


def test_pairs_are_neighbours_not_halves() -> None:
    x = torch.zeros(1, 1, 8)
    x[..., 2] = 1.0  # the first entry of pair 1
    turned = rope.rotate(x, rope.rotation(torch.tensor([3]), rope.frequencies(8, 10.0, None)))
    assert turned.nonzero()[:, -1].tolist() == [2, 3]


def test_scores_depend_on_the_distance_alone() -> None:
    generator = torch.Generator().manual_seed(2)
    q, k = torch.randn(2, 1, 1, 64, generator=generator)
    freqs = rope.frequencies(64, 500000.0, None)

    def score(query: int, key: int) -> float:
        q_turned = rope.rotate(q, rope.rotation(torch.tensor([query]), freqs))
        k_turned = rope.rotate(k, rope.rotation(torch.tensor([key]), freqs))
        return float((q_turned * k_turned).sum())

    assert score(17, 5) == pytest.approx(score(212, 200), abs=1e-4)
    assert abs(score(17, 5) - score(17, 6)) > 0.01


def test_turning_inside_the_chunk_is_exact_at_ten_million_tokens() -> None:
    """The relative angle of two positions of one chunk, against fp64: by absolute position it is off by 0.8 rad."""
    chunk, freqs = 8192, rope.frequencies(128, 500000.0, RopeScaling())
    positions = torch.arange(10_485_760 - chunk, 10_485_760)

    def worst(used: torch.Tensor) -> float:
        cos, sin = (part.double()[:, 0] for part in rope.rotation(used, freqs))
        found = torch.complex(cos, sin) * torch.complex(cos[0], -sin[0])  # turn from the first position of the chunk
        exact = (positions - positions[0])[:, None].double() * freqs.double()
        return float((found * torch.polar(torch.ones_like(exact), -exact)).angle().abs().max())

    assert worst(positions % chunk) < 3e-4  # 8191 rounded to fp32 once: 2^-12
    assert f"{worst(positions):.1f}" == "0.8"


def test_gradient_turns_back() -> None:
    x = torch.randn(2, 5, 3, 6, generator=torch.Generator().manual_seed(3)).requires_grad_()
    out_gradient = torch.randn(x.shape, generator=torch.Generator().manual_seed(4))
    positions = torch.arange(5).expand(2, 5)
    freqs = rope.frequencies(6, 30.0, None)
    rope.rotate(x, rope.rotation(positions, freqs)).backward(out_gradient)
    angles = positions[:, :, None, None].double() * freqs.double()
    assert_close(x.grad, complex_turn(out_gradient, -angles), "gradient")


@pytest.mark.parametrize(("side", "heads", "width"), [(12, 1, 8), (21, 3, 36), (336, 16, 1408)])
def test_vision_turns_by_column_then_row(side: int, heads: int, width: int) -> None:
    """First half of a head's pairs: (column + 1); second half: (row + 1); the class token, last: not at all."""
    patch = 14 if side == 336 else 3
    vision = VisionConfig(side, patch, width, 1, heads, 8, shuffle=1, adapter_width=8, rope_theta=10000.0)
    cos, sin = rope.vision_rotation(vision)
    pairs = width // heads // 2
    assert cos.shape == sin.shape == (vision.grid**2 + 1, 1, pairs)
    expected = torch.zeros(vision.grid**2 + 1, pairs, dtype=torch.float64)
    for row in range(vision.grid):
        for column in range(vision.grid):
            for pair in range(pairs // 2):
                freq = 10000.0 ** (-2 * pair / pairs)  # a direction has half the head: width pairs * 2 / 2
                expected[row * vision.grid + column, pair] = (column + 1) * freq
                expected[row * vision.grid + column, pairs // 2 + pair] = (row + 1) * freq
    assert_close(cos[:, 0], expected.cos(), "cosine")
    assert_close(sin[:, 0], expected.sin(), "sine")
    x = torch.randn(vision.grid**2 + 1, heads, width // heads, generator=torch.Generator().manual_seed(5))
    turned = rope.rotate(x, (cos, sin))
    assert_close(turned, complex_turn(x, expected[:, None]), "turned patches")
    assert torch.equal(turned[-1], x[-1])
