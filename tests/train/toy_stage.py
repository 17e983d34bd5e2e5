"""A stage without pictures: one bf16 matrix and one fp32 head that learn a fixed map, to look at the loop and the state alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from llama4.train.recipe import Plan
from llama4.train.weights import Masters

PLAN = Plan(steps=12, rows=4, muon_lr=0.1, adam_lr=0.05, warmup=3, evaluate_every=5, save_every=4, weight_decay=0.1)


class Toy:
    """As `loop.train` runs it; `at` is called at the beginning of every step."""

    name = "toy"

    def __init__(self, plan: Plan = PLAN, width: int = 6, at: Callable[[int], None] = lambda step: None) -> None:
        torch.manual_seed(1)
        self.plan, self.at, self.size = plan, at, 1.0
        self.numbers = {name: repr(value) for name, value in vars(plan).items()}
        self.model = nn.Linear(4, width).to(torch.bfloat16)
        self.extra = nn.Linear(width, 3)
        self.masters = Masters(self.model)

    def gradients(self, step: int) -> Mapping[str, float]:
        """Batch `step`: drawn from its number."""
        self.at(step)
        x = torch.randn(4, 4, generator=torch.Generator().manual_seed(step))
        loss = self.size * (self.extra(self.model(x.bfloat16()).float()) - x[:, :3]).square().mean()
        loss.backward()
        self.masters.collect()
        return {"loss": loss.item()}

    def summary(self, sums: Mapping[str, float]) -> dict[str, float]:
        """The mean loss and the mean norm."""
        return {"loss": sums["loss"] / sums["steps"], "norm": sums["norm"] / sums["steps"]}

    def validate(self) -> dict[str, float]:
        """A number that depends on the weights alone."""
        return {"artist": round(self.extra.weight.sum().item(), 4)}
