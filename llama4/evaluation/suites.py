"""The suites that name one picture: sizes, languages, augmented drawings of the trained artists.

    names       "What is this?", every drawing of the artist, at 64, 72, 160 and 512 px: 1, 5, 10 and 17 tiles of 64 px
    languages   the same drawings at 64 px, asked in each of the sixteen languages, answered in it
    trained     drawings that were trained on, seen through augmentations that were not: fresh draws with a seed of their own

An answer is right when it is the CLDR name itself (`scoring.exact`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from llama4.evaluation.asking import Question
from llama4.evaluation.drawings import Drawings
from llama4.evaluation.scoring import exact
from llama4.evaluation.wordings import NAMING
from llama4.train.emoji.dataset import LANGUAGES, Dataset

SIZES = (64, 72, 160, 512)
SEED = 20250405
PER_ARTIST = 300
Augment = Callable[[Dataset, str, int, np.random.Generator], Image.Image]  # dataset, artist, position -> RGB


def asked(row: str, pictures: Sequence[Image.Image], text: str, expected: str, **judged: Any) -> Question:
    """A question about some pictures, which come first; right when the answer is `expected`, or by `judged["right"]`."""
    content = [*({"type": "image", "image": picture} for picture in pictures), {"type": "text", "text": text}]
    return Question(row, content, expected, judged.get("right") or partial(exact, name=expected))


def chosen_positions(drawn: Drawings, limit: int | None) -> list[int]:
    """Every drawing, or `limit` of them, the same on each call."""
    everything = range(len(drawn))
    if limit is None or limit >= len(drawn):
        return list(everything)
    return sorted(random.Random(SEED).sample(everything, limit))


def names(drawn: Drawings, limit: int | None = None) -> Iterator[Question]:
    """The English name at each size."""
    for size in SIZES:
        for position in chosen_positions(drawn, limit):
            yield asked(f"{size} px", [drawn.picture(position, size)], NAMING["en"], drawn.name(position))


def languages(drawn: Drawings, limit: int | None = None) -> Iterator[Question]:
    """The name in each language, asked in that language; wants `encoded_once`, since every picture comes sixteen times."""
    for language, wording in NAMING.items():
        for position in chosen_positions(drawn, limit):
            yield asked(LANGUAGES[language], [drawn.picture(position)], wording, drawn.name(position, language))


def trained(dataset: Dataset, artists: Sequence[str], augment: Augment, limit: int | None = None) -> Iterator[Question]:
    """The English name of augmented drawings, `PER_ARTIST` (or `limit`) of each artist."""
    for number, artist in enumerate(artists):
        drawn = Drawings(dataset.emoji, dataset.artists[artist])
        count = min(limit or PER_ARTIST, len(drawn))
        generator = np.random.default_rng([SEED, number])
        for position in generator.permutation(len(drawn))[:count].tolist():
            picture = augment(dataset, artist, position, generator)
            yield asked(artist, [picture], NAMING["en"], drawn.name(position))
