"""The decoder: token embeddings, pre-norm blocks, final norm, output head.

    x = x + attention(norm(x))
    x = x + ffn(norm(x))            ffn: one dense SwiGLU, or the mixture of experts, as the layer table says

Source: `TransformerBlock` and `Transformer` in llama_models/llama4/model.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llama4 import ops
from llama4.attention import Attention
from llama4.cache import KVCache, LayerCache, StaticStep, Step
from llama4.config import Config, LayerSpec
from llama4.layers import FeedForward, Linear, RMSNorm
from llama4.moe import MoE


class Block(nn.Module):
    """One layer of the decoder. `[B, S, D]` -> `[B, S, D]`."""

    def __init__(self, config: Config, spec: LayerSpec) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width, config.norm_eps)
        self.attention = Attention(config, spec)
        self.ffn_norm = RMSNorm(config.width, config.norm_eps)
        self.ffn = MoE(config) if spec.ffn == "moe" else FeedForward(config.width, config.dense_width)

    def forward(self, x_BSD: Tensor, step: Step | StaticStep, cache: LayerCache | None) -> Tensor:
        x_BSD = x_BSD + self.attention(self.attention_norm(x_BSD), step, cache)
        return x_BSD + self.ffn(self.ffn_norm(x_BSD))


class Decoder(nn.Module):
    """Embeddings in, hidden states out; `logits` is apart, since most calls want it for one position a row."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        empty_VD = torch.empty(config.vocab_size, config.width)  # drawn or loaded later, not twice
        self.embedding = nn.Embedding.from_pretrained(empty_VD, freeze=False)
        self.layers = nn.ModuleList(Block(config, spec) for spec in config.layers)
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.tied = config.tied_embeddings
        if not self.tied:
            self.head = Linear(config.width, config.vocab_size)

    def forward(self, x_BSD: Tensor, step: Step | StaticStep, cache: KVCache | None) -> Tensor:
        """Run every layer and the final norm. `[B, S, D]` -> `[B, S, D]`."""
        for index, layer in enumerate(self.layers):
            x_BSD = layer(x_BSD, step, None if cache is None else cache.layers[index])
        return self.norm(x_BSD)

    def logits(self, x_BSD: Tensor) -> Tensor:
        """Scores of the next token, float32 `[B, S, V]`; tied models read the embedding a second time."""
        weight_VD = self.embedding.weight if self.tied else self.head.weight
        return ops.linear(x_BSD, weight_VD).float()
