"""Trees of text: many questions without a picture, all from one beginning.

    trunk      <|begin_of_text|> user:
    branches   What is "dog" in French?<|eot|> assistant: chien<|eot|>
               Give three keywords for fox.<|eot|> …

A name that is read has to lead to where the picture leads, and the way on from there, to the names in other languages, is known
by then. The four conversations of a step hold one translation; a tree holds forty, at 30 tokens each.
"""

from __future__ import annotations

from random import Random

import numpy as np

from llama4.train import names
from llama4.train.decoding import Decoding
from llama4.train.tasks import draw as converse


def draw(stage: Decoding, number: tuple[int, int]) -> names.Tree:
    """Tree `number` (stream and step): one trunk and the recipe's `texts` conversations, drawn from its `text_mixture`."""
    rng = np.random.default_rng((stage.recipe.seed, *number))
    words, dataset = Random(int(rng.integers(1 << 62))), stage.renderer.studio.dataset
    asked = [converse(words, dataset, stage.recipe.text_mixture) for _ in range(stage.recipe.texts)]
    return names.grow(stage, [asked], [[]])
