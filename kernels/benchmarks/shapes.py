"""What is measured: the layers of Scout and Maverick, from one token to 16384, evenly routed and not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TOKENS = (1, 16, 128, 1024, 4096, 16384)
ROUTINGS = ("uniform", "skewed")


@dataclass(frozen=True)
class Shape:
    """A MoE layer: D, F, E. The shared expert is as wide as a routed one."""

    name: str
    width: int
    hidden: int
    experts: int

    def layer_flops(self, tokens: int) -> float:
        """Of the routed and the shared expert: three matmuls each, two FLOPs a product."""
        return 2 * 2 * 3 * tokens * self.width * self.hidden

    def layer_bytes(self, experts_used: int, itemsize: int = 2) -> float:
        """Of the weights that must be read once: the used experts' and the shared one's."""
        return 3 * self.width * self.hidden * itemsize * (experts_used + 1)


SCOUT = Shape("Scout", 5120, 8192, 16)
MAVERICK = Shape("Maverick", 5120, 8192, 128)
SMALL = Shape("small", 64, 96, 4)  # for --dry-run, in the interpreter


def routes(tokens: int, experts: int, routing: str, device: torch.device, seed: int = 0) -> Tensor:
    """Router logits `[N, E]`, fp32, with the chosen expert well ahead.

    "skewed": expert r is chosen in proportion to 1 / (r + 1), so that of 16 experts the first gets 30 % of tokens, the last 2 %.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = torch.ones(experts) if routing == "uniform" else 1 / torch.arange(1, experts + 1)
    chosen = torch.multinomial(weights, tokens, replacement=True, generator=generator)
    logits_NE = torch.randn(tokens, experts, generator=generator)
    return logits_NE.scatter(1, chosen[:, None], 6.0).to(device)
