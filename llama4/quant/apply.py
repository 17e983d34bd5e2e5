"""A model's linear layers in int4, in place.

    int4      attention's q, k, v, o; dense and shared feed-forward; routed experts
    as it is  embedding, head, router, norms, the vision encoder and the projection behind it

The router decides by a difference of two logits, and a wrong expert is a larger error than any rounding; of the embedding a token
reads one row; the head decides near-ties between words; the encoder runs once a picture and is a hundredth of Scout at most.
"""

from __future__ import annotations

from torch import nn

from llama4.errors import InputError
from llama4.layers import Linear
from llama4.model import Llama4
from llama4.moe import Experts
from llama4.quant.int4 import pack
from llama4.quant.layers import Int4Experts, Int4Linear, Packed

KEPT = ("head",)  # modules of the decoder that stay as they are, though they are linear


def quantise(model: Llama4) -> Llama4:
    """Replace every linear layer of the decoder's blocks; returns the same model, which from now on is for inference.

    Raises InputError where a width has no group, naming the layer, before anything is replaced; and the second time.
    """
    found = [(name, module) for name, module in model.decoder.named_modules() if isinstance(module, (Linear, Experts))]
    found = [(name, module) for name, module in found if name not in KEPT]
    if not found:
        raise InputError("This model has no layer left to quantise: it is in int4 already.")
    made: list[tuple[str, nn.Module]] = []
    for name, module in found:
        try:
            made.append((name, _packed(module)))
        except InputError as error:
            raise InputError(f"decoder.{name}: {error}") from error
    for name, module in made:
        parent, _, own = name.rpartition(".")
        setattr(model.decoder.get_submodule(parent), own, module)
    return model


def count_weights(model: Llama4) -> int:
    """How many weights a model has, quantised or not; scales are none."""
    packed = sum(2 * module.q.numel() for module in model.modules() if isinstance(module, Packed))
    return packed + sum(weight.numel() for weight in model.parameters())


def _packed(module: Linear | Experts) -> nn.Module:
    if isinstance(module, Experts):
        return Int4Experts(module.gate_up.detach(), module.down.detach())
    return Int4Linear(pack(module.weight.detach()))
