"""`scatter` begins with the mean of what the two stages before it left, `follow` half-way from there to what `scatter` left,
`again` and `redraw` both half-way from there to what `follow` left; what ships is the mean of what these three leave.

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
    half-way                              72.3      39.8        51.7     begins `again` and `redraw`
    0.4 of the way                        72.2      39.3        51.9
    0.6 of the way                        71.8      39.5        51.9
    0.7 of the way                        71.5      38.0        51.6

    again                                 70.4      34.0        49.5
    half-way                              71.6      37.3        50.9
    0.25 of the way                       71.8      38.2        51.7

    redraw                                71.6      33.3        50.7
    half-way                              71.9      37.3        51.8

These strips are the same 400 throughout, and half-way to `follow` was chosen by them, among others: of 1200 strips it has 35.1,
not 39.8. So the last choice was made with more, 1200 strips of each artist, and names at 64 and at 160 px (in brackets, how much
more than half-way to `follow`, and one standard error of that):

                                      EmojiOne 1            strips          OpenMoji            strips
    half-way to `follow`                    71.6              35.1              51.8              12.0
    again                       70.1 (-1.5, 0.8)  33.2 (-1.8, 1.1)  49.1 (-2.6, 0.6)  10.5 (-1.5, 0.8)
    redraw                      70.9 (-0.7, 0.8)  34.5 (-0.6, 1.1)  50.5 (-1.2, 0.6)  11.0 (-1.0, 0.9)
    half-way to `redraw`         72.0 (0.4, 0.6)   35.7 (0.6, 0.8)   51.9 (0.2, 0.4)   12.8 (0.8, 0.7)
    the first three, their mean  71.8 (0.2, 0.6)   36.3 (1.2, 0.9)   52.2 (0.4, 0.5)   12.5 (0.5, 0.7)
    mean of `follow`, `again`
    and `redraw`                 72.1 (0.5, 0.6)   37.8 (2.7, 0.9)   52.2 (0.5, 0.5)   12.4 (0.4, 0.7)    ships

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
