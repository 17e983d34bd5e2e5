"""Draw a run's log:

    python -m llama4.train.plot runs/tiny --into docs/training.png

Four panels over the steps of all stages, one after the other: losses, right answers in training, right answers on the artist
to validate on, and the busiest expert of each MoE layer, whose 1 is perfect balance. The colours are Okabe and Ito's, which
colour-blind people tell apart; lines differ in their dashes as well.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama4.errors import InputError
from llama4.evaluation.figure import require, save
from llama4.evaluation.report import BUSIEST
from llama4.train import log
from llama4.train.recipe import STAGES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")  # Okabe and Ito
DASHES = ("-", "--", "-.", ":")
SIZE, DPI = (10.0, 6.8), 150  # inches; 1500 px wide, and still read at the 830 px of a GitHub page

Line = Mapping[str, Any]
Curve = tuple[list[int], list[float]]  # steps and values


def curves(lines: Iterable[Line]) -> dict[tuple[str, str], Curve]:
    """(stage, name) → steps and values. A stage's steps go on from those before it; validation is split by `shares`."""
    lines = list(lines)
    before = begins(lines)
    found: dict[tuple[str, str], Curve] = {}
    for line in lines:
        stage = line["stage"]
        values = shares(line["validation"]) if "validation" in line else line
        for name, value in values.items():
            if name not in ("stage", "step", "seconds"):
                steps, points = found.setdefault((stage, name), ([], []))
                steps.append(line["step"] + before.get(stage, 0))
                points.append(value)
    return found


def begins(lines: Sequence[Line]) -> dict[str, int]:
    """stage → how many steps the stages before it took."""
    last = {stage: max((line["step"] for line in lines if line["stage"] == stage), default=0) for stage in STAGES}
    return {stage: sum(last[earlier] for earlier in STAGES[:number]) for number, stage in enumerate(STAGES)}


def joined(found: Mapping[tuple[str, str], Curve], name: str) -> Curve | None:
    """A curve of all stages that have it, one after the other; None where none has it."""
    pieces = [found[stage, name] for stage in STAGES if (stage, name) in found]
    return (
        ([step for steps, _ in pieces for step in steps], [v for _, values in pieces for v in values])
        if pieces
        else None
    )


def broken(curve: Curve) -> Curve:
    """The curve with a nan where other stages lie between two of its points, so that no line is drawn across them."""
    steps, values = curve
    gaps = [after - before for before, after in pairwise(steps)]
    long = [number + 1 for number, gap in enumerate(gaps) if gap > 10 * min(gaps)]
    for place in reversed(long):
        steps, values = ([*row[:place], math.nan, *row[place:]] for row in (steps, values))
    return steps, values


def shares(validation: Mapping[str, float]) -> dict[str, float]:
    """One line's validation: "blob en" is English, "blob …" of all other languages their mean, "blob" alone tiles told apart."""
    found: dict[str, float] = {}
    others: dict[str, list[float]] = {}
    for name, share in validation.items():
        artist, _, code = name.partition(" ")
        if code in ("", "en"):
            found[f"{artist}: English names" if code else f"{artist}: tiles told apart"] = share
        else:
            others.setdefault(artist, []).append(share)
    for artist, each in others.items():
        found[f"{artist}: names, mean of {len(each)} other languages"] = sum(each) / len(each)
    return found


def draw(lines: Sequence[Line]) -> Figure:
    """The figure."""
    from matplotlib.figure import Figure

    found = curves(lines)
    figure = Figure(figsize=SIZE, layout="constrained")
    (losses, right), (validation, experts) = figure.subplots(2, 2, sharex=True)
    named = {
        "encoder: which emoji is this tile?": joined(found, "which"),
        "decoder: a token of an answer": joined(found, "answers"),
    }
    _panel(losses, "Loss (cross entropy, nats)", named)
    named = {
        "encoder: tiles": joined(found, "right"),
        "decoder: tokens of answers": joined(found, "right_tokens"),
    }
    _panel(right, "Right in training", named)
    validated = {name: joined(found, name) for _, name in found if ": " in name}
    _panel(validation, "Right on an artist not learnt from", validated, marker="o")
    layers = sorted({name for _, name in found if name.startswith("busiest_")})
    routed = {f"MoE layer {int(name.split('_')[1]) + 1}": joined(found, name) for name in layers}
    _panel(experts, "Busiest expert, times the mean", routed)
    for axes in (right, validation):
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    for height, text in ((1.0, "balance"), (BUSIEST, "most allowed")):
        experts.axhline(height, color="0.5", linewidth=0.8)
        experts.annotate(text, (0, height), xycoords=("axes fraction", "data"), xytext=(3, 2), fontsize=9,
                         color="0.35", textcoords="offset points")  # fmt: skip
    experts.set_ylim(bottom=0.8)
    _mark_stages((losses, right, validation, experts), lines)
    return figure


def _panel(axes: Axes, title: str, drawn: Mapping[str, Curve | None], marker: str = "") -> None:
    """One panel: a line for each curve there is, named in a legend, which is left out where there is nothing to name."""
    axes.set_title(title, fontsize=12, loc="left")
    axes.grid(color="0.9", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    there = {label: curve for label, curve in drawn.items() if curve}
    for number, (label, (steps, values)) in enumerate(there.items()):
        style, colour = DASHES[number % len(DASHES)], COLOURS[number % len(COLOURS)]
        axes.plot(
            *broken((steps, values)), style, color=colour, label=label, linewidth=1.6, marker=marker, markersize=4
        )
    if there:
        axes.legend(frameon=True, framealpha=0.85, edgecolor="none", fontsize=10)
    else:  # a run with --all-artists, or one that has not come so far
        axes.annotate("nothing was measured", (0.5, 0.5), xycoords="axes fraction", ha="center", color="0.35")


def _mark_stages(panels: Sequence[Axes], lines: Sequence[Line]) -> None:
    """A vertical line where a stage begins, and the steps' name under the lower panels."""
    seen = {line["stage"] for line in lines}
    firsts = [first for stage, first in begins(lines).items() if first and stage in seen]
    for axes in panels:
        axes.set_xlim(left=0)
        for first in firsts:
            axes.axvline(first, color="0.6", linewidth=0.8, linestyle=":")
    for axes in panels[2:]:
        axes.set_xlabel("steps, one stage after the other", fontsize=11)


def plot(run: Path, into: Path) -> Path:
    """Draw the log of the folder `run` into a picture file. Raises InputError where that cannot be done."""
    require(into)
    lines = log.read(run)
    if not lines:
        raise InputError(
            f"{run} has no {log.NAME} with lines in it: name the folder of a run that has taken some steps."
        )
    save(draw(lines), into, DPI)
    return into


def main(arguments: list[str] | None = None) -> int:
    """The command. Exit code 2 for what cannot be drawn."""
    parser = argparse.ArgumentParser(prog="python -m llama4.train.plot", description="Draw a training run's log.")
    parser.add_argument("run", type=Path, help="the run's folder, with log.jsonl")
    parser.add_argument("--into", type=Path, required=True, help="the picture to write, such as training.png")
    chosen = parser.parse_args(arguments)
    try:
        print(plot(chosen.run, chosen.into))
    except InputError as error:
        print(f"plot: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
