"""What was missed: how well the model does where it has to find an emoji by its name, so that it seeks what it finds worst.

    loss_e  ←  loss_e + (now - loss_e) / memory          now: the mean cross entropy of the answers' tokens, in nats
    odds_e  ∝  loss_e + alike · mean(loss)

"Is the owl on the left or on the right?" `memory` is 3: one lucky guess does not make an owl known. `alike` is a half: two
draws in three go by the loss and one to all alike. The odds are of one picture of a pair; the other may be any, and a question
names either; so of the emoji that are named one in three goes by the loss, and what is known is asked about still.

The mean is over tokens, the end of the turn among them, and of English "left" has two: a guess costs ln 2 / 3 = 0.23. Each emoji
begins at ln 2 / 2 = 0.35, above that, so that what has not been sought yet comes first.

This is near to online batch selection (Loshchilov and Hutter, arXiv 1511.06343), which ranks samples by the loss that each had
last; here the loss itself is the weight. Importance sampling (arXiv 1803.00942) would then let a sample count for less by how
much too often it came; here a missed name is meant to count for more. A loss is charged to the emoji that was sought, though it
may be the other one that was not recognised.

The odds follow from what was learnt and not from the step alone, so they are saved with a stage's state, as its `extra`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Missed(nn.Module):
    """The running losses: float32, one for each emoji."""

    def __init__(self, emoji: int, memory: float, alike: float) -> None:
        super().__init__()
        self.memory, self.alike = memory, alike
        self.register_buffer("loss", torch.full((emoji,), math.log(2) / 2))
        self.loss: Tensor

    def odds(self) -> list[float]:
        """Of each emoji, as weights of any sum."""
        return (self.loss + self.alike * self.loss.mean()).tolist()

    def heed(self, sought_N: Tensor, answers_N: Tensor) -> None:
        """Follow the answer tokens of a tree: the emoji that each one's question seeks (-1: none), and what each cost."""
        for one in sought_N[sought_N >= 0].unique().tolist():
            self.loss[one] += (answers_N[sought_N == one].mean() - self.loss[one]) / self.memory
