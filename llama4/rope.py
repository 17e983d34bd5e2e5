"""Rotary position embedding: one dimension for text, two for the patches of an image.

Pair i of a head, (x[2i], x[2i+1]), is a point of the plane. It is turned by the angle position * frequency_i, with
frequency_i = theta^(-2i/K) (RoFormer, arXiv 2104.09864), so that the score of a query and a key depends on the
difference of their positions alone.

Which entries form a pair is a convention, and Llama 4's differs from most code on the Hugging Face hub: pairs are
*neighbours* (2i, 2i+1), in text and vision, in Meta's files and in Hugging Face's. No row of q or k is permuted between
the two formats. Splitting the head in halves, (i, i + K/2), gives fluent nonsense.

Worked number: K = 128, theta = 500000. Pair 0 turns by 1 rad a token. Pair 63 turns by theta^(-126/128) = 2.5e-6 rad, one
turn in 2.6 million tokens; Scout's scaling divides that frequency by 16.

Sources: `precompute_freqs_cis` and `apply_scaling` in llama_models/llama4/model.py; `vision/encoder.py` for two dimensions.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor

from llama4.config import RopeScaling, VisionConfig


def frequencies(
    head_width: int, theta: float, scaling: RopeScaling | None, device: torch.device | None = None
) -> Tensor:
    """Radians a position, for each of the K/2 pairs: float32 `[K/2]`."""
    even = torch.arange(0, head_width, 2, dtype=torch.float32, device=device)
    freqs = 1.0 / theta ** (even / head_width)
    return freqs if scaling is None else scale_frequencies(freqs, scaling)


def scale_frequencies(freqs: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3's long-context scaling: slow pairs get slower by `factor`, fast pairs stay, those between are blended.

    A pair is slow when its wavelength exceeds `original_context / low_freq_factor`, fast when it is below
    `original_context / high_freq_factor`. Scout sets both factors to 1, so nothing lies between: every pair that takes over
    8192 tokens for a turn is slowed 16 times.
    """
    turns = scaling.original_context * freqs / (2 * math.pi)  # full turns within the original context
    slow = freqs / scaling.factor
    if scaling.low_freq_factor == scaling.high_freq_factor:
        return torch.where(turns < scaling.low_freq_factor, slow, freqs)
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    return torch.lerp(slow, freqs, blend.clamp(0.0, 1.0))


def rotation(positions: Tensor, freqs: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of position * frequency: float32 `positions.shape + [1, K/2]`, the 1 standing for the heads."""
    angles = positions[..., None].float() * freqs
    return angles.cos()[..., None, :], angles.sin()[..., None, :]


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the neighbouring pairs of `x` `[..., heads, K]`; returns float32, since the angles are only exact there.

    A point of the plane is a complex number, and a turn by an angle is a product: (x + iy)(cos + i sin). Torch does it in one
    pass over memory, where the four real products and two sums take 2.7 times as long, forward and backward, on a CPU.
    """
    pairs = torch.view_as_complex(rearrange(x.float(), "... (pair two) -> ... pair two", two=2))
    return rearrange(torch.view_as_real(pairs * torch.complex(*turn)), "... pair two -> ... (pair two)")


def vision_rotation(vision: VisionConfig, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """The turns of one tile's P patches and its class token: two float32 tensors `[P + 1, 1, K/2]`.

    A head's first K/4 pairs are turned by (column + 1), the other K/4 by (row + 1); the class token, last, is not turned.
    Released size: 24 x 24 patches, K = 88, so 22 pairs a direction.
    """
    freqs = frequencies(vision.width // vision.heads // 2, vision.rope_theta, None, device)
    patch = torch.arange(vision.patches, device=device)
    columns, rows = patch % vision.grid + 1, patch // vision.grid + 1
    angles_PK = torch.cat((columns[:, None] * freqs, rows[:, None] * freqs), dim=-1)
    angles_PK = torch.cat((angles_PK, angles_PK.new_zeros(1, angles_PK.shape[-1])))  # the class token
    return angles_PK.cos()[:, None, :], angles_PK.sin()[:, None, :]
