"""Grouped-query attention as iRoPE has it: chunked layers with positions, global layers without.

    RoPE layer:  q, k = rms(rotate(q)), rms(rotate(k))    attends inside its own chunk   (rms: Scout's QK norm)
    NoPE layer:  q = q * temperature(position)            attends to everything before
    out = softmax(q k^T / sqrt(K)) v, H query heads over G key/value heads

Sources: `Attention` in llama_models/llama4/model.py; `Llama4TextAttention` in modeling_llama4.py; temperature: arXiv 2501.19399.

What is not obvious:
- The QK norm comes *after* the rotation, has no weight, and norms each head by itself.
- A chunked layer only ever compares positions of one chunk, so turning by the position *inside* the chunk gives the same
  scores and keeps fp32 angles good to 0.0003 rad: at 10 M tokens the references' relative angles are off by up to 0.8.
- A chunk that starts empty is plain causal attention. So a long prompt is folded, chunks onto the batch dimension, and costs
  S * chunk; no mask of S x S is ever made. On a cache, a call is cut where a row enters a new chunk.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from llama4 import masks, ops, rope
from llama4.cache import LayerCache, StaticStep, Step
from llama4.config import Config, LayerSpec, Temperature
from llama4.layers import Linear, rms_norm

QUERY_BLOCK = 512  # queries that share one [block, T] mask, at most, when a global layer goes on from a cache


class Attention(nn.Module):
    """One attention layer; `spec` decides, when it is built, how positions enter and how far it sees."""

    def __init__(self, config: Config, spec: LayerSpec) -> None:
        super().__init__()
        self.kv_heads, self.head_width = config.kv_heads, config.head_width
        self.q = Linear(config.width, config.heads * config.head_width)
        self.k = Linear(config.width, config.kv_heads * config.head_width)
        self.v = Linear(config.width, config.kv_heads * config.head_width)
        self.o = Linear(config.heads * config.head_width, config.width)
        self.positions = Rotary(config, spec) if spec.position == "rope" else NoPosition(config.temperature)
        self.reach = WithinChunk(config.chunk) if spec.span == "chunk" else Everything(config.chunk or QUERY_BLOCK)

    def forward(self, x_BSD: Tensor, step: Step | StaticStep, cache: LayerCache | None) -> Tensor:
        """`[B, S, D]` -> `[B, S, D]`; appends this step's keys and values to `cache` where there is one."""
        q_BSHK, k_BSGK, v_BSGK = self.project(x_BSD, step)
        if isinstance(step, StaticStep):
            out_BSHK = _one_token(q_BSHK, k_BSGK, v_BSGK, step, cache)
        elif step.fresh:
            out_BSHK = self.reach.fresh(q_BSHK, k_BSGK, v_BSGK)
            if cache is not None:
                cache.append(k_BSGK, v_BSGK, step)
        else:
            out_BSHK = self.reach.cached(q_BSHK, k_BSGK, v_BSGK, step, cache)
        return self.o(rearrange(out_BSHK, "b s h k -> b s (h k)"))

    def project(self, x_BSD: Tensor, step: Step | StaticStep) -> tuple[Tensor, Tensor, Tensor]:
        """Queries `[B, S, H, K]`, keys and values `[B, S, G, K]`, with positions in them: what is compared and cached."""
        q_BSHK = rearrange(self.q(x_BSD), "b s (h k) -> b s h k", k=self.head_width)
        k_BSGK = rearrange(self.k(x_BSD), "b s (g k) -> b s g k", k=self.head_width)
        v_BSGK = rearrange(self.v(x_BSD), "b s (g k) -> b s g k", k=self.head_width)
        return *self.positions(q_BSHK, k_BSGK, step), v_BSGK


class Rotary:
    """RoPE layers: turn q and k by their position (inside the chunk, where there is one), then norm them."""

    def __init__(self, config: Config, spec: LayerSpec) -> None:
        self.config = config
        self.in_chunk = spec.span == "chunk"

    def __call__(self, q_BSHK: Tensor, k_BSGK: Tensor, step: Step | StaticStep) -> tuple[Tensor, Tensor]:
        config = self.config
        turn = step.once(("turn", self.in_chunk), lambda: self.turn(step))
        if ops.turns(q_BSHK):
            if config.qk_norm:
                return ops.rotate_and_norm(q_BSHK, k_BSGK, turn, config.norm_eps)
            return ops.rotate(q_BSHK, k_BSGK, turn)
        q_turned, k_turned = rope.rotate(q_BSHK, turn), rope.rotate(k_BSGK, turn)
        if config.qk_norm:
            q_turned, k_turned = rms_norm(q_turned, config.norm_eps), rms_norm(k_turned, config.norm_eps)
        return q_turned.to(q_BSHK.dtype), k_turned.to(k_BSGK.dtype)

    def turn(self, step: Step | StaticStep) -> tuple[Tensor, Tensor]:
        """Cosine and sine of every token's angles: two float32 `[B, S, 1, K/2]`."""
        config = self.config
        freqs = rope.frequencies(config.head_width, config.rope_theta, config.rope_scaling, step.device)
        positions_BS = step.positions_BS % config.chunk if self.in_chunk else step.positions_BS
        return rope.rotation(positions_BS, freqs)


class NoPosition:
    """NoPE layers: q and k carry no position; far from the start, q is made larger so that attention stays sharp."""

    def __init__(self, temperature: Temperature | None) -> None:
        self.temperature = temperature

    def __call__(self, q_BSHK: Tensor, k_BSGK: Tensor, step: Step | StaticStep) -> tuple[Tensor, Tensor]:
        if self.temperature is None:
            return q_BSHK, k_BSGK
        scale_BS = step.once("temperature", lambda: temperature_scale(step.positions_BS, self.temperature))
        return (q_BSHK * scale_BS[:, :, None, None]).to(q_BSHK.dtype), k_BSGK


def temperature_scale(positions_BS: Tensor, temperature: Temperature) -> Tensor:
    """`1 + scale * ln(1 + floor((position + 1) / floor))`, float32: 1 up to position 8190, 1.069 at 8191, 1.716 at 10.5 M."""
    return 1.0 + temperature.scale * torch.log1p(torch.floor((positions_BS.float() + 1.0) / temperature.floor))


class Everything:
    """A query sees every earlier position of its row."""

    def __init__(self, block: int) -> None:
        """`block` queries share a mask: the chunk, so that no layer of a model holds more than chunk x T at a time."""
        self.block = min(block, QUERY_BLOCK)

    def fresh(self, q_BSHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor) -> Tensor:
        """Attention of a call whose rows begin at position 0."""
        return _causal(q_BSHK, k_BSGK, v_BSGK)

    def cached(self, q_BSHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, step: Step, cache: LayerCache) -> Tensor:
        """Attention of a call that goes on from what `cache` holds."""
        cache.append(k_BSGK, v_BSGK, step)
        parts = []
        for first in range(0, step.width, self.block):
            piece = step.columns(first, min(first + self.block, step.width))
            k_BTGK, v_BTGK = cache.seen(piece.end)
            parts.append(_up_to(q_BSHK[:, first : first + piece.width], k_BTGK, v_BTGK, piece, cache.period))
        return torch.cat(parts, dim=1)


class WithinChunk:
    """A query sees the earlier positions of its own chunk only."""

    def __init__(self, chunk: int) -> None:
        self.chunk = chunk

    def fresh(self, q_BSHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor) -> Tensor:
        """Whole chunks, folded onto the batch, are causal attention; so is the part of a chunk that is left."""
        whole = q_BSHK.shape[1] // self.chunk * self.chunk
        if whole == 0:
            return _causal(q_BSHK, k_BSGK, v_BSGK)
        folded = [rearrange(x[:, :whole], "b (n c) h k -> (b n) c h k", c=self.chunk) for x in (q_BSHK, k_BSGK, v_BSGK)]
        out_BSHK = rearrange(_causal(*folded), "(b n) c h k -> b (n c) h k", b=q_BSHK.shape[0])
        if whole == q_BSHK.shape[1]:
            return out_BSHK
        rest_BSHK = _causal(q_BSHK[:, whole:], k_BSGK[:, whole:], v_BSGK[:, whole:])
        return torch.cat((out_BSHK, rest_BSHK), dim=1)

    def cached(self, q_BSHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, step: Step, cache: LayerCache) -> Tensor:
        """Piece by piece: within a piece every row stays in one chunk, which the buffer holds whole."""
        parts = []
        for first, last in step.pieces(self.chunk):
            piece = step.columns(first, last)
            cache.append(k_BSGK[:, first:last], v_BSGK[:, first:last], piece)
            slots = max(start % self.chunk for start in piece.starts) + piece.width
            k_BTGK, v_BTGK = cache.seen(slots)
            parts.append(_up_to(q_BSHK[:, first:last], k_BTGK, v_BTGK, piece, self.chunk))
        return torch.cat(parts, dim=1)


def _up_to(q_BSHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, step: Step, period: int) -> Tensor:
    """Each query sees the slots up to its own position's. One query, level in all rows, sees every slot that it is given."""
    if step.width == 1 and step.in_step:
        return _attend(q_BSHK, k_BTGK, v_BTGK, mask=None, is_causal=False)
    if ops.reads_slots(q_BSHK, k_BTGK.shape[2]):
        seen_BS = step.once(("counted", period), lambda: step.positions_BS % period + 1)
        return ops.decode_attention(q_BSHK, k_BTGK, v_BTGK, seen_BS)
    # Made anew in every layer: kept for the call, the masks of its pieces would add up to S x T.
    mask_BST = masks.cached(step.positions_BS, k_BTGK.shape[1], period)
    return _attend(q_BSHK, k_BTGK, v_BTGK, mask=mask_BST[:, None], is_causal=False)


def _one_token(q_B1HK: Tensor, k_B1GK: Tensor, v_B1GK: Tensor, step: StaticStep, cache: LayerCache) -> Tensor:
    """In a global layer and a chunked one alike: what is seen is a number on the device, up to which the kernel reads.

    Without the kernel every slot is read, and a mask hides what is not seen.
    """
    cache.put(k_B1GK, v_B1GK, step)
    if ops.reads_slots(q_B1HK, k_B1GK.shape[2]):
        seen_B1 = step.once(("counted", cache.period), lambda: step.positions_BS % cache.period + 1)
        return ops.decode_attention(q_B1HK, cache.k_BTGK, cache.v_BTGK, seen_B1)
    slots = cache.k_BTGK.shape[1]
    mask_B1T = step.once(("seen", slots, cache.period), lambda: masks.cached(step.positions_BS, slots, cache.period))
    return _attend(q_B1HK, cache.k_BTGK, cache.v_BTGK, mask=mask_B1T[:, None], is_causal=False)


def _causal(q_BSHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor) -> Tensor:
    return _attend(q_BSHK, k_BSGK, v_BSGK, mask=None, is_causal=True)


def _attend(q_BSHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q_BSHK, k_BTGK, v_BTGK))
    return ops.attention(q, k, v, mask, is_causal).transpose(1, 2)
