"""Pins the mean of stages: in fp32, rounded once, of all weights; and one sentence for a state that is not there or not whole."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import small_training
import torch

from llama4.errors import InputError
from llama4.model import Llama4
from llama4.train.averaging import average, halfway
from llama4.train.recipe import STAGES, Recipe


@pytest.fixture
def model() -> Llama4:
    torch.manual_seed(3)
    return Llama4(small_training.small_config(small_training.small_tokenizer())).to(torch.bfloat16)


def left(folder: Path, stage: str, model: Llama4, value: float, without: str = "") -> None:
    """A state in which every weight is `value`."""
    weights = {name: torch.full(p.shape, value) for name, p in model.named_parameters() if name != without}
    torch.save({"numbers": {}, "weights": weights}, folder / f"{stage}.pt")


def test_it_is_rounded_once(model: Llama4, tmp_path: Path) -> None:
    """bf16's numbers behind 1 lie 2u apart, u = 2⁻⁸. Of 1 + 0.9 u and 1 + 1.3 u the mean, 1 + 1.1 u, is nearer to 1 + 2 u; if
    they are rounded first, to 1 and 1 + 2 u, their mean lies half-way and is rounded to 1."""
    for stage, units in (("one", 0.9), ("two", 1.3)):
        left(tmp_path, stage, model, 1 + units * 2**-8)
    assert average(model, tmp_path, ("one", "two")) is model
    assert {float(w) for p in model.parameters() for w in p.detach().flatten()[:3]} == {1 + 2**-7}
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_each_stage_counts_the_same(model: Llama4, tmp_path: Path) -> None:
    for stage, value in (("one", 1.0), ("two", 2.0), ("three", 6.0)):
        left(tmp_path, stage, model, value)
    average(model, tmp_path, ("one", "two", "three"))
    assert {float(w) for p in model.parameters() for w in p.detach().flatten()[:3]} == {3.0}


def test_a_state_that_is_missing_or_cut_or_of_a_part_is_named(model: Llama4, tmp_path: Path) -> None:
    left(tmp_path, "one", model, 1.0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(InputError, match=r"two\.pt is missing, and what ships is a mean of it"):
        average(model, tmp_path, ("one", "two"))
    (tmp_path / "two.pt").write_bytes((tmp_path / "one.pt").read_bytes()[:-100])
    with pytest.raises(InputError, match=r"two\.pt is damaged"):
        average(model, tmp_path, ("one", "two"))
    left(tmp_path, "two", model, 1.0, without=next(iter(before)))
    with pytest.raises(InputError, match=r"two\.pt does not hold all weights of the model"):
        average(model, tmp_path, ("one", "two"))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters()), "nothing was changed"


def test_half_way_is_rounded_once_and_what_rested_stays(model: Llama4, tmp_path: Path) -> None:
    """From 1 to 1 + 5.4 u it is 1 + 2.7 u, nearer to 1 + 2 u than to 1 + 4 u; a state rounded first would be 1 + 6 u, and
    half-way to that, 1 + 3 u, rounds to 1 + 4 u."""
    names = [name for name, _ in model.named_parameters()]
    for p in model.parameters():
        p.data.fill_(1.0)
    left(tmp_path, "one", model, 1 + 5.4 * 2**-8, without=names[0])
    assert halfway(model, tmp_path, "one") is model
    first, *others = (set(p.detach().flatten().tolist()) for p in model.parameters())
    assert first == {1.0} and all(values == {1 + 2**-7} for values in others)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_half_way_to_another_model_or_to_nothing_is_refused(model: Llama4, tmp_path: Path) -> None:
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for weights in ({}, {"decoder.head.weight": torch.ones(2, 2)}, {"no such weight": torch.ones(2)}):
        torch.save({"numbers": {}, "weights": weights}, tmp_path / "one.pt")
        with pytest.raises(InputError, match=r"one\.pt belongs to another model"):
            halfway(model, tmp_path, "one")
    with pytest.raises(InputError, match=r"two\.pt is missing"):
        halfway(model, tmp_path, "two")
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters()), "nothing was changed"


def test_the_recipe_averages_stages_in_which_all_learn() -> None:
    recipe = Recipe()
    assert recipe.averaged == ("vary", "settle") == STAGES[-6:-4] and recipe.shipped == STAGES[-3:]
    assert all(getattr(recipe, stage).encoder > 0 for stage in (*recipe.averaged, *recipe.shipped))
    assert dataclasses.replace(recipe, averaged=()).numbers("settle") == recipe.numbers("settle"), (
        "no state of a stage before `scatter` depends on it"
    )
