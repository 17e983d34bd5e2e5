"""What was missed: how well the model does where an emoji is named, so that what it does worst is asked about most.

    loss_e  ←  loss_e + (now - loss_e) / 3              now: the mean cross entropy of the answers' tokens, in nats
    odds_e  ∝  loss_e + mean(loss) / 2

"Is the owl on the left or on the right?" has one of two answers, at first ln 2 of cross entropy and none for the end of the turn:
each emoji begins at half of ln 2. The first term is two draws in three, and goes by the loss; the second is one in three, and
goes to all alike: were it not there, what is known would not be asked about again until it is forgotten.

The odds follow from what was learnt and not from the step alone, so they are saved with a stage's state, as `extra`.

Importance sampling (Katharopoulos and Fleuret, arXiv 1803.00942) draws a sample by how far it moves the weights and then lets it
count for less, by how much too often it came. Here it counts in full: a missed name is meant to weigh more.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Missed(nn.Module):
    """The running losses of all emoji, float32 `[E]`."""

    def __init__(self, emoji: int) -> None:
        super().__init__()
        self.register_buffer("loss_E", torch.full((emoji,), math.log(2) / 2))
        self.loss_E: Tensor

    def odds(self) -> list[float]:
        """How often to ask about each emoji, as weights of any sum."""
        return (self.loss_E + self.loss_E.mean() / 2).tolist()

    def heed(self, about_N: Tensor, answers_N: Tensor) -> None:
        """Follow the tokens of a tree: the emoji that each is about, -1 where it is about none, and what each cost."""
        for one in about_N[about_N >= 0].unique().tolist():
            now = answers_N[about_N == one].float().mean()
            self.loss_E[one] += (now - self.loss_E[one]) / 3
