"""The tour as one picture, for a README's first screen.

    four pictures, and what the model calls them in several languages
    the strip and its reading | the pair and its question
    the large picture's tiles, and the patches of one picture in the colours of their experts, layer by layer

matplotlib's own font has no Chinese, Japanese, Korean, Thai or Hindi, and older versions do not join Arabic letters: those
answers stay in the terminal, and the figure shows languages in Latin and Cyrillic letters.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from llama4.config import VisionConfig
from llama4.evaluation.figure import drawable, picture_panel, routing_panel, save
from llama4.evaluation.style import INK, PAPER
from llama4.image import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

    from llama4.demo.tour import Answer, Tour

DRAWN = ("en", "es", "de", "vi", "ru")
RIGHT, WRONG = "#00664a", "#a04000"  # a mark tells them apart as well
MOST_LAYERS = 6


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw(tour: Tour, vision: VisionConfig, file: Path) -> None:
    """Write the figure."""
    from matplotlib.figure import Figure

    whole = Figure(figsize=(10, 8.4), layout="constrained", facecolor=PAPER)
    title = f"llama4 demo: {tour.parameters / 1e6:.1f} M parameters, drawings by an artist held out of the training"
    whole.suptitle(title, fontsize=12, color=INK)
    top, middle, bottom = whole.subfigures(3, 1, height_ratios=[3.3, 1.7, 2.6])
    _named(top, tour)
    left, right = middle.subfigures(1, 2, width_ratios=[1.2, 1])
    _asked(left, [tour.strip[0]], tour.strip[1], 46)
    _asked(right, tour.pair[0], tour.pair[1], 40)
    tiles, routing = bottom.subfigures(1, 2, width_ratios=[1.2, 2.2])
    _tiles(tiles, tour.large, vision)
    _routing(routing, tour)
    save(whole, file)


def _named(part: SubFigure, tour: Tour) -> None:
    grid = part.subplots(2, len(tour.named), squeeze=False, height_ratios=[1.7, 1])
    for (above, below), (item, answers) in zip(grid.T, tour.named, strict=True):
        picture_panel(above, item.picture)
        below.axis("off")
        for line, language in enumerate(DRAWN):
            _line(below, (0.0, 1 - line / len(DRAWN)), answers[language], f"{language}  ", 26)


def _asked(part: SubFigure, pictures: list[Image.Image], answer: Answer, width: int) -> None:
    """Pictures side by side, the question above, the answer below."""
    part.suptitle(answer.asked, fontsize=9, color=INK)
    panels = part.subplots(1, len(pictures), squeeze=False)[0]
    for axes, picture in zip(panels, pictures, strict=True):
        picture_panel(axes, picture)
    text, colour = _marked(answer, width)
    part.supxlabel(text, fontsize=9, color=colour, parse_math=False)


def _tiles(part: SubFigure, large: tuple[Image.Image, Answer], vision: VisionConfig) -> None:
    """The large picture cut as the tiler cuts it, and the whole as one more tile beside."""
    picture, answer = large
    side = vision.tile_side
    rows, columns = canvas(picture.width, picture.height, side)
    padded = Image.new("RGB", (columns * side, rows * side))
    padded.paste(picture)
    part.suptitle(
        f"{picture.width} × {picture.height} px: {rows} × {columns} tiles and the whole", fontsize=9, color=INK
    )
    grid = part.add_gridspec(rows, columns + 1, wspace=0.06, hspace=0.06)
    for y in range(rows):
        for x in range(columns):
            box = (x * side, y * side, (x + 1) * side, (y + 1) * side)
            picture_panel(part.add_subplot(grid[y, x]), padded.crop(box))
    whole = picture.resize((side, side), Image.Resampling.BILINEAR)
    picture_panel(part.add_subplot(grid[rows // 2, columns]), whole)
    text, colour = _marked(answer, 40)
    part.supxlabel(text, fontsize=9, color=colour, parse_math=False)


def _routing(part: SubFigure, tour: Tour) -> None:
    layers = _spread(list(tour.experts))
    part.suptitle("which expert takes which patch, by MoE layer", fontsize=9, color=INK)
    columns = min(3, len(layers) + 1)
    rows = -(-(len(layers) + 1) // columns)
    panels = part.subplots(rows, columns, squeeze=False).flatten()
    picture_panel(panels[0], tour.routed)
    for axes, layer in zip(panels[1:], layers, strict=False):
        routing_panel(axes, tour.routed, tour.experts[layer])
        axes.set_title(f"layer {layer}", fontsize=8, color=INK)
    for axes in panels[len(layers) + 1 :]:
        axes.axis("off")


def _line(axes: Axes, place: tuple[float, float], answer: Answer, label: str, width: int) -> None:
    text, colour = _marked(answer, width)
    options: dict[str, Any] = {"transform": axes.transAxes, "va": "top", "fontsize": 9, "parse_math": False}
    axes.text(*place, label + text, color=colour, **options)


def _marked(answer: Answer, width: int) -> tuple[str, str]:
    """The answer, cut to `width` characters, its mark, and its colour."""
    said = drawable(answer.said) or "(nothing)"
    text = said if len(said) <= width else said[: width - 1] + "…"
    return (f"{text} ✓", RIGHT) if answer.right else (f"{text} ✗", WRONG)


def _spread(layers: list[int]) -> list[int]:
    """At most `MOST_LAYERS` of them, evenly from the first to the last."""
    if len(layers) <= MOST_LAYERS:
        return layers
    return [layers[round(place * (len(layers) - 1) / (MOST_LAYERS - 1))] for place in range(MOST_LAYERS)]
