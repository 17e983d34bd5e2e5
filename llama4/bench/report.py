"""A benchmark's result as a file, a table, a plot. The file is the source: what the documentation shows is drawn from it."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from llama4.errors import InputError
from llama4.files import replacing

FORMAT = "llama4-bench-1"
PACKAGES = ("torch", "transformers", "numpy", "safetensors", "einops")


def provenance(threads: int) -> dict[str, Any]:
    """When, where, and with what the numbers were made. No names of hosts, users or folders."""
    return {
        "format": FORMAT,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": threads,
            "system": f"{platform.system()} {platform.machine()}",
            "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        },
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
    }


def commit() -> str | None:
    """The commit that this code is at, "+" where it has been changed since; None outside a repository."""
    here = Path(__file__).resolve().parent
    try:
        head = _git(here, "rev-parse", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no", "--", ".")
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")


def write(result: dict[str, Any], file: Path) -> None:
    """Keep the result, making the folder where it is not there."""
    with replacing(file.parent) as part:
        part(file.name).write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read(file: Path) -> dict[str, Any]:
    """A file that `write` wrote; InputError for any other."""
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as a benchmark's JSON ({error}): run the benchmark again.") from error
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise InputError(f"{file} is not of the format {FORMAT}: run the benchmark again.")
    return result


def table(result: dict[str, Any]) -> str:
    """The result in Markdown: what was run, then one row a measurement; median, then least and most."""
    settings, machine = result["settings"], result["machine"]
    against = settings["against"]
    head = (
        f"{result['date']}, commit {(result['commit'] or 'unknown')[:12]}: {settings['model']} "
        f"({settings['parameters']:,} parameters, {settings['dtype']}) on {machine['threads']} of {machine['cores']} cores, "
        f"{machine['processor']}, {machine['system']}, load average {machine['load_average']} at the start; "
        f"torch {result['versions']['torch']}"
    )
    head += f", transformers {result['versions']['transformers']}" if against else ""
    head += f". Medians of {settings['repeats']} repeats in turn (least to most)."
    names = ["llama4", against] if against else ["llama4"]
    columns = ["", *names, *(["ratio", "target"] if against else [])]
    lines = [head, "", _line(columns), _line(["---"] * len(columns))]
    for row in result["rows"]:
        cells = [row["name"], *(_spread(row, name) for name in names)]
        if against:
            target = "" if row["target"] is None else f"≥ {row['target']:g}× {_verdict(row)}"
            cells += [f"{row['ratio']:.2f}×", target]
        lines.append(_line(cells))
    return "\n".join(lines + _chunk_table(result["chunks"]) + _gate_lines(result["gate"]))


def insert(result: dict[str, Any], source: str, page: Path) -> None:
    """Put the table into `page`, between `<!-- bench: SOURCE -->` and `<!-- end -->`."""
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{page} cannot be read ({error.strerror}): name the page that has the markers.") from error
    begin, end = f"<!-- bench: {source} -->", "<!-- end -->"
    pattern = re.compile(re.escape(begin) + r".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(text):
        raise InputError(f"{page} has no lines {begin} and {end}: put them where the table belongs.")
    drawn = pattern.sub(lambda _: f"{begin}\n{table(result)}\n{end}", text)
    with replacing(page.parent) as part:
        part(page.name).write_text(drawn, encoding="utf-8")


def plot(result: dict[str, Any], file: Path) -> None:
    """Bars of the ratios, with the targets; needs matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("matplotlib is not installed: pip install matplotlib, then draw the plot again.") from None
    rows = [row for row in result["rows"] if "ratio" in row]
    if not rows:
        raise InputError("This result compares with nothing, so there is no ratio to plot: run it with --against.")
    figure = Figure(figsize=(7, 0.6 + 0.45 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.barh([row["name"] for row in rows], [row["ratio"] for row in rows], color="#4c72b0")
    for place, row in enumerate(rows):
        if row["target"] is not None:
            axes.plot([row["target"]] * 2, [place - 0.45, place + 0.45], color="black", linestyle=":")
    axes.axvline(1.0, color="grey", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xlabel(f"{result['settings']['against']} / llama4 (more is better; dotted: target)")
    figure.savefig(file)


def _chunk_table(chunks: list[dict[str, Any]]) -> list[str]:
    if not chunks:
        return []
    lines = ["", _line(["attention alone", "4 chunks", "8 chunks", "8 over 4", "target"]), _line(["---"] * 5)]
    for row in chunks:
        target = "" if row["target_at_most"] is None else f"≤ {row['target_at_most']:g}× {_verdict(row)}"
        spans = [_time(row["medians"][span]) for span in ("4 chunks", "8 chunks")]
        lines.append(
            _line([f"{row['layer']} layer, chunk {row['chunk']}", *spans, f"{row['cost_ratio']:.2f}×", target])
        )
    return lines


def _gate_lines(gate: list[dict[str, Any]]) -> list[str]:
    checks = "; ".join(f"{check['what']}: {check['error']:.1e} (bound {check['bound']:.1e})" for check in gate)
    return ["", f"Checked before timing, {gate[0]['measure']} error of the logits: {checks}."] if gate else []


def _spread(row: dict[str, Any], name: str) -> str:
    show = _time if row["unit"] == "s" else _size
    values = row["values"][name]
    middle = show(row["medians"][name])
    return middle if len(values) == 1 else f"{middle} ({show(min(values))} to {show(max(values))})"


def _verdict(row: dict[str, Any]) -> str:
    return "met" if row["met"] else "MISSED"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def _size(count: float) -> str:
    return f"{count / 1e6:,.0f} MB"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else []
    return models[0].strip() if models else platform.processor() or "unknown processor"


def _version(name: str) -> str | None:
    if name in sys.modules or name == "torch":
        return torch.__version__ if name == "torch" else getattr(sys.modules[name], "__version__", None)
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()
