"""What attention is measured against, in the same run on the same tensors `[B, S, H, K]`.

causal, flash / cudnn   SDPA over everything before: what a model without chunks would run. cuDNN gets one key head a query head
folded                  the chunks as rows of a batch, then causal SDPA: what llama4/attention.py does
flex                    FlexAttention with a block mask, compiled; the mask is made before anything is timed
varlen                  torch's attention over sequences of unequal lengths: here each chunk, or each row's part of a cache
masked                  SDPA with a mask over the whole cache: what llama4/attention.py does where our kernel does not run
level                   SDPA without a mask, for rows that are all of one length

`exact` is float32, in blocks, since all scores of 64 K positions would not fit.
"""

from __future__ import annotations

import functools
import inspect

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

BLOCK = 512  # queries of the exact result at a time


def causal(q_BSHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, backend: SDPBackend | None = None) -> Tensor:
    """Full causal attention; by `backend` alone where one is named, else by whatever torch takes."""
    q, k, v = (x.transpose(1, 2) for x in (q_BSHK, k_BSGK, v_BSGK))
    shared = q.shape[1] != k.shape[1]
    if backend is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=shared).transpose(1, 2)
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=shared).transpose(1, 2)


def copied(x_BSGK: Tensor, heads: int) -> Tensor:
    """One key/value head for each query head."""
    return repeat(x_BSGK, "b s g k -> b s (g sharing) k", sharing=heads // x_BSGK.shape[2])


def folded(q_BSHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, chunk: int) -> Tensor:
    """Whole chunks onto the batch; what is left of the last one apart."""
    whole = q_BSHK.shape[1] // chunk * chunk
    parts = []
    if whole:
        rows = [rearrange(x[:, :whole], "b (n c) h k -> (b n) c h k", c=chunk) for x in (q_BSHK, k_BSGK, v_BSGK)]
        parts.append(rearrange(causal(*rows), "(b n) c h k -> b (n c) h k", b=q_BSHK.shape[0]))
    if whole < q_BSHK.shape[1]:
        parts.append(causal(q_BSHK[:, whole:], k_BSGK[:, whole:], v_BSGK[:, whole:]))
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def flex(q_BSHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, mask: object) -> Tensor:
    """FlexAttention; plain on a CPU, where it is only walked through."""
    attend = _compiled_flex() if q_BSHK.is_cuda else _flex()
    q, k, v = (x.transpose(1, 2) for x in (q_BSHK, k_BSGK, v_BSGK))
    return attend(q, k, v, block_mask=mask, enable_gqa=True).transpose(1, 2)


def chunk_mask(tokens: int, chunk: int, device: torch.device) -> object:
    """FlexAttention's table of which blocks of keys each block of queries needs."""
    from torch.nn.attention.flex_attention import create_block_mask

    def seen(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (key // chunk == query // chunk)

    return create_block_mask(seen, None, None, tokens, tokens, device=device, _compile=device.type == "cuda")


def length_mask(seen_B: Tensor, slots: int) -> object:
    """The same for one query a row that sees its first slots."""
    from torch.nn.attention.flex_attention import create_block_mask

    def seen(b: Tensor, h: Tensor, query: Tensor, slot: Tensor) -> Tensor:
        return slot < seen_B[b]

    return create_block_mask(seen, len(seen_B), None, 1, slots, device=seen_B.device, _compile=seen_B.is_cuda)


def varlen_chunks(q_BSHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, ends: Tensor, chunk: int) -> Tensor:
    """Each chunk a sequence, causal; `ends` as `chunk_ends` gives them. One row."""
    packed = (x.flatten(0, 1) for x in (q_BSHK, k_BSGK, v_BSGK))
    return _varlen()(*packed, ends, ends, chunk, chunk, window_size=(-1, 0)).unflatten(0, q_BSHK.shape[:2])


def chunk_ends(tokens: int, chunk: int, device: torch.device) -> Tensor:
    """Where sequences begin, and the end: int32 `[chunks + 1]`."""
    return torch.tensor([*range(0, tokens, chunk), tokens], dtype=torch.int32, device=device)


def varlen_cache(q_BSHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, seen_B: Tensor) -> Tensor:
    """One query a row, each to the part of its row that is in use; from torch 2.12 on. `seen_B` int32."""
    (rows, slots), device = k_BTGK.shape[:2], q_BSHK.device
    queries = torch.arange(rows + 1, dtype=torch.int32, device=device)
    packed = (x.flatten(0, 1) for x in (q_BSHK, k_BTGK, v_BTGK))
    return _varlen("seqused_k")(*packed, queries, queries * slots, 1, slots, seqused_k=seen_B).unflatten(0, (rows, 1))


def masked(q_BSHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, seen_BS: Tensor) -> Tensor:
    """SDPA, its mask made in the call: it is of the call."""
    mask_BST = torch.arange(k_BTGK.shape[1], device=q_BSHK.device) < seen_BS[:, :, None]
    q, k, v = (x.transpose(1, 2) for x in (q_BSHK, k_BTGK, v_BTGK))
    return F.scaled_dot_product_attention(q, k, v, mask_BST[:, None], enable_gqa=True).transpose(1, 2)


def level(q_BSHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor) -> Tensor:
    """SDPA without a mask: every slot is seen."""
    q, k, v = (x.transpose(1, 2) for x in (q_BSHK, k_BTGK, v_BTGK))
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2)


def rotate_and_norm(q: Tensor, k: Tensor, turn: tuple[Tensor, Tensor], eps: float) -> tuple[Tensor, Tensor]:
    """The operators of llama4/rope.py and llama4/layers.py."""
    found = []
    for x in (q, k):
        pairs = torch.view_as_complex(rearrange(x.float(), "... (pair two) -> ... pair two", two=2))
        turned = rearrange(torch.view_as_real(pairs * torch.complex(*turn)), "... pair two -> ... (pair two)")
        found.append((turned * torch.rsqrt(turned.square().mean(-1, keepdim=True) + eps)).to(x.dtype))
    return found[0], found[1]


def exact(q_BSHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, chunk: int) -> Tensor:
    """Chunked attention in float32; differentiable, where its scores fit."""
    parts = []
    q, k, v = (x.float() for x in (q_BSHK, copied(k_BSGK, q_BSHK.shape[2]), copied(v_BSGK, q_BSHK.shape[2])))
    for begin in range(0, q.shape[1], chunk):
        for first in range(begin, min(begin + chunk, q.shape[1]), BLOCK):
            last = min(first + BLOCK, begin + chunk, q.shape[1])
            places = torch.arange(begin, last, device=q.device)
            later_ST = places[None, :] > places[first - begin :, None]
            scores = torch.einsum("bshk,bthk->bhst", q[:, first:last], k[:, begin:last]) * q.shape[-1] ** -0.5
            weights = scores.masked_fill_(later_ST, float("-inf")).softmax(-1)
            parts.append(torch.einsum("bhst,bthk->bshk", weights, v[:, begin:last]))
    return torch.cat(parts, dim=1)


def exact_decode(q_BSHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, seen_BS: Tensor) -> Tensor:
    """One query a row to its first slots, in float32, row by row."""
    sharing, rows = q_BSHK.shape[2] // k_BTGK.shape[2], []
    for q_SHK, k_TGK, v_TGK, seen in zip(q_BSHK, k_BTGK, v_BTGK, seen_BS[:, 0].tolist(), strict=True):
        q = rearrange(q_SHK[0].float(), "(g h) k -> g h k", h=sharing)
        weights = (torch.einsum("ghk,tgk->ght", q, k_TGK[:seen].float()) * q.shape[-1] ** -0.5).softmax(-1)
        rows.append(rearrange(torch.einsum("ght,tgk->ghk", weights, v_TGK[:seen].float()), "g h k -> 1 (g h) k"))
    return torch.stack(rows)


@functools.cache
def _flex() -> object:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention


@functools.cache
def _compiled_flex() -> object:
    return torch.compile(_flex(), dynamic=False)


@functools.cache
def _varlen(*needed: str) -> object:
    """torch's function with shared heads; NotImplementedError where this torch has it not, or a CPU would have to run it."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        varlen_attn = None
    known = inspect.signature(varlen_attn).parameters if varlen_attn else {}
    if not {"window_size", *needed} <= set(known) or not torch.cuda.is_available():
        raise NotImplementedError(
            f"varlen_attn with {', '.join(('window_size', *needed))} needs CUDA and a later torch"
        )
    return functools.partial(varlen_attn, **({"enable_gqa": True} if "enable_gqa" in known else {}))
