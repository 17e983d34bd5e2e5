"""An evaluation as a file and as a table. The file is the source: the model card's table is drawn from it.

{"format", "date", "commit", "machine", "versions", "model": {"name", "parameters", "files": {name: sha256}},
 "settings": {"artist", "suites", "limit", "seed"},
 "rows":    [{"suite", "row", "n", "hits", "share", "low", "high", "target"}],
 "experts": [{"layer", "tokens", "n", "shares", "busiest"}]}
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llama4.bench.report import provenance
from llama4.errors import InputError
from llama4.evaluation.intervals import wilson
from llama4.files import replacing
from llama4.train.emoji.dataset import LEARNT_ARTISTS

FORMAT = "llama4-eval-1"
BEGIN, END = "<!-- eval -->", "<!-- end -->"
BUSIEST = 2.5  # the most that the busiest expert may take, in means
TARGETS = {"names": 0.6, "languages": 0.5, "trained": 0.92, "strip": 0.4, "pair": 0.9}
TITLES = {
    "names": "English name, exact, by size",
    "languages": "name, exact, by language",
    "trained": "English name, exact, trained artists in unseen augmentations",
    "strip": "names in order",
    "pair": "which side",
    "same": "same or not",
    "nth": "English name, exact",
    "frames": "names in order",
    "absent": "says that there is none",
    "translate": "name, exact",
    "keywords": "all three are keywords",
    "category": "word, exact",
    "swap": "picture swapped for another",
}


def rows_of(suite: str, hits: Iterable[tuple[str, bool]]) -> list[dict[str, Any]]:
    """A row of the table for each row name, in the order of their first answers."""
    counted: dict[str, list[bool]] = {}
    for row, hit in hits:
        counted.setdefault(row, []).append(hit)
    return [
        {"suite": suite, "row": row, "n": len(hit), "hits": sum(hit), "share": sum(hit) / len(hit)}
        | dict(zip(("low", "high"), wilson(sum(hit), len(hit)), strict=True))
        | {"target": None if row in LEARNT_ARTISTS else TARGETS.get(suite)}  # artists are asked for together
        for row, hit in counted.items()
    ]


def described(name: str, folder: Path, parameters: int) -> dict[str, Any]:
    """The model: its name, size, and the SHA-256 of the files that its answers follow from. No folder of this machine."""
    kinds = ("*.safetensors", "*.pth", "config.json", "params.json", "tokenizer.model")
    files = sorted(file for kind in kinds for file in folder.glob(kind))
    return {"name": Path(name).name, "parameters": parameters, "files": {file.name: _sha256(file) for file in files}}


def assembled(
    model: dict[str, Any], settings: dict[str, Any], rows: list[dict], experts: list[dict], threads: int
) -> dict[str, Any]:
    """The whole result."""
    parts = {"model": model, "settings": settings, "rows": rows, "experts": experts}
    return provenance(threads) | {"format": FORMAT} | parts


def text(result: dict[str, Any]) -> str:
    """The result as the JSON text that the file holds."""
    return json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write(content: str, file: Path) -> None:
    """Put a text into a file, whole or not at all."""
    with replacing(file.parent) as part:
        part(file.name).write_text(content, encoding="utf-8")


def read(file: Path) -> dict[str, Any]:
    """A file that holds `text`; InputError for any other."""
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as an evaluation's JSON: run `llama4 eval --json` again.") from error
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise InputError(f"{file} is not of the format {FORMAT}: run `llama4 eval --json` again.")
    return result


def table(result: dict[str, Any]) -> str:
    """The result in Markdown: what was asked of which model, then a row a figure, then the experts."""
    lines = [_head(result)]
    if result["rows"]:
        lines += ["", _line(["", "", "n", "right", "95 % interval", "asked for"])]
        lines.append(_line(["---", "---", "---:", "---:", "---", "---"]))
        lines += [_line(_cells(row)) for row in result["rows"]]
    if result["experts"]:
        lines += ["", _line(["MoE layer", "tokens", "n", "share of each expert", "busiest / mean"])]
        lines.append(_line(["---:", "---", "---:", "---", "---:"]))
        lines += [_line(_expert_cells(row)) for row in result["experts"]]
    return "\n".join(lines)


def put_table(result: dict[str, Any], page: Path) -> None:
    """Write the table as a new page, or into a page that has the lines `<!-- eval -->` and `<!-- end -->`, between them."""
    drawn = table(result)
    write(replaced(page, BEGIN, drawn) if page.exists() else drawn + "\n", page)


def replaced(page: Path, begin: str, drawn: str) -> str:
    """The page's text with `drawn` between the lines `begin` and `<!-- end -->`. Raises InputError for one without them."""
    try:
        old = page.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{page} cannot be read as text: name a Markdown page, or a new file.") from error
    pattern = re.compile(re.escape(begin) + r".*?" + re.escape(END), re.DOTALL)
    if not pattern.search(old):
        raise InputError(f"{page} has no lines {begin} and {END}: put them where the table belongs.")
    return pattern.sub(lambda _: f"{begin}\n{drawn}\n{END}", old, count=1)


def _head(result: dict[str, Any]) -> str:
    settings, model, machine = result["settings"], result["model"], result["machine"]
    weights = next((digest for name, digest in model["files"].items() if name.endswith((".safetensors", ".pth"))), "")
    limited = "" if settings["limit"] is None else f", at most {settings['limit']} questions a row"
    return (
        f"{result['date']}, commit {(result['commit'] or 'unknown')[:12]}: {model['name']} ({model['parameters']:,} parameters, "
        f"weights' SHA-256 {weights[:12]}…, {settings['dtype']}) on drawings of {settings['artist']}{limited}; greedy, seed "
        f"{settings['seed']}; {machine['threads']} threads, {machine['processor']}, torch {result['versions']['torch']}."
    )


def _cells(row: dict[str, Any]) -> list[str]:
    asked = "" if row["target"] is None else f"≥ {row['target']:.0%} {_met(row['share'] >= row['target'])}"
    interval = f"{row['low']:.1%} to {row['high']:.1%}"
    return [TITLES[row["suite"]], row["row"], f"{row['n']:,}", f"{row['share']:.1%}", interval, asked]


def _expert_cells(row: dict[str, Any]) -> list[str]:
    shares = " ".join(f"{share:.0%}" for share in row["shares"])
    asked = f" (≤ {BUSIEST:g} {_met(row['busiest'] <= BUSIEST)})" if row["tokens"] == "all" else ""
    return [str(row["layer"]), row["tokens"], f"{row['n']:,}", shares, f"{row['busiest']:.2f}{asked}"]


def _met(met: bool) -> str:
    return "met" if met else "MISSED"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
