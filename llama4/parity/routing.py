"""Watch a model choose its experts, or choose for it, from outside.

Two implementations of one model agree to rounding, until rounding decides: where two experts' scores tie to the last bits, a
token goes one way here and the other way there, and from that layer on the two compute different, equally right things. In bf16
that is some choices in a thousand; in float32 it was one of 16,384 in drawn models, enough to move a logit by 1.5. A comparison
that is about anything else makes both take the same way:

    with recorded(routers(reference), taken):  reference(...)
    with forced(routers(ours), taken):         ours(...)

The score stays the model's own: sigmoid of its own logit of the expert that it is told to take.

`closed` asks what an expert is worth: without it, its tokens go to the expert that they score second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from llama4.model import Llama4

Routing = dict[int, Tensor]  # layer -> int64 expert of each token, any shape that flattens to N


def routers(model: nn.Module) -> dict[int, nn.Module]:
    """The router of every MoE layer, of our model or of transformers'."""
    if isinstance(model, Llama4):
        found = {number: getattr(layer.ffn, "router", None) for number, layer in enumerate(model.decoder.layers)}
    else:
        text = model.language_model.model if hasattr(model, "language_model") else model.model
        found = {number: getattr(layer.feed_forward, "router", None) for number, layer in enumerate(text.layers)}
    return {number: router for number, router in found.items() if router is not None}


@contextmanager
def recorded(routers: dict[int, nn.Module], into: Routing) -> Iterator[None]:
    """Put each layer's own choice `[N]` into `into`, call by call."""

    def hook(number: int) -> Callable[..., None]:
        return lambda module, args, out: into.update({number: _logits(out).argmax(dim=-1)})

    with _hooked(routers, hook):
        yield


@contextmanager
def forced(routers: dict[int, nn.Module], routing: Routing) -> Iterator[None]:
    """Send each token to the expert that `routing` names, in the layers that it has."""

    def hook(number: int) -> Callable[..., Any]:
        chosen_N1 = routing[number].reshape(-1, 1)
        return lambda module, args, out: _choose(out, chosen_N1)

    with _hooked({number: router for number, router in routers.items() if number in routing}, hook):
        yield


@contextmanager
def closed(routers: dict[int, nn.Module], experts: dict[int, int]) -> Iterator[None]:
    """Close one expert in each layer that `experts` names, `{layer: expert}`: its tokens go to their second choice.

    All other tokens keep their expert and their score. A layer needs two experts or more.
    """

    def hook(number: int) -> Callable[..., Any]:
        return lambda module, args, out: _choose(out, _best_but(_logits(out), experts[number]))

    with _hooked({number: routers[number] for number in experts}, hook):
        yield


def _best_but(logits_NE: Tensor, closed: int) -> Tensor:
    """`[N, 1]`: the expert of the highest logit, one left out."""
    gone = torch.tensor([closed], device=logits_NE.device)
    return logits_NE.index_fill(1, gone, -torch.inf).argmax(dim=-1, keepdim=True)


def _choose(out: Tensor | tuple[Tensor, Tensor], chosen_N1: Tensor) -> Any:
    """Our router returns logits, and all others' become -inf; transformers' returns scores too, and all others' become 0."""
    logits_NE = _logits(out)
    chosen_N1 = chosen_N1.to(logits_NE.device)
    logit_N1 = logits_NE.gather(1, chosen_N1)
    if isinstance(out, Tensor):
        return torch.full_like(logits_NE, -torch.inf).scatter(1, chosen_N1, logit_N1)
    scores_N1 = torch.sigmoid(logit_N1.float()).to(logits_NE.dtype)
    return torch.zeros_like(logits_NE).scatter(1, chosen_N1, scores_N1), logits_NE


def _logits(out: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    return out if isinstance(out, Tensor) else out[1]


@contextmanager
def _hooked(modules: dict[int, nn.Module], hook: Callable[[int], Callable[..., Any]]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook(number)) for number, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
