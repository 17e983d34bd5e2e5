"""The MoE layer for a few tokens: the reference's output at every width of a tile, whatever the routing; the same bits twice;
no wait for the device; and the choice between this path and prefill's."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import random
from kernel_machine import CUDA, DEVICE, NARROW
from llama4_kernels import decode, moe, moe_mlp, reference
from test_moe_mlp import ROUTES, assert_near, layer

# Rows, each with its reason.
COUNTS = {
    "one token": 1,
    "a full tile of 16": 16,
    "one more": 17,
    "a full tile of 32": 32,
    "a full tile of 64": 64,
    "a second tile of one row": 65,
    "as many as there may be": 128,
}


def by_lot(count: int) -> list[int]:
    return torch.randint(0, 4, (count,), generator=torch.Generator().manual_seed(count)).tolist()


def ours(given: list[torch.Tensor]) -> torch.Tensor:
    x_ND, logits_NE, *weights = given
    return decode.moe_mlp(x_ND, moe.route(logits_NE), tuple(weights))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES.keys())
def test_decode_is_the_reference(route: list[int]) -> None:
    given = layer(route)
    assert_near(ours(given), reference.moe_mlp(*[tensor.double() for tensor in given]), "y")


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("count", COUNTS.values(), ids=COUNTS.keys())
def test_every_width_of_a_tile(count: int) -> None:
    given = layer(by_lot(count))
    assert_near(ours(given), reference.moe_mlp(*[tensor.double() for tensor in given]), "y")
    assert decode.width_of(count) in (16, 32, 64) and decode.width_of(count) >= min(count, 64)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("hidden", [16, 128, 168, 264])
def test_the_sum_over_f_in_slices_of_blocks(hidden: int) -> None:
    """Blocks of 32 in four slices: half a block in the first alone; one each; two each, and three each, with none for the last
    slice and a last block that is a quarter full."""
    given = layer([0, 1, 3])
    shapes = [(4, 40, 2 * hidden), (4, hidden, 40), (hidden, 40), (hidden, 40), (40, hidden)]
    given[2:] = [random(*shape, dtype=NARROW, seed=n, scale=0.12) for n, shape in enumerate(shapes)]
    assert_near(ours(given), reference.moe_mlp(*[tensor.double() for tensor in given]), "y")


@pytest.mark.parametrize("most", [decode.MOST_TOKENS, 0], ids=["few tokens", "prefill"])
def test_maverick_has_128_experts(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first, the last, one chosen twice; all others empty. Weights of 128 experts, most of them NaN."""
    monkeypatch.setattr(decode, "MOST_TOKENS", most)
    chosen = [127, 0, 64, 63, 127, 100]
    logits_NE = torch.full((6, 128), -3.0, device=DEVICE)
    logits_NE[torch.arange(6), torch.tensor(chosen)] = random(6, seed=1)
    gate_up, down = (
        torch.full(shape, torch.nan, dtype=NARROW, device=DEVICE) for shape in ((128, 40, 48), (128, 24, 40))
    )
    for expert in set(chosen):
        gate_up[expert], down[expert] = (
            random(*w.shape[1:], dtype=NARROW, seed=expert, scale=0.16) for w in (gate_up, down)
        )
    shared = [
        random(*shape, dtype=NARROW, seed=n, scale=0.16) for n, shape in enumerate(((24, 40), (24, 40), (40, 24)))
    ]
    given = [random(6, 40, dtype=NARROW, seed=9), logits_NE, gate_up, down, *shared]
    assert_near(moe_mlp(*given), reference.moe_mlp(*[tensor.double() for tensor in given]), "y")


def test_nan_of_an_expert_that_nobody_uses_stays_away() -> None:
    """Its weights are not read at all."""
    given = layer([0, 2, 3] * 4)
    expected = ours(given)
    for weight in given[2:4]:
        weight[1] = torch.nan
    assert torch.equal(ours(given), expected)


def test_nan_of_one_token_stays_in_its_row() -> None:
    given = layer(by_lot(20))
    expected = ours(given)
    given[0][7] = torch.nan
    found = ours(given)
    others = torch.arange(20, device=DEVICE) != 7
    assert found[7].isnan().all() and torch.equal(found[others], expected[others])


def test_twice_the_same_bits() -> None:
    given = layer(by_lot(40))
    assert torch.equal(ours(given), ours(given))


def test_no_tokens() -> None:
    assert ours(layer([])).shape == (0, 40)


def test_it_runs_where_it_is_meant_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to 128 tokens in 16 bits without a gradient; everything else takes prefill's kernels."""
    taken: list[int] = []
    whole = decode.moe_mlp
    monkeypatch.setattr(decode, "moe_mlp", lambda x_ND, *rest: taken.append(len(x_ND)) or whole(x_ND, *rest))
    given = layer(by_lot(decode.MOST_TOKENS))
    moe_mlp(*given)
    assert taken == [128]
    moe_mlp(*layer(by_lot(decode.MOST_TOKENS + 1)))
    moe_mlp(given[0].clone().requires_grad_(), *given[1:])
    assert taken == [128]
    with torch.no_grad():
        moe_mlp(given[0].clone().requires_grad_(), *given[1:])
    assert taken == [128, 128]


def test_both_paths_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model must not change its mind when the 129th token comes: two roundings apart at most."""
    given = layer(by_lot(50))
    narrow = moe_mlp(*given)
    monkeypatch.setattr(decode, "MOST_TOKENS", 0)
    assert_near(narrow, moe_mlp(*given).double(), "y")


@pytest.mark.skipif(not CUDA, reason="a CUDA graph needs a GPU")
def test_a_graph_of_it_holds_for_other_tokens_and_routings() -> None:
    given, other = layer(by_lot(16)), layer([3] * 16, seed=40)
    x_ND, logits_NE, *weights = given
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        moe_mlp(*given)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y_ND = moe_mlp(x_ND, logits_NE, *weights)
    for tokens, logits in (given[:2], other[:2]):
        x_ND.copy_(tokens)
        logits_NE.copy_(logits)
        graph.replay()
        assert torch.equal(y_ND, moe_mlp(tokens, logits, *weights))
