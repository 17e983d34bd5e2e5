"""The vision encoder as its definition says it, in fp64: loops over patches, complex rotation, plain softmax, GELU by erf.

It shares with `llama4.vision` the weights alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from llama4.config import VisionConfig
from llama4.vision import VisionEncoder


def reference_encoder(encoder: VisionEncoder, vision: VisionConfig, tiles: Tensor) -> Tensor:
    """Tiles `[R, 3, side, side]` -> fp64 `[R, tokens_per_tile, adapter_width]`."""
    return torch.stack([_one_tile(encoder, vision, tile.double()) for tile in tiles])


def _one_tile(encoder: VisionEncoder, vision: VisionConfig, tile: Tensor) -> Tensor:
    side = vision.patch_side
    patches = [
        tile[:, row * side : (row + 1) * side, column * side : (column + 1) * side].flatten()
        for row in range(vision.grid)
        for column in range(vision.grid)
    ]
    x_PC = torch.stack(patches) @ _w(encoder.patch_embedding).T
    x_PC = torch.cat((x_PC, encoder.class_embedding.double()[None])) + encoder.position_embedding.double()
    x_PC = _layer_norm(encoder.norm_pre, x_PC)
    for block in encoder.layers:
        x_PC = x_PC + _attention(block.attention, vision, _layer_norm(block.attention_norm, x_PC))
        x_PC = x_PC + _linear(block.mlp.fc2, _gelu(_linear(block.mlp.fc1, _layer_norm(block.mlp_norm, x_PC))))
    x_PC = reference_shuffle(_layer_norm(encoder.norm_post, x_PC)[:-1], vision)
    return _gelu(_gelu(x_PC @ _w(encoder.adapter.fc1).T) @ _w(encoder.adapter.fc2).T)


def reference_shuffle(x_PC: Tensor, vision: VisionConfig) -> Tensor:
    """Token (Y, X) is its square's patches, first row left to right, then the next, channels side by side."""
    step, tokens = vision.shuffle, []
    for top in range(0, vision.grid, step):
        for left in range(0, vision.grid, step):
            square = [(top + i) * vision.grid + left + j for i in range(step) for j in range(step)]
            tokens.append(torch.cat([x_PC[patch] for patch in square]))
    return torch.stack(tokens)


def _attention(attention: nn.Module, vision: VisionConfig, x_PC: Tensor) -> Tensor:
    q_PHK, k_PHK, v_PHK = (
        _linear(part, x_PC).unflatten(-1, (vision.heads, -1)) for part in (attention.q, attention.k, attention.v)
    )
    turn_PK = reference_turn(vision, q_PHK.shape[-1])
    q_PHK, k_PHK = (
        torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turn_PK[:, None]).flatten(-2)
        for x in (q_PHK, k_PHK)
    )
    q_HPK, k_HPK, v_HPK = (x.transpose(0, 1) for x in (q_PHK, k_PHK, v_PHK))
    weights_HPP = torch.softmax(q_HPK @ k_HPK.transpose(1, 2) / math.sqrt(q_HPK.shape[-1]), dim=-1)
    return _linear(attention.o, (weights_HPP @ v_HPK).transpose(0, 1).flatten(1))


def reference_turn(vision: VisionConfig, head_width: int) -> Tensor:
    """complex128 `[P + 1, K/2]`: columns turn a head's first pairs, rows the rest, both counted from 1; class token 1."""
    count = head_width // 4
    freqs = torch.tensor([vision.rope_theta ** (-i / count) for i in range(count)], dtype=torch.float64)
    angles = [
        torch.cat(((column + 1) * freqs, (row + 1) * freqs))
        for row in range(vision.grid)
        for column in range(vision.grid)
    ]
    angles_PK = torch.stack([*angles, torch.zeros(2 * count, dtype=torch.float64)])
    return torch.polar(torch.ones_like(angles_PK), angles_PK)


def _w(linear: nn.Linear) -> Tensor:
    return linear.weight.double()


def _linear(linear: nn.Linear, x: Tensor) -> Tensor:
    return x @ _w(linear).T + linear.bias.double()


def _layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5)
    return scaled * norm.weight.double() + norm.bias.double()


def _gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
