"""A model's linear layers in int4, in place.

    int4      attention's q, k, v, o; dense and shared feed-forward; routed experts
    as it is  embedding, head, router, norms, the vision encoder and the projection behind it

The router decides by a difference of two logits, and a wrong expert is a larger error than any rounding; of the embedding a token
reads one row; the head decides near-ties between words; the encoder runs once a picture and is a hundredth of Scout at most.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import Tensor, nn
from tqdm import tqdm

from llama4.checkpoint import parameter_shapes
from llama4.config import Config
from llama4.errors import InputError
from llama4.model import Llama4
from llama4.quant.int4 import Int4, pack, require_group
from llama4.quant.layers import Int4Experts, Int4Linear, Packed

# Our names of the parameters that become int4. Experts are held [E, in, out], and turned round before they are packed.
LINEARS = re.compile(r"decoder\.layers\.\d+\.(attention\.[qkvo]|ffn\.(shared\.)?(gate|up|down))\.weight")
EXPERTS = re.compile(r"decoder\.layers\.\d+\.ffn\.experts\.(gate_up|down)")


def packable(config: Config) -> list[str]:
    """Names of the parameters that int4 is for, in the order of the layers."""
    return [name for name in parameter_shapes(config) if LINEARS.fullmatch(name) or EXPERTS.fullmatch(name)]


def packed_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """`[..., out, in]` of a parameter that is held as `shape`."""
    return (shape[0], shape[2], shape[1]) if EXPERTS.fullmatch(name) else shape


def turned(name: str, weight: Tensor) -> Tensor:
    """`[..., out, in]` of a parameter."""
    return weight.detach().mT.contiguous() if EXPERTS.fullmatch(name) else weight.detach()


def pack_parameter(name: str, weight: Tensor, group: int | None) -> Int4:
    """One parameter in int4. Raises InputError, naming it, where it has none."""
    try:
        return pack(turned(name, weight), group)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


Packing = Callable[[str, Tensor, int | None], Int4]  # a parameter's name, the parameter, and the group or None


def put_in(model: Llama4, packed: dict[str, Int4]) -> Llama4:
    """Give the layers that `packed` names their int4 weights; returns the same model, which from now on is for inference."""
    for name, weight in packed.items():
        parent, _, own = name.removesuffix(".weight").rpartition(".")
        if LINEARS.fullmatch(name):
            setattr(model.get_submodule(parent), own, Int4Linear(weight))
        elif own == "gate_up":
            layer, _, experts = parent.rpartition(".")
            setattr(model.get_submodule(layer), experts, Int4Experts(weight, packed[f"{parent}.down"]))
    return model


def quantise(model: Llama4, group: int | None = None, pack: Packing = pack_parameter) -> Llama4:
    """Replace every linear layer of the decoder's blocks; returns the same model, which from now on is for inference.

    group: weights a scale, 128, 64 or 32; by each layer's width without one (int4.group_of). pack: how a parameter is rounded
    (calibrated.py has another way).
    Raises InputError for another group and where a width has none, naming the weight, before anything is replaced; and the
    second time.
    """
    require_group(group)
    if is_quantised(model):
        raise InputError("This model has no layer left to quantise: it is in int4 already.")
    weights = dict(model.named_parameters())
    names = tqdm(packable(model.config), desc="quantising", unit="weight", delay=2, leave=False, disable=None)
    return put_in(model, {name: pack(name, weights[name], group) for name in names})


def is_quantised(model: nn.Module) -> bool:
    """Are there int4 weights in it?"""
    return any(isinstance(module, Packed) for module in model.modules())


def count_weights(model: Llama4) -> int:
    """How many weights a model has, quantised or not; scales are none."""
    packed = sum(2 * module.q.numel() for module in model.modules() if isinstance(module, Packed))
    return packed + sum(weight.numel() for weight in model.parameters())
