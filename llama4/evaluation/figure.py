"""Who takes what, as a picture: `llama4 eval --figure FILE.png`.

Above, a row a picture: the picture, then for each MoE layer its patches in the colour and with the number of the expert that
takes them. Below, for each layer, the share of every expert (dotted: the mean; dashed: the most that is asked for), and the words
that it takes more than half of.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from llama4.errors import InputError
from llama4.evaluation.experts import Tally, favourites
from llama4.evaluation.report import BUSIEST
from llama4.evaluation.routing import patch_experts
from llama4.evaluation.style import INK, PAPER, RULE, expert_colour, ink_on, mixed
from llama4.files import replacing
from llama4.generate import LLM

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELL_INCHES = 1.25


def require(file: Path) -> None:
    """Raise InputError where matplotlib is not installed, saying how to get it, or does not know the file's ending."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        raise InputError("A figure needs matplotlib: run `pip install matplotlib`.") from error
    if file.suffix.lower().removeprefix(".") not in FigureCanvasBase.get_supported_filetypes():
        raise InputError(f"{file} has no ending of a picture's format: call it something.png.")


def draw(llm: LLM, tally: Tally, pictures: Sequence[Image.Image], file: Path) -> None:
    """Write the figure of these pictures and these counts; the ending of `file` says in which format."""
    require(file)
    from matplotlib.figure import Figure

    layers = list(tally.counts)
    words_height = 0.9 + 0.24 * llm.config.experts
    height = len(pictures) * CELL_INCHES + words_height + 0.4
    whole = Figure(figsize=((len(layers) + 1) * CELL_INCHES * 1.6, height), layout="constrained", facecolor=PAPER)
    above, below = whole.subfigures(2, 1, height_ratios=[len(pictures) * CELL_INCHES + 0.4, words_height])
    grid = above.subplots(len(pictures), len(layers) + 1, squeeze=False)
    for number, (row, picture) in enumerate(zip(grid, pictures, strict=True)):
        picture_panel(row[0], picture)
        for axes, (layer, experts) in zip(row[1:], patch_experts(llm, picture).items(), strict=True):
            routing_panel(axes, picture, experts)
            if number == 0:
                axes.set_title(f"layer {layer}", fontsize=9, color=INK)
    for axes, layer in zip(below.subplots(1, len(layers), squeeze=False)[0], layers, strict=True):
        _words_panel(axes, llm, tally, layer)
    save(whole, file)


def picture_panel(axes: Axes, picture: Image.Image) -> None:
    """The picture by itself, without axes."""
    axes.imshow(picture, interpolation="lanczos")
    _bare(axes)


def routing_panel(axes: Axes, picture: Image.Image, experts: Tensor, numbers: bool = True) -> None:
    """The picture, faint, under its patches in the colours of their experts. `experts`: int64 `[y, x]`."""
    rows, columns = experts.shape
    extent = (0, columns, rows, 0)
    axes.imshow(picture.convert("L"), cmap="gray", vmin=-400, vmax=255, extent=extent, interpolation="lanczos")  # faint
    for y, line in enumerate(experts.tolist()):
        for x, expert in enumerate(line):
            colour = expert_colour(expert)
            axes.fill((x, x + 1, x + 1, x), (y, y, y + 1, y + 1), facecolor=colour, alpha=0.6, edgecolor=PAPER, lw=0.8)
            if numbers:
                ink = ink_on(mixed(colour, 0.2))
                axes.text(x + 0.5, y + 0.53, str(expert), ha="center", va="center", fontsize=8, color=ink)
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    _bare(axes)


def save(whole: Figure, file: Path, dpi: int = 160) -> None:
    """Write a figure beside and rename; its bytes do not say which version of matplotlib drew it."""
    ending = file.suffix.lower().removeprefix(".")
    details: dict[str, Any] = {"metadata": {"Software": None}} if ending == "png" else {}
    with replacing(file.parent) as part:
        whole.savefig(part(file.name), dpi=dpi, format=ending, **details)


def _words_panel(axes: Axes, llm: LLM, tally: Tally, layer: int) -> None:
    load_E = tally.load(layer, "all")
    shares = (load_E / load_E.sum()).tolist()
    axes.barh(range(len(shares)), shares, color=[expert_colour(expert) for expert in range(len(shares))])
    for share, style in ((1 / len(shares), ":"), (BUSIEST / len(shares), "--")):
        axes.axvline(share, color=INK, linestyle=style, linewidth=0.8)
    for expert, ids in enumerate(favourites(tally, layer, most=6)):
        words = " ".join(filter(None, (readable(llm, token) for token in ids)))
        axes.text(shares[expert] + 0.01, expert, words, va="center", fontsize=6, color=INK, parse_math=False)
    axes.set_xlim(0, max(1.0, max(shares) + 0.1))
    axes.set_ylim(len(shares) - 0.5, -0.5)
    axes.set_yticks(range(len(shares)))
    axes.tick_params(labelsize=7, color=RULE)
    axes.set_title(f"layer {layer}: share, and its own words", fontsize=8, color=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def readable(llm: LLM, token: int) -> str:
    """A token as a figure can show it: special tokens, and what the font lacks, half a character too, are left out."""
    text = llm.tokenizer.decode([token])
    return "" if text.startswith("<|") or drawable(text) != text or "\ufffd" in text else text.strip()


def drawable(text: str) -> str:
    """The text with a "?" for each character that matplotlib's own font lacks, which would be warned of and drawn as a box."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    known = get_font(findfont(FontProperties())).get_charmap()
    return "".join(letter if ord(letter) in known and letter.isprintable() else "?" for letter in text)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(RULE)
