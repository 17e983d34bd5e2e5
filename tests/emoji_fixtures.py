"""A small data set in the trainer's format, made of pictures in the package, and models that answer as a test wants them to."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from llama4.demo.pictures import FOLDER

NAMES = ("dog-face", "red-apple", "airplane", "guitar", "pizza", "rocket", "key")


def write_dataset(folder: Path, artists: Sequence[str] = ("twemoji", "noto")) -> Path:
    """Seven emoji; the second artist draws the first five, in reverse order and mirrored, at 32 px."""
    table = json.loads((FOLDER / "names.json").read_text(encoding="utf-8"))
    entries = [
        {
            "code": f"{ord(table[f'{name}.png']['emoji'][0]):x}",
            "category": "Food & Drink" if name in ("red-apple", "pizza") else "Objects",
            "subcategory": "thing",
            "keywords": {},
        }
        | table[f"{name}.png"]
        for name in NAMES
    ]
    for entry in entries:
        entry["keywords"] = {
            language: [name, *(f"{name} {number}" for number in range(4))] for language, name in entry["names"].items()
        }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "emoji.json").write_text(json.dumps(entries), encoding="utf-8")
    drawn = [Image.open(FOLDER / f"{name}.png").convert("RGBA") for name in NAMES]
    for number, artist in enumerate(artists):
        index = range(len(NAMES)) if number == 0 else range(4, -1, -1)
        pictures = [drawn[i] if number == 0 else drawn[i].transpose(Image.Transpose.FLIP_LEFT_RIGHT) for i in index]
        (folder / artist).mkdir(exist_ok=True)
        side = 64 if number == 0 else 32
        np.save(folder / artist / "pixels.npy", np.stack([np.array(p.resize((side, side))) for p in pictures]))
        np.save(folder / artist / "index.npy", np.array(list(index), dtype=np.int64))
    return folder


@dataclass(frozen=True)
class Asked:
    """What a `FakeLLM` makes of a prompt: the content itself; `ids` is as long as the text, so that prompts differ in length."""

    content: list[dict[str, Any]]

    @property
    def ids(self) -> range:
        return range(len(self.content[-1]["text"]))


@dataclass
class FakeLLM:
    """Answers by a function of the message's content; keeps the sizes of its batches."""

    answer: Callable[[list[dict[str, Any]]], str]

    def __post_init__(self) -> None:
        self.batches: list[int] = []

    def encode(self, messages: list[dict[str, Any]]) -> Asked:
        [message] = messages
        return Asked(message["content"])

    def generate_batch(self, prompts: list[Asked], max_new_tokens: int) -> list[str]:
        self.batches.append(len(prompts))
        return [self.answer(prompt.content) for prompt in prompts]
