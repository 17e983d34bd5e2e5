"""One view of a drawing through the trainer's augmentation, as a picture: what the suite `trained` asks about."""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from PIL import Image

from llama4.evaluation.drawings import CELL
from llama4.train.emoji.dataset import Dataset
from llama4.train.pictures import Augmentation, views


def augmented(dataset: Dataset, artist: str, position: int, rng: np.random.Generator) -> Image.Image:
    """A fresh view of an artist's drawing, RGB, `CELL` px; the same state of `rng` gives the same pixels."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    drawing = np.array(dataset.artists[artist].pixels[position])[None]
    [view] = views(drawing, CELL, Augmentation(), generator)
    pixels = rearrange(view, "c y x -> y x c").mul(255).round().to(torch.uint8)
    return Image.fromarray(pixels.numpy())
