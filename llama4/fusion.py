"""Early fusion: projected patches take the place of the `<|patch|>` tokens, and from there on all tokens are alike.

    x[n] = project(patch_r)   where n is the r-th <|patch|> of the call, counted row by row;   else   embedding[token n]

A tile is a group of `tokens_per_tile` (144) patch ids. What lies between the groups, the tile separators and the image's start
and end, are ordinary tokens with ordinary embeddings.

Source: `get_placeholder_mask` in modeling_llama4.py; `scatter_embeddings` in llama_models/llama4/vision/embedding.py, which
Meta's generation loop calls at the first step of a batch only, and so loses the patches past its shortest prompt. Here every
row is filled.
"""

from __future__ import annotations

from torch import Tensor, nn

from llama4.config import Config
from llama4.errors import InputError


class Fusion(nn.Module):
    """Projects encoded tiles to the decoder's width and puts them into the token stream."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.projection = nn.Linear(config.vision.adapter_width, config.width, bias=False)

    def forward(self, x_BSD: Tensor, patch_BS: Tensor, encoded: Tensor) -> Tensor:
        """Replace the embeddings where `patch_BS` is True by the projected `encoded`, in order.

        encoded: `[R, tokens_per_tile, adapter_width]`, one row of the first dimension a tile.
        """
        return x_BSD.masked_scatter(patch_BS[:, :, None], self.projection(encoded).to(x_BSD.dtype))


def check_groups(patch_BS: Tensor, tiles: int, tokens_per_tile: int) -> None:
    """Raise InputError unless the patch tokens make exactly `tiles` groups, none of them cut by the end of a row."""
    counts = patch_BS.sum(dim=1).tolist()  # the one wait for a device
    for row, count in enumerate(counts):
        if count % tokens_per_tile:
            raise InputError(
                f"Row {row} has {count} <|patch|> tokens in this call, not a multiple of the {tokens_per_tile} of a tile: "
                "pass each tile's tokens whole, in one call."
            )
    groups = sum(counts) // tokens_per_tile
    if groups != tiles:
        raise InputError(
            f"The tokens hold {groups} groups of {tokens_per_tile} <|patch|> ids and images hold {tiles} tiles: "
            "pass one tile for each group of this call's tokens."
        )
