"""`grouped_matmul` as an operator of torch: with a gradient, and a shape that `torch.compile` works out without running it.

    dx[n] = dy[n] @ w[e]^T       the same matmul with every weight turned, which is a view
    dw[e] = x_e^T @ dy_e

Which kernel: the persistent one for bf16 and fp16 where the copy engine can read the tensors (rows that begin at multiples of 16
bytes), else the naive one, which reads anything. fp32 is for tests and goes the naive way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llama4_kernels import naive, persistent
from llama4_kernels.checks import check_grouped
from llama4_kernels.configs import chosen


def grouped_matmul(x_ND: Tensor, w_EDF: Tensor, group_ends_E: Tensor) -> Tensor:
    """`[N, D]` rows sorted by expert, times each row's own expert `[E, D, F]`: `[N, F]` in x's dtype, sums in fp32.

    group_ends_E: int64 `[E]`, the running total of the group sizes; its last entry is N. w may be the transpose of a contiguous
    tensor. bf16, fp16 or fp32; any group sizes. Raises ValueError or TypeError, in one sentence, for anything else.
    """
    check_grouped(x_ND, w_EDF, group_ends_E)
    return _grouped_matmul(x_ND, w_EDF, group_ends_E)


def multiply(x_ND: Tensor, w_EDF: Tensor, group_ends_E: Tensor) -> Tensor:
    """The kernel that fits the tensors; without a gradient."""
    with torch.cuda.device_of(x_ND):  # Triton launches on the current card, which need not be the tensors'
        if described(x_ND) and described(w_EDF, or_turned=True):
            return persistent.multiply(x_ND, w_EDF, group_ends_E, chosen("forward", x_ND.device))
        return naive.multiply(x_ND, w_EDF, group_ends_E)


def weight_gradient(x_ND: Tensor, dy_NF: Tensor, group_ends_E: Tensor) -> Tensor:
    """`[E, D, F]`: for each group the product of its rows of x, turned, and its rows of dy."""
    with torch.cuda.device_of(x_ND):
        if described(x_ND) and described(dy_NF):
            return persistent.weight_gradient(x_ND, dy_NF, group_ends_E, chosen("weight_gradient", x_ND.device))
        return naive.weight_gradient(x_ND, dy_NF, group_ends_E)


_grouped_matmul = torch.library.custom_op("llama4::grouped_matmul", multiply, mutates_args=())
_weight_gradient = torch.library.custom_op("llama4::grouped_weight_gradient", weight_gradient, mutates_args=())


@_grouped_matmul.register_fake
def _(x_ND: Tensor, w_EDF: Tensor, group_ends_E: Tensor) -> Tensor:
    return x_ND.new_empty(x_ND.shape[0], w_EDF.shape[2])


@_weight_gradient.register_fake
def _(x_ND: Tensor, dy_NF: Tensor, group_ends_E: Tensor) -> Tensor:
    return x_ND.new_empty(group_ends_E.shape[0], x_ND.shape[1], dy_NF.shape[1])


def _remember(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: torch.autograd.function.FunctionCtx, dy_NF: Tensor) -> tuple[Tensor | None, ...]:
    x_ND, w_EDF, group_ends_E = ctx.saved_tensors
    dy_NF = dy_NF.contiguous()
    dx_ND = _grouped_matmul(dy_NF, w_EDF.mT, group_ends_E) if ctx.needs_input_grad[0] else None
    dw_EDF = _weight_gradient(x_ND, dy_NF, group_ends_E) if ctx.needs_input_grad[1] else None
    return dx_ND, dw_EDF, None


_grouped_matmul.register_autograd(_gradients, setup_context=_remember)


def described(tensor: Tensor, or_turned: bool = False) -> bool:
    """Can the copy engine read it? 16-bit, contiguous (or the transpose of what is), rows and start at multiples of 16 bytes."""
    if tensor.dtype == torch.float32 or tensor.data_ptr() % 16:
        return False
    straight = tensor.is_contiguous() and tensor.shape[-1] % 8 == 0
    turned = or_turned and tensor.mT.is_contiguous() and tensor.shape[-2] % 8 == 0
    return straight or turned
