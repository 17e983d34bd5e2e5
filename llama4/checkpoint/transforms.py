"""From our parameters to a tensor of Meta's files and back, for one shard of tensor parallelism, as a `Row` describes it.

    wqkv, Scout, shard 2 of 8:   [q[1280:1920]; k[256:384]; v[256:384]]  ->  [896, 5120]
    moe_w_in_eD_F, same shard:   gate_up[:, :, :8192][:, :, 2048:3072]   ->  [16 * 5120, 1024]

`file_shape` says what a file must hold, `to_file` makes the tensor, and `from_file` writes a file's tensor into views of our
parameters, so that nothing is held twice.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from llama4.checkpoint.names import Row
from llama4.checkpoint.shapes import Shape


def file_shape(row: Row, shapes: list[Shape], shards: int) -> Shape:
    """The shape of `row` in each of `shards` files, from the shapes of our parameters. Arithmetic only."""
    pieces = []
    for whole in shapes:
        shape = list(whole)
        if row.half is not None:
            shape[-1] //= 2
        if row.split is not None:
            shape[row.split] //= shards
        pieces.append(_in_file(row, tuple(shape)))
    return (sum(piece[0] for piece in pieces), *pieces[0][1:])


def _in_file(row: Row, shape: Shape) -> Shape:
    """The shape of one piece once it has the file's form."""
    if row.form == "transposed":
        return shape[::-1]
    return (shape[0] * shape[1], *shape[2:]) if row.form == "flat" else shape


def to_file(row: Row, parameters: list[Tensor], shard: int, shards: int) -> Tensor:
    """The file's tensor of `row` in one shard. `parameters` are those that `row.ours` names."""
    pieces = [_shape_for_file(row, view(row, parameter, shard, shards)) for parameter in parameters]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def from_file(row: Row, tensor: Tensor, parameters: list[Tensor], shard: int, shards: int) -> None:
    """Copy the file's tensor of one shard into our parameters, converting dtype and device on the way."""
    views = [view(row, parameter, shard, shards) for parameter in parameters]
    rows = [_in_file(row, tuple(target.shape))[0] for target in views]
    for piece, target in zip(tensor.split(rows), views, strict=True):
        if row.form == "raw position":
            piece = resample_positions(piece)
        elif row.form == "transposed":
            piece = rearrange(piece, "d e -> e d")
        elif row.form == "flat":
            piece = rearrange(piece, "(e i) o -> e i o", e=target.shape[0])
        target.copy_(piece)


def view(row: Row, parameter: Tensor, shard: int, shards: int) -> Tensor:
    """The part of our parameter that one shard of `row` holds. No copy."""
    if row.half is not None:
        parameter = parameter.chunk(2, dim=-1)[row.half]
    if row.split is None:
        return parameter
    size = parameter.shape[row.split] // shards
    return parameter.narrow(row.split, shard * size, size)


def _shape_for_file(row: Row, piece: Tensor) -> Tensor:
    if row.form == "transposed":
        return rearrange(piece, "e d -> d e")
    if row.form == "flat":
        return rearrange(piece, "e i o -> (e i) o")
    return piece


def resample_positions(raw_PC: Tensor) -> Tensor:
    """A training checkpoint's `positional_embedding` `[P + 1, C]`, class row first, as `positional_embedding_vlm`.

    Meta's load hook looks patch (x, y) up at 2x / side - 1. `grid_sample` puts pixel centres at (2x + 1) / side - 1, so each
    look-up falls half a patch up and left of its patch: every row is the mean of four neighbours, and zero stands in for those
    beyond the border. The class row goes last, untouched. Float32, whatever comes in.

    Source: `VisionEncoder.load_hook` in llama_models/llama4/vision/encoder.py.
    """
    side = math.isqrt(len(raw_PC) - 1)
    grid_1CYX = rearrange(raw_PC[1:].float(), "(y x) c -> 1 c y x", y=side)
    place = torch.arange(side, dtype=torch.float32) / side * 2 - 1
    at_1YX2 = torch.stack(torch.meshgrid(place, place, indexing="xy"), dim=-1)[None]
    sampled_1CYX = F.grid_sample(grid_1CYX, at_1YX2, padding_mode="zeros", align_corners=False)
    return torch.cat([rearrange(sampled_1CYX, "1 c y x -> (y x) c"), raw_PC[:1].float()])
