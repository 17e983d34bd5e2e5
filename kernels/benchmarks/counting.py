"""Bytes and FLOPs of a whole model's decode step and prefill, counted from its config: what a measured time is held against.

    decode    bytes = weights of every layer, once + head + the keys and values that are seen, B rows
    prefill   FLOPs = 2 · tokens · weights that a token uses + 4 · H · K · (query, key) pairs that see each other

Weights in int4 are 4 bits and a 16-bit scale for each group. Of E experts B tokens use E (1 - (1 - 1/E)^B) on average, evenly
routed. A context of n is what the newest token sees, itself included: its position is n - 1, so at a multiple of the chunk a
chunked layer sees a whole one. Left out, since it is under a hundredth: activations, norms, the embedding's rows.

Worked example, Scout at batch 1 and 1024 tokens: 48 layers of 4.125 bits · (62.9 M of attention + two experts of 125.8 M) and
164 KB of router are 7.8 GB, the bf16 head 2.1 GB, and the cache 0.2 GB.
"""

from __future__ import annotations

from dataclasses import dataclass

from llama4.config import Config, LayerSpec
from llama4.quant.int4 import group_of

NARROW = 2  # bytes of a bf16 number


@dataclass(frozen=True)
class Work:
    """What has to be read (or written) at least once, and computed."""

    bytes: float
    flops: float

    def floor_ms(self, read_tb_s: float, product_tflops: float) -> float:
        """The longer of the two at the speeds of one card's own ceilings."""
        return max(self.bytes / read_tb_s / 1e9, self.flops / product_tflops / 1e9)


def int4_bytes(rows: int, width: int) -> float:
    """Of a weight `[rows, width]`."""
    return rows * width / 2 + rows * width / group_of(width) * NARROW


def decode(config: Config, batch: int, context: int) -> Work:
    """One token for each of `batch` rows that then see `context` tokens."""
    bytes_, flops = config.vocab_size * config.width * NARROW, 2.0 * batch * config.vocab_size * config.width
    for spec in config.layers:
        used = _experts(config, batch) if spec.ffn == "moe" else 0
        bytes_ += _layer_bytes(config, spec, used) + batch * seen(config, spec, context) * slot_bytes(config)
        flops += 2.0 * batch * _weights_of_a_token(config, spec)
        flops += 4.0 * batch * config.heads * config.head_width * seen(config, spec, context)
    return Work(bytes_, flops)


def prefill(config: Config, tokens: int) -> Work:
    """One row of `tokens`, from an empty cache, up to the scores behind its last."""
    bytes_, flops = config.vocab_size * config.width * NARROW, 2.0 * config.vocab_size * config.width
    for spec in config.layers:
        used = _experts(config, tokens) if spec.ffn == "moe" else 0
        bytes_ += _layer_bytes(config, spec, used) + seen(config, spec, tokens) * slot_bytes(config)
        flops += 2.0 * tokens * _weights_of_a_token(config, spec)
        flops += 4.0 * config.heads * config.head_width * pairs(config, spec, tokens)
    return Work(bytes_, flops)


def seen(config: Config, spec: LayerSpec, context: int) -> int:
    """Tokens that the newest one sees, itself included: 8192 -> 8192, and in a chunked layer 8193 -> 1."""
    return context if spec.span == "all" else (context - 1) % config.chunk + 1


def pairs(config: Config, spec: LayerSpec, tokens: int) -> int:
    """(query, key) pairs of a causal prompt, within the chunks of a chunked layer."""
    if spec.span == "all":
        return tokens * (tokens + 1) // 2
    whole, rest = divmod(tokens, config.chunk)
    return whole * config.chunk * (config.chunk + 1) // 2 + rest * (rest + 1) // 2


def slot_bytes(config: Config) -> int:
    """A key and a value of one token in one layer."""
    return 2 * config.kv_heads * config.head_width * NARROW


def cache_bytes(config: Config, batch: int, context: int) -> int:
    """Buffers that hold `context` tokens a row: one chunk at most where the layer is chunked."""
    slots = sum(context if spec.span == "all" else min(context, config.chunk) for spec in config.layers)
    return batch * slots * slot_bytes(config)


def model_bytes(config: Config) -> float:
    """All weights: embedding and head in bf16, the layers in int4."""
    ends = 2 * config.vocab_size * config.width * NARROW
    return ends + sum(_layer_bytes(config, spec, config.experts) for spec in config.layers)


def _experts(config: Config, tokens: int) -> float:
    """How many of the routed ones `tokens` tokens use on average."""
    return config.experts * (1 - (1 - 1 / config.experts) ** tokens)


def _layer_bytes(config: Config, spec: LayerSpec, used: float) -> float:
    q, kv = config.heads * config.head_width, config.kv_heads * config.head_width
    attention = int4_bytes(q + 2 * kv, config.width) + int4_bytes(config.width, q)
    if spec.ffn == "dense":
        return (
            attention + int4_bytes(2 * config.dense_width, config.width) + int4_bytes(config.width, config.dense_width)
        )
    expert = int4_bytes(2 * config.expert_width, config.width) + int4_bytes(config.width, config.expert_width)
    return attention + (used + 1) * expert + config.experts * config.width * NARROW


def _weights_of_a_token(config: Config, spec: LayerSpec) -> int:
    q, kv = config.heads * config.head_width, config.kv_heads * config.head_width
    attention = config.width * (2 * q + 2 * kv)
    if spec.ffn == "dense":
        return attention + 3 * config.width * config.dense_width
    return attention + 2 * 3 * config.width * config.expert_width + config.experts * config.width
