"""The whole model: vision encoder, fusion, decoder.

    tokens, tiles -> embeddings with patches in place -> decoder -> logits

Source: `Llama4ForConditionalGeneration` in modeling_llama4.py; `Transformer` in llama_models/llama4/model.py.
Parameters carry this project's names; checkpoint/names.py maps them to both official ones.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from llama4.cache import KVCache, Step
from llama4.config import Config
from llama4.errors import InputError
from llama4.fusion import Fusion, check_groups
from llama4.layers import RMSNorm
from llama4.moe import Experts
from llama4.transformer import Decoder
from llama4.vision import VisionEncoder

INIT_STD = 0.02


class Llama4(nn.Module):
    """Llama 4 of any size. Built on the meta device it holds shapes only; elsewhere its weights are drawn (`INIT_STD`)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.decoder = Decoder(config)
        if config.vision is not None:
            self.vision = VisionEncoder(config.vision)
            self.fusion = Fusion(config)
        initialise(self)

    def forward(
        self,
        tokens_BS: Tensor,
        images: Tensor | None = None,
        cache: KVCache | None = None,
        lengths_B: Tensor | None = None,
        logits: Literal["all", "last"] = "all",
    ) -> Tensor:
        """Scores of the next token: float32 `[B, S, V]`, or `[B, 1, V]` of each row's last real position with `logits="last"`.

        tokens_BS: int64 ids, rows right-padded. Row b uses its first `lengths_B[b]` tokens (all of them without `lengths_B`);
            logits past a row's length are undefined.
        images: float `[R, 3, side, side]`; tile r fills the r-th group of `tokens_per_tile` patch ids, row-major over
            `tokens_BS`, of this call's tokens only.
        cache: from `new_cache`; row b goes on from position `cache.lengths_B[b]`, and the cache advances by `lengths_B`.
        Raises InputError (a ValueError) for tiles that do not match, a full cache, and, on the CPU, ids out of range. Nothing is
        written then.
        """
        counts = self._counts(tokens_BS, lengths_B)
        if logits not in ("all", "last"):
            raise InputError(f'logits is {logits!r}: ask for "all" or "last".')
        if cache is None:
            step = Step((0,) * len(counts), counts, tokens_BS.shape[1], tokens_BS.device)
        else:
            step = cache.plan(counts, tokens_BS.shape[1])
        tokens_BS = _blank_padding(tokens_BS, step)
        self._check_ids(tokens_BS)
        x_BSD = self.decoder(self.embed(tokens_BS, images, step), step, cache)
        if cache is not None:
            cache.advance(step)
        if logits == "last":
            last_B = torch.tensor([max(count - 1, 0) for count in counts], device=x_BSD.device)
            x_BSD = x_BSD[torch.arange(len(counts), device=x_BSD.device), last_B][:, None]
        return self.decoder.logits(x_BSD)

    def embed(self, tokens_BS: Tensor, images: Tensor | None, step: Step) -> Tensor:
        """Token embeddings with projected patches in place: `[B, S, D]`."""
        if self.config.vision is None:
            if images is not None:
                raise InputError(
                    "This model has no vision encoder: leave out the images or load a multimodal checkpoint."
                )
            return self._embed_tokens(tokens_BS, step)
        patch_BS = (tokens_BS == self.config.patch_id) & step.once("valid", lambda: step.valid_BS)
        check_groups(patch_BS, 0 if images is None else self._tiles(images), self.config.vision.tokens_per_tile)
        x_BSD = self._embed_tokens(tokens_BS, step)
        if images is None or len(images) == 0:
            return x_BSD
        return self.fusion(x_BSD, patch_BS, self.vision(images))

    def _embed_tokens(self, tokens_BS: Tensor, step: Step) -> Tensor:
        """Padding gets zeros, so that nothing it might hold, not even a NaN, comes near the real tokens."""
        x_BSD = self.decoder.embedding(tokens_BS)
        if min(step.counts) == step.width:
            return x_BSD
        return x_BSD.masked_fill(~step.once("valid", lambda: step.valid_BS)[:, :, None], 0.0)

    def new_cache(self, batch_size: int, max_tokens: int) -> KVCache:
        """An empty cache for `batch_size` rows of at most `max_tokens` tokens, in the model's dtype and on its device."""
        return KVCache(self.config, batch_size, max_tokens, like=self.decoder.embedding.weight)

    def _counts(self, tokens_BS: Tensor, lengths_B: Tensor | None) -> tuple[int, ...]:
        if tokens_BS.dim() != 2 or tokens_BS.dtype not in (torch.int64, torch.int32) or tokens_BS.numel() == 0:
            raise InputError(
                f"tokens_BS is a {tokens_BS.dtype} tensor of shape {list(tokens_BS.shape)}: "
                "pass int64 ids [batch, tokens] with at least one token."
            )
        batch, width = tokens_BS.shape
        if lengths_B is None:
            return (width,) * batch
        lengths_B = torch.as_tensor(lengths_B)
        whole = lengths_B.dtype in (torch.int64, torch.int32) and lengths_B.shape == (batch,)
        if not whole or not all(0 <= count <= width for count in lengths_B.tolist()):
            raise InputError(
                f"lengths_B is {lengths_B.tolist()}: pass one whole length from 0 to {width} for each of {batch} rows."
            )
        return tuple(lengths_B.tolist())

    def _check_ids(self, tokens_BS: Tensor) -> None:
        if tokens_BS.is_meta or tokens_BS.is_cuda:  # a card would be waited for at every step; engine.py checks prompts
            return
        low, high = int(tokens_BS.min()), int(tokens_BS.max())
        if low < 0 or high >= self.config.vocab_size:
            raise InputError(
                f"Token id {low if low < 0 else high} lies outside the vocabulary of {self.config.vocab_size}: "
                "use the tokenizer that belongs to this checkpoint."
            )

    def _tiles(self, images: Tensor) -> int:
        side = self.config.vision.tile_side
        if images.dim() != 4 or tuple(images.shape[1:]) != (3, side, side) or not images.is_floating_point():
            raise InputError(
                f"images is a {images.dtype} tensor of shape {list(images.shape)}: "
                f"pass float tiles [tiles, 3, {side}, {side}], as llama4.image.tiles makes them."
            )
        return images.shape[0]


def _blank_padding(tokens_BS: Tensor, step: Step) -> Tensor:
    """0 for the ids past a row's length, which may be anything, -100 too."""
    if min(step.counts) == step.width:
        return tokens_BS
    return tokens_BS.masked_fill(~step.once("valid", lambda: step.valid_BS), 0)


@torch.no_grad()
def initialise(model: nn.Module, std: float = INIT_STD) -> None:
    """Draw every weight from N(0, std^2); norms become the identity, biases 0. On the meta device there is nothing to draw."""
    if all(parameter.is_meta for parameter in model.parameters()):
        return  # torch would spend a second on importing its meta-device normal_
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.normal_(0.0, std)
            if getattr(module, "bias", None) is not None:
                module.bias.zero_()
        elif isinstance(module, Experts):
            module.gate_up.normal_(0.0, std)
            module.down.normal_(0.0, std)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, RMSNorm):
            module.weight.fill_(1.0)
        elif isinstance(module, VisionEncoder):
            module.class_embedding.normal_(0.0, std)
            module.position_embedding.normal_(0.0, std)
