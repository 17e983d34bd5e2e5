"""`scatter` begins with the mean of what the two stages before it left, `follow` half-way from there to what `scatter` left,
and what ships lies half-way from there to what `follow` leaves.

    w = 1/n · Σ w(stage)        weight by weight, in fp32, rounded to bf16 once

A stage goes on where another ended, at a small rate, and both end in the same valley of the loss; the middle of two points of its
rim lies lower, most of all for pictures unlike those that were learnt from. Right in English, of drawings from which no stage
learns, EmojiOne 1's (918, and 400 strips of three) and OpenMoji's (1585), in percent:

                                    EmojiOne 1    strips    OpenMoji
    broaden                               65.3      26.5        44.2
    vary                                  67.3      29.8        47.1
    settle                                68.0      29.0        47.6
    mean of vary and settle               69.1      32.5        49.3     begins `scatter`
    mean of all three                     68.4      32.2        48.4
    mean of broaden and vary              68.6      30.2        47.9

    mean of vary and settle, again        69.0      32.2        49.1     in one pass each, as validate.py measures
    scatter                               69.0      31.0        50.7
    half-way                              70.2      33.8        50.9     begins `follow`
    0.7 of the way                        70.2      32.5        51.4

    follow                                70.7      35.0        49.4
    half-way                              72.3      39.8        51.7     ships
    0.4 of the way                        72.2      39.3        51.9
    0.6 of the way                        71.8      39.5        51.9
    0.7 of the way                        71.5      38.0        51.6

    `follow` again, half-way from there   70.4      34.0        49.5     1800 steps, lists of three throughout
    half-way                              71.6      37.3        50.9     so it was dropped
    0.25 of the way                       71.8      38.2        51.7

A running mean over the last 1000 steps of `settle`, a point a step, had 67.4, 28.5 and 49.0: so near to each other points gain
little. To go half-way to where a stage ended, and on from there, is what Lookahead does every few steps, and here every few
thousand.

Sources: Izmailov et al., arXiv 1803.05407 (averages along one run); Wortsman et al., arXiv 2109.01903 (of before and after a
fine-tuning, for pictures of another kind); Zhang et al., arXiv 1907.08610 (Lookahead).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from llama4.errors import InputError
from llama4.model import Llama4
from llama4.train import state


@torch.no_grad()
def average(model: Llama4, folder: Path, stages: Sequence[str]) -> Llama4:
    """Put the mean of the fp32 weights that these stages left in `folder` into the model, rounded to its dtype; returns it.

    Raises InputError where a state is missing or holds other weights than all of the model's.
    """
    held = [state.weights_of(folder, stage) for stage in stages]
    own = dict(model.named_parameters())
    for stage, weights in zip(stages, held, strict=True):
        if {name: weight.shape for name, weight in weights.items()} != {name: w.shape for name, w in own.items()}:
            raise InputError(
                f"{folder / f'{stage}.pt'} does not hold all weights of the model: take a stage in which all learn."
            )
    for name, weight in own.items():
        weight.copy_(sum(weights[name] for weights in held) / len(held))
    return model


@torch.no_grad()
def halfway(model: Llama4, folder: Path, stage: str) -> Llama4:
    """Put the model's weights half-way to the fp32 ones that a stage left in `folder`, rounded to its dtype; returns it.

    What rested in that stage stays. Raises InputError where the state is missing or holds what the model has not.
    """
    left, own = state.weights_of(folder, stage), dict(model.named_parameters())
    if not left or any(name not in own or own[name].shape != weight.shape for name, weight in left.items()):
        raise InputError(f"{folder / f'{stage}.pt'} belongs to another model: choose another folder.")
    for name, weight in left.items():
        own[name].copy_((own[name].float() + weight) / 2)
    return model
