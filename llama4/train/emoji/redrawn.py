"""A drawing as another hand might have drawn it: its parts in other colours, outlined, moved, now and then left out.

What pictures.py does to a view it does to all of its pixels alike: the whole is turned, the whole is tinged. Artists differ part
by part: one's hair is darker and the hat wider, another draws a line around everything. A drawing in SVG knows its parts:

    colours     each colour of the drawing moves on its own, in hue, lightness and saturation
    flat        of half of the drawings a gradient becomes the mean of its colours
    left out    of three drawings in ten, one part in ten, but never the two that are painted first
    moved       in seven of ten, each part is turned, scaled and shifted on its own about the point where its outline begins
    outlined    in four of ten, a line around each part, near black, or darker than the part, or white; of those near black one
                in four is a line drawing, whose parts are white

Seven artists' drawings are redrawn three times each, 25,629 pictures in all; Fluent's two with gradients are not, which are its
flat ones in other manners, nor Noto of 2017, which comes as pixels. The same generator state gives the same document.

Source: Tobin et al., "Domain randomization", arXiv 1703.06907: looks change so much that the next domain is one more of many.
There a renderer changes textures, lights and cameras; here the parts of a drawing change. Some are shown in
docs/pictures/redrawn.png.
"""

from __future__ import annotations

import colorsys
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element
from zlib import crc32

import numpy as np

SEED = 20250405
VERSIONS = 3  # of every drawing

SVG, HREF = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
PARTS = {SVG + name for name in ("path", "circle", "ellipse", "rect", "polygon", "polyline", "line")}
GRADIENTS = {SVG + name for name in ("linearGradient", "radialGradient")}
UNSEEN = GRADIENTS | {SVG + name for name in ("defs", "clipPath", "mask", "pattern", "filter", "symbol")}
NAMED = {"black": "#000000", "white": "#ffffff", "red": "#ff0000", "currentColor": "#000000"}
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
ElementTree.register_namespace("", SVG[1:-1])
ElementTree.register_namespace("xlink", HREF[1:].partition("}")[0])

Part = tuple[Element, Element, str]  # what is painted, what it lies in, what fills it


class Version(NamedTuple):
    """Which of the versions of which drawing: an SVG document as iconify.py makes it, who drew it, which of theirs it is."""

    document: str
    artist: str
    number: int
    version: int


def redrawn(document: str, artist: str, number: int, version: int) -> str:
    """A version's SVG document. Raises ElementTree.ParseError where the drawing is no XML."""
    return redraw(document, np.random.default_rng((SEED, crc32(artist.encode()), number, version)))


def redraw(document: str, rng: np.random.Generator) -> str:
    """The drawing in other manners."""
    root = ElementTree.fromstring(document)
    frame = max(float(one) for one in root.get("viewBox", "0 0 16 16").split()[2:])
    _recolour(root, _palette(rng))
    if rng.random() < 0.5:
        _flatten(root)
    parts = list(_parts(root, "#000000"))
    if rng.random() < 0.3:
        for part, parent, _ in parts[2:]:
            if rng.random() < 0.1:
                parent.remove(part)
    if rng.random() < 0.7:
        for part, _, _ in parts:
            _move(part, frame, rng)
    if rng.random() < 0.4:
        _outline(parts, frame, rng)
    return ElementTree.tostring(root, encoding="unicode")


def _palette(rng: np.random.Generator) -> Callable[[str], str]:
    """A function from colour to colour; how far they move, all of a drawing have in common."""
    strength, moved = 1.5 * rng.random(), dict[str, str]()

    def move(colour: str) -> str:
        if colour not in moved:
            hue, light, saturation = colorsys.rgb_to_hls(*_rgb(colour))
            hue = (hue + strength * rng.normal() * 0.03) % 1
            saturation = min(1.0, max(0.0, saturation * math.exp(strength * rng.normal() * 0.25)))
            light = min(1.0, max(0.0, light + strength * rng.normal() * 0.06))
            moved[colour] = _hex(colorsys.hls_to_rgb(hue, light, saturation))
        return moved[colour]

    return move


def _recolour(root: Element, move: Callable[[str], str]) -> None:
    for element in root.iter():
        for name in ("fill", "stroke", "stop-color"):
            colour = _colour(element.get(name))
            if colour:
                element.set(name, move(colour))
    root.set("color", move("#000000"))  # what currentColor says


def _flatten(root: Element) -> None:
    """Instead of a gradient, the mean of its colours, as opaque as they are on the mean."""
    means, refers = {}, {}
    for gradient in root.iter():
        if gradient.tag in GRADIENTS and gradient.get("id"):
            stops = [_rgb(_colour(stop.get("stop-color")) or "#000000") for stop in gradient]
            opaque = [float(stop.get("stop-opacity", 1)) for stop in gradient]
            if stops:
                means[gradient.get("id")] = (np.mean(255 * np.array(stops), axis=0), float(np.mean(opaque)))
            else:  # its colours are another's
                refers[gradient.get("id")] = (gradient.get(HREF) or gradient.get("href") or "")[1:]
    means |= {one: means[other] for one, other in refers.items() if other in means}
    for element in root.iter():
        for name in ("fill", "stroke"):
            found = re.fullmatch(r"url\(#(.+)\)", element.get(name) or "")
            if found and found[1] in means:
                mean, opaque = means[found[1]]
                element.set(name, _hex(tuple(mean / 255)))
                if opaque < 1:
                    element.set(f"{name}-opacity", f"{opaque * float(element.get(f'{name}-opacity', 1)):.3f}")


def _parts(element: Element, fill: str) -> Iterator[Part]:
    """All parts, in the order in which they are painted."""
    for child in list(element):
        if child.tag in UNSEEN:
            continue
        own = child.get("fill", fill)
        if child.tag in PARTS:
            yield child, element, own
        else:
            yield from _parts(child, own)


def _move(part: Element, frame: float, rng: np.random.Generator) -> None:
    x, y = _beginning(part)
    turn, (across, down) = math.radians(2.5 * rng.normal()), np.exp(0.05 * rng.normal(size=2))
    right, below = 0.01 * frame * rng.normal(size=2)
    a, b, c, d = math.cos(turn) * across, math.sin(turn) * across, -math.sin(turn) * down, math.cos(turn) * down
    e, f = x + right - a * x - c * y, y + below - b * x - d * y
    matrix = f"matrix({a:.4f} {b:.4f} {c:.4f} {d:.4f} {e:.4f} {f:.4f})"
    part.set("transform", f"{part.get('transform', '')} {matrix}".strip())


def _beginning(part: Element) -> tuple[float, float]:
    """Where its outline begins, or a circle's middle."""
    if part.get("cx"):
        return float(part.get("cx", 0)), float(part.get("cy", 0))
    numbers = NUMBER.findall(part.get("d") or part.get("points") or f"{part.get('x', 0)} {part.get('y', 0)}")[:2]
    return (float(numbers[0]), float(numbers[1])) if len(numbers) == 2 else (0.0, 0.0)


def _outline(parts: Sequence[Part], frame: float, rng: np.random.Generator) -> None:
    width = frame * (0.01 + 0.025 * rng.random())
    manner = rng.choice(["dark", "own", "white"], p=[0.5, 0.35, 0.15])
    drawing = manner == "dark" and rng.random() < 0.25
    dark = _hex(tuple(0.2 * rng.random(3)))
    for part, _, fill in parts:
        faint = float(part.get("opacity", part.get("fill-opacity", 1))) < 0.5  # a shadow or a gleam
        if fill == "none" or part.get("stroke") or faint:
            continue
        line, colour = "#ffffff" if manner == "white" else dark, _colour(fill)
        if manner == "own" and colour:
            hue, light, saturation = colorsys.rgb_to_hls(*_rgb(colour))
            line = _hex(colorsys.hls_to_rgb(hue, 0.6 * light, saturation))
        for name, value in {"": line, "-width": f"{width:.3f}", "-linejoin": "round"}.items():
            part.set(f"stroke{name}", value)
        if drawing:
            part.set("fill", "#ffffff")


def _colour(value: str | None) -> str | None:
    """#rrggbb of what an attribute says; None where that is no plain colour."""
    value = NAMED.get(value or "", value or "")
    if re.fullmatch("#[0-9a-fA-F]{3}", value):
        value = "#" + "".join(2 * one for one in value[1:])
    return value.lower() if re.fullmatch("#[0-9a-fA-F]{6}", value) else None


def _rgb(colour: str) -> tuple[float, float, float]:
    """#rrggbb as three of 0 … 1."""
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return red, green, blue


def _hex(rgb: tuple[float, ...]) -> str:
    """Three of 0 … 1 as #rrggbb."""
    return "#" + "".join(f"{round(255 * one):02x}" for one in rgb)
