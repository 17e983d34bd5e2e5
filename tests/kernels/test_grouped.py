"""The grouped matmul: eager = reference = both Triton kernels, forward and backward, for groups of every awkward size."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import SIZES, assert_near, ends_of, random
from kernel_machine import DEVICE
from llama4_kernels import grouped_matmul, naive, persistent, reference
from llama4_kernels.configs import chosen
from torch import Tensor

from llama4 import ops

Widths = tuple[int, int]
WIDTHS: dict[str, Widths] = {
    "multiples of eight, no tile's": (40, 72),  # the copy engine reads them, and every edge of a tile is cut
    "less than a tile": (8, 16),
    "tiles exactly": (64, 96),
}
ODD = (37, 71)  # rows that begin anywhere: the naive kernel's alone


def exact(x_ND: Tensor, w_EDF: Tensor, ends_E: Tensor, dy_NF: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Output and both gradients in float64."""
    x, w = x_ND.detach().double().requires_grad_(), w_EDF.detach().double().requires_grad_()
    y = reference.grouped_matmul(x, w, ends_E)
    return y.detach(), *torch.autograd.grad(y, (x, w), dy_NF.double())


def tensors(sizes: list[int], widths: Widths, dtype: torch.dtype, turned: bool = False) -> tuple[Tensor, ...]:
    rows, (depth, columns) = sum(sizes), widths
    w_EDF = random(len(sizes), columns, depth, dtype=dtype, seed=2).mT if turned else None
    w_EDF = random(len(sizes), depth, columns, dtype=dtype, seed=2) if w_EDF is None else w_EDF
    return random(rows, depth, dtype=dtype, seed=1), w_EDF, ends_of(sizes), random(rows, columns, dtype=dtype, seed=3)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("turned", [False, True], ids=["w", "w turned"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_naive_is_the_reference(sizes: list[int], turned: bool, dtype: torch.dtype) -> None:
    x_ND, w_EDF, ends_E, dy_NF = tensors(sizes, ODD, dtype, turned)
    y_NF, dx_ND, dw_EDF = exact(x_ND, w_EDF, ends_E, dy_NF)
    assert_near(naive.multiply(x_ND, w_EDF, ends_E), y_NF, "y")
    assert_near(naive.multiply(dy_NF, w_EDF.mT, ends_E), dx_ND, "dx")
    assert_near(naive.weight_gradient(x_ND, dy_NF, ends_E), dw_EDF, "dw")


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("widths", WIDTHS.values(), ids=WIDTHS.keys())
@pytest.mark.parametrize("turned", [False, True], ids=["w", "w turned"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_persistent_is_the_reference(sizes: list[int], turned: bool, widths: Widths, narrow: torch.dtype) -> None:
    """fp32 goes the naive way."""
    x_ND, w_EDF, ends_E, dy_NF = tensors(sizes, widths, narrow, turned)
    y_NF, dx_ND, dw_EDF = exact(x_ND, w_EDF, ends_E, dy_NF)
    tile, gradient_tile = (chosen(name, x_ND.device) for name in ("forward", "weight_gradient"))
    assert_near(persistent.multiply(x_ND, w_EDF, ends_E, tile), y_NF, "y")
    assert_near(persistent.multiply(dy_NF, w_EDF.mT, ends_E, tile), dx_ND, "dx")
    assert_near(persistent.weight_gradient(x_ND, dy_NF, ends_E, gradient_tile), dw_EDF, "dw")


@pytest.mark.parametrize("widths", [ODD, (40, 72)], ids=["naive", "persistent"])
@pytest.mark.parametrize("sizes", [[3, 0, 40, 9], [52]], ids=str)
def test_eager_reference_and_triton_are_equal_forward_and_backward(
    sizes: list[int], widths: Widths, dtype: torch.dtype
) -> None:
    x_ND, w_EDF, ends_E, dy_NF = tensors(sizes, widths, dtype)
    expected = exact(x_ND, w_EDF, ends_E, dy_NF)
    for run in (grouped_matmul, ops.eager_grouped_matmul):
        x, w = x_ND.clone().requires_grad_(), w_EDF.clone().requires_grad_()
        y = run(x, w, ends_E)
        found = (y.detach(), *torch.autograd.grad(y, (x, w), dy_NF))
        for name, mine, reference_ in zip(("y", "dx", "dw"), found, expected, strict=True):
            assert_near(mine, reference_, f"{name} of {run.__name__}")


def test_rows_behind_the_last_group_and_memory_around_are_not_touched() -> None:
    """x is a piece of a longer tensor that is NaN elsewhere: a row too many that is stored or summed shows, times zero too."""
    x_ND, w_EDF, ends_E, dy_NF = tensors([5, 0, 35], (40, 72), torch.float16)
    longer = torch.full((60, 40), torch.nan, dtype=torch.float16, device=DEVICE)
    longer[8:48] = x_ND
    y_NF, dx_ND, dw_EDF = exact(x_ND, w_EDF, ends_E, dy_NF)
    assert_near(grouped_matmul(longer[8:48], w_EDF, ends_E), y_NF, "y")
    dy_longer = torch.full((60, 72), torch.nan, dtype=torch.float16, device=DEVICE)
    dy_longer[8:48] = dy_NF
    piece = longer[8:48].requires_grad_()
    (grouped_matmul(piece, w_EDF, ends_E)).backward(dy_longer[8:48])
    assert_near(piece.grad, dx_ND, "dx")
    tile = chosen("weight_gradient", x_ND.device)
    assert_near(persistent.weight_gradient(longer[8:48].detach(), dy_longer[8:48], ends_E, tile), dw_EDF, "dw")


def test_nan_of_one_group_stays_in_it() -> None:
    """A tile that reaches over the end of its group computes rows of the next, and must store none of them."""
    x_ND, w_EDF, ends_E, dy_NF = tensors([5, 30, 5], (40, 72), torch.float16)
    x_ND[5:35] = torch.nan
    found = grouped_matmul(x_ND, w_EDF, ends_E)
    assert found[5:35].isnan().all() and not found[:5].isnan().any() and not found[35:].isnan().any()
    dw_EDF = persistent.weight_gradient(x_ND, dy_NF, ends_E, chosen("weight_gradient", x_ND.device))
    assert dw_EDF[1].isnan().all() and not dw_EDF[0].isnan().any() and not dw_EDF[2].isnan().any()


def test_the_operator_is_what_torch_wants() -> None:
    """Schema, fake shapes, autograd registration, and tracing with fake tensors."""
    x_ND, w_EDF, ends_E, _ = tensors([3, 0, 9], (40, 72), torch.float16)
    for given in ((x_ND, w_EDF, ends_E), (x_ND.requires_grad_(), w_EDF.requires_grad_(), ends_E)):
        torch.library.opcheck(torch.ops.llama4.grouped_matmul.default, given)


def test_compiled_is_the_same() -> None:
    """Through dynamo and autograd tracing; the code generator itself is not needed."""
    x_ND, w_EDF, ends_E, dy_NF = tensors([3, 0, 9], (40, 72), torch.float16)
    compiled = torch.compile(lambda x, w: grouped_matmul(x, w, ends_E) * 2, backend="aot_eager", fullgraph=True)
    x, w = x_ND.requires_grad_(), w_EDF.requires_grad_()
    found = compiled(x, w)
    assert torch.equal(found, grouped_matmul(x, w, ends_E) * 2)
    for mine, plain in zip(
        torch.autograd.grad(found, (x, w), dy_NF),
        torch.autograd.grad(grouped_matmul(x, w, ends_E) * 2, (x, w), dy_NF),
        strict=True,
    ):
        assert torch.equal(mine, plain)


def one_sentence(message: str) -> bool:
    return message.endswith(".") and "\n" not in message and message.count(". ") == 0


def test_what_it_cannot_take_is_told_in_one_sentence() -> None:
    x_ND, w_EDF, ends_E, _ = tensors([3, 0, 9], (40, 72), torch.float16)
    wrong = {
        "x [N, D] and w [E, D, F]": (x_ND[0], w_EDF, ends_E),
        "[12, 39]": (x_ND[:, 1:], w_EDF, ends_E),
        "one int64 group end for each of 3": (x_ND, w_EDF, ends_E[1:]),
        "torch.float32 [3]": (x_ND, w_EDF, ends_E.float()),
        "x torch.float32, w torch.float16": (x_ND.float(), w_EDF, ends_E),
        "x torch.int64": (x_ND.long(), w_EDF.long(), ends_E),
        "on one device": (x_ND, w_EDF.to("meta"), ends_E),
        "without gaps": (x_ND, w_EDF, ends_E.repeat_interleave(2)[::2]),
    }
    for words, given in wrong.items():
        with pytest.raises((ValueError, TypeError)) as caught:
            grouped_matmul(*given)
        assert words in str(caught.value) and one_sentence(str(caught.value)), str(caught.value)
