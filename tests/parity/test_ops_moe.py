"""Ops, mixture of experts: the router's choice and score, and the grouped matmul; routing must be exact."""

from __future__ import annotations

import pytest
import torch
from compare import assert_close
from torch import nn

from llama4 import ops
from llama4.config import Config, LayerSpec
from llama4.moe import MoE


def _moe(experts: int, seed: int) -> MoE:
    config = Config(
        vocab_size=10,
        width=20,
        layers=(LayerSpec("rope", "all", "moe"),),
        heads=1,
        kv_heads=1,
        head_width=4,
        experts=experts,
        expert_width=12,
        dense_width=0,
        chunk=None,
        qk_norm=False,
    )
    moe, generator = MoE(config), torch.Generator().manual_seed(seed)
    for parameter in moe.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return moe


@pytest.mark.parametrize("experts", [1, 2, 3, 8])
def test_router_against_transformers(experts: int) -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama4.modeling_llama4 import Llama4Router

    moe = _moe(experts, seed=experts)
    settings = transformers.Llama4TextConfig(hidden_size=20, num_local_experts=experts)
    router = Llama4Router(settings)
    router.weight.data = moe.router.weight.data
    x_ND = torch.randn(200, 20, generator=torch.Generator().manual_seed(0))
    scores_NE, logits_NE = router(x_ND)
    expert_N, score_N = moe.route(x_ND)
    assert torch.equal(expert_N, logits_NE.argmax(-1))
    assert_close(score_N, scores_NE.gather(1, expert_N[:, None])[:, 0], "score")
    assert len(set(expert_N.tolist())) == experts, "the draw leaves an expert unused"
    assert (scores_NE > 0).sum(-1).eq(1).all()


@pytest.mark.parametrize("sizes", [(3, 0, 5, 1), (0, 0, 7), (4,), (0, 2, 0)])
def test_grouped_matmul_against_one_row_at_a_time(sizes: tuple[int, ...]) -> None:
    """Empty groups at the start, in the middle and at the end; one expert alone."""
    generator = torch.Generator().manual_seed(1)
    w_EDF = torch.randn(len(sizes), 6, 9, generator=generator)
    x_ND = torch.randn(sum(sizes), 6, generator=generator)
    expert_N = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    expected = torch.stack([x_D.double() @ w_EDF[e].double() for x_D, e in zip(x_ND, expert_N, strict=True)])
    ends_E = torch.tensor(sizes).cumsum(0)
    assert_close(ops.eager_grouped_matmul(x_ND, w_EDF, ends_E), expected.float(), "grouped matmul")


def test_the_score_multiplies_the_input() -> None:
    """SwiGLU is not linear: the same score on the output is another number, and not a close one."""
    moe = _moe(1, seed=3)
    x_ND = torch.randn(5, 20, generator=torch.Generator().manual_seed(4))
    half_N = torch.full((5,), 0.5)
    expert_N = torch.zeros(5, dtype=torch.int64)
    on_input = moe.routed(x_ND, expert_N, half_N)
    assert_close(on_input, moe.routed(x_ND * 0.5, expert_N, half_N * 2), "score on the input")
    assert (on_input - 0.5 * moe.routed(x_ND, expert_N, half_N * 2)).abs().max() > 0.1
