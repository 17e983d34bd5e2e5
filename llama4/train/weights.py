"""Two copies of the weights: bf16 to compute with, fp32 to learn in.

    g ← the bf16 gradient, in fp32        w32 ← optimiser(w32, g)        w16 ← round(w32)

A step of a hundredth of bf16's spacing (2⁻⁸ of the weight's size) would be lost in a bf16 weight; in fp32 such steps add up. The
forward pass runs on the very numbers that are shipped. Source: mixed-precision training, arXiv 1710.03740.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from llama4.model import Llama4, initialise
from llama4.train.optimiser import Muon
from llama4.train.recipe import Plan

ENCODER = "vision."  # how its weights' names begin in the whole model


class Masters:
    """The fp32 copies of a bf16 model's parameters, by name: of those that learn."""

    def __init__(self, model: nn.Module) -> None:
        self.working = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.weights = {name: nn.Parameter(p.detach().float().clone()) for name, p in self.working.items()}

    @torch.no_grad()
    def collect(self) -> None:
        """Move the bf16 gradients to the fp32 weights (adding to what is there)."""
        for name, parameter in self.working.items():
            if parameter.grad is None:
                continue
            master = self.weights[name]
            gradient = parameter.grad.float()
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)
            parameter.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """Round the fp32 weights into the bf16 model, and forget the gradients."""
        for name, master in self.weights.items():
            self.working[name].copy_(master)
            master.grad = None


def optimisers(masters: Masters, extra: Iterable[nn.Parameter], plan: Plan) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the rest and for `extra`; the encoder at its share of their rates.

    In a stage in which it rests that share is 0, and `masters` must not hold it: see `Decoding`.
    """

    def groups(matrices: bool, lr: float, others: Iterable[nn.Parameter] = ()) -> list[dict]:
        """The weights that are matrices, or that are not: the encoder's apart, if it learns along."""
        some = {name: weight for name, weight in masters.weights.items() if is_matrix(name, weight) == matrices}
        encoder = [weight for name, weight in some.items() if name.startswith(ENCODER)]
        rest = [*(weight for name, weight in some.items() if not name.startswith(ENCODER)), *others]
        return [{"params": rest, "lr": lr}, *([{"params": encoder, "lr": lr * plan.encoder}] if encoder else [])]

    muon = Muon(groups(True, plan.muon_lr), plan.muon_lr, plan.momentum, plan.weight_decay)
    adam = torch.optim.AdamW(groups(False, plan.adam_lr, extra), betas=(0.9, 0.98), eps=1e-10, weight_decay=0.0)
    for optimiser in (muon, adam):
        for group in optimiser.param_groups:
            group["peak"] = group["lr"]  # what the schedule takes its share of
    return [muon, adam]


def is_matrix(name: str, weight: Tensor) -> bool:
    """Is it a map from one width to another, inside a layer? Tables that are looked up, and the router, are not."""
    looked_up = ("embedding", "head", "router")
    return weight.dim() >= 2 and not any(word in name for word in looked_up)


@torch.no_grad()
def draw(model: Llama4, seed: int) -> None:
    """Weights to begin from: a matrix of n columns from N(0, 1/n), what adds to the residual stream a third of that.

    The default of 0.02 suits widths of thousands; at 192 it would leave the vision encoder's output a hundred times too small.
    """
    torch.manual_seed(seed)
    initialise(model)
    for name, weight in model.named_parameters():
        adds = name.endswith((".o.weight", ".down.weight", ".mlp.fc2.weight", "experts.down"))
        if is_matrix(name, weight) or name.endswith("patch_embedding.weight"):
            inputs = weight.shape[1]
            weight.normal_(0.0, (0.33 if adds else 1.0) / math.sqrt(inputs))
    model.decoder.embedding.weight.normal_(0.0, 0.3)
    model.decoder.head.weight.normal_(0.0, 0.02)
    model.vision.class_embedding.normal_(0.0, 0.5)
    model.vision.position_embedding.normal_(0.0, 0.3)
