"""What the chapters draw with: one style, a few shapes, each small.

    whole, axes = figure(6, 3);  matrix(axes, mask_ST);  show(whole, "a causal mask")
    show(strip(pieces, kinds), "tokens of a prompt")
    shapes(x_BSD=x_BSD, logits_BSV=logits_BSV)
    table(["language", "ids"], rows)

Colours are the package's own (`llama4.evaluation.style`: Okabe and Ito's eight, which people with any colour vision tell apart),
and no picture speaks by colour alone: cells carry numbers, boxes carry text, panels carry titles.

matplotlib's own font has no emoji, Chinese, Japanese, Korean, Thai or Hindi. Text in those goes into a `table`, an emoji is shown
as its picture; `strip` refuses what would come out as an empty box.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from figure_scripts import LINKED, ROUTES
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from PIL import Image

from llama4.evaluation.style import INK, OKABE_ITO, PAPER, RULE, expert_colour, ink_on, mixed

BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, BLACK = OKABE_ITO
COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, BLACK)
SHADE = LinearSegmentedColormap.from_list("shade", [PAPER, mixed(BLUE, 0.5), BLUE, "#00263b"])  # 0 to 1
SIGNED = LinearSegmentedColormap.from_list("signed", [RED, PAPER, BLUE])  # below 0, 0, above 0
KINDS = {"special": BLUE, "text": ORANGE, "picture": GREEN}  # of tokens, alike in all chapters
DPI = 110
PALETTE_FROM = 16384  # a figure of no more colours is kept as 256 of them, which nobody sees, at a third of the size

matplotlib.rcParams.update(
    {
        "font.size": 9,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "axes.labelcolor": INK,
        "axes.edgecolor": RULE,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.color": INK,
        "text.parse_math": False,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.prop_cycle": matplotlib.cycler(color=COLOURS),
        "figure.facecolor": PAPER,
        "legend.frameon": False,
    }
)


def figure(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure in inches and its axes: one, or an array of them. `options` go to `Figure.subplots`."""
    whole = Figure(figsize=(width, height), layout="constrained")
    return whole, whole.subplots(rows, columns, **options)


def show(whole: Figure, alt: str) -> None:
    """Put a figure under the cell as a PNG of the same bytes in every run. `alt` says in words what it shows."""
    display({"image/png": _png(whole), "text/plain": alt}, raw=True)


def interactive(markup: str, static: Figure, alt: str) -> None:
    """A static figure, and below it, where scripts run (Jupyter, not GitHub), `markup`: HTML that loads nothing from anywhere."""
    show(static, alt)
    display({"text/html": markup, "text/plain": "(an interactive version stands here in Jupyter)"}, raw=True)


def slider(frames: Sequence[dict[str, Sequence[tuple[object, str]]]], label: str, colours: dict[str, str]) -> str:
    """Markup for `interactive`: rows of small boxes, and a slider that goes through `frames`.

    A frame is {name of a row: boxes}, a box (its text, its kind); `colours` gives each kind's colour, and makes the legend.
    Everything is computed before: the script in it only fills in boxes.
    """
    inks = {kind: (colour, ink_on(colour)) for kind, colour in colours.items()}
    plain = [
        {html.escape(row): [(html.escape(str(text)), kind) for text, kind in cells] for row, cells in frame.items()}
        for frame in frames
    ]
    data = json.dumps([plain, inks]).replace("</", "<\\/")
    name = f"slider-{hashlib.sha256(data.encode()).hexdigest()[:8]}"
    box = "display:inline-block;min-width:1.7em;padding:1px 0;margin:1px;text-align:center;border-radius:2px"
    keys = "".join(
        f"<span style='{box};padding:1px 5px;background:{c};color:{i}'>{k}</span>" for k, (c, i) in inks.items()
    )
    return f"""<div id="{name}" style="font:12px monospace;max-width:64em">
<p>{html.escape(label)} <input type="range" min="0" max="{len(frames) - 1}" value="0" style="width:50%"> <b></b> {keys}</p>
<div></div></div>
<script>(() => {{
  const [frames, inks] = {data};
  const [root] = [document.getElementById("{name}")], [place, range] = [root.lastElementChild, root.querySelector("input")];
  const cell = ([text, kind]) => `<span style="{box};background:${{inks[kind][0]}};color:${{inks[kind][1]}}">${{text}}</span>`;
  const draw = () => {{
    root.querySelector("b").textContent = range.value;
    place.innerHTML = Object.entries(frames[range.value])
      .map(([row, cells]) => `<div style="margin:4px 0">${{row}}<br>${{cells.map(cell).join("")}}</div>`).join("");
  }};
  range.oninput = draw;
  draw();
}})();</script>"""


def matrix(
    axes: Axes,
    values: Any,
    rows: Sequence[object] | None = None,
    columns: Sequence[object] | None = None,
    classes: dict[int, tuple[str, str]] | None = None,
    numbers: bool = False,
    highest: float | None = None,
    signed: bool = False,
) -> None:
    """Draw a matrix, first row on top: masks, attention weights, routing. Titles and axis labels are the caller's.

    classes: for whole numbers, {value: (its name, its colour)}, with a legend; without it, shades from 0 to `highest` (the
    largest by default), or, `signed`, red below 0 and blue above. numbers: write each value into its cell.
    """
    cells = np.asarray(values.float() if hasattr(values, "float") else values, dtype=float)
    if classes is not None:
        order = list(classes)
        picture = np.vectorize(order.index)(cells.astype(int))
        palette = ListedColormap([colour for _, colour in classes.values()])
        axes.imshow(picture, cmap=palette, vmin=-0.5, vmax=len(order) - 0.5, aspect="equal", interpolation="nearest")
        handles = [Patch(facecolor=colour, edgecolor=RULE, label=name) for name, colour in classes.values()]
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)
    else:
        top = (np.abs(cells).max() or 1.0) if highest is None else highest
        palette = SIGNED if signed else SHADE
        axes.imshow(
            cells, cmap=palette, vmin=-top if signed else 0.0, vmax=top, aspect="equal", interpolation="nearest"
        )
        picture = (cells + top) / (2 * top) if signed else cells / top
    if numbers:
        for (y, x), value in np.ndenumerate(cells):
            ink = ink_on(matplotlib.colors.to_hex(palette(picture[y, x] if classes is None else int(picture[y, x]))))
            text = f"{value:g}" if float(value).is_integer() else f"{value:.2f}"
            axes.text(x, y, text, ha="center", va="center", color=ink, fontsize=7)
    if max(cells.shape) <= 64:
        _grid(axes, *cells.shape)
    _labels(axes, cells.shape, rows, columns)


def strip(
    tokens: Sequence[str], kinds: Sequence[str], below: Sequence[object] | None = None, width: int = 130
) -> Figure:
    """A row of coloured boxes, one a token, wrapped after about `width` characters, and a legend of the kinds.

    kinds: one name a token; those of `KINDS` have their colour, others get the next, in the order of appearance. below: a small
    note under each box, such as its id.
    Raises ValueError for text that the font cannot draw: give that to `table`.
    """
    known = get_font(findfont(FontProperties(family="monospace"))).get_charmap()
    for token in tokens:
        if not all(ord(letter) in known for letter in token):
            raise ValueError(f"The font lacks a character of {token!r}: show it in a table instead.")
    others = iter(COLOURS[len(KINDS) :] * 2)
    colours = {kind: mixed(KINDS.get(kind) or next(others), 0.45) for kind in dict.fromkeys(kinds)}
    notes = [""] * len(tokens) if below is None else [str(note) for note in below]
    places, x, line = [], 0.0, 0
    for token, note in zip(tokens, notes, strict=True):
        wide = max(len(token), 0.7 * len(note)) + 1.2
        if x and x + wide > width:
            x, line = 0.0, line + 1
        places.append((x, line, wide))
        x += wide + 0.25
    tall = 1.0 if below is None else 1.5
    whole, axes = figure(9.5, 0.30 * tall * (line + 1) + 0.45)
    for token, note, kind, (left, row, wide) in zip(tokens, notes, kinds, places, strict=True):
        y = row * tall
        axes.add_patch(Rectangle((left, y), wide, 0.86, facecolor=colours[kind], edgecolor="none"))
        middle = {"ha": "center", "va": "center"}
        axes.text(
            left + wide / 2, y + 0.44, token, family="monospace", fontsize=7.5, color=ink_on(colours[kind]), **middle
        )
        axes.text(left + wide / 2, y + 1.1, note, family="monospace", fontsize=5.5, **middle)
    axes.set_xlim(0, width)
    axes.set_ylim((line + 1) * tall, 0)
    axes.axis("off")
    handles = [Patch(facecolor=colour, label=kind) for kind, colour in colours.items()]
    whole.legend(handles=handles, loc="outside lower left", ncols=len(handles), fontsize=8)
    return whole


def ladder(rows: Sequence[Sequence[str]], new: Sequence[int | None], notes: Sequence[str]) -> Figure:
    """The same letters in every row, in larger and larger boxes, the `new` one of each row coloured, a note behind each row."""
    letters = max(sum(map(len, row)) for row in rows)
    whole, axes = figure(0.34 * letters + 3.4, 0.3 * len(rows) + 0.1)
    for y, (row, marked, note) in enumerate(zip(rows, new, notes, strict=True)):
        x = 0
        for number, text in enumerate(row):
            colour = mixed(ORANGE if number == marked else SKY, 0.45)
            axes.add_patch(Rectangle((x + 0.05, y), len(text) - 0.1, 0.84, facecolor=colour, edgecolor="none"))
            for place, letter in enumerate(text):
                axes.text(x + place + 0.5, y + 0.44, letter, family="monospace", fontsize=9, ha="center", va="center")
            x += len(text)
        axes.text(letters + 0.5, y + 0.44, note, fontsize=8, va="center")
    axes.set_xlim(0, letters + 10)
    axes.set_ylim(len(rows), 0)
    axes.axis("off")
    return whole


def visible(text: str) -> str:
    """Spaces and line ends as signs that can be seen: " is" -> "␣is", a line end -> "↵"."""
    return text.replace(" ", "␣").replace("\n", "↵")


def linked(
    tiles: Sequence[Image.Image], tokens: Sequence[str], places: Sequence[tuple[int, int, int] | None], grid: int
) -> str:
    """HTML in which pointing at a token frames its part of a picture, and pointing at a picture marks the token.

    places: of each token (picture, row, column) on a `grid` x `grid` net, or None. For `interactive`; nothing is loaded.
    """
    sources = []
    for tile in tiles:
        data = io.BytesIO()
        tile.save(data, format="png")
        sources.append("data:image/png;base64," + base64.b64encode(data.getvalue()).decode())
    facts = json.dumps({"sources": sources, "tokens": list(tokens), "places": list(places), "grid": grid})
    name = "linked-" + hashlib.sha256(facts.encode()).hexdigest()[:8]
    return f'<div id="{name}"></div><script>(({LINKED})(document.getElementById("{name}"), {facts}))</script>'


def picture(axes: Axes, image: Image.Image, title: str = "") -> None:
    """A picture, pixel by pixel, without axes."""
    axes.imshow(np.asarray(image), interpolation="nearest")
    axes.set_title(title)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(True)


def cut_lines(axes: Axes, rows: int, columns: int, side: float, colour: str = RED, numbered: bool = True) -> None:
    """Lines over a picture that cut it into rows x columns squares of `side` px, each with its number, counted row by row."""
    for row in range(rows + 1):
        axes.plot([-0.5, columns * side - 0.5], [row * side - 0.5] * 2, color=colour, linewidth=1.2)
    for column in range(columns + 1):
        axes.plot([column * side - 0.5] * 2, [-0.5, rows * side - 0.5], color=colour, linewidth=1.2)
    ground = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.8, "alpha": 0.8}
    for number in range(rows * columns if numbered else 0):
        y, x = divmod(number, columns)
        place = (x * side + 0.08 * side, y * side + 0.18 * side)
        axes.text(*place, str(number), color=colour, fontsize=7, weight="bold", bbox=ground)


def bars(axes: Axes, labels: Sequence[str], values: Sequence[float], colours: Sequence[str] | str = BLUE) -> None:
    """Lying bars, the first on top, the value written behind each."""
    axes.barh(range(len(values)), values, color=colours)
    for line, value in enumerate(values):
        written = f"{value:,}" if isinstance(value, int) else f"{value:,.3g}"
        axes.text(value, line, f" {written}", va="center", fontsize=8)
    axes.set_yticks(range(len(values)), labels)
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.margins(x=0.15)


def logarithmic(axes: Axes, which: str = "xy") -> None:
    """Powers of ten at equal distances along "x", "y" or both, written as plain numbers: 1,000 and 0.01."""
    axes.set(**{f"{name}scale": "log" for name in which})
    for name in which:
        axis = {"x": axes.xaxis, "y": axes.yaxis}[name]
        axis.set_major_locator(LogLocator(numticks=8))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def lines(axes: Axes, curves: dict[str, Any], title: str = "", across: str = "", marker: str = "") -> None:
    """Named lines, each its colour and its dashes, and a legend where there are two. A curve: values, or (places, values)."""
    for number, (name, curve) in enumerate(curves.items()):
        points = curve if isinstance(curve, tuple) else (curve,)
        dashes = ("-", "--", "-.", ":")[(number + number // len(COLOURS)) % 4]  # of one colour, others
        style = {"color": COLOURS[number % len(COLOURS)], "linestyle": dashes}
        axes.plot(*points, label=name, linewidth=1.3, marker=marker, markersize=4, **style)
    axes.set_title(title)
    axes.set_xlabel(across)
    axes.set_ylim(bottom=0)
    if len(curves) > 1:
        axes.legend(ncols=1 if len(curves) <= 8 else 2)  # a longer column would lie on the curves


def routes(image: Image.Image, maps: dict[int, Any]) -> str:
    """HTML: an image under each layer's map of experts, `[y, x]`. Pointing at a patch shows all that share its expert, in every
    layer. For `interactive`; nothing is loaded."""
    data = io.BytesIO()
    image.save(data, format="png")
    listed = {layer: experts_YX.tolist() for layer, experts_YX in maps.items()}
    most = max(max(map(max, rows)) for rows in listed.values())
    source = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    facts = {"source": source, "maps": listed, "colours": [*map(expert_colour, range(most + 1))]}
    text = json.dumps(facts)
    name = "routes-" + hashlib.sha256(text.encode()).hexdigest()[:8]
    return f'<div id="{name}"></div><script>(({ROUTES})(document.getElementById("{name}"), {text}))</script>'


def shapes(**tensors: Any) -> None:
    """Print the name, shape and dtype of each tensor, a line each."""
    for name, tensor in tensors.items():
        print(f"{name:<14} {list(tensor.shape)!s:<22} {str(tensor.dtype).removeprefix('torch.')}")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table for what matplotlib's font cannot draw: any script, emoji. Every cell is shown as it is, no markup."""

    def line(cells: Sequence[object], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag} align='left'>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    markup = "".join(["<table>", line(header, "th"), *(line(row, "td") for row in rows), "</table>"])
    plain = "\n".join("  ".join(map(str, row)) for row in [header, *rows])
    display({"text/html": markup, "text/plain": plain}, raw=True)


def _png(whole: Figure) -> str:
    data = io.BytesIO()
    whole.savefig(data, format="png", dpi=DPI, metadata={"Software": None})
    image = Image.open(data).convert("RGB")
    if image.getcolors(PALETTE_FROM) is not None:
        image = image.quantize(256, dither=Image.Dither.NONE)
    data = io.BytesIO()
    image.save(data, format="PNG", optimize=True)
    return base64.b64encode(data.getvalue()).decode()


def _grid(axes: Axes, height: int, width: int) -> None:
    axes.set_xticks(np.arange(width + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(height + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=PAPER, linewidth=0.8)
    axes.tick_params(which="minor", length=0)


def _labels(
    axes: Axes, shape: tuple[int, ...], rows: Sequence[object] | None, columns: Sequence[object] | None
) -> None:
    """Row labels on the left, column labels on top; without any, whole numbers at most ten to a side."""
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    for axis, count, names in ((axes.yaxis, shape[0], rows), (axes.xaxis, shape[1], columns)):
        stride = 1 if names is not None else -(-count // 10)
        places = range(0, count, stride)
        axis.set_ticks(list(places), [str(place if names is None else names[place]) for place in places])
    axes.tick_params(which="major", length=0, labelsize=7.5)
    if columns is not None and max((len(str(name)) for name in columns), default=0) > 3:
        axes.tick_params(axis="x", labelrotation=90)
    for spine in axes.spines.values():
        spine.set_visible(False)
