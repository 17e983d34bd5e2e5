"""The fused MoE layer: the reference's output and gradients, for routings of every awkward kind; the same bits twice."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import CLOSE, random
from kernel_machine import CUDA, DEVICE, NARROW
from llama4_kernels import decode, moe_mlp, reference
from torch import Tensor

NAMES = ("x", "logits", "gate_up", "down", "shared_gate", "shared_up", "shared_down")
WIDTH, HIDDEN, SHARED = 40, 48, 56  # no tile's multiple; a shared expert of another width than the routed

# Rows, and the expert that each is sent to.
ROUTES: dict[str, list[int]] = {
    "one token": [2],
    "every expert one token": [3, 1, 0, 2],
    "all to one expert": [1] * 45,
    "an expert without tokens": [0, 2, 3] * 15,
    "one expert has most": [0] * 60 + [1, 2, 3] * 3,
    "by lot": torch.randint(0, 4, (77,), generator=torch.Generator().manual_seed(5)).tolist(),
}


def layer(route: list[int], dtype: torch.dtype = NARROW, seed: int = 0) -> list[Tensor]:
    """The seven inputs. The logits of the chosen experts are spread, so that scores from 0.02 to 0.98 occur."""
    experts = torch.tensor(route, device=DEVICE)
    logits_NE = random(len(route), 4, seed=seed + 1)
    best_N = 2 * random(len(route), seed=seed + 2)
    logits_NE = logits_NE - logits_NE.amax(1, keepdim=True) - 0.1 + best_N[:, None]
    logits_NE = logits_NE.scatter(1, experts[:, None], best_N[:, None])
    shapes = [(4, WIDTH, 2 * HIDDEN), (4, HIDDEN, WIDTH), (SHARED, WIDTH), (SHARED, WIDTH), (WIDTH, SHARED)]
    weights = [random(*shape, dtype=dtype, seed=seed + 4 + n, scale=0.16) for n, shape in enumerate(shapes)]
    return [random(len(route), WIDTH, dtype=dtype, seed=seed + 3), logits_NE, *weights]


def run(function, given: list[Tensor], dy_ND: Tensor) -> tuple[Tensor, ...]:
    """Output and the seven gradients."""
    inputs = [tensor.detach().clone().requires_grad_() for tensor in given]
    y_ND = function(*inputs)
    return y_ND.detach(), *torch.autograd.grad(y_ND, inputs, dy_ND)


def assert_near(found: Tensor, exact: Tensor, what: str) -> None:
    """Two roundings to the narrow type on the way to the output (h, y), four to a gradient (a and b, h', their product, it)."""
    bound = 4 * CLOSE[NARROW] * float(exact.abs().max())
    worst = float((found.double() - exact).abs().max())
    assert found.shape == exact.shape and worst <= bound, f"{what}: off by {worst}, {worst / bound:.1f} x the bound"


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES.keys())
def test_output_and_gradients_are_the_references(route: list[int]) -> None:
    given, dy_ND = layer(route), random(len(route), WIDTH, dtype=NARROW, seed=99)
    found = run(moe_mlp, given, dy_ND)
    exact = run(reference.moe_mlp, [tensor.double() for tensor in given], dy_ND.double())
    for name, mine, expected in zip(("y", *NAMES), found, exact, strict=True):
        assert_near(mine, expected, name)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES.keys())
def test_without_a_gradient_the_output_is_the_same(route: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """And a, b are not kept. (Few tokens without a gradient would take the kernels of decode.py.)"""
    monkeypatch.setattr(decode, "MOST_TOKENS", 0)
    given = layer(route)
    with torch.no_grad():
        without = moe_mlp(*given)
    inputs = [tensor.requires_grad_() for tensor in given]
    assert torch.equal(without, moe_mlp(*inputs).detach())
    _, ab_NF, shared_ab_NF = torch.ops.llama4.moe_mlp(*[tensor.detach() for tensor in given], False)
    assert ab_NF.numel() == shared_ab_NF.numel() == 0


def test_twice_the_same_bits() -> None:
    given, dy_ND = layer(ROUTES["one expert has most"]), random(69, WIDTH, dtype=NARROW, seed=9)
    for first, second in zip(run(moe_mlp, given, dy_ND), run(moe_mlp, given, dy_ND), strict=True):
        assert torch.equal(first, second)


def test_no_tokens() -> None:
    given = layer([])
    assert moe_mlp(*given).shape == (0, WIDTH)
    _, dx_ND, *gradients = run(moe_mlp, given, given[0])
    assert dx_ND.shape == (0, WIDTH) and not any(gradient.any() for gradient in gradients)


def test_equal_logits_go_to_the_first_expert_as_in_eager() -> None:
    given = layer([0, 1, 2, 3] * 8)
    given[1] = torch.zeros_like(given[1])
    exact = reference.moe_mlp(*[tensor.double() for tensor in given])
    assert_near(moe_mlp(*given), exact, "y")


def test_scores_near_zero_and_one_have_a_gradient() -> None:
    """A score of 4e-9 (logit -20) and of 1 - 4e-9: no division by it, no NaN, and the reference's numbers."""
    given, dy_ND = layer([0, 1, 2, 3]), random(4, WIDTH, dtype=NARROW, seed=7)
    best_N = torch.tensor([-20.0, 20.0, -9.0, 9.0], device=DEVICE)
    given[1] = torch.diag_embed(torch.ones(4, device=DEVICE)) * 2 - 2 + best_N[:, None]
    found = run(moe_mlp, given, dy_ND)
    exact = run(reference.moe_mlp, [tensor.double() for tensor in given], dy_ND.double())
    for name, mine, expected in zip(("y", *NAMES), found, exact, strict=True):
        assert_near(mine, expected, name)


def test_the_operators_are_what_torch_wants() -> None:
    given = layer([0, 2, 2, 1, 3])
    torch.library.opcheck(torch.ops.llama4.moe_mlp.default, (*given, False))
    torch.library.opcheck(torch.ops.llama4.moe_mlp.default, (*[tensor.requires_grad_() for tensor in given], True))


def test_compiled_is_the_same() -> None:
    given, dy_ND = layer([0, 2, 2, 1, 3]), random(5, WIDTH, dtype=NARROW, seed=7)
    compiled = torch.compile(lambda *inputs: moe_mlp(*inputs) * 2, backend="aot_eager", fullgraph=True)
    for mine, plain in zip(
        run(compiled, given, dy_ND), run(lambda *inputs: moe_mlp(*inputs) * 2, given, dy_ND), strict=True
    ):
        assert torch.equal(mine, plain)


@pytest.mark.skipif(not CUDA, reason="a CUDA graph needs a GPU")
def test_a_graph_of_the_layer_and_its_gradients_holds_for_other_routings() -> None:
    """More tokens than decode.py takes; whatever waits for the device would end the recording."""
    routes = [torch.randint(0, 4, (150,), generator=torch.Generator().manual_seed(n)).tolist() for n in range(2)]
    given, other = (layer(route, seed=seed) for seed, route in enumerate(routes))
    dy_ND = random(150, WIDTH, dtype=NARROW, seed=9)
    inputs = [tensor.requires_grad_() for tensor in given]
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.autograd.grad(moe_mlp(*inputs), inputs, dy_ND)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y_ND = moe_mlp(*inputs)
        gradients = torch.autograd.grad(y_ND, inputs, dy_ND)
    with torch.no_grad():
        for held, new in zip(inputs, other, strict=True):
            held.copy_(new)
    graph.replay()
    for found, expected in zip((y_ND, *gradients), run(moe_mlp, other, dy_ND), strict=True):
        assert torch.equal(found, expected)


def test_what_it_cannot_take_is_told_in_one_sentence() -> None:
    good = layer([0, 1, 2, 3])
    for place, wrong, words in (
        (0, good[0][0], "x [N, D] and gate_up [E, D, 2F]"),
        (1, good[1][:3], "router_logits of shape [4, 4]"),
        (3, good[3][:, :8], "down of shape [4, 48, 40]"),
        (3, good[3].mT.contiguous().mT, "down without gaps and not transposed"),
        (4, good[4][:, :39], "shared_gate of shape [56, 40]"),
        (5, good[5].double(), "shared_up torch.float64"),
        (6, good[6].to("meta"), "on one device"),
        (1, good[1].half(), "router_logits in float32, but got torch.float16 and torch.float16"),
        (
            3,
            torch.cat([good[3].flatten()[:1], good[3].flatten()])[1:].view_as(good[3]),
            "down to begin at a multiple of 16",
        ),
    ):
        given = [wrong if n == place else tensor for n, tensor in enumerate(good)]
        with pytest.raises((ValueError, TypeError)) as caught:
            moe_mlp(*given)
        message = str(caught.value)
        assert words in message and message.endswith(".") and "\n" not in message, message
    with pytest.raises(TypeError, match=r"but got torch\.float32 and torch\.float32"):
        moe_mlp(*[tensor.float() for tensor in good])
    odd = [random(4, 36, dtype=NARROW), good[1], random(4, 36, 96, dtype=NARROW), random(4, 48, 36, dtype=NARROW)]
    odd += [random(56, 36, dtype=NARROW), random(56, 36, dtype=NARROW), random(36, 56, dtype=NARROW)]
    with pytest.raises(ValueError, match="multiples of 8"):
        moe_mlp(*odd)
