"""Pins how a drawing is redrawn (redrawn.py): what may change of its parts, how often, and how far; what may not; and that it is
the same every time."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from llama4.train.emoji import redrawn as module
from llama4.train.emoji.artists import pixels_of
from llama4.train.emoji.redrawn import PARTS, SVG, Version, redraw, redrawn

HEAD = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="128" height="128" '
SLOPE = '<linearGradient id="a"><stop stop-color="#000"/><stop stop-color="#fff" stop-opacity=".5"/></linearGradient>'
OTHER = '<radialGradient id="b" xlink:href="#a"/>'
CLIP = '<clipPath id="c"><path d="M0 0h9v9z"/></clipPath>'
SIDE = 40.0
PLAIN = "".join(f'<path fill="#{n:x}40" d="M{n} {n}h9v9h-9z"/>' for n in range(12))


def drawing(body: str) -> str:
    return f'{HEAD}viewBox="0 0 {SIDE:g} 20">{body}</svg>'


def seeds(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(count)]


def parts(document: str | ElementTree.Element) -> list[ElementTree.Element]:
    root = ElementTree.fromstring(document) if isinstance(document, str) else document
    return [part for part, _, _ in module._parts(root, "#000000")]


def test_the_same_version_is_the_same_and_others_are_others() -> None:
    asked = [("noto", 0, 0), ("noto", 0, 1), ("noto", 1, 0), ("blob", 0, 0)]
    made = [redrawn(drawing(PLAIN), *one) for one in asked]
    assert made == [redrawn(drawing(PLAIN), *one) for one in asked] and len(set(made)) == 4


def test_a_version_is_rendered_and_what_is_no_xml_is_none() -> None:
    pytest.importorskip("resvg_py", reason="the renderer is not installed")
    square = drawing(PLAIN).replace("0 0 40 20", "0 0 20 20")
    pixels = pixels_of(Version(square, "noto", 0, 2))
    assert pixels.shape == (128, 128, 4) and (pixels != pixels_of(square.encode())).any()
    assert pixels_of(Version("<svg", "noto", 0, 2)) is None


def test_a_colour_moves_wherever_it_is_and_each_on_its_own() -> None:
    """Two parts of one colour stay alike; two of different colours do not move alike. Most stay near."""
    body = (
        '<path fill="#c04020" d="M0 0"/><circle fill="#C04020" cx="3"/><path fill="#2040c0" stroke="#c04020" d="M1 1"/>'
    )
    near, alike = [], 0
    for rng in seeds(50):
        root = ElementTree.fromstring(drawing(body))
        module._recolour(root, module._palette(rng))
        one, same, other = parts(root)
        assert one.get("fill") == same.get("fill") == other.get("stroke")
        red, blue = (np.array(module._rgb(part.get("fill"))) for part in (one, other))
        near += [
            np.abs(red - np.array(module._rgb("#c04020"))).max(),
            np.abs(blue - np.array(module._rgb("#2040c0"))).max(),
        ]
        alike += np.allclose(red, blue[::-1], atol=0.01)  # mirror images, which they would stay
    assert 0.03 < np.median(near) < 0.15 and max(near) < 0.8 and alike < 10


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        *[("#abc", "#aabbcc"), ("#AABBCC", "#aabbcc"), ("black", "#000000"), ("currentColor", "#000000")],
        *[("none", None), ("url(#a)", None), (None, None), ("#abcd", None)],
    ],
)
def test_what_is_a_plain_colour(said: str | None, meant: str | None) -> None:
    assert module._colour(said) == meant


def test_a_gradient_becomes_the_mean_of_its_colours() -> None:
    """Its own or those that it refers to, as opaque as they are on the mean; what has no colours stays."""
    fills = '<path fill="url(#a)" fill-opacity=".4"/><path fill="url(#b)" stroke="url(#a)"/><path fill="url(#none)"/>'
    root = ElementTree.fromstring(drawing(f"<defs>{SLOPE}{OTHER}</defs>{fills}"))
    module._flatten(root)
    first, second, third = parts(root)
    assert first.get("fill") == second.get("fill") == second.get("stroke") == "#808080"
    assert (
        first.get("fill-opacity") == "0.300" and second.get("fill-opacity") == second.get("stroke-opacity") == "0.750"
    )
    assert third.get("fill") == "url(#none)"


def test_half_of_the_drawings_are_flat() -> None:
    """Of 200: a hundred and five standard deviations of seven to either side."""
    document = drawing(f'<defs>{SLOPE}</defs><path fill="url(#a)" d="M0 0h9"/>')
    assert 65 < sum("url(#a)" in redraw(document, rng) for rng in seeds(200)) < 135


def test_parts_are_left_out_but_never_the_first_two() -> None:
    """0.3 · 0.1 · 10 parts a drawing: of 400, 120, whose standard deviation is 13."""
    left = [[part.get("d") for part in parts(redraw(drawing(PLAIN), rng))] for rng in seeds(400)]
    assert all(shown[:2] == ["M0 0h9v9h-9z", "M1 1h9v9h-9z"] for shown in left)
    assert 120 - 5 * 13 < sum(12 - len(shown) for shown in left) < 120 + 5 * 13


def test_a_part_moves_about_the_point_where_its_outline_begins() -> None:
    """That point itself moves a hundredth of the frame (one standard deviation), a point at the other side of the frame more;
    and what had moved the part before is done after."""
    begun, far = [], []
    for rng in seeds(200):
        part = ElementTree.fromstring('<path transform="rotate(90)" d="m30,10h9"/>')
        module._move(part, SIDE, rng)
        kept, numbers = re.fullmatch(r"(.*) matrix\((.*)\)", part.get("transform")).groups()
        a, b, c, d, e, f = map(float, numbers.split())
        begun.append((a * 30 + c * 10 + e - 30, b * 30 + d * 10 + f - 10))
        far.append((a * -10 + c * 10 + e + 10, b * -10 + d * 10 + f - 10))
        assert kept == "rotate(90)"
    assert np.std(begun, axis=0) == pytest.approx([0.4, 0.4], rel=0.25)
    # 40 away: 5 % across is 2, 2.5 degrees down 1.75, each beside those 0.4
    assert np.std(far, axis=0) == pytest.approx([2.04, 1.79], rel=0.25)


@pytest.mark.parametrize(
    ("part", "where"),
    [
        ('<path d="M1.5-2c3 4 5 6 7 8"/>', (1.5, -2.0)),
        ('<circle cx="4" cy="5" r="1"/>', (4.0, 5.0)),
        ('<polygon points="7,8 9,9"/>', (7.0, 8.0)),
        ('<rect x="2" width="9"/>', (2.0, 0.0)),
        ("<path/>", (0.0, 0.0)),
    ],
)
def test_where_an_outline_begins(part: str, where: tuple[float, float]) -> None:
    assert module._beginning(ElementTree.fromstring(part)) == where


def test_outlines() -> None:
    """Of one width in a drawing, 1 to 3.5 % of the frame, white, dark, or each part's own colour darker; parts that are no more
    than a shadow, that have a line already or no filling get none."""
    body = '<g fill="#4080c0"><path d="M0 0"/><path opacity=".3"/><path stroke="#111111"/><path fill="none"/></g>'
    manners = []
    for rng in seeds(300):
        root = ElementTree.fromstring(drawing(body))
        module._outline(list(module._parts(root, "#000000")), SIDE, rng)
        first, faint, lined, empty = parts(root)
        assert (
            0.01 * SIDE <= float(first.get("stroke-width")) <= 0.035 * SIDE and first.get("stroke-linejoin") == "round"
        )
        assert not (faint.get("stroke") or empty.get("stroke") or lined.get("stroke-width"))
        line, white = first.get("stroke"), first.get("fill") == "#ffffff"
        dark = max(module._rgb(line)) <= 0.2
        assert line in ("#ffffff", "#264d74") or dark, "white, its own at 0.6 of its lightness, or dark"
        assert not white or dark, "a line drawing is drawn in the dark"
        manners.append("paper" if white else "dark" if dark else line)
    share = {manner: manners.count(manner) / 300 for manner in manners}
    expected = {"paper": 0.125, "dark": 0.375, "#264d74": 0.35, "#ffffff": 0.15}
    assert share == pytest.approx(expected, abs=0.13)  # four and a half standard deviations of the largest


def test_how_often_a_drawing_is_moved_and_outlined() -> None:
    """Of 300: within five standard deviations of 8."""
    made = [redraw(drawing(PLAIN), rng) for rng in seeds(300)]
    assert (
        abs(sum("matrix(" in one for one in made) - 210) < 42
        and abs(sum("stroke-width" in one for one in made) - 120) < 42
    )
    assert all(one.count("matrix(") in (0, len(parts(one))) for one in made), "all parts, or none"


def test_what_is_not_painted_itself_is_no_part() -> None:
    root = ElementTree.fromstring(drawing(f'<defs>{CLIP}{SLOPE}</defs>{CLIP}<g clip-path="url(#c)"><rect/></g>'))
    assert [part.tag for part in parts(root)] == [f"{SVG}rect"] and f"{SVG}rect" in PARTS
