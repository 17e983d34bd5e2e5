"""Who attends to whom: the scores and weights that attention.py never writes out.

    with watched(model) as seen:          # layer -> what it compared in the last call
        model(tokens_BS)
    w_BHST = seen[3].weights()            # softmax(q k^T / sqrt(K)) under the layer's own mask

The model's kernels give no weights, and hold none: a table of S x S a head is what they are there to avoid. So the table is
made here from the layer's own queries and keys, for prompts that are short enough to look at. Without `watched` nothing is
kept and nothing costs anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from einops import repeat
from torch import Tensor, nn

from llama4 import masks
from llama4.attention import Attention
from llama4.cache import LayerCache, Step
from llama4.config import Config, LayerSpec
from llama4.errors import InputError
from llama4.model import Llama4


@dataclass(frozen=True)
class Compared:
    """What one attention layer compared: `q_BSHK`, `k_BSGK`, `v_BSGK` as the model made them, and `mask_BST`."""

    q_BSHK: Tensor
    k_BSGK: Tensor
    v_BSGK: Tensor
    mask_BST: Tensor

    def scores(self) -> Tensor:
        """`q k^T / sqrt(K)` of all pairs, hidden ones too: float32 `[B, H, S, T]`."""
        q_BSHK, k_BSGK = self.q_BSHK.float(), self.k_BSGK.float()
        k_BTHK = repeat(k_BSGK, "b t g k -> b t (g h) k", h=q_BSHK.shape[2] // k_BSGK.shape[2])
        return torch.einsum("bshk,bthk->bhst", q_BSHK, k_BTHK) * q_BSHK.shape[-1] ** -0.5

    def weights(self) -> Tensor:
        """The softmax of the scores that are seen: float32 `[B, H, S, T]`, exactly 0 where a key is hidden."""
        return self.scores().masked_fill(~self.mask_BST[:, None], float("-inf")).softmax(-1)

    def entropy(self) -> Tensor:
        """How spread a query's weights are, in nats: float32 `[B, H, S]`, from 0 (one key) to ln of the keys it sees."""
        return torch.special.entr(self.weights()).sum(-1)


@contextmanager
def watched(model: Llama4) -> Iterator[dict[int, Compared]]:
    """A dict that each forward call fills while it is open: layer -> what it compared.

    Raises InputError for a call that goes on from a cache, whose earlier keys are not in the call.
    """
    seen: dict[int, Compared] = {}
    handles = [
        layer.attention.register_forward_hook(_keep(seen, number, model.config))
        for number, layer in enumerate(model.decoder.layers)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def mask(config: Config, spec: LayerSpec, positions_BS: Tensor) -> Tensor:
    """bool `[B, S, S]`: who sees whom in a layer of this kind."""
    if spec.span == "all":
        return masks.causal(positions_BS, positions_BS)
    return masks.chunked(positions_BS, positions_BS, config.chunk)


def _keep(seen: dict[int, Compared], number: int, config: Config) -> object:
    def hook(attention: nn.Module, called_with: tuple[Tensor, Step, LayerCache | None], _: Tensor) -> None:
        x_BSD, step, _ = called_with
        if not step.fresh:
            raise InputError(
                "This call goes on from a cache, and only whole prompts are watched: feed all tokens in one call."
            )
        assert isinstance(attention, Attention)
        seen[number] = Compared(*attention.project(x_BSD, step), mask(config, config.layers[number], step.positions_BS))

    return hook
