"""Pictures as a model has not seen them before: turned, stretched, recoloured, blurred, on another ground.

A model that is to recognise an artist it never met must not lean on what an artist always does: this outline, that yellow,
the drawing filling the frame. So each view of a drawing is drawn anew:

    place     turn, scale, shear, shift, and a smooth warp of the plane
    colour    a hue rotation, saturation, contrast, brightness, now and then grey or inverted
    tinge     a smooth field of colour over the drawing, from `vary` on: its sun is orange below and green above
    ground    white mostly, else a flat colour, else a slope between two
    soften    down and up again in size, noise, a patch rubbed out
    untouched a share of the views is none of this, from `scatter` on: the drawing on white, as it is asked about

All of it is batched and seeded: the same generator state gives the same pixels. No mirror images: ⬅ and ➡ have other names.

Colours are straight (not premultiplied) RGBA; sampling premultiplies first, or the black that lies under transparent pixels
would bleed into every edge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Generator, Tensor

GREY = (0.299, 0.587, 0.114)  # how much of a colour's brightness is red, green, blue (ITU-R BT.601)


@dataclass(frozen=True)
class Augmentation:
    """How far a view may go from the drawing. Angles in degrees, lengths in halves of the frame, the rest in fractions."""

    turn: float = 14.0
    smallest: float = 0.62
    largest: float = 1.12
    stretch: float = 0.12
    shear: float = 0.12
    shift: float = 0.12
    warp: float = 0.06
    hue: float = 18.0
    saturation: float = 0.45
    contrast: float = 0.3
    brightness: float = 0.12
    grey: float = 0.06
    tinged: float = 0.0
    tinge: float = 0.35
    coloured_ground: float = 0.35
    soften: float = 0.3
    noise: float = 0.03
    rubbed_out: float = 0.15
    untouched: float = 0.0


def views(drawings: np.ndarray, side: int, how: Augmentation, generator: Generator) -> Tensor:
    """One fresh view of each drawing.

    drawings: uint8 `[n, side', side', 4]`, straight RGBA. Returns float32 `[n, 3, side, side]` in 0 … 1.
    """
    rgba = rearrange(torch.from_numpy(drawings), "n y x c -> n c y x").float() / 255
    premultiplied = torch.cat((rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]), dim=1)
    placed = F.grid_sample(premultiplied, grid(len(rgba), side, how, generator), align_corners=False)
    cover = placed[:, 3:].clamp(0, 1)
    recoloured = recolour(placed[:, :3], cover, how, generator)
    view = recoloured + ground(len(rgba), side, how, generator) * (1 - cover)
    view = spoil(view, how, generator).clamp(0, 1)
    if how.untouched:  # no draw without it, as for `tinged`
        untouched = torch.rand(len(rgba), generator=generator) < how.untouched
        view = torch.where(untouched[:, None, None, None], plain(drawings, side), view)
    return view


def grid(count: int, side: int, how: Augmentation, generator: Generator) -> Tensor:
    """Where each pixel of a view is taken from: `[n, side, side, 2]`, x and y from -1 to 1 over the drawing."""
    angle = _spread(count, how.turn, generator) * math.pi / 180
    scale = how.smallest + (how.largest - how.smallest) * torch.rand(count, generator=generator)
    stretch = torch.exp(_spread(count, how.stretch, generator))
    across, along = 1 / (scale * stretch), stretch / scale
    shear = _spread(count, how.shear, generator)
    cos, sin = angle.cos(), angle.sin()
    shift_x, shift_y = _spread(count, how.shift, generator), _spread(count, how.shift, generator)
    top = torch.stack((cos * across, (shear * cos - sin) * along, shift_x), dim=-1)
    bottom = torch.stack((sin * across, (shear * sin + cos) * along, shift_y), dim=-1)
    affine = F.affine_grid(torch.stack((top, bottom), dim=1), [count, 1, side, side], align_corners=False)
    bends = how.warp * torch.randn(count, 2, 4, 4, generator=generator)
    warp = F.interpolate(bends, size=(side, side), mode="bicubic", align_corners=True)
    return affine + rearrange(warp, "n c y x -> n y x c")


def recolour(premultiplied: Tensor, cover: Tensor, how: Augmentation, generator: Generator) -> Tensor:
    """Colours through one 3 x 3 matrix and one offset a picture, and a field of colour over a share `tinged` of them.

    `[n, 3, side, side]`, still premultiplied by `cover`.
    """
    count = len(premultiplied)
    matrix = _hue(_spread(count, how.hue, generator) * math.pi / 180)
    grey = torch.tensor(GREY).expand(3, 3)
    saturation = torch.exp(_spread(count, how.saturation, generator))
    saturation = saturation.masked_fill(torch.rand(count, generator=generator) < how.grey, 0.0)[:, None, None]
    matrix = (saturation * torch.eye(3) + (1 - saturation) * grey) @ matrix
    contrast = torch.exp(_spread(count, how.contrast, generator))[:, None, None]
    offset = 0.5 - 0.5 * contrast + _spread(count, how.brightness, generator)[:, None, None]
    mixed = torch.einsum("bcd,bdyx->bcyx", contrast * matrix, premultiplied)
    added = offset[..., None]
    if how.tinged:  # no draw without it: the stages that learnt before there were any see what they saw
        added = added + field(count, premultiplied.shape[-1], how, generator)
    return torch.minimum((mixed + added * cover).clamp_min(0), cover)


def field(count: int, side: int, how: Augmentation, generator: Generator) -> Tensor:
    """Colour to add, drawn at nine places and smooth between: `[n, 3, side, side]`; 0 but for a share `tinged`."""
    nodes = how.tinge * torch.randn(count, 3, 3, 3, generator=generator)
    on = torch.rand(count, generator=generator) < how.tinged
    return F.interpolate(on[:, None, None, None] * nodes, size=(side, side), mode="bicubic", align_corners=True)


def ground(count: int, side: int, how: Augmentation, generator: Generator) -> Tensor:
    """What lies behind: white, or (a share `coloured_ground`) a slope from one colour to another."""
    corners = torch.rand(count, 3, 2, 2, generator=generator)
    flat = torch.rand(count, generator=generator) < 0.6
    corners = torch.where(flat[:, None, None, None], corners[:, :, :1, :1], corners)
    white = torch.rand(count, generator=generator) >= how.coloured_ground
    corners = corners.masked_fill(white[:, None, None, None], 1.0)
    return F.interpolate(corners, size=(side, side), mode="bilinear", align_corners=True)


def spoil(view: Tensor, how: Augmentation, generator: Generator) -> Tensor:
    """Soften, add noise, rub out a rectangle: each on its own share of the pictures."""
    count, _, side, _ = view.shape
    factor = 1.3 + 1.2 * torch.rand(1, generator=generator).item()
    small = F.interpolate(view, size=round(side / factor), mode="bilinear", align_corners=False, antialias=True)
    soft = F.interpolate(small, size=side, mode="bilinear", align_corners=False)
    softened = torch.rand(count, generator=generator) < how.soften
    view = torch.where(softened[:, None, None, None], soft, view)
    noise = torch.randn(view.shape, generator=generator) * torch.rand(count, 1, 1, 1, generator=generator)
    view = view + how.noise * noise
    return torch.where(_rectangles(count, side, how.rubbed_out, generator), 0.5, view)


def _rectangles(count: int, side: int, share: float, generator: Generator) -> Tensor:
    """bool `[n, 1, side, side]`: one rectangle of up to a third of the side, in `share` of the pictures."""
    centre = torch.rand(count, 2, 1, generator=generator)
    half = (0.05 + 0.12 * torch.rand(count, 2, 1, generator=generator)) * (
        torch.rand(count, 1, 1, generator=generator) < share
    )
    place = (torch.arange(side) + 0.5) / side
    inside = (place - centre).abs() < half
    return inside[:, 0, None, :, None] & inside[:, 1, None, None, :]


def _hue(angle: Tensor) -> Tensor:
    """The rotation of RGB about its grey axis: `[n]` radians -> `[n, 3, 3]` (Rodrigues)."""
    third = 1 / 3
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) * math.sqrt(third)
    return cos * torch.eye(3) + sin * cross + (1 - cos) * third * torch.ones(3, 3)


def _spread(count: int, most: float, generator: Generator) -> Tensor:
    """Uniform from -most to most, float32 `[count]`."""
    return most * (2 * torch.rand(count, generator=generator) - 1)


def plain(drawings: np.ndarray, side: int) -> Tensor:
    """The drawings as they are, on white: uint8 `[n, side', side', 4]` -> float32 `[n, 3, side, side]` in 0 … 1."""
    rgba = rearrange(torch.from_numpy(drawings), "n y x c -> n c y x").float() / 255
    on_white = rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:]
    return F.interpolate(on_white, size=(side, side), mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)
