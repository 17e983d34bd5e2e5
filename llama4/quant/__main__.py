"""State what int4 costs the default model, in one command:

    python -m llama4.quant                               along the answers to the package's pictures: a minute on two cores
    python -m llama4.quant --data data/emoji             and the held-out artist's names, counted right as `llama4 eval` does;
        --json docs/default-model-int4.json              once more calibrated, on drawings of artists that were trained on
        --page docs/quantisation.md

The file is that of `llama4 eval --quant int4 --suite languages`, with "agreement" beside its rows, and both again under
"calibrated". The page's table stands between <!-- int4 --> and <!-- end -->, and is drawn from it and from the file of the
unquantised model's evaluation.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llama4.chat import Prompt
from llama4.errors import InputError
from llama4.evaluation import report, running, suites
from llama4.evaluation.drawings import Drawings
from llama4.evaluation.wordings import NAMING
from llama4.generate import LLM
from llama4.load import load, resolve_path
from llama4.quant import count_weights, is_quantised, quantise
from llama4.quant.calibrated import calibrated
from llama4.quant.prompts import answered
from llama4.quant.quality import agreement, questions
from llama4.train.emoji.dataset import LEARNT_ARTISTS, Dataset, open_dataset

ARTIST = "twemoji"  # the one that is held out
DRAWINGS = 768  # to calibrate on
BEGIN = "<!-- int4 -->"


def main(argv: list[str] | None = None) -> int:
    """Measure, write, print."""
    parser = argparse.ArgumentParser("python -m llama4.quant", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", default="tiny", metavar="DIR", help="the unquantised model (tiny)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="emoji data: count the held-out artist's names too")
    parser.add_argument("--limit", type=int, metavar="N", help="of these, at most N a language")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    parser.add_argument("--page", type=Path, metavar="FILE.md", help=f"put the table between {BEGIN} and {report.END}")
    parser.add_argument(
        "--exact", type=Path, default=Path("docs/default-model.json"), metavar="FILE",
        help="`llama4 eval --json` of the unquantised model, for the table (docs/default-model.json)",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    try:
        exact = None if arguments.data is None else comparable(arguments.exact, arguments.model, arguments.limit)
        if arguments.page is not None:
            report.replaced(arguments.page, BEGIN, "")  # what cannot be written is known before minutes of measuring
        result = measured(arguments.model, arguments.data, arguments.limit)
        if arguments.json is not None:
            report.write(report.text(result), arguments.json)
        drawn = table(result, exact)
        print(drawn)
        if arguments.page is not None:
            report.write(report.replaced(arguments.page, BEGIN, drawn), arguments.page)
    except InputError as error:
        print(f"llama4: {error}", file=sys.stderr)
        return 2
    return 0


def comparable(file: Path, model: str, limit: int | None) -> dict[str, Any]:
    """The unquantised evaluation in `file`. Raises InputError where it is of another model or of other questions."""
    exact = report.read(file)
    if exact["model"]["files"] != report.described(model, resolve_path(model), 0)["files"]:
        raise InputError(f"{file} is of another model than {model}: name one of `llama4 eval --model {model} --json`.")
    if exact["settings"]["limit"] != limit:
        made = "without a limit" if exact["settings"]["limit"] is None else f"with --limit {exact['settings']['limit']}"
        raise InputError(f"{file} was made {made}: give the same here, or --exact FILE of a run that had yours.")
    return exact


def measured(model: str, data: Path | None, limit: int | None) -> dict[str, Any]:
    """Agreement with the unquantised model and, with data, the share of names that int4 says right."""
    exact = load(model, device="cpu")
    if is_quantised(exact.model):
        raise InputError(f"{model} is in int4 already: name the unquantised model that it was made of.")
    dataset = None if data is None else open_dataset(data.expanduser(), need=LEARNT_ARTISTS)  # errors first
    narrow = load(model, device="cpu", quant="int4")
    rows, more = _names(narrow, data, limit) if data is not None else [], {}
    if data is not None:
        fitted = load(model, device="cpu")
        quantise(fitted.model, pack=calibrated(fitted.model, calibration(fitted, dataset)))
        again = {"rows": _names(fitted, data, limit), "agreement": asdict(agreement(exact, fitted, questions(exact)))}
        more = {"calibrated": again}
    asked = {"artist": ARTIST, "suites": ["languages"] if rows else [], "limit": limit, "seed": suites.SEED}
    asked |= {"dtype": running.dtype_of(narrow)}
    about = report.described(model, resolve_path(model), count_weights(narrow.model))
    result = report.assembled(about, asked, rows, [], torch.get_num_threads())
    return result | {"agreement": asdict(agreement(exact, narrow, questions(exact)))} | more


def calibration(llm: LLM, dataset: Dataset, count: int = DRAWINGS) -> list[Prompt]:
    """Drawings of all artists that were trained on, each asked for in one language, with the model's own answers."""
    rng = np.random.default_rng(suites.SEED)
    artists = [Drawings(dataset.emoji, dataset.artists[name]) for name in LEARNT_ARTISTS]
    prompts = []
    for number, wording in zip(range(count), cycle(NAMING.values()), strict=False):
        drawn = artists[number // len(NAMING) % len(artists)]  # in each language drawings of every artist
        prompts.append(llm.encode(wording, images=[drawn.picture(int(rng.integers(len(drawn))))]))
    return answered(llm, prompts)


def _names(llm: LLM, data: Path, limit: int | None) -> list[dict[str, Any]]:
    return running.evaluate(llm, open_dataset(data.expanduser()), running.Settings(ARTIST, ("languages",), limit))[0]


def table(result: dict[str, Any], exact: dict[str, Any] | None) -> str:
    """Markdown. Raises InputError where the two evaluations are not of one model and one set of questions."""
    ways = [result, *([result["calibrated"]] if "calibrated" in result else [])]
    header = ["", "unquantised", "int4", "int4, calibrated"][: 2 + len(ways)]
    lines = [_line(header), "|" + "---|" * len(header)]
    if exact is not None:
        lines += _shares(result["model"]["files"], [way["rows"] for way in ways], exact)
    of = [way["agreement"] for way in ways]
    said = f"answers to the package's pictures that are the same, of {of[0]['questions']}"
    lines.append(_line([said, "", *(f"{one['same_answers'] / one['questions']:.1%}" for one in of)]))
    said = f"greedy tokens along them that are the same, of {of[0]['tokens']:,}"
    lines.append(_line([said, "", *(f"{one['same_tokens'] / one['tokens']:.1%}" for one in of)]))
    kl = "KL of the next token's probabilities, nats a token"
    return "\n".join([*lines, _line([kl, "", *(f"{one['kl']:.4f}" for one in of)])])


def _line(cells: list[str]) -> str:
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def _shares(files: dict[str, str], ways: list[list[dict[str, Any]]], exact: dict[str, Any]) -> list[str]:
    """Lines of names said right: unquantised, and in each way of int4."""
    names = [{row["row"]: row for row in rows if row["suite"] == "languages"} for rows in (exact["rows"], *ways)]
    counts = [{name: row["n"] for name, row in one.items()} for one in names]
    if exact["model"]["files"] != files or any(one != counts[0] for one in counts):
        raise InputError(
            "The two evaluations are not of one model and the same questions: run `llama4 eval` on this model again."
        )
    shares = [{name: row["share"] for name, row in one.items()} for one in names]
    means = [f"{sum(one.values()) / len(one):.1%}" for one in shares]
    lost = [sorted(100 * (shares[0][name] - one[name]) for name in one) for one in shares[1:]]
    told = "least and most that a language loses, in points"
    return [
        _line(["English", *(f"{one['English']:.1%}" for one in shares)]),
        _line([f"mean of the {len(shares[0])} languages", *means]),
        _line([told, "", *(f"{points[0]:.1f} and {points[-1]:.1f}" for points in lost)]),
    ]


if __name__ == "__main__":
    sys.exit(main())
