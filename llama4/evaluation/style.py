"""Colours of experts that people with any colour vision can tell apart, and always a number beside them.

The first eight are Okabe and Ito's ("Color Universal Design", 2008), yellow and black last, since they carry text badly. There
is no such set of sixteen: from the ninth on the same eight come again, paler, and the number tells them apart.
"""

from __future__ import annotations

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
INK, PAPER, RULE = "#222222", "#ffffff", "#bbbbbb"


def expert_colour(expert: int) -> str:
    """A hex colour; the ninth expert has the first one's, half-way to white."""
    colour = OKABE_ITO[expert % len(OKABE_ITO)]
    return mixed(colour, 0.5) if expert // len(OKABE_ITO) % 2 else colour


def mixed(colour: str, white: float) -> str:
    """The colour with a share of white in it: mixed("#000000", 0.5) is "#808080"."""
    parts = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(f"{round(part + (255 - part) * white):02x}" for part in parts)


def ink_on(colour: str) -> str:
    """Black or white, whichever is read more easily on the colour (brightness by ITU-R BT.601)."""
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#ffffff"
