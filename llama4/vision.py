"""The vision encoder: one 336 px tile in, 144 tokens out.

    patches (14 px) -> linear -> + class token -> + learned position -> norm -> 34 pre-norm blocks -> norm
    -> drop the class token -> pixel shuffle (2 x 2 patches become one token) -> two-layer adapter

Sources: llama_models/llama4/vision/{encoder,embedding}.py; `Llama4VisionModel` in modeling_llama4.py.

What is not obvious:
- The class token comes *last*, and so does its row of the position embedding.
- Attention is bidirectional, with biases; each tile is a sequence of its own and never sees another.
- The adapter applies GELU after *both* of its layers.
- LayerNorm's epsilon is 1e-5 whatever the configuration file says: both references ignore its `norm_eps`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from llama4 import ops, rope
from llama4.config import VisionConfig


class VisionAttention(nn.Module):
    """Bidirectional attention with 2-D RoPE on patches. `[R, P + 1, C]` -> the same."""

    def __init__(self, vision: VisionConfig) -> None:
        super().__init__()
        self.heads = vision.heads
        self.q = nn.Linear(vision.width, vision.width)
        self.k = nn.Linear(vision.width, vision.width)
        self.v = nn.Linear(vision.width, vision.width)
        self.o = nn.Linear(vision.width, vision.width)

    def forward(self, x_RPC: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        q, k, v = (
            rearrange(linear(x_RPC), "r p (h k) -> r p h k", h=self.heads) for linear in (self.q, self.k, self.v)
        )
        q, k = (rope.rotate(x, turn).to(x_RPC.dtype) for x in (q, k))
        out_RHPK = ops.attention(*(x.transpose(1, 2) for x in (q, k, v)), mask=None, is_causal=False)
        return self.o(rearrange(out_RHPK, "r h p k -> r p (h k)"))


class VisionMLP(nn.Module):
    """linear, exact GELU, linear; with biases."""

    def __init__(self, vision: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision.width, vision.mlp_width)
        self.fc2 = nn.Linear(vision.mlp_width, vision.width)

    def forward(self, x_RPC: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x_RPC)))


class VisionBlock(nn.Module):
    """One pre-norm layer of the encoder. `[R, P + 1, C]` -> the same."""

    def __init__(self, vision: VisionConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(vision.width)
        self.attention = VisionAttention(vision)
        self.mlp_norm = nn.LayerNorm(vision.width)
        self.mlp = VisionMLP(vision)

    def forward(self, x_RPC: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        x_RPC = x_RPC + self.attention(self.attention_norm(x_RPC), turn)
        return x_RPC + self.mlp(self.mlp_norm(x_RPC))


class Adapter(nn.Module):
    """Two layers without biases from shuffled patches to the width that the projection expects; GELU after both."""

    def __init__(self, vision: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision.width * vision.shuffle**2, vision.adapter_width, bias=False)
        self.fc2 = nn.Linear(vision.adapter_width, vision.adapter_width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.fc2(F.gelu(self.fc1(x))))


class VisionEncoder(nn.Module):
    """Tiles `[R, 3, side, side]` -> tokens `[R, tokens_per_tile, adapter_width]`."""

    def __init__(self, vision: VisionConfig) -> None:
        super().__init__()
        self.config = vision
        self.patch_embedding = nn.Linear(3 * vision.patch_side**2, vision.width, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(vision.width))
        self.position_embedding = nn.Parameter(torch.empty(vision.patches + 1, vision.width))
        self.norm_pre = nn.LayerNorm(vision.width)
        self.layers = nn.ModuleList(VisionBlock(vision) for _ in range(vision.layers))
        self.norm_post = nn.LayerNorm(vision.width)
        self.adapter = Adapter(vision)

    def forward(self, tiles: Tensor) -> Tensor:
        x_RPC = self.norm_pre(self.embed(tiles) + self.position_embedding)
        turn = rope.vision_rotation(self.config, tiles.device)
        for layer in self.layers:
            x_RPC = layer(x_RPC, turn)
        return self.adapter(pixel_shuffle(self.norm_post(x_RPC)[:, :-1], self.config))

    def embed(self, tiles: Tensor) -> Tensor:
        """Cut tiles into patches, embed each, append the class token: `[R, P + 1, C]`."""
        side = self.config.patch_side
        patches = rearrange(tiles, "r c (y py) (x px) -> r (y x) (c py px)", py=side, px=side)
        x_RPC = self.patch_embedding(patches.to(self.patch_embedding.weight.dtype))
        return torch.cat((x_RPC, repeat(self.class_embedding, "c -> r 1 c", r=tiles.shape[0])), dim=1)


def pixel_shuffle(x_RPC: Tensor, vision: VisionConfig) -> Tensor:
    """Join each square of shuffle x shuffle patches into one token, channels side by side, row by row of the square.

    Released size: 24 x 24 patches of 1408 -> 12 x 12 tokens of 5632.
    """
    return rearrange(
        x_RPC, "r (y i x j) c -> r (y x) (i j c)", i=vision.shuffle, j=vision.shuffle, x=vision.grid // vision.shuffle
    )
