"""Draw where the bytes of a MoE layer go, composed of grouped matmuls and fused:

    python kernels/benchmarks/traffic.py docs/kernels/traffic.svg

Scout's routed expert on 4096 tokens in bf16, forward. Weights are left out: both read them once. One bar is one step, what it
reads light and what it writes dark, to scale; the numbers are counted from the shapes, not measured.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

TOKENS, WIDTH, HIDDEN, ITEM = 4096, 5120, 8192, 2
X, H = TOKENS * WIDTH * ITEM / 1e6, TOKENS * HIDDEN * ITEM / 1e6  # MB of [N, D] and of [N, F]
LEFT, TOP, BAR, GAP, SCALE = 190, 44, 24, 6, 2.05  # pixels; SCALE a megabyte
READ, WRITTEN = "#56B4E9", "#0072B2"  # Okabe and Ito's


@dataclass(frozen=True)
class Step:
    """What one step of a layer reads and writes, in MB."""

    name: str
    read: float
    written: float


COMPOSED = (
    Step("gather and scale x", X, X),
    Step("matmul to gate and up", X, 2 * H),
    Step("SwiGLU", 2 * H, H),
    Step("matmul down", H, X),
    Step("scatter and add", 2 * X, X),
)
FUSED = (Step("gate_up kernel", X, H), Step("add_down kernel", H + X, X))


def together(steps: tuple[Step, ...]) -> float:
    """MB."""
    return sum(step.read + step.written for step in steps)


def svg() -> str:
    """The picture."""
    shapes, y = [], TOP
    for title, steps in (("composed of grouped matmuls", COMPOSED), ("fused", FUSED)):
        shapes.append(_text(12, y, f"{title}: {together(steps):.0f} MB", 13, "start", "bold"))
        y += 10
        for step in steps:
            shapes.append(_text(LEFT - 8, y + BAR / 2 + 4, step.name, 12, "end"))
            shapes += _bar(LEFT, y, step.read, READ, "#111111", "read")
            shapes += _bar(LEFT + step.read * SCALE, y, step.written, WRITTEN, "#ffffff", "written")
            y += BAR + GAP
        y += 26
    width, height = LEFT + int(3 * H * SCALE) + 14, y - 18
    head = _text(
        12, 18, "What each step moves through memory, routed expert, 4096 tokens of Scout in bf16", 12, "start"
    )
    box = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    ground = f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
    return f'<svg {box} font-family="sans-serif">\n' + "\n".join([ground, head, *shapes]) + "\n</svg>\n"


def _bar(x: float, y: float, megabytes: float, fill: str, ink: str, word: str) -> list[str]:
    wide = megabytes * SCALE
    box = f'<rect x="{x:.1f}" y="{y}" width="{wide:.1f}" height="{BAR}" fill="{fill}" stroke="#333333"/>'
    return [box, _text(x + wide / 2, y + BAR / 2 + 4, f"{megabytes:.0f} {word}", 11, "middle", ink=ink)]


def _text(x: float, y: float, words: str, size: int, anchor: str, weight: str = "normal", ink: str = "#111111") -> str:
    style = f'font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" fill="{ink}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{words}</text>'


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(svg(), encoding="utf-8")
