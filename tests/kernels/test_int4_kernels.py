"""The int4 kernels: what they compute is the layer on the weights that the bytes stand for, for every routing and group."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import CLOSE, random
from kernel_machine import DEVICE, NARROW
from llama4_kernels import linear_int4, moe_mlp_int4, reference
from test_decode import COUNTS, by_lot
from test_moe_mlp import ROUTES, assert_near, layer

from llama4.quant import Int4, dequantise, pack

WIDTH, HIDDEN, SHARED = 64, 96, 128  # groups of 64, 32 and 128: no tile's multiple, a shared expert of another width


def pair(packed: Int4) -> tuple[torch.Tensor, torch.Tensor]:
    return packed.q, packed.scale


def experts(seed: int = 0) -> list[Int4]:
    """gate_up, down, shared gate, up, down, as the model holds them in int4."""
    shapes = [(4, 2 * HIDDEN, WIDTH), (4, WIDTH, HIDDEN), (SHARED, WIDTH), (SHARED, WIDTH), (WIDTH, SHARED)]
    sizes = zip(shapes, (64, 32, 64, 64, 128), strict=True)
    return [
        pack(random(*shape, dtype=NARROW, seed=seed + n, scale=0.12), group) for n, (shape, group) in enumerate(sizes)
    ]


def run(x_ND: torch.Tensor, logits_NE: torch.Tensor, weights: list[Int4]) -> torch.Tensor:
    return moe_mlp_int4(x_ND, logits_NE, *map(pair, weights))


def exactly(x_ND: torch.Tensor, logits_NE: torch.Tensor, weights: list[Int4]) -> torch.Tensor:
    gate_up, down, *shared = (dequantise(Int4(w.q, w.scale.double())) for w in weights)
    return reference.moe_mlp(x_ND.double(), logits_NE.double(), gate_up.mT, down.mT, *shared)


def given(route: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of this width, and logits that choose the experts."""
    return random(len(route), WIDTH, dtype=NARROW, seed=seed + 3), layer(route, seed=seed)[1]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES.keys())
def test_the_layer_is_that_of_the_weights_it_stands_for(route: list[int]) -> None:
    x_ND, logits_NE = given(route)
    weights = experts()
    assert_near(run(x_ND, logits_NE, weights), exactly(x_ND, logits_NE, weights), "y")


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("count", [*COUNTS.values(), 150], ids=[*COUNTS.keys(), "more than a decode step has"])
def test_every_width_of_a_tile(count: int) -> None:
    x_ND, logits_NE = given(by_lot(count))
    assert_near(run(x_ND, logits_NE, experts()), exactly(x_ND, logits_NE, experts()), "y")


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(("width", "columns"), [(32, 8), (64, 65), (96, 64), (640, 3), (128, 200)])
@pytest.mark.parametrize("rows", [1, 16, 33, 129, 161])
def test_a_linear_layer(width: int, columns: int, rows: int) -> None:
    """One group in all and slices without any; a row beyond a tile; more groups than slices; for few tokens and for many."""
    weight = pack(random(columns, width, dtype=NARROW, seed=1, scale=0.2))
    x_ND = random(rows, width, dtype=NARROW, seed=2)
    exact = x_ND.double() @ dequantise(Int4(weight.q, weight.scale.double())).mT
    found = linear_int4(x_ND, pair(weight))
    bound = CLOSE[NARROW] * max(1.0, float(exact.abs().max()))
    assert found.shape == (rows, columns) and (found.double() - exact).abs().max() <= bound
    assert torch.equal(linear_int4(x_ND[None], pair(weight)), found[None])


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(
    "route", [[3] * 131, [0] * 65 + [2] * 70 + [3]], ids=["one expert", "an empty one, and one alone"]
)
def test_many_tokens_on_few_experts(route: list[int]) -> None:
    """Tiles of 32 tokens here: whole ones, ones that end in the next expert's rows, one of one row."""
    x_ND, logits_NE = given(route)
    assert_near(run(x_ND, logits_NE, experts()), exactly(x_ND, logits_NE, experts()), "y")


def test_every_integer_in_every_place() -> None:
    """x picks one weight a time: 16 values in both halves of a byte come out exactly, with a scale of a power of two."""
    q = torch.arange(256, dtype=torch.uint8, device=DEVICE).reshape(16, 16)  # 16 outputs of one group of 32
    scale = torch.full((16, 1), 0.25, dtype=NARROW, device=DEVICE)
    x_ND = torch.eye(32, dtype=NARROW, device=DEVICE)
    weight = dequantise(Int4(q, scale)).mT
    assert torch.equal(linear_int4(x_ND, (q, scale)), weight)
    assert torch.equal(linear_int4(x_ND.repeat(5, 1), (q, scale)), weight.repeat(5, 1))


def test_nan_of_an_expert_that_nobody_uses_stays_away() -> None:
    x_ND, logits_NE = given([0, 2, 3] * 4)
    weights = experts()
    expected = run(x_ND, logits_NE, weights)
    for weight in weights[:2]:
        weight.scale[1] = torch.nan
    assert torch.equal(run(x_ND, logits_NE, weights), expected)


def test_twice_the_same_bits_and_no_tokens() -> None:
    x_ND, logits_NE = given(by_lot(40))
    assert torch.equal(run(x_ND, logits_NE, experts()), run(x_ND, logits_NE, experts()))
    assert run(x_ND[:0], logits_NE[:0], experts()).shape == (0, WIDTH)
    assert linear_int4(x_ND[:0], pair(experts()[2])).shape == (0, SHARED)


def test_the_operators_are_what_torch_wants() -> None:
    x_ND, logits_NE = given([0, 2, 1])
    flat = [tensor for weight in experts() for tensor in pair(weight)]
    torch.library.opcheck(torch.ops.llama4.moe_mlp_int4.default, (x_ND, logits_NE, *flat))
    torch.library.opcheck(torch.ops.llama4.linear_int4.default, (x_ND, *pair(experts()[2])))


def test_what_it_cannot_take_is_told_in_one_sentence() -> None:
    x_ND, logits_NE = given([0, 1, 2, 3])
    good = [pair(weight) for weight in experts()]
    q, scale = good[1]
    for place, wrong, words in (
        (1, (q[:, :-1].contiguous(), scale), "down as uint8 [4, 64, 48]"),
        (1, (q.int(), scale), "torch.int32"),
        (1, (q, scale[..., :1].contiguous()), "groups of 32, 64 or 128 in down"),
        (1, (q.mT.contiguous().mT, scale), "down without gaps"),
        (2, pair(pack(random(SHARED, WIDTH, dtype=NARROW), 32)), "one group for gate_up and the shared gate"),
        (3, (good[3][0].to("meta"), good[3][1]), "on one device"),
    ):
        weights = [wrong if n == place else weight for n, weight in enumerate(good)]
        assert words in refused(lambda weights=weights: moe_mlp_int4(x_ND, logits_NE, *weights))
    assert "router_logits of shape [4, 4]" in refused(lambda: moe_mlp_int4(x_ND, logits_NE[:2], *good))
    assert "float32" in refused(lambda: moe_mlp_int4(x_ND.float(), logits_NE, *good))
    assert "float32" in refused(lambda: linear_int4(x_ND.float(), good[2]))
    assert "uint8 [128, 24]" in refused(lambda: linear_int4(x_ND[:, :48].contiguous(), good[2]))


def refused(call: object) -> str:
    """The sentence of what was raised."""
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message
    return message
