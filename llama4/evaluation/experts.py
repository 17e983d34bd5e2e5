"""Which expert takes which tokens, counted while the model answers.

    share_e = tokens that expert e takes / tokens        busiest = E · max_e share_e, 1 for a level load, E when one takes all

Every token counts that the model reads or feeds back to itself, in each MoE layer, and apart from that the patches and the words
alone: a layer may be level over all and yet give every patch to one expert.

The routers are watched from outside (parity/routing.py); what their rows are, patch, word or padding, is read off the call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from llama4.model import Llama4
from llama4.parity.routing import Routing, recorded, routers

KINDS = ("all", "patches", "words")


class Tally:
    """`counts[layer]`: int64 `[V, E]`, how often each token id went to each expert; patches are the row of the patch id."""

    def __init__(self, model: Llama4) -> None:
        self.patch_id = model.config.patch_id
        shape = (model.config.vocab_size, model.config.experts)
        self.counts = {layer: torch.zeros(shape, dtype=torch.int64) for layer in routers(model)}

    def add(self, tokens_N: Tensor, routing: Routing) -> None:
        """Count one call's tokens, padding left out."""
        for layer, expert_N in routing.items():
            ones_N = torch.ones_like(tokens_N)
            self.counts[layer].index_put_((tokens_N, expert_N), ones_N, accumulate=True)

    def load(self, layer: int, kind: str) -> Tensor:
        """int64 `[E]`: tokens of a kind that each expert took."""
        patches_E = self.counts[layer][self.patch_id]
        every_E = self.counts[layer].sum(dim=0)
        return {"all": every_E, "patches": patches_E, "words": every_E - patches_E}[kind]


@contextmanager
def tallied(model: Llama4) -> Iterator[Tally]:
    """Count what the model's routers choose within the block."""
    tally, taken = Tally(model), Routing()

    def count(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], out: Tensor) -> None:
        tokens_BS, lengths_B = args[0].cpu(), named.get("lengths_B")
        valid_BS = torch.ones_like(tokens_BS, dtype=torch.bool)
        if lengths_B is not None:
            valid_BS = torch.arange(tokens_BS.shape[1]) < torch.as_tensor(lengths_B).cpu()[:, None]
        valid_N = valid_BS.flatten()
        tally.add(tokens_BS.flatten()[valid_N], {layer: taken[layer].cpu()[valid_N] for layer in taken})

    handle = model.register_forward_hook(count, with_kwargs=True)
    try:
        with recorded(routers(model), taken):
            yield tally
    finally:
        handle.remove()


def loads(tally: Tally) -> list[dict[str, Any]]:
    """A row for every MoE layer and kind of token: how many, each expert's share, and busiest over mean."""
    rows = []
    for layer in tally.counts:
        for kind in KINDS:
            load_E = tally.load(layer, kind)
            tokens = int(load_E.sum())
            if tokens:
                shares = (load_E / tokens).tolist()
                rows.append(
                    {
                        "layer": layer,
                        "tokens": kind,
                        "n": tokens,
                        "shares": shares,
                        "busiest": max(shares) * len(shares),
                    }
                )
    return rows


def favourites(tally: Tally, layer: int, most: int = 8) -> list[list[int]]:
    """Of each expert the ids of the words that it takes more than half of, those it takes most often first."""
    counts_VE = tally.counts[layer].clone()
    counts_VE[tally.patch_id] = 0
    own_VE = torch.where(2 * counts_VE > counts_VE.sum(dim=1, keepdim=True), counts_VE, 0)
    orders = own_VE.argsort(dim=0, descending=True, stable=True)[:most].T.tolist()
    return [[token for token in ids if own_VE[token, expert] > 0] for expert, ids in enumerate(orders)]
