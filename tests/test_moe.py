"""Mixture of experts: the grouped path against its definition (every expert on every token, in fp64), outputs and all
gradients, with experts that get no token, all of them, or one; and the router: fp32, top-1, sigmoid, score on the input."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from small_models import FP32, GRADIENT, assert_close, drawn, small_config
from torch import Tensor

from llama4.moe import MoE
from llama4.parity.routing import closed


def moe_of(experts: int, seed: int = 0, width: int = 26, hidden: int = 18) -> MoE:
    """A drawn MoE."""
    return drawn(MoE(dataclasses.replace(small_config(), experts=experts, width=width, expert_width=hidden)), seed)


def rows(count: int, width: int = 26, seed: int = 1) -> Tensor:
    """Random float32 `[N, D]`."""
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """(silu(x W_gate) * (x W_up)) W_down, all weights used as x W."""
    return (F.silu(x @ gate) * (x @ up)) @ down


def routed_definition(moe: MoE, x_ND: Tensor, expert_N: Tensor, score_N: Tensor) -> Tensor:
    """Every expert runs on every token's scored input, in fp64; a one-hot choice keeps the token's own."""
    hidden = moe.experts.down.shape[1]
    scored_ND = x_ND.double() * score_N.double()[:, None]
    out_ND = torch.zeros_like(scored_ND)
    for expert in range(moe.experts.down.shape[0]):
        gate_DF, up_DF = moe.experts.gate_up[expert].double().split(hidden, dim=1)
        out = swiglu(scored_ND, gate_DF, up_DF, moe.experts.down[expert].double())
        out_ND = out_ND + out * (expert_N == expert)[:, None]
    return out_ND


def definition(moe: MoE, x_ND: Tensor) -> Tensor:
    """The whole layer in fp64, from the weights alone."""
    logits_NE = x_ND.double() @ moe.router.weight.double().T
    expert_N = logits_NE.argmax(-1)
    score_N = torch.sigmoid(logits_NE.gather(1, expert_N[:, None])[:, 0])
    shared = swiglu(x_ND.double(), *(w.weight.double().T for w in (moe.shared.gate, moe.shared.up, moe.shared.down)))
    return shared + routed_definition(moe, x_ND, expert_N, score_N)


def losses(moe: MoE, x_ND: Tensor) -> dict[str, dict[str, Tensor]]:
    """Output and every gradient, of the layer and of the definition."""
    weight_ND, results = rows(len(x_ND), x_ND.shape[1], seed=7), {}
    for name, run in (("ours", lambda x: moe(x[None])[0]), ("definition", lambda x: definition(moe, x))):
        x = x_ND.clone().requires_grad_()
        moe.zero_grad()
        out = run(x)
        (out * weight_ND.to(out.dtype)).sum().backward()
        gradients = {key: value.grad for key, value in moe.named_parameters()}
        results[name] = {"output": out.detach(), "x": x.grad, **gradients}
    return results


@pytest.mark.parametrize(
    ("experts", "tokens"),
    [
        (1, 5),  # one expert: no choice
        (2, 1),  # one token: one group of one row, one of none
        (3, 17),  # more tokens than experts, groups of odd sizes
        (8, 3),  # more experts than tokens: empty groups
        (16, 40),  # Scout's number
    ],
)
def test_grouped_is_the_definition_forward_and_backward(experts: int, tokens: int) -> None:
    results = losses(moe_of(experts), rows(tokens))
    assert set(results["ours"]) == {
        *("output", "x", "router.weight", "experts.gate_up", "experts.down"),
        *("shared.gate.weight", "shared.up.weight", "shared.down.weight"),
    }
    for name, expected in results["definition"].items():
        assert expected is not None and results["ours"][name] is not None, f"no gradient for {name}"
        assert_close(results["ours"][name], expected, name, FP32 if name == "output" else GRADIENT)


@pytest.mark.parametrize("favourite", [0, 1, 3])
def test_all_tokens_to_one_expert(favourite: int) -> None:
    moe = moe_of(4)
    with torch.no_grad():
        moe.router.weight.fill_(0.0)
        moe.router.weight[favourite] = 1.0
    x_ND = rows(9).abs()  # positive, so the favourite's logit beats 0
    expert_N, _ = moe.route(x_ND)
    assert set(expert_N.tolist()) == {favourite}
    results = losses(moe, x_ND)
    for name, expected in results["definition"].items():
        assert_close(results["ours"][name], expected, name, GRADIENT)
    unused = [expert for expert in range(4) if expert != favourite]
    assert not results["ours"]["experts.gate_up"][unused].any(), "an expert without tokens has a gradient"


@torch.no_grad()
def test_routed_in_fp64_to_its_last_bits() -> None:
    """With the routing given, grouping is only an order: in fp64 the two agree to rounding."""
    moe = moe_of(5).double()
    x_ND = rows(23).double()
    expert_N, score_N = moe.route(x_ND)
    found = moe.routed(x_ND, expert_N, score_N)
    expected = routed_definition(moe, x_ND, expert_N, score_N)
    assert (found - expected).abs().max() < 1e-13


@torch.no_grad()
def test_score_multiplies_the_input_not_the_output() -> None:
    moe = moe_of(3)
    x_ND = rows(6)
    expert_N, score_N = moe.route(x_ND)
    on_input = moe.routed(x_ND, expert_N, score_N)
    on_output = score_N[:, None] * moe.routed(x_ND, expert_N, torch.ones_like(score_N))
    assert (on_input - on_output).abs().max() > 0.01
    assert_close(on_input, routed_definition(moe, x_ND, expert_N, score_N), "routed")


@torch.no_grad()
def test_score_is_the_sigmoid_of_the_best_logit() -> None:
    moe = moe_of(6)
    x_ND = rows(11)
    logits_NE = x_ND.double() @ moe.router.weight.double().T
    expert_N, score_N = moe.route(x_ND)
    assert expert_N.dtype == torch.int64 and torch.equal(expert_N, logits_NE.argmax(-1))
    assert_close(score_N, 1 / (1 + torch.exp(-logits_NE.amax(-1))), "score")


@torch.no_grad()
def test_router_decides_in_fp32_when_the_model_runs_in_bf16() -> None:
    """Two experts whose logits differ by less than bf16 can show: 256 and 257 are one number there."""
    moe = moe_of(2, width=2).bfloat16()
    moe.router.weight.copy_(torch.tensor([[128.0, 128.0], [128.0, 129.0]]))
    x_ND = torch.ones(1, 2, dtype=torch.bfloat16)
    assert torch.tensor(256.0).bfloat16() == torch.tensor(257.0).bfloat16()
    expert_N, score_N = moe.route(x_ND)
    assert expert_N.tolist() == [1] and score_N.dtype == torch.float32
    assert moe(x_ND[None]).dtype == torch.bfloat16


@torch.no_grad()
def test_tokens_do_not_meet() -> None:
    """A token's output does not depend on the others of the batch, nor on their order."""
    moe = moe_of(4)
    x_ND = rows(12)
    together = moe(x_ND[None])[0]
    for index in range(12):
        assert_close(moe(x_ND[None, index : index + 1])[0], together[index : index + 1], f"token {index}")
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    assert_close(moe(x_ND[order].reshape(3, 4, -1)).flatten(0, 1), together[order], "shuffled")


def test_gate_is_the_first_half() -> None:
    """By hand, D = F = 1, gate 2, up 3, down 1, x = 1: silu(2) * 3 = 5.285; the halves exchanged: silu(3) * 2 = 5.715."""
    moe = moe_of(1, width=1, hidden=1)
    with torch.no_grad():
        moe.experts.gate_up.copy_(torch.tensor([[[2.0, 3.0]]]))
        moe.experts.down.fill_(1.0)
    assert moe.experts(torch.ones(1, 1), torch.tensor([1])).item() == pytest.approx(5.285, abs=5e-4)


@torch.no_grad()
def test_closing_an_expert_moves_its_tokens_to_their_second_choice() -> None:
    """All others keep expert and score; afterwards the router is as it was."""
    moe, x_ND = moe_of(4), rows(50)
    logits_NE = moe.router(x_ND)
    second_N = logits_NE.topk(2, dim=-1).indices[:, 1]
    expert_N, score_N = moe.route(x_ND)
    with closed({3: moe.router}, {3: 2}):
        without_N, scores_N = moe.route(x_ND)
    moved_N = expert_N == 2
    assert 0 < moved_N.sum() < 50
    assert torch.equal(without_N, torch.where(moved_N, second_N, expert_N))
    assert torch.equal(scores_N[~moved_N], score_N[~moved_N])
    assert_close(scores_N[moved_N], logits_NE.gather(1, second_N[:, None])[moved_N, 0].sigmoid(), "score of the second")
    assert torch.equal(moe.route(x_ND)[0], expert_N)
    with closed({3: moe.router}, {}):
        assert torch.equal(moe.route(x_ND)[0], expert_N)


@torch.no_grad()
def test_closing_an_expert_of_transformers_router() -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama4.modeling_llama4 import Llama4Router

    moe, x_ND = moe_of(4), rows(50)
    router = Llama4Router(transformers.Llama4TextConfig(hidden_size=26, num_local_experts=4))
    router.weight.data = moe.router.weight.data
    with closed({0: moe.router}, {0: 1}), closed({0: router}, {0: 1}):
        scores_NE, _ = router(x_ND)
        expert_N, score_N = moe.route(x_ND)
    assert_close(scores_NE, torch.zeros_like(scores_NE).scatter(1, expert_N[:, None], score_N[:, None]), "scores")
