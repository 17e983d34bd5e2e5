"""SVG documents out of an iconify set: icons.json holds bodies without their <svg>, and aliases of them.

    {"width": 32, "height": 32, "icons": {"dog": {"body": "<path …/>", "width": 48}},
     "aliases": {"dog-right": {"parent": "dog", "hFlip": true}}}

An icon's frame is left, top, width, height, its own or the set's. An alias takes its parent's frame and body; flips add up as
exclusive or, quarter turns modulo four, and a flip is applied before the turn (iconify.design, "IconifyAlias"). The document made
here is SIDE pixels square; a frame that is not square sits in its middle, so a quarter turn about that middle needs no new frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama4.train.emoji.sources import SIDE

_FRAME = {"left": 0, "top": 0, "width": 16, "height": 16}


def resolved(icons: Mapping[str, Any], name: str) -> dict[str, Any]:
    """An icon or alias with everything it takes from parents and set: body, frame, hFlip, vFlip, rotate.

    KeyError where a name is missing or aliases run in a circle.
    """
    chain: list[Mapping[str, Any]] = []
    seen: set[str] = set()
    while name not in icons["icons"]:
        if name in seen:
            raise KeyError(f"aliases in a circle at {name}")
        seen.add(name)
        chain.append(icons["aliases"][name])
        name = chain[-1]["parent"]
    chain.append(icons["icons"][name])
    icon = {key: icons.get(key, value) for key, value in _FRAME.items()}
    for part in reversed(chain):
        icon |= {key: part[key] for key in (*_FRAME, "body") if key in part}
    for flip in ("hFlip", "vFlip"):
        icon[flip] = sum(bool(part.get(flip)) for part in chain) % 2 == 1
    icon["rotate"] = sum(part.get("rotate", 0) for part in chain) % 4
    return icon


def document(icons: Mapping[str, Any], name: str) -> str:
    """The icon as an SVG document of SIDE × SIDE pixels; currentColor is black."""
    icon = resolved(icons, name)
    width, height = icon["width"], icon["height"]
    centre_x, centre_y = icon["left"] + width / 2, icon["top"] + height / 2
    moves = []
    if icon["rotate"]:
        moves.append(f"rotate({90 * icon['rotate']} {centre_x:g} {centre_y:g})")
    if icon["hFlip"] or icon["vFlip"]:
        across, down = (-1 if icon["hFlip"] else 1), (-1 if icon["vFlip"] else 1)
        moves.append(f"translate({(1 - across) * centre_x:g} {(1 - down) * centre_y:g}) scale({across} {down})")
    body = f'<g transform="{" ".join(moves)}">{icon["body"]}</g>' if moves else icon["body"]
    box = f"{centre_x - width / 2:g} {centre_y - height / 2:g} {width:g} {height:g}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" color="#000" '
        f'width="{SIDE}" height="{SIDE}" viewBox="{box}">{body}</svg>'
    )


def icon_names(icons: Mapping[str, Any]) -> list[str]:
    """Names of all icons and of all aliases, icons first: an alias is used only where no icon bears the name."""
    return list(dict.fromkeys((*icons["icons"], *icons.get("aliases", {}))))
