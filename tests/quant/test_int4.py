"""Pins the int4 format bit for bit, its error, and that a model of int4 layers computes with the weights that they stand for."""

from __future__ import annotations

import copy

import pytest
import torch
from small_models import assert_close, drawn_model, random_tokens, small_config

from llama4.errors import InputError
from llama4.moe import Experts
from llama4.quant import Int4, count_weights, dequantise, is_quantised, pack, quantise
from llama4.quant.apply import packable
from llama4.quant.int4 import GROUPS, group_of
from llama4.quant.layers import Int4Experts, Int4Linear


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_the_documented_bytes() -> None:
    packed = Int4(torch.tensor([[0xBF, 0x07]], dtype=torch.uint8), torch.tensor([[0.1]]))
    assert packed.group == 4
    assert torch.allclose(dequantise(packed), torch.tensor([[0.7, -0.1, 0.3, -0.8]]))


@pytest.mark.parametrize("group", [2, 4, 32, 64])
@pytest.mark.parametrize("lead", [(), (5,), (3, 5)])  # a row, a matrix, experts
def test_integers_times_a_scale_come_back_as_they_were(group: int, lead: tuple[int, ...]) -> None:
    """Every integer from -7 to 7 in every place; powers of two as scales, so that no product rounds."""
    q = torch.randint(-7, 8, (*lead, 128), generator=torch.Generator().manual_seed(group)).float()
    q[..., ::group] = 7.0  # the largest of each group tells the scale
    scale = 2.0 ** torch.arange(128 // group).float().remainder(5)
    w = (q.unflatten(-1, (-1, group)) * scale[:, None]).flatten(-2)
    packed = pack(w, group)
    assert packed.q.shape == (*lead, 64) and packed.q.dtype == torch.uint8
    assert packed.scale.shape == (*lead, 128 // group)
    assert torch.equal(dequantise(packed), w)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("group", GROUPS)
def test_the_error_is_below_half_a_step_and_below_that_of_no_search(dtype: torch.dtype, group: int) -> None:
    w = drawn(40, 256, dtype=dtype)
    packed = pack(w, group)
    assert packed.scale.dtype == dtype
    rows, found = w.float().unflatten(-1, (-1, group)), dequantise(packed).float().unflatten(-1, (-1, group))
    step = packed.scale.float().abs()[..., None]
    inside = rows.abs() <= 7 * step
    rounding = 0.0 if dtype == torch.float32 else torch.finfo(dtype).eps * 8 * step  # of the product 7 · scale
    assert ((rows - found).abs() <= 0.5 * step * (1 + 1e-5) + rounding)[inside].all()
    plain_step = rows.abs().amax(-1, keepdim=True) / 7
    plain = (rows / plain_step).round() * plain_step
    assert (rows - found).square().mean() < 0.75 * (rows - plain).square().mean()
    assert 0.06 < ((rows - found).norm() / rows.norm()) < 0.11  # 4 bits of normal numbers


def test_one_output_at_a_time_is_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    w = drawn(7, 64)
    whole = pack(w)
    monkeypatch.setattr("llama4.quant.int4.SLICE", 128)
    pieces = pack(w)
    assert torch.equal(whole.q, pieces.q) and torch.equal(whole.scale, pieces.scale)


def test_zeros_and_numbers_near_nothing() -> None:
    w = torch.zeros(2, 64)
    w[1, 3] = 1e-44
    assert torch.equal(dequantise(pack(w[:1])), w[:1])
    assert torch.isfinite(dequantise(pack(w))).all()
    assert torch.isfinite(dequantise(pack(w.bfloat16()))).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_no_int4_of_nan(bad: float) -> None:
    w = drawn(3, 64)
    w[1, 5] = bad
    with pytest.raises(InputError, match="NaN or infinite"):
        pack(w)


def test_groups_are_the_largest_that_divide_eight_times() -> None:
    assert [group_of(width) for width in (5120, 8192, 1024, 512, 256, 192, 128, 64, 96)] == [128] * 3 + [64] + [32] * 5
    assert group_of(64 * 5) == 32 and group_of(64 * 9) == 64
    with pytest.raises(InputError, match="84 is a multiple of none of these"):
        group_of(84)
    for group in (24, 5):
        with pytest.raises(InputError, match="choose an even divisor"):
            pack(drawn(2, 100), group)


def test_a_linear_layer_computes_with_what_it_stands_for() -> None:
    w, x = drawn(24, 64), drawn(2, 3, 64, seed=1)
    layer = Int4Linear(pack(w))
    assert torch.equal(layer(x), torch.nn.functional.linear(x, dequantise(pack(w))))
    assert layer(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("sizes", [[2, 0, 3], [0, 0, 1], [4, 4, 0], [0, 0, 0]])
def test_experts_compute_with_what_they_stand_for(sizes: list[int]) -> None:
    experts = Experts(3, 64, 32)
    with torch.no_grad():
        for weight in experts.parameters():
            weight.copy_(drawn(*weight.shape, seed=weight.shape[1]) * 0.3)
    held = (pack(weight.detach().mT.contiguous()) for weight in (experts.gate_up, experts.down))
    narrow, exact = Int4Experts(*held), copy.deepcopy(experts)
    with torch.no_grad():
        exact.gate_up.copy_(dequantise(narrow.gate_up.packed).mT)
        exact.down.copy_(dequantise(narrow.down.packed).mT)
    x_ND, ends_E = drawn(sum(sizes), 64, seed=5), torch.tensor(sizes).cumsum(0)
    assert_close(narrow(x_ND, ends_E), exact(x_ND, ends_E).detach(), "experts")


def model_of(dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    return drawn_model(small_config(width=64, expert_width=32, dense_width=96, heads=4, head_width=16)).to(dtype).eval()


def test_a_quantised_model_is_the_model_of_its_weights_and_leaves_the_rest_alone() -> None:
    model = model_of()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    weights, size = count_weights(model), nbytes(model)
    quantised = quantise(copy.deepcopy(model))
    assert count_weights(quantised) == weights and nbytes(quantised) < 0.4 * size  # embeddings and head stay in fp32
    with torch.no_grad():
        for name, module in quantised.named_modules():
            if isinstance(module, Int4Linear):
                model.get_submodule(name).weight.copy_(dequantise(module.packed))
            if isinstance(module, Int4Experts):
                model.get_submodule(name).gate_up.copy_(dequantise(module.gate_up.packed).mT)
                model.get_submodule(name).down.copy_(dequantise(module.down.packed).mT)
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    kinds = {".".join(part for part in name.split(".") if not part.isdigit()) for name in changed}
    layers = {f"decoder.layers.attention.{name}.weight" for name in "qkvo"}
    layers |= {f"decoder.layers.ffn.shared.{name}.weight" for name in ("gate", "up", "down")}
    assert layers | {"decoder.layers.ffn.experts.gate_up", "decoder.layers.ffn.experts.down"} <= kinds
    assert not [name for name in kinds if "router" in name or "norm" in name or "embedding" in name or "head" in name]
    tokens_BS = random_tokens(2, 19)
    assert_close(quantised(tokens_BS), model(tokens_BS).detach(), "logits")


def nbytes(model: torch.nn.Module) -> int:
    return sum(tensor.nbytes for tensor in model.decoder.layers.state_dict().values())


def test_cached_is_uncached() -> None:
    model = quantise(model_of())
    tokens_BS = random_tokens(2, 21)
    cache = model.new_cache(2, 40)
    pieces = [model(tokens_BS[:, first : first + 3], cache=cache) for first in range(0, 21, 3)]
    assert_close(torch.cat(pieces, dim=1), model(tokens_BS), "cached logits")


def test_state_dict_and_dtype_travel() -> None:
    model = quantise(model_of(torch.bfloat16))
    other = quantise(drawn_model(model.config, seed=9).bfloat16().eval())
    other.load_state_dict(model.state_dict())
    tokens_BS = random_tokens(1, 9)
    assert torch.equal(model(tokens_BS), other(tokens_BS))
    wide = copy.deepcopy(model).float()
    linear = next(module for module in wide.modules() if isinstance(module, Int4Linear))
    assert linear.q.dtype == torch.uint8 and linear.scale.dtype == torch.float32


def test_twice_and_a_width_without_a_group_are_refused_and_change_nothing() -> None:
    model = quantise(model_of())
    with pytest.raises(InputError, match="in int4 already"):
        quantise(model)
    odd = drawn_model(small_config(width=64, expert_width=36, heads=4, head_width=16))
    with pytest.raises(InputError, match=r"decoder\.layers\.\d+\.ffn.*36 is a multiple of none"):
        quantise(odd)
    assert not [module for module in odd.modules() if isinstance(module, (Int4Linear, Int4Experts))]


def test_the_sign_of_a_scale_says_on_which_side_the_eight_are() -> None:
    """15 steps from -8 to 7, or from -7 to 8: both come back as they were."""
    up = torch.arange(-7.0, 9.0).repeat(2)[None]
    for w in (up, -up):
        packed = pack(0.5 * w)
        assert torch.equal(dequantise(packed), 0.5 * w)
        assert float(packed.scale.squeeze()) == (-0.5 if w is up else 0.5)


def test_packable_names_are_what_is_packed() -> None:
    for model in (
        model_of(),
        drawn_model(small_config(True, width=64, expert_width=32, dense_width=96, heads=4, head_width=16)),
    ):
        quantised = quantise(copy.deepcopy(model))
        gone = set(dict(model.named_parameters())) - set(dict(quantised.named_parameters()))
        assert sorted(packable(model.config)) == sorted(gone) and is_quantised(quantised) and not is_quantised(model)
