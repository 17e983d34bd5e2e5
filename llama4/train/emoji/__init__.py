"""Emoji as training data: pictures by eleven sets of artists, named in sixteen languages. `python -m llama4.train.emoji` builds
the folder; `open_dataset` reads it. Which artist is for what is fixed here once: the held-out one is never trained on."""

from __future__ import annotations

from llama4.train.emoji.dataset import (
    ARTISTS,
    HELD_OUT_ARTIST,
    LANGUAGES,
    LAST_ARTIST,
    LATE_ARTIST,
    LEARNT_ARTISTS,
    TRAIN_ARTISTS,
    VALIDATION_ARTIST,
    Artist,
    Dataset,
    Emoji,
    open_dataset,
)

__all__ = [
    "ARTISTS",
    "HELD_OUT_ARTIST",
    "LANGUAGES",
    "LAST_ARTIST",
    "LATE_ARTIST",
    "LEARNT_ARTISTS",
    "TRAIN_ARTISTS",
    "VALIDATION_ARTIST",
    "Artist",
    "Dataset",
    "Emoji",
    "open_dataset",
]
