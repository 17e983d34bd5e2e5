"""A Hugging Face checkpoint: safetensors whose tensors are our parameters under other names.

Both layouts fuse and order things alike (experts `[E, D, 2F]`, gate then up), so a parameter *is* a stretch of the file: it
aliases the map, and loading reads nothing until the model runs. Only a change of dtype or device copies, tensor by tensor,
letting go of each one's pages: 1 x the weights held plus one tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from llama4.checkpoint.folder import hf_entries
from llama4.checkpoint.names import TEXT_PREFIX, hf_names
from llama4.checkpoint.safetensors_file import Entry, Mapping
from llama4.checkpoint.shapes import parameter_shapes
from llama4.checkpoint.source import Advance, require_floating, require_same_names, require_shape
from llama4.config import Config
from llama4.errors import InputError


class HFSource:
    """The safetensors of a folder, checked against `config` by their headers."""

    def __init__(self, folder: Path, config: Config) -> None:
        entries = hf_entries(folder)
        prefix = TEXT_PREFIX if any(name.startswith(TEXT_PREFIX) for name in entries) else ""
        names, shapes = hf_names(config, prefix), parameter_shapes(config)
        head = f"{prefix}lm_head.weight"
        if config.tied_embeddings and head in entries:  # some programs write the tied head a second time
            _require_equal(entries.pop(head), entries.get(names["decoder.embedding.weight"]))
        require_same_names(set(entries), set(names.values()), str(folder))
        for ours, name in names.items():
            entry = entries[name]
            require_floating(name, str(entry.file), entry.dtype)
            require_shape(name, str(entry.file), entry.shape, shapes[ours])
        self.official = names
        self.entries = {ours: entries[name] for ours, name in names.items()}
        self.dtypes = {entry.name: (str(entry.file), entry.dtype) for entry in self.entries.values()}
        self.nbytes = sum(entry.nbytes for entry in self.entries.values())

    def tensors(self, dtype: torch.dtype, device: torch.device, advance: Advance) -> Iterator[tuple[str, Tensor]]:
        """See `Source.tensors`. Goes through one file after the other, so that each is mapped only while it is needed."""
        mapping, file = None, None
        for ours, entry in sorted(self.entries.items(), key=lambda item: (item[1].file, item[1].start)):
            if mapping is None or entry.file != file:
                mapping, file = Mapping(entry.file), entry.file
            mapped = mapping.tensor(entry)
            tensor = mapped.to(device=device, dtype=dtype)
            if tensor is not mapped:
                mapping.release(entry)
            yield ours, tensor
            advance(entry.nbytes)


def _require_equal(head: Entry, embedding: Entry | None) -> None:
    if embedding is None:
        return  # reported as missing
    require_shape(head.name, str(head.file), head.shape, embedding.shape)
    first, second = (Mapping(entry.file).tensor(entry) for entry in (head, embedding))
    if head.dtype != embedding.dtype or not torch.equal(first.view(torch.uint8), second.view(torch.uint8)):
        raise InputError(
            f"{head.file} holds a {head.name} unlike the embedding though the config ties them: set tie_word_embeddings to false."
        )
