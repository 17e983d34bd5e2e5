"""State what int4 costs the default model, in one command:

    python -m llama4.quant                               along the answers to the package's pictures: a minute on two cores
    python -m llama4.quant --data data/emoji             and the held-out artist's names, counted right as `llama4 eval` does
        --json docs/default-model-int4.json --page docs/quantisation.md

The file is that of `llama4 eval --quant int4 --suite languages`, with "agreement" beside its rows. The page's table stands
between <!-- int4 --> and <!-- end -->, and is drawn from it and from the file of the unquantised model's evaluation.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from llama4.errors import InputError
from llama4.evaluation import report, running, suites
from llama4.generate import LLM
from llama4.load import load, resolve_path
from llama4.quant import count_weights
from llama4.quant.quality import agreement, questions
from llama4.train.emoji.dataset import open_dataset

ARTIST = "twemoji"  # the one that is held out
BEGIN, END = "<!-- int4 -->", "<!-- end -->"


def main(argv: list[str] | None = None) -> int:
    """Measure, write, print."""
    parser = argparse.ArgumentParser("python -m llama4.quant", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", default="tiny", metavar="DIR", help="the unquantised model (tiny)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="emoji data: count the held-out artist's names too")
    parser.add_argument("--limit", type=int, metavar="N", help="of these, at most N a language")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    parser.add_argument("--page", type=Path, metavar="FILE.md", help=f"put the table between {BEGIN} and {END}")
    parser.add_argument(
        "--exact", type=Path, default=Path("docs/default-model.json"), metavar="FILE",
        help="`llama4 eval --json` of the unquantised model, for the table (docs/default-model.json)",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    try:
        result = measured(arguments.model, arguments.data, arguments.limit)
        drawn = table(result, report.read(arguments.exact) if result["rows"] else None)
        print(drawn)
        if arguments.json is not None:
            report.write(report.text(result), arguments.json)
        if arguments.page is not None:
            put(drawn, arguments.page)
    except InputError as error:
        print(f"llama4: {error}", file=sys.stderr)
        return 2
    return 0


def measured(model: str, data: Path | None, limit: int | None) -> dict[str, Any]:
    """Agreement with the unquantised model and, with data, the share of names that int4 says right."""
    exact, narrow = load(model, device="cpu"), load(model, device="cpu", quant="int4")
    rows = _names(narrow, data, limit) if data is not None else []
    dtype = str(narrow.model.decoder.embedding.weight.dtype).removeprefix("torch.") + ", linear layers in int4"
    asked = {
        "artist": ARTIST,
        "suites": ["languages"] if rows else [],
        "limit": limit,
        "seed": suites.SEED,
        "dtype": dtype,
    }
    about = report.described(model, resolve_path(model), count_weights(narrow.model))
    result = report.assembled(about, asked, rows, [], torch.get_num_threads())
    return result | {"agreement": asdict(agreement(exact, narrow, questions(exact)))}


def _names(llm: LLM, data: Path, limit: int | None) -> list[dict[str, Any]]:
    return running.evaluate(llm, open_dataset(data.expanduser()), running.Settings(ARTIST, ("languages",), limit))[0]


def table(result: dict[str, Any], exact: dict[str, Any] | None) -> str:
    """Markdown. Raises InputError where the two evaluations are not of one model and one set of questions."""
    agreed = result["agreement"]
    lines = ["| | unquantised | int4 |", "|---|---|---|"]
    if exact is not None:
        lines += _shares(result, exact)
    share, same = agreed["same_answers"] / agreed["questions"], agreed["same_tokens"] / agreed["tokens"]
    lines.append(f"| answers to the package's pictures that are the same, of {agreed['questions']} | | {share:.1%} |")
    lines.append(f"| greedy tokens along them that are the same, of {agreed['tokens']:,} | | {same:.1%} |")
    lines.append(f"| KL of the next token's probabilities, nats a token | | {agreed['kl']:.4f} |")
    return "\n".join(lines)


def _shares(result: dict[str, Any], exact: dict[str, Any]) -> list[str]:
    names = [{row["row"]: row for row in of["rows"] if row["suite"] == "languages"} for of in (exact, result)]
    files = [of["model"]["files"] for of in (exact, result)]
    if (
        names[0].keys() != names[1].keys()
        or files[0] != files[1]
        or any(names[0][n]["n"] != names[1][n]["n"] for n in names[0])
    ):
        raise InputError(
            "The two evaluations are not of one model and the same questions: run `llama4 eval` on this model again."
        )
    shares = [{name: row["share"] for name, row in of.items()} for of in names]
    means = [sum(of.values()) / len(of) for of in shares]
    lost = sorted(shares[0][name] - shares[1][name] for name in shares[0])
    return [
        f"| English | {shares[0]['English']:.1%} | {shares[1]['English']:.1%} |",
        f"| mean of the {len(shares[0])} languages | {means[0]:.1%} | {means[1]:.1%} |",
        f"| least and most that a language loses, in points | | {100 * lost[0]:.1f} and {100 * lost[-1]:.1f} |",
    ]


def put(drawn: str, page: Path) -> None:
    """Write the table into a page that has the two lines."""
    text, pattern = page.read_text(encoding="utf-8"), re.compile(re.escape(BEGIN) + r".*?" + re.escape(END), re.DOTALL)
    if not pattern.search(text):
        raise InputError(f"{page} has no lines {BEGIN} and {END}: put them where the table belongs.")
    report.write(pattern.sub(lambda _: f"{BEGIN}\n{drawn}\n{END}", text, count=1), page)


if __name__ == "__main__":
    sys.exit(main())
