"""Pins the two copies of the weights: sums and steps too small for bf16 are not lost, the model computes with the rounded copy,
every parameter learns by exactly one optimiser, and the first weights are those of the seed."""

from __future__ import annotations

import math

import pytest
import torch
from small_training import RECIPE, small_model, speak_stage, together_stage
from torch import nn

from llama4.train.optimiser import Muon
from llama4.train.weights import Masters, draw, is_matrix, optimisers

VISION_LAYER = ("attention.q", "attention.k", "attention.v", "attention.o", "mlp.fc1", "mlp.fc2")
ATTENTION = ("attention.q.weight", "attention.k.weight", "attention.v.weight", "attention.o.weight")
SWIGLU = ("gate.weight", "up.weight", "down.weight")
MATRICES = {
    *(f"vision.layers.{layer}.{name}.weight" for layer in range(2) for name in VISION_LAYER),
    *("vision.adapter.fc1.weight", "vision.adapter.fc2.weight", "fusion.projection.weight"),
    *(f"decoder.layers.{layer}.{name}" for layer in range(4) for name in ATTENTION),
    *(f"decoder.layers.{layer}.ffn.{name}" for layer in (0, 2) for name in SWIGLU),
    *(f"decoder.layers.{layer}.ffn.shared.{name}" for layer in (1, 3) for name in SWIGLU),
    *(f"decoder.layers.{layer}.ffn.experts.{name}" for layer in (1, 3) for name in ("gate_up", "down")),
}


def one_weight(value: float = 1.0) -> nn.Module:
    return nn.ParameterDict({"w": nn.Parameter(torch.full((3,), value, dtype=torch.bfloat16))})


def test_gradients_add_up_in_fp32() -> None:
    """1 + 2^-9 is 1 in bf16; a thousand such crumbs are not."""
    module = one_weight()
    masters = Masters(module)
    for crumb in (1.0, *[2**-9] * 1000):
        module["w"].grad = torch.full((3,), crumb, dtype=torch.bfloat16)
        masters.collect()
        assert module["w"].grad is None
    (grad,) = (master.grad for master in masters.weights.values())
    assert grad.dtype == torch.float32 and torch.equal(grad, torch.full((3,), 1 + 1000 * 2**-9))


def test_the_sum_is_its_own_and_a_missing_gradient_adds_nothing() -> None:
    module = nn.ParameterDict({name: nn.Parameter(torch.ones(2)) for name in "ab"})  # fp32: float() would not copy
    masters = Masters(module)
    module["a"].grad = torch.ones(2)
    masters.collect()
    masters.collect()
    assert torch.equal(masters.weights["a"].grad, torch.ones(2)) and masters.weights["b"].grad is None
    with torch.no_grad():
        masters.weights["a"].add_(1)
    assert torch.equal(module["a"], torch.ones(2))


def test_steps_too_small_for_bf16_add_up_and_are_rounded_into_the_model() -> None:
    module = one_weight()
    masters = Masters(module)
    (master,) = masters.weights.values()
    for number in range(1, 101):
        with torch.no_grad():
            master.add_(2**-12)
        master.grad = torch.ones(3)
        masters.publish()
        assert master.grad is None
        assert module["w"].dtype == torch.bfloat16
        assert torch.equal(module["w"], torch.full((3,), 1 + number * 2**-12).bfloat16())
    assert master[0].item() == 1 + 100 * 2**-12 and module["w"][0].item() == 1 + 3 * 2**-7


def test_muon_gets_the_matrices_inside_the_layers() -> None:
    assert {name for name, weight in small_model().named_parameters() if is_matrix(name, weight)} == MATRICES


def test_every_weight_learns_by_exactly_one_optimiser() -> None:
    """In the stages in which the encoder rests: it learns by none."""
    stage = speak_stage()
    muon, adam = optimisers(stage.masters, stage.extra.parameters(), RECIPE.speak)
    held = [[id(weight) for group in optim.param_groups for weight in group["params"]] for optim in (muon, adam)]
    names = {id(weight): name for name, weight in stage.masters.weights.items()}
    assert sorted(held[0] + held[1]) == sorted([*names, *(id(weight) for weight in stage.extra.parameters())])
    assert {names[number] for number in held[0]} == {name for name in MATRICES if not name.startswith("vision.")}
    assert isinstance(muon, Muon) and isinstance(adam, torch.optim.AdamW)
    assert {group["peak"] for group in muon.param_groups} == {RECIPE.speak.muon_lr}
    assert {group["peak"] for group in adam.param_groups} == {RECIPE.speak.adam_lr}
    assert {group["weight_decay"] for group in muon.param_groups} == {RECIPE.speak.weight_decay}
    assert {group["weight_decay"] for group in adam.param_groups} == {0.0}


def test_an_encoder_that_learns_along_has_groups_of_its_own() -> None:
    stage = together_stage()
    names = {id(weight): name for name, weight in stage.masters.weights.items()}
    for optim, rate in zip(
        optimisers(stage.masters, stage.extra.parameters(), stage.plan),
        (stage.plan.muon_lr, stage.plan.adam_lr),
        strict=True,
    ):
        rest, encoder = optim.param_groups
        assert (rest["peak"], encoder["peak"]) == (rate, stage.plan.encoder * rate)
        assert all(names[id(weight)].startswith("vision.") for weight in encoder["params"])
        assert not any(names[id(weight)].startswith("vision.") for weight in rest["params"])
        for weight in (*rest["params"], *encoder["params"]):
            del names[id(weight)]
    assert not names, "each by one of them"


@pytest.mark.parametrize("prefix", ["", "vision."])
def test_a_part_of_the_model_is_told_apart_like_the_whole(prefix: str) -> None:
    """The encoder's masters are the vision encoder's: its names lack the prefix."""
    module = small_model().get_submodule(prefix.rstrip("."))
    found = {prefix + name for name, weight in module.named_parameters() if is_matrix(name, weight)}
    assert found == {name for name in MATRICES if name.startswith(prefix)}


def test_first_weights_are_those_of_the_seed() -> None:
    one, again, other = (dict(small_model(seed).named_parameters()) for seed in (3, 3, 4))
    assert all(torch.equal(weight, again[name]) for name, weight in one.items())
    assert not any(torch.equal(weight, other[name]) for name, weight in one.items() if weight.dim() > 1)
    assert not [name for name, weight in one.items() if not torch.isfinite(weight).all()]


def test_first_weights_have_the_deviation_of_their_inputs() -> None:
    """1 / sqrt(inputs), a third of it for what adds to the residual stream; within a tenth for a thousand numbers or more."""
    model = small_model()
    weights = model.state_dict()
    expected = {
        "decoder.layers.1.ffn.experts.gate_up": 1 / math.sqrt(32),  # [E, 32, 48]
        "decoder.layers.1.ffn.experts.down": 0.33 / math.sqrt(24),  # [E, 24, 32]
        "decoder.layers.0.ffn.down.weight": 0.33 / math.sqrt(40),
        "decoder.layers.2.attention.o.weight": 0.33 / math.sqrt(32),
        "decoder.layers.2.attention.q.weight": 1 / math.sqrt(32),
        "vision.layers.1.mlp.fc2.weight": 0.33 / math.sqrt(128),
        "vision.layers.1.mlp.fc1.weight": 1 / math.sqrt(32),
        "vision.patch_embedding.weight": 1 / math.sqrt(48),
        "decoder.embedding.weight": 0.3,
        "decoder.head.weight": 0.02,
        "vision.position_embedding": 0.3,
    }
    for name, deviation in expected.items():
        assert abs(float(weights[name].std()) / deviation - 1) < 0.1, name


def test_drawing_leaves_norms_and_biases_alone() -> None:
    model = small_model()
    draw(model, 9)
    for name, weight in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            assert torch.equal(weight, torch.ones_like(weight) if name.endswith("weight") else torch.zeros_like(weight))


def test_what_does_not_learn_has_no_copy() -> None:
    module = nn.ParameterDict({name: nn.Parameter(torch.ones(2), requires_grad=name == "a") for name in "ab"})
    masters = Masters(module)
    assert set(masters.weights) == {"a"}
    masters.publish()
    assert torch.equal(module["b"], torch.ones(2))
