"""int4: four bits a weight, and one scale for every group of weights that are summed over.

    w ≈ scale · q        q an integer from -8 to 7, 0 exactly 0; scale one number a group of G weights of one output

A weight matrix is held as `[out, in]`, and a group is G neighbours along `in`. Two numbers share a byte, each stored as q + 8:

    byte j of a group:   low four bits  weight j        high four bits  weight j + G/2

Not neighbours: a kernel that multiplies the low halves with the first half of x, and the high halves with the second, never has
to interleave two registers. Worked example, G = 4: weights 0.7 -0.1 0.3 -0.8 with scale 0.1 are q = 7 -1 3 -8, and the bytes
(3 + 8) · 16 + (7 + 8) = 0xbf and (-8 + 8) · 16 + (-1 + 8) = 0x07.

The scale is the one of a few that leaves the least squared error: max|w| / 7, by which nothing is clipped, or down to 0.7 of
that, by which a few large weights are and the rest lie on a finer grid. It is rounded to the weight's dtype first, and the
integers are chosen for the rounded one.

A group of 64 costs 4.25 bits a weight, one of 128 4.125, and 16 bits become 3.8 and 3.9 times less.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from llama4.errors import InputError

GROUPS = (128, 64, 32)  # the largest that divides `in`
SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)  # of max|w| / 7
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
    """The largest group that divides `width`. Raises InputError where none does."""
    for group in GROUPS:
        if width % group == 0:
            return group
    raise InputError(
        f"int4 keeps a scale for every {', '.join(map(str, GROUPS))} weights, and {width} is a multiple of none of these: "
        "leave this layer as it is."
    )


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
    q = (q - LEAST).to(torch.uint8)
    low, high = q.chunk(2, dim=-1)
    return (high << 4 | low).flatten(1), scale


def _least_error(rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The scale `[R, n]` in `dtype`, and the integers `[R, n, G]` in float32, of the least squared error."""
    largest = rows.abs().amax(-1)
    best_error, best_scale, best_q = torch.full_like(largest, torch.inf), largest, rows
    for shrink in SHRINKS:
        scale = (largest * (shrink / MOST)).to(dtype)
        step = torch.where(scale == 0, 1.0, scale.float())[
            ..., None
        ]  # zeros, or so small that the dtype makes them zero
        q = (rows / step).round().clamp(LEAST, MOST)
        error = (q * scale.float()[..., None] - rows).square().sum(-1)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_scale = torch.where(better, scale.float(), best_scale)
        best_q = torch.where(better[..., None], q, best_q)
    return best_scale.to(dtype), best_q
