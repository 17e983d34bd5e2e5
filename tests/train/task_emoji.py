"""Thirteen emoji for the tests of the tasks: all ten categories, two of one subcategory, names with quotes and a colon."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from llama4.train.emoji.dataset import LANGUAGES, Dataset, Emoji

FILE = Path(__file__).parent / "emoji_names.json"
ENTRIES = json.loads(FILE.read_text(encoding="utf-8"))["emoji"]
EMOJI = tuple(
    Emoji(
        **{key: entry[key] for key in ("emoji", "code", "category", "subcategory", "names")},
        keywords={language: tuple(entry["keywords"][language]) for language in LANGUAGES},
    )
    for entry in ENTRIES
)
DATASET = Dataset(EMOJI, {})


def write_folder(folder: Path) -> Path:
    """The same emoji as a built folder has them, with one artist who draws one black pixel each."""
    (folder / "noto").mkdir(parents=True)
    (folder / "emoji.json").write_text(json.dumps(ENTRIES), encoding="utf-8")
    np.save(folder / "noto" / "pixels.npy", np.zeros((len(ENTRIES), 1, 1, 4), dtype=np.uint8))
    np.save(folder / "noto" / "index.npy", np.arange(len(ENTRIES), dtype=np.int64))
    return folder
