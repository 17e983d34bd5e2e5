"""Run the suites that `llama4 eval` asks for, and gather the result.

Names and experts are one pass: the experts are counted while the names are answered, whichever of the two is asked for.
"""

from __future__ import annotations

import random
import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llama4.errors import InputError
from llama4.evaluation import experts, report, scenes, suites, swapping
from llama4.evaluation.asking import Question, answers, encoded_once
from llama4.evaluation.augmenting import augmented
from llama4.evaluation.drawings import Drawings, drawings
from llama4.evaluation.wordings import NAMING
from llama4.generate import LLM
from llama4.load import load, resolve_path
from llama4.quant import count_weights, is_quantised
from llama4.train.emoji.dataset import LEARNT_ARTISTS, Dataset, open_dataset

SCENES = {
    "strip": scenes.strip_of_three,
    "pair": scenes.left_or_right,
    "same": scenes.same_or_different,
    "nth": scenes.nth_picture,
    "frames": scenes.three_frames,
    "translate": scenes.translation,
    "keywords": scenes.keywords_of,
    "category": scenes.category_of,
}
FIGURE_PICTURES = 6
SUITES = ("names", "languages", "trained", *SCENES, "absent", "swap", "experts")


@dataclass(frozen=True)
class Settings:
    """What to ask. `limit`: at most so many questions a row."""

    artist: str
    chosen: tuple[str, ...] = SUITES
    limit: int | None = None


@dataclass(frozen=True)
class Asked:
    """The questions of one suite, and how many they are, for the progress bar."""

    questions: Iterator[Question]
    total: int


def evaluate(llm: LLM, dataset: Dataset, settings: Settings) -> tuple[list[dict], list[dict], experts.Tally | None]:
    """The rows of the suites, the rows of the experts, and the counts that a figure is drawn from."""
    drawn = drawings(dataset, settings.artist)
    if llm.config.vision is None:
        raise InputError("This model has no vision encoder, and nearly every question shows a picture: choose another.")
    asked = {suite: questions_of(suite, drawn, dataset, settings.limit) for suite in settings.chosen}  # errors first
    rows, loads, tally = [], [], None
    for suite, plan in asked.items():
        if suite == "experts" and tally is not None:
            continue
        with experts.tallied(llm.model) as counted, encoded_once(llm.model):
            answered = list(_judged(suite, answers(llm, plan.questions, plan.total, suite)))
        if suite != "experts":
            rows += report.rows_of(suite, answered)
        if suite in ("names", "experts"):
            tally = counted
    if "experts" in settings.chosen and tally is not None:
        loads = experts.loads(tally)
    return rows, loads, tally


def questions_of(suite: str, drawn: Drawings, dataset: Dataset, limit: int | None) -> Asked:
    """The questions of a suite; none is drawn yet. Raises InputError where the data lacks what it is about."""
    every = len(suites.chosen_positions(drawn, limit))
    count = scenes.COUNT if limit is None else min(limit, scenes.COUNT)
    if suite in ("names", "experts"):
        return Asked(suites.names(drawn, limit), every * len(suites.SIZES))
    if suite == "languages":
        return Asked(suites.languages(drawn, limit), every * len(NAMING))
    if suite == "trained":
        artists = [artist for artist in LEARNT_ARTISTS if artist in dataset.artists]
        if not artists:
            raise InputError(
                "The data holds no artist that was trained on: build them, or leave out the suite `trained`."
            )
        per_artist = min(limit or suites.PER_ARTIST, suites.PER_ARTIST)
        return Asked(suites.trained(dataset, artists, augmented, per_artist), per_artist * len(artists))
    if suite == "absent":
        questions = list(scenes.absent())[:limit]
        return Asked(iter(questions), len(questions))
    if suite == "swap":
        return Asked(swapping.swaps(drawn, count), 2 * count)
    if suite == "keywords":
        scenes.with_keywords(drawn)
    if suite == "category":
        scenes.with_categories(drawn)
    return Asked(scenes.scenes(SCENES[suite], drawn, count), count)


def chosen_suites(text: str) -> tuple[str, ...]:
    """`all`, or some of SUITES with commas between. Raises InputError for any other."""
    wanted = SUITES if text == "all" else text.split(",")
    for suite in wanted:
        if suite not in SUITES:
            raise InputError(f"There is no suite {suite!r}: choose all, or among {','.join(SUITES)}.")
    return tuple(suite for suite in SUITES if suite in wanted)  # names before experts, which are of the same answers


def run_command(arguments: Namespace) -> int:
    """`llama4 eval`: measure, or draw the table of a result that a file holds."""
    if arguments.render is not None:
        result = report.read(arguments.render)
    else:
        result = _measured(arguments)
    if arguments.json == "-":
        sys.stdout.write(report.text(result))
    else:
        print(report.table(result))
        if arguments.json is not None:
            report.write(report.text(result), Path(arguments.json).expanduser())
    if arguments.table is not None:
        report.put_table(result, arguments.table.expanduser())
    return 0


def _measured(arguments: Namespace) -> dict[str, Any]:
    settings = Settings(arguments.artist, chosen_suites(arguments.suite), arguments.limit)
    _check(settings, arguments)
    folder = resolve_path(arguments.model)
    dataset = open_dataset(arguments.data.expanduser())
    drawn = drawings(dataset, settings.artist)
    llm = load(arguments.model, device=arguments.device, dtype=arguments.dtype, quant=arguments.quant)
    rows, loads, tally = evaluate(llm, dataset, settings)
    if arguments.figure is not None:
        from llama4.evaluation import figure

        shown = drawn.sample(random.Random(suites.SEED), min(FIGURE_PICTURES, len(drawn)))
        figure.draw(llm, tally, [drawn.picture(position) for position in shown], arguments.figure.expanduser())
    asked = {"artist": settings.artist, "suites": list(settings.chosen), "limit": settings.limit, "seed": suites.SEED}
    model = report.described(arguments.model, folder, count_weights(llm.model))
    return report.assembled(model, asked | {"dtype": dtype_of(llm)}, rows, loads, torch.get_num_threads())


def dtype_of(llm: LLM) -> str:
    """What the model computes in, as the report names it."""
    dtype = str(llm.model.decoder.embedding.weight.dtype).removeprefix("torch.")
    return dtype + (", linear layers in int4" if is_quantised(llm.model) else "")


def _check(settings: Settings, arguments: Namespace) -> None:
    """What can be wrong is said before the minutes of asking."""
    if settings.limit is not None and settings.limit < 1:
        raise InputError(f"--limit is {settings.limit}: ask at least 1 question a row, or leave it out.")
    if arguments.figure is not None:
        if not {"names", "experts"} & set(settings.chosen):
            raise InputError("--figure shows the experts: choose the suite `experts` (or `names`) with it.")
        from llama4.evaluation import figure

        figure.require(arguments.figure)


def _judged(suite: str, answered: Iterator[tuple[Question, str]]) -> Iterator[tuple[str, bool]]:
    if suite == "swap":
        return swapping.judged(answered)
    hits = [(question.row, question.right(answer)) for question, answer in answered]
    return iter(([("all of them", hit) for _, hit in hits] if suite == "trained" else []) + hits)
