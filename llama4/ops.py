"""The one seam between readable and fast: which implementation runs a matmul, attention, a rotation.

`eager` is plain PyTorch and runs everywhere. `triton` is the package `llama4_kernels`, chosen where it can be imported and a
CUDA device is there. The choice is made once; `use("eager")` overrides it, for a test or a comparison.

    y[n] = x[n] @ w[e]   for every row n of group e, where group e is rows group_ends[e-1] .. group_ends[e] - 1

Worked example: E = 3 and group_ends = [2, 2, 5]: rows 0, 1 belong to expert 0, nobody to expert 1, rows 2, 3, 4 to expert 2.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from llama4.errors import InputError

BACKENDS = ("eager", "triton")
SLICES = 16  # of a weight, in the one-row product on a CPU
ROWS = 32  # what an expert's rows are filled up to a multiple of, in bf16 on a CPU
SHORT = 1024  # positions up to which attention may be written out: the scores of 1024 queries are 4 MB a head in fp32
HEAD_WIDTHS = (16, 32, 64, 128)  # that the kernels of attention take
SHARED_AT_MOST = 32  # query heads of one key/value head that fit a decoding tile
_override: ContextVar[str | None] = ContextVar("llama4_backend", default=None)


@contextmanager
def use(name: str) -> Iterator[None]:
    """Run the enclosed calls on backend `name`. Raises InputError for an unknown name."""
    if name not in BACKENDS:
        raise InputError(f"There is no backend {name!r}: choose one of {', '.join(BACKENDS)}.")
    token = _override.set(name)
    try:
        yield
    finally:
        _override.reset(token)


def backend() -> str:
    """The backend that the next call runs on."""
    return _override.get() or _resolve()


@cache
def _resolve() -> str:
    kernels_there = importlib.util.find_spec("llama4_kernels") is not None
    return "triton" if kernels_there and torch.cuda.is_available() else "eager"


def grouped_matmul(x_ND: Tensor, w_EDF: Tensor, group_ends_E: Tensor) -> Tensor:
    """`[N, D]` rows sorted by expert, times each row's own expert `[E, D, F]`: `[N, F]`, in x's dtype.

    `group_ends_E` is int64 `[E]`, the running total of the group sizes; its last entry is N.
    """
    if backend() == "triton":
        from llama4_kernels import grouped_matmul as triton_grouped_matmul

        return triton_grouped_matmul(x_ND, w_EDF, group_ends_E)
    return eager_grouped_matmul(x_ND, w_EDF, group_ends_E)


def fuses_moe(x_ND: Tensor, expert_width: int) -> bool:
    """Can `moe_mlp` run this layer? On backend `triton`, in 16 bits, with widths that are multiples of 8."""
    narrow = x_ND.dtype in (torch.bfloat16, torch.float16)
    return backend() == "triton" and narrow and x_ND.shape[1] % 8 == 0 and expert_width % 8 == 0


def moe_mlp(
    x_ND: Tensor,
    router_logits_NE: Tensor,
    gate_up_EDF: Tensor,
    down_EFD: Tensor,
    shared_gate_FD: Tensor,
    shared_up_FD: Tensor,
    shared_down_DF: Tensor,
) -> Tensor:
    """A whole MoE layer behind its router in one operator, where `fuses_moe` says so; `moe.MoE` is the same, to be read."""
    from llama4_kernels import moe_mlp as triton_moe_mlp

    experts, shared = (gate_up_EDF, down_EFD), (shared_gate_FD, shared_up_FD, shared_down_DF)
    return triton_moe_mlp(x_ND.contiguous(), router_logits_NE, *experts, *shared)


def runs_int4(x: Tensor) -> bool:
    """Are int4 weights multiplied as they lie? On backend `triton`, in 16 bits, without a gradient."""
    return backend() == "triton" and x.dtype in (torch.bfloat16, torch.float16) and not torch.is_grad_enabled()


def linear_int4(x: Tensor, weight: tuple[Tensor, Tensor]) -> Tensor:
    """`[..., D]` -> `[..., F]`, the weight as (q, scale), where `runs_int4` says so; `quant.layers` is the same, to be read."""
    from llama4_kernels import linear_int4 as triton_linear_int4

    return triton_linear_int4(x.contiguous(), weight)


def moe_mlp_int4(x_ND: Tensor, router_logits_NE: Tensor, *weights: tuple[Tensor, Tensor]) -> Tensor:
    """`moe_mlp` with the five weights as (q, scale), where `runs_int4` says so."""
    from llama4_kernels import moe_mlp_int4 as triton_moe_mlp_int4

    return triton_moe_mlp_int4(x_ND.contiguous(), router_logits_NE, *weights)


def eager_grouped_matmul(x_ND: Tensor, w_EDF: Tensor, group_ends_E: Tensor) -> Tensor:
    """One matmul a group that has rows; on CUDA in bf16, torch's own grouped kernel, which waits for nothing.

    On a CPU torch's kernel is a loop too. Measured with torch 2.13, fp32, 256 x 512, 16 experts: 0.9 x the time of this loop
    for 512 rows, 1.8 x for the one row of a decode step.
    """
    aligned = w_EDF.shape[1] % 8 == 0 and w_EDF.shape[2] % 8 == 0  # its rows must begin at multiples of 16 bytes
    if x_ND.is_cuda and x_ND.dtype == torch.bfloat16 and aligned:
        return F.grouped_mm(x_ND, w_EDF, offs=group_ends_E.to(torch.int32))
    sizes = torch.diff(group_ends_E, prepend=group_ends_E.new_zeros(1)).tolist()
    # Split and unbound, not sliced: a slice's gradient is a tensor of the whole's size, one for every expert.
    groups = zip(x_ND.split(sizes), w_EDF.unbind(), strict=True)
    parts = [_matmul(rows_ND, w_DF) for rows_ND, w_DF in groups if len(rows_ND)]
    return torch.cat(parts) if parts else x_ND @ w_EDF[0]


def _matmul(x_ND: Tensor, w_DF: Tensor) -> Tensor:
    """`x @ w` in the shape that a CPU takes best.

    One fp32 row: in slices of the dimension that is summed over (see `linear`), 0.6 x the time on two cores. Rows in bf16:
    filled up with zeros to a multiple of `ROWS`, since oneDNN builds a kernel for each new shape. Measured on two cores, 100 to
    400 rows, 192 x 256: 350 microseconds for a shape that is new, 60 for one that is known.
    """
    if _one_row_on_cpu(x_ND) and w_DF.shape[0] % SLICES == 0:
        slices = x_ND.unflatten(1, (SLICES, -1)).transpose(0, 1), w_DF.unflatten(0, (SLICES, -1))
        return torch.bmm(*slices).sum(0)
    if len(x_ND) > 1 and x_ND.dtype == torch.bfloat16 and x_ND.device.type == "cpu":
        return (F.pad(x_ND, (0, 0, 0, -len(x_ND) % ROWS)) @ w_DF)[: len(x_ND)]
    return x_ND @ w_DF


def _one_row_on_cpu(x: Tensor) -> bool:
    return x.numel() == x.shape[-1] and x.device.type == "cpu" and x.dtype == torch.float32


def linear(x: Tensor, w_FD: Tensor) -> Tensor:
    """`x @ w.T` over the last dimension: `[..., D]` -> `[..., F]`.

    The one row of a decode step in fp32 on a CPU is cut: torch's product of one row and a matrix runs on one thread and waits
    for memory, its batched product of `SLICES` small ones does not. Measured on two cores, 384 -> 8192: 17 GB/s whole, 46 to 57
    in slices. (In bf16 it is the other way round, 25 and 14.)
    """
    if not _one_row_on_cpu(x) or w_FD.shape[0] % SLICES:
        return F.linear(x, w_FD)
    slices = w_FD.unflatten(0, (SLICES, -1))
    columns = x.flatten()[None].T.expand(SLICES, -1, 1)  # a view of strides 0, 1, D: with others bmm is slow
    return torch.bmm(slices, columns).flatten()[(None,) * (x.dim() - 1)]


def attention(q_BHSK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
    """softmax(q k^T / sqrt(K)) v with fp32 softmax, `[B, H, S, K]`, by the kernel that torch picks for the device.

    On a CPU torch's fused kernel shares key/value heads without copies, and is slow backward: 64 tiles of 65 patches, three heads
    of 64, in bf16 on one core: 39 ms forward and backward, and 6 ms written out. So short ones learn the written-out way there.
    """
    learning = torch.is_grad_enabled() and (q_BHSK.requires_grad or k_BGTK.requires_grad or v_BGTK.requires_grad)
    short = max(q_BHSK.shape[2], k_BGTK.shape[2]) <= SHORT
    if learning and short and q_BHSK.device.type == "cpu":
        return plain_attention(q_BHSK, k_BGTK, v_BGTK, mask, is_causal)
    return F.scaled_dot_product_attention(q_BHSK, k_BGTK, v_BGTK, mask, is_causal=is_causal, enable_gqa=True)


def reads_slots(q_BSHK: Tensor, kv_heads: int) -> bool:
    """Can `decode_attention` run? On backend `triton`, in 16 bits, without a gradient, one query a row, heads its tiles hold."""
    narrow = q_BSHK.dtype in (torch.bfloat16, torch.float16)
    fits = q_BSHK.shape[3] in HEAD_WIDTHS and q_BSHK.shape[2] // kv_heads <= SHARED_AT_MOST
    return backend() == "triton" and narrow and fits and q_BSHK.shape[1] == 1 and not torch.is_grad_enabled()


def decode_attention(q_BSHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, seen_BS: Tensor) -> Tensor:
    """`attention` of each row's query to the first `seen` slots of its row, `[B, S, H, K]`, where `reads_slots` says so.

    torch has a fused kernel for one query a row as long as all rows see as much. Given a mask and shared key/value heads it has
    none (see the notes on `enable_gqa` in its documentation): it copies keys and values for every query head and writes out the
    scores. docs/kernels/attention.md says more.
    """
    from llama4_kernels import decode_attention as triton_decode_attention

    return triton_decode_attention(q_BSHK, k_BTGK, v_BTGK, seen_BS)


def turns(q_BSHK: Tensor) -> bool:
    """Can `rotate` and `rotate_and_norm` run? On backend `triton`, without a gradient, for heads that their tiles hold."""
    return backend() == "triton" and q_BSHK.shape[3] in HEAD_WIDTHS and not torch.is_grad_enabled()


def rotate(q_BSHK: Tensor, k_BSGK: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """`rope.rotate` of q and k, in their dtype, by cosine and sine `[B, S, 1, K/2]`; where `turns` says so."""
    from llama4_kernels import rotate as triton_rotate

    return triton_rotate(q_BSHK, k_BSGK, *(rearrange(x, "b s 1 k -> b s k") for x in turn))


def rotate_and_norm(q_BSHK: Tensor, k_BSGK: Tensor, turn: tuple[Tensor, Tensor], eps: float) -> tuple[Tensor, Tensor]:
    """The same, then the norm of each head; where `turns` says so. `attention.Rotary` is both, to be read."""
    from llama4_kernels import rotate_and_norm as triton_rotate_and_norm

    return triton_rotate_and_norm(q_BSHK, k_BSGK, *(rearrange(x, "b s 1 k -> b s k") for x in turn), eps)


def plain_attention(q_BHSK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
    """The same, written out; the query heads that share a key/value head are more rows of one product."""
    sharing, queries = q_BHSK.shape[1] // k_BGTK.shape[1], q_BHSK.shape[2]
    q_BGSK = rearrange(q_BHSK * q_BHSK.shape[-1] ** -0.5, "b (g h) s k -> b g (h s) k", h=sharing)
    scores_BGST = q_BGSK @ k_BGTK.mT
    if is_causal:
        later_ST = scores_BGST.new_full((queries, k_BGTK.shape[2]), float("-inf")).triu(1)
        scores_BGST = scores_BGST + later_ST.repeat(sharing, 1)
    if mask is not None:  # [B, 1, S, T], True where a key is seen
        hidden_B1ST = torch.zeros_like(mask, dtype=scores_BGST.dtype).masked_fill(~mask, float("-inf"))
        scores_BGST = scores_BGST + hidden_B1ST.repeat(1, 1, sharing, 1)
    weights_BGST = scores_BGST.softmax(-1)  # bf16 in and out, fp32 inside
    return rearrange(weights_BGST @ v_BGTK, "b g (h s) k -> b (g h) s k", h=sharing)
