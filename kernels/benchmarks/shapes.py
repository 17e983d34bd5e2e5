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


@dataclass(frozen=True)
class Heads:
    """An attention layer: H, G, K, and the chunk of the layers that have one."""

    name: str
    heads: int
    kv_heads: int
    width: int
    chunk: int

    def pairs(self, tokens: int, chunk: int) -> int:
        """Queries times keys that they see, where each sees its own chunk up to itself; full causal where `chunk` is `tokens`."""
        whole, rest = divmod(tokens, chunk)
        return whole * chunk * (chunk + 1) // 2 + rest * (rest + 1) // 2

    def flops(self, pairs: int) -> float:
        """Of a forward pass: a product with the key and one with the value, two FLOPs each, for every query head."""
        return 4 * pairs * self.heads * self.width

    def prefill_bytes(self, tokens: int, itemsize: int = 2) -> float:
        """Of q, k, v read and the output written, once each."""
        return 2 * tokens * (self.heads + self.kv_heads) * self.width * itemsize

    def cache_bytes(self, slots: int, itemsize: int = 2) -> float:
        """Of the keys and values that a token must read."""
        return 2 * slots * self.kv_heads * self.width * itemsize


SCOUT_HEADS = Heads("Scout", 40, 8, 128, 8192)
SMALL_HEADS = Heads("small", 6, 2, 16, 32)  # for --dry-run
PREFILL = (8192, 16384, 32768, 65536, 131072)  # tokens of one row
LEARNING = (8192, 65536)
CONTEXTS = {1: (8192, 65536, 262144, 1048576), 8: (8192, 131072)}  # slots of a global layer's cache, by rows
TURNED = (1, 8192)
