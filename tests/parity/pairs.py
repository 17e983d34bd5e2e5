"""A reference model and ours with the same weights, and the list of places where the two can be compared.

The weights are drawn in the reference, and reach ours through the package's own name tables: the ladder tests those too. The
reference is float32 on a CPU (`tests/reference_hf.py`, `tests/reference_meta.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from compare import Place, assert_same_run
from torch import Tensor

from llama4 import Config, Llama4
from llama4.cache import Step
from llama4.checkpoint.names import hf_names, meta_rows
from llama4.checkpoint.transforms import from_file
from llama4.config_io.hf import from_hf
from llama4.config_io.meta import from_meta

NO_CHUNK = (
    1 << 16
)  # transformers 5.23 fails on attention_chunk_size null: a chunk longer than any prompt means the same


@dataclass(frozen=True)
class Pair:
    """Ours and a reference, with equal weights."""

    ours: Llama4
    reference: Any
    places: list[Place]

    @property
    def config(self) -> Config:
        """The configuration of ours, which was read from the reference's own."""
        return self.ours.config

    def run_ours(self, tokens_BS: Tensor, images: list[Tensor] | None = None) -> Tensor:
        """Logits `[B, S, V]`; `images` holds every row's tiles."""
        return self.ours(tokens_BS, images=None if images is None else torch.cat(images))

    def run_reference(self, tokens_BS: Tensor, images: list[Tensor] | None = None) -> Tensor:
        """Logits `[B, S, V]` of one prefill."""
        raise NotImplementedError

    def assert_same(self, tokens_BS: Tensor, images: list[Tensor] | None = None) -> None:
        """One prefill in each; a failure names the first layer that diverges."""
        assert_same_run(
            self.places, lambda: self.run_ours(tokens_BS, images), lambda: self.run_reference(tokens_BS, images)
        )


class HfPair(Pair):
    """Ours and transformers'."""

    def run_reference(self, tokens_BS: Tensor, images: list[Tensor] | None = None) -> Tensor:
        pixels = {} if images is None else {"pixel_values": torch.cat(images)}
        return self.reference(input_ids=tokens_BS, use_cache=False, **pixels).logits

    @property
    def text(self) -> Any:
        """The reference's `Llama4TextModel`."""
        return getattr(self.reference, "language_model", self.reference).model


class MetaPair(Pair):
    """Ours and Meta's."""

    def run_reference(self, tokens_BS: Tensor, images: list[Tensor] | None = None) -> Tensor:
        from reference_meta import meta_logits

        return meta_logits(self.reference, tokens_BS, images, self.config.patch_id)


def hf_pair(config: dict[str, Any], seed: int = 0, attn: str = "sdpa") -> HfPair:
    """A pair from the contents of a `config.json`, with the reference's attention "sdpa" or "eager"."""
    from reference_hf import hf_model

    ours = Llama4(from_hf(config)).eval()
    reference = hf_model(_without_null_chunk(config), seed, attn)
    _fill_from_hf(ours, reference)
    text = getattr(reference, "language_model", reference).model
    places = _decoder_places(ours, text.layers, text.norm)
    if ours.config.vision is not None:
        encoder = reference.vision_model
        places = _vision_places(ours, encoder.model.layers, encoder.vision_adapter) + places
    return HfPair(ours, reference, places)


def meta_pair(args: dict[str, Any], seed: int = 0) -> MetaPair:
    """A pair from the contents of a `params.json`."""
    from reference_meta import meta_model

    ours = Llama4(from_meta(args)).eval()
    reference = meta_model(args, seed)
    _fill_from_meta(ours, reference)
    places = _decoder_places(ours, reference.layers, reference.norm)
    if ours.config.vision is not None:
        encoder = reference.vision_embeddings.vision_encoder
        adapter = reference.vision_embeddings.vision_adapter
        places = _vision_places(ours, encoder.transformer.resblocks, adapter) + places
    return MetaPair(ours, reference, places)


def tiled_prompt(pair: Pair, tokens_BS: Tensor, tiles: tuple[int, ...], seed: int) -> tuple[Tensor, list[Tensor]]:
    """`drawn_configs.with_tiles` with this pair's sizes."""
    from drawn_configs import with_tiles

    vision = pair.config.vision
    return with_tiles(tokens_BS, pair.config.patch_id, vision.tokens_per_tile, tiles, vision.tile_side, seed)


def _fill_from_hf(ours: Llama4, reference: Any) -> None:
    theirs = reference.state_dict()
    ours.load_state_dict({name: theirs[hf_name] for name, hf_name in hf_names(ours.config).items()})


@torch.no_grad()
def _fill_from_meta(ours: Llama4, reference: Any) -> None:
    theirs, mine = reference.state_dict(), dict(ours.named_parameters())
    rows = meta_rows(ours.config, "load")
    assert {row.name for row in rows} == set(theirs), "the name table and Meta's state dict name different tensors"
    for row in rows:
        from_file(row, theirs[row.name], [mine[name] for name in row.ours], shard=0, shards=1)


def _without_null_chunk(config: dict[str, Any]) -> dict[str, Any]:
    if "text_config" in config:
        return {**config, "text_config": _without_null_chunk(config["text_config"])}
    return {**config, "attention_chunk_size": config["attention_chunk_size"] or NO_CHUNK}


def _decoder_places(ours: Llama4, layers: Any, norm: Any) -> list[Place]:
    entry = Place("the decoder's input", ours.decoder.layers[0], layers[0], entry=True)
    rows = zip(ours.config.layers, ours.decoder.layers, layers, strict=True)
    blocks = [
        Place(f"decoder layer {index} ({spec.position}, {spec.span}, {spec.ffn})", mine, theirs)
        for index, (spec, mine, theirs) in enumerate(rows)
    ]
    return [entry, *blocks, Place("the final norm", ours.decoder.norm, norm)]


def _vision_places(ours: Llama4, layers: Any, adapter: Any) -> list[Place]:
    pairs = enumerate(zip(ours.vision.layers, layers, strict=True))
    blocks = [Place(f"vision layer {index}", mine, theirs) for index, (mine, theirs) in pairs]
    entry = Place("the vision encoder's input", ours.vision.layers[0], layers[0], entry=True)
    return [entry, *blocks, Place("the vision adapter", ours.vision.adapter, adapter)]


def step_of(x_BSD: Tensor) -> Step:
    """The step of a prefill from position 0 on full rows: what a block of ours is called with."""
    batch, length = x_BSD.shape[:2]
    return Step((0,) * batch, (length,) * batch, length, x_BSD.device)


def hf_inputs(pair: HfPair, x_BSD: Tensor, layer: int) -> dict[str, Any]:
    """What transformers' decoder layer and its attention are called with, beside the hidden states, in a prefill."""
    from transformers.masking_utils import create_causal_mask, create_chunked_causal_mask

    position_ids = torch.arange(x_BSD.shape[1])[None]
    make = create_chunked_causal_mask if pair.config.layers[layer].span == "chunk" else create_causal_mask
    mask = make(
        config=pair.text.config,
        inputs_embeds=x_BSD,
        attention_mask=None,
        past_key_values=None,
        position_ids=position_ids,
    )
    return {"position_embeddings": pair.text.rotary_emb(x_BSD, position_ids), "attention_mask": mask}


def meta_inputs(pair: MetaPair, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Meta's rotations, its causal and its chunked mask for a prefill of `length` tokens."""
    from llama_models.llama4.model import create_chunked_attention_mask

    causal = torch.full((length, length), float("-inf")).triu(1)
    chunked = create_chunked_attention_mask(length, pair.config.chunk, torch.device("cpu"))
    return pair.reference.freqs_cis[:length], causal, chunked
