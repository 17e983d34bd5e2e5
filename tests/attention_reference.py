"""Attention as its definition says it, in fp64: the masks of masks.py, a plain softmax, absolute positions.

It shares with `llama4.attention` the weights and the two masks, nothing else: rotation is a complex multiplication by the
absolute position, key/value heads are repeated, the norm and the temperature are written out, every score is computed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llama4 import masks, rope
from llama4.attention import Attention
from llama4.config import Config, LayerSpec


def reference_attention(layer: Attention, config: Config, spec: LayerSpec, x_BSD: Tensor) -> Tensor:
    """What `layer` should give for whole rows from position 0: `[B, S, D]` in fp64, differentiable in weights and x."""
    x_BSD = x_BSD.double()
    q_BSHK, k_BSGK, v_BSGK = (
        (x_BSD @ linear.weight.double().T).unflatten(-1, (-1, config.head_width))
        for linear in (layer.q, layer.k, layer.v)
    )
    positions_S = torch.arange(x_BSD.shape[1])
    if spec.position == "rope":
        q_BSHK, k_BSGK = (_normed(_turned(x, positions_S, config), config) for x in (q_BSHK, k_BSGK))
    elif config.temperature is not None:
        q_BSHK = q_BSHK * _temperature(positions_S, config)[:, None, None]
    weights = _softmax(q_BSHK, _repeated(k_BSGK, config), _mask(positions_S, config, spec), config)
    out_BSHK = torch.einsum("bhst,bthk->bshk", weights, _repeated(v_BSGK, config))
    return out_BSHK.flatten(2) @ layer.o.weight.double().T


def _mask(positions_S: Tensor, config: Config, spec: LayerSpec) -> Tensor:
    positions_1S = positions_S[None]
    if spec.span == "chunk":
        return masks.chunked(positions_1S, positions_1S, config.chunk)
    return masks.causal(positions_1S, positions_1S)


def _softmax(q_BSHK: Tensor, k_BTHK: Tensor, mask_BST: Tensor, config: Config) -> Tensor:
    scores_BHST = torch.einsum("bshk,bthk->bhst", q_BSHK, k_BTHK) / math.sqrt(config.head_width)
    shown = scores_BHST.masked_fill(~mask_BST[:, None], -math.inf)
    exponents = torch.exp(shown - shown.amax(-1, keepdim=True))
    return exponents / exponents.sum(-1, keepdim=True)


def _repeated(x_BSGK: Tensor, config: Config) -> Tensor:
    return x_BSGK.repeat_interleave(config.heads // config.kv_heads, dim=2)


def _turned(x: Tensor, positions_S: Tensor, config: Config) -> Tensor:
    freqs = rope.frequencies(config.head_width, config.rope_theta, config.rope_scaling).double()
    angles = positions_S[:, None, None] * freqs
    turned = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(turned).flatten(-2)


def _normed(x: Tensor, config: Config) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + config.norm_eps) if config.qk_norm else x


def _temperature(positions_S: Tensor, config: Config) -> Tensor:
    floor, scale = config.temperature.floor, config.temperature.scale
    return torch.tensor([1 + scale * math.log(1 + (p + 1) // floor) for p in positions_S.tolist()], dtype=torch.float64)
