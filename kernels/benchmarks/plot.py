"""Draw the tables and plots of a measured run into docs/kernels/:

    python kernels/benchmarks/plot.py kernels/benchmarks/results/FILE.json

One plot a table: share of the same run's 8192³ product over the number of tokens, a line a side, a panel a shape. The Markdown
tables go between the lines `<!-- kernels -->` and `<!-- end -->` of docs/kernels/benchmarks.md, or attention.md. Nothing is drawn
that the file does not hold.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[2] / "docs" / "kernels" / "benchmarks.md"
COLOURS = {"ours": "#0072B2", "grouped_mm": "#D55E00", "composed": "#D55E00", "naive": "#009E73", "loop": "#CC79A7"}
DASHES = {"ours": "-", "grouped_mm": "--", "composed": "--", "naive": "-.", "loop": ":"}
Record = dict[str, Any]


def tflops(record: Record) -> float | None:
    """What a record reached; None where it was not timed."""
    return None if record["ms"] is None else record["flops"] / record["ms"] / 1e9


def table(result: Record) -> str:
    """What was measured on, and one row a case."""
    return head(result) + "\n\n" + rows(result["records"], result["ceilings"])


def attention_tables(result: Record) -> str:
    """The same in a table each, since every one has peers of its own; and what a token costs as a text gets longer."""
    names = dict.fromkeys(record["table"] for record in result["records"])
    each = [rows([r for r in result["records"] if r["table"] == name], result["ceilings"]) for name in names]
    return "\n\n".join([head(result), *each, linear(result["records"])])


def linear(records: list[Record]) -> str:
    """Microseconds a token, the same if cost is linear; and how many times as long the best full causal kernel takes."""
    ours, full = {}, defaultdict(list)
    for record in records:
        if record["ms"] is not None and record["table"] == "full causal attention":
            full[record["tokens"]].append(record["ms"])
        elif record["ms"] is not None and record["table"] == "chunked attention" and record["side"] == "ours":
            ours[record["tokens"]] = record["ms"]
    lines = ["| tokens | chunked, ours | a token | full causal, best | ratio |", "|---" * 5 + "|"]
    for tokens, ms in sorted(ours.items()):
        best = min(full[tokens]) if full[tokens] else None
        compared = "– | –" if best is None else f"{best:.3f} ms | {best / ms:.1f}"
        lines.append(f"| {tokens} | {ms:.3f} ms | {1000 * ms / tokens:.3f} µs | {compared} |")
    return "\n".join(lines)


def head(result: Record) -> str:
    """When, on what, with what, and what that could do in the same run."""
    ceilings = result["ceilings"]
    return (
        f"{result['date']}, commit {(result['commit'] or 'unknown')[:12]}: {result['device']}, {result['dtype']}, torch "
        f"{result['versions']['torch']}, Triton {result['versions']['triton']}. Same-run ceilings: "
        f"{ceilings['product_side']}³ product {ceilings['product_tflops']:.0f} TFLOP/s, copy {ceilings['copy_tb_s']:.2f} TB/s, "
        f"read {ceilings['read_tb_s']:.2f} TB/s. In brackets TFLOP/s; the floor is the longer of FLOPs and bytes moved."
    )


def rows(records: list[Record], ceilings: Record) -> str:
    """One row a case: the least that the ceilings allow, and a column a side, in milliseconds, with TFLOP/s in brackets."""
    cases: dict[tuple, dict[str, Record]] = defaultdict(dict)
    for record in records:
        cases[record["table"], record["shape"], record["tokens"], record["routing"]][record["side"]] = record
    sides = list(dict.fromkeys(record["side"] for record in records))
    lines = [f"| | shape | tokens | routing | floor | {' | '.join(sides)} |", "|---" * (5 + len(sides)) + "|"]
    for (name, shape, tokens, routing), found in cases.items():
        least = f"{floor_ms(next(iter(found.values())), ceilings):.3f} ms"
        cells = [_cell(found[side]) if side in found else "" for side in sides]
        lines.append(f"| {name} | {shape} | {tokens} | {routing} | {least} | {' | '.join(cells)} |")
    return "\n".join(lines)


def floor_ms(record: Record, ceilings: Record) -> float:
    """The time that the FLOPs take at the product's speed, or the bytes that must move at the reading speed."""
    computed = record["flops"] / ceilings["product_tflops"] / 1e9
    return max(computed, record.get("bytes", 0) / ceilings["read_tb_s"] / 1e9)


def _cell(record: Record) -> str:
    reached = tflops(record)
    return "refused" if reached is None else f"{record['ms']:.3f} ms ({reached:.0f})"


def put(text: str, page: Path = PAGE) -> None:
    """Put the table into the page, between its two lines."""
    held = page.read_text(encoding="utf-8")
    pattern = re.compile(r"(<!-- kernels -->\n).*?(<!-- end -->)", re.DOTALL)
    if not pattern.search(held):
        raise SystemExit(
            f"{page.name} has no lines <!-- kernels --> and <!-- end -->: put them where the table is to go."
        )
    page.write_text(pattern.sub(lambda match: f"{match[1]}{text}\n{match[2]}", held), encoding="utf-8")


def draw(result: Record, into: Path) -> list[Path]:
    """One PNG a table: share of the product ceiling over tokens, uniform routing."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    ceiling, files = result["ceilings"]["product_tflops"], []
    for name in result.get("plotted") or dict.fromkeys(record["table"] for record in result["records"]):
        records = [
            r for r in result["records"] if r["table"] == name and r["routing"] != "skewed" and r["ms"] is not None
        ]
        shapes = list(dict.fromkeys(record["shape"] for record in records))
        figure, axes = pyplot.subplots(
            1, len(shapes), figsize=(5 * len(shapes), 3.6), squeeze=False, layout="constrained"
        )
        for axis, shape in zip(axes[0], shapes, strict=True):
            for side in dict.fromkeys(r["side"] for r in records if r["shape"] == shape):
                line = sorted(
                    (r["tokens"], tflops(r) / ceiling) for r in records if (r["shape"], r["side"]) == (shape, side)
                )
                style = {"color": COLOURS.get(side, "#000000"), "linestyle": DASHES.get(side, "-"), "marker": "o"}
                axis.plot(*zip(*line, strict=True), label=side, **style)
            axis.set(xscale="log", xlabel="tokens", ylabel="share of the 8192³ product", title=f"{name}: {shape}")
            axis.grid(alpha=0.3)
            axis.legend()
        file = into / f"{re.sub('[^a-z]+', '-', name.lower()).strip('-')}.png"
        figure.savefig(file, dpi=150)
        pyplot.close(figure)
        files.append(file)
    return files


def main() -> int:
    """Draw everything from one file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("file", type=Path)
    result = json.loads(parser.parse_args().file.read_text(encoding="utf-8"))
    if result["ceilings"]["product_tflops"] is None:
        print("This file holds no figures: it is of a machine without a GPU.", file=sys.stderr)
        return 2
    attention = "attention" in result["records"][0]["table"]
    put(*((attention_tables(result), PAGE.with_name("attention.md")) if attention else (table(result), PAGE)))
    for file in draw(result, PAGE.parent):
        print(file.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
