"""int4: four bits a weight, and one scale for every group of weights that are summed over.

    w ≈ scale · q        q an integer from -8 to 7, 0 exactly 0; scale one number a group of G weights of one output

A weight matrix is held as `[out, in]`, and a group is G neighbours along `in`. Two numbers share a byte, each stored as q + 8:

    byte j of a group:   low four bits  weight j        high four bits  weight j + G/2

Not neighbours: a kernel that multiplies the low halves with the first half of x, and the high halves with the second, never has
to interleave two registers. Worked example, G = 4: weights 0.7 -0.1 0.3 -0.8 with scale 0.1 are q = 7 -1 3 -8, and the bytes
(3 + 8) · 16 + (7 + 8) = 0xbf and (-8 + 8) · 16 + (-1 + 8) = 0x07.

The scale is the one of some thirty that leaves the least squared error (`_least_error`). It is rounded to the weight's dtype
first, and the integers are chosen for the rounded one. It may be negative: there are eight integers on one side of zero and seven
on the other, and the sign says on which side the eight are.

A group of 64 costs 4.25 bits a weight, one of 128 4.125, and 16 bits become 3.8 and 3.9 times less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from llama4.errors import InputError

GROUPS = (128, 64, 32)
IN_A_ROW = 8  # groups that a row has at least, where a smaller one can give them
SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)  # of the scale by which nothing is clipped
LEAST, MOST = -8, 7
SLICE = 2**24  # weights that are quantised at once: the search holds some ten float32 copies of them


@dataclass(frozen=True)
class Int4:
    """`q`: uint8 `[..., out, in / 2]`. `scale`: the weight's dtype, `[..., out, in / G]`."""

    q: Tensor
    scale: Tensor

    @property
    def group(self) -> int:
        """G."""
        return 2 * self.q.shape[-1] // self.scale.shape[-1]

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.q.nbytes + self.scale.nbytes


def group_of(width: int) -> int:
    """The largest group that divides `width` eight times or more; else the smallest that divides it.

    5120 and 8192 have groups of 128, 512 of 64, 192 of 32. Raises InputError where none divides.
    """
    dividing = [group for group in GROUPS if width % group == 0]
    if not dividing:
        raise InputError(
            f"int4 keeps a scale for every {', '.join(map(str, GROUPS))} weights, and {width} is a multiple of none of these: "
            "leave this layer as it is."
        )
    return next((group for group in dividing if width // group >= IN_A_ROW), dividing[-1])


def require_group(group: int | None) -> None:
    """Raise InputError for a group that the kernels and the readers of a folder do not know; None lets `group_of` choose."""
    if group is not None and group not in GROUPS:
        raise InputError(f"group is {group}: choose {', '.join(map(str, GROUPS))}, or leave it out.")


@torch.no_grad()
def pack(w: Tensor, group: int | None = None) -> Int4:
    """Quantise `[..., out, in]`, any floating dtype. Raises InputError for a width without a group, and for NaN or infinity."""
    group = group or group_of(w.shape[-1])
    if w.shape[-1] % group or group % 2:
        raise InputError(
            f"A group of {group} does not divide {w.shape[-1]} weights, or is odd: choose an even divisor."
        )
    rows = rearrange(w, "... (n g) -> (...) n g", g=group)
    step = max(1, SLICE // w.shape[-1])
    pieces = [_pack(rows[first : first + step]) for first in range(0, len(rows), step)]
    q, scale = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    return Int4(q.reshape(*w.shape[:-1], -1), scale.reshape(*w.shape[:-1], -1))


def dequantise(packed: Int4) -> Tensor:
    """`[..., out, in]` in the scale's dtype: one product and one rounding a weight."""
    bytes_ = rearrange(packed.q, "... (n h) -> ... n h", h=packed.group // 2)
    halves = torch.cat((bytes_ & 15, bytes_ >> 4), dim=-1)
    w = (halves.to(packed.scale.dtype) - 8) * packed.scale[..., None]
    return rearrange(w, "... n g -> ... (n g)")


def _pack(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of groups `[R, n, G]` to bytes `[R, n · G/2]` and scales `[R, n]`."""
    rows_fp32 = rows.float()
    if not torch.isfinite(rows_fp32).all():
        raise InputError("A weight is NaN or infinite and has no int4: check the checkpoint with `llama4 inspect`.")
    scale, q = _least_error(rows_fp32, rows.dtype)
    packed = assembled(q, scale.to(rows.dtype))
    return packed.q, packed.scale


def assembled(q: Tensor, scale: Tensor) -> Int4:
    """Integers `[R, n, G]` and scales `[R, n]` in the format."""
    low, high = (q - LEAST).to(torch.uint8).chunk(2, dim=-1)
    return Int4((high << 4 | low).flatten(1), scale)


def searched(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """The scale of each group of `[R, n, G]`, float32: `[R, n]`, a number that `dtype` has."""
    return _least_error(rows, dtype)[0]


def _least_error(rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The scale `[R, n]`, numbers that `dtype` has, and the integers `[R, n, G]`, both float32, of the least squared error tried.

    By max|w| / 7 nothing is clipped. By -w / 8, w the weight that is largest in magnitude, the grid is finer by an eighth, and
    w itself has an integer still. From either, down to 0.7 of it: a few large weights are clipped, the rest lie on a finer grid.
    The scale that fits the integers q so chosen best, Σ q w / Σ q^2, is tried as well, with the integers that it chooses.
    """
    largest = rows.gather(-1, rows.abs().argmax(-1, keepdim=True))[..., 0]
    best = Tried(torch.full_like(largest, torch.inf), largest, rows)
    for whole in (largest.abs() / MOST, largest / LEAST):
        for shrink in SHRINKS:
            tried = _rounded(rows, (whole * shrink).to(dtype).float())
            fitted = ((tried.q * rows).sum(-1) / tried.q.square().sum(-1).clamp_min(1)).to(dtype).float()
            best = _better(best, _better(tried, _rounded(rows, fitted)))
    return best.scale, best.q


class Tried(NamedTuple):
    """A way to round: the squared error `[R, n]`, the scale `[R, n]`, and the integers `[R, n, G]`, all float32."""

    error: Tensor
    scale: Tensor
    q: Tensor


def _rounded(rows: Tensor, scale: Tensor) -> Tried:
    step = torch.where(scale == 0, 1.0, scale)[..., None]  # zeros, or so small that the dtype makes them zero
    q = (rows / step).round().clamp(LEAST, MOST)
    return Tried((q * scale[..., None] - rows).square().sum(-1), scale, q)


def _better(one: Tried, other: Tried) -> Tried:
    """Group by group, the one of less error; the first where they are equal."""
    better = other.error < one.error
    q = torch.where(better[..., None], other.q, one.q)
    return Tried(torch.where(better, other.error, one.error), torch.where(better, other.scale, one.scale), q)
