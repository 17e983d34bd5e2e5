"""Is the picture used? The same question, once about one picture and once about another.

    changed    the two answers differ
    followed   the second answer is the second picture's name

A model that answers from the question alone changes nothing: 0 %. One that is right p of the time follows p of the time.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from llama4.evaluation.asking import Question
from llama4.evaluation.drawings import Drawings
from llama4.evaluation.scenes import COUNT
from llama4.evaluation.suites import SEED, asked
from llama4.evaluation.wordings import NAMING


def swaps(drawn: Drawings, count: int = COUNT) -> Iterator[Question]:
    """Two questions a pair: the picture, then the one in its place."""
    generator = random.Random(f"{SEED} swaps")
    for _ in range(count):
        for position in drawn.sample(generator, 2):
            yield asked("swap", [drawn.picture(position)], NAMING["en"], drawn.name(position))


def judged(answered: Iterable[tuple[Question, str]]) -> Iterator[tuple[str, bool]]:
    """(row, hit) of each pair, two rows a pair."""
    pairs = iter(answered)
    for (_, before), (question, after) in zip(pairs, pairs, strict=True):
        yield "the answer changes", before.strip() != after.strip()
        yield "and names the other picture", question.right(after)
