"""A Meta checkpoint: `params.json` and consolidated.00.pth, …, one file a rank of tensor parallelism.

Which tensor of the files fills which part of our parameters is data (names.py), and how is transforms.py. Here every row is
matched with what the files hold, every part of every parameter must be filled exactly once, and nothing may be left over.
Reading goes parameter by parameter: allocate it, copy the pieces of all shards into place, let go of their pages. So at most
the weights and one piece are in memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from llama4.checkpoint.folder import meta_files
from llama4.checkpoint.memory import release
from llama4.checkpoint.names import META_BOTH, META_READ, Row, meta_rows
from llama4.checkpoint.shapes import parameter_shapes
from llama4.checkpoint.source import Advance, require_floating, require_same_names, require_shape, short
from llama4.checkpoint.torch_file import open_shard
from llama4.checkpoint.transforms import file_shape, from_file
from llama4.config import Config
from llama4.errors import InputError


@dataclass
class _Group:
    """Parameters that share rows (q, k, v through wqkv; one alone otherwise), and those rows."""

    ours: list[str]
    rows: list[Row]


class MetaSource:
    """The shards of a folder, checked against `config` by names, shapes and dtypes."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.files = meta_files(folder)
        self.shards = [_prefer_raw_positions(open_shard(file)) for file in self.files]
        self.shapes = parameter_shapes(config)
        rows = _choose_rows(config, set(self.shards[0]), self.files[0])
        self._check(rows)
        self.groups = _group(rows, self.shapes)
        self.official = {ours: " and ".join(row.name for row in rows if ours in row.ours) for ours in self.shapes}
        self.dtypes = {row.name: (str(self.files[0]), self.shards[0][row.name].dtype) for row in rows}
        self.nbytes = sum(tensor.nbytes for shard in self.shards for tensor in shard.values())

    def tensors(self, dtype: torch.dtype, device: torch.device, advance: Advance) -> Iterator[tuple[str, Tensor]]:
        """See `Source.tensors`. Always a copy: sharding has to be undone."""
        for group in self.groups:
            filled = {name: torch.empty(self.shapes[name], dtype=dtype, device=device) for name in group.ours}
            for row in group.rows:
                for shard, weights in enumerate(self.shards):
                    tensor = weights[row.name]
                    if row.split is not None or shard == 0:
                        from_file(row, tensor, [filled[name] for name in row.ours], shard, len(self.shards))
                    elif not _same_bits(tensor, self.shards[0][row.name]):
                        raise InputError(
                            f"{self.files[shard]} holds another {row.name} than {self.files[0].name}, and every shard must "
                            "hold the same: download both again."
                        )
                    advance(tensor.nbytes)
                for weights in self.shards:
                    release(weights[row.name])
            yield from filled.items()

    def _check(self, rows: list[Row]) -> None:
        count = len(self.files)
        for file, weights in zip(self.files, self.shards, strict=True):
            require_same_names(set(weights), {row.name for row in rows}, str(file))
        for row in rows:
            for name in row.ours:
                if row.split is not None and self.shapes[name][row.split] % count:
                    raise InputError(
                        f"{self.files[0].parent} has {count} shards, and {row.name} does not divide into {count}: "
                        "download the shards that are missing."
                    )
            wanted = file_shape(row, [self.shapes[name] for name in row.ours], count)
            for file, weights in zip(self.files, self.shards, strict=True):
                tensor = weights[row.name]
                require_floating(row.name, str(file), tensor.dtype)
                require_shape(row.name, str(file), tensor.shape, wanted, f"this config in {count} shard(s)")
                if tensor.dtype != self.shards[0][row.name].dtype:
                    raise InputError(
                        f"{file} holds tensor {row.name} in {short(tensor.dtype)}, unlike {self.files[0].name}: correct it."
                    )


def _prefer_raw_positions(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Where a file has position embeddings in both forms, Meta's hook overwrites the finished with the raw ones."""
    for raw in (row for row in META_READ if row.form == "raw position" and row.name in weights):
        for row in META_BOTH:
            if row.ours == raw.ours:
                weights.pop(row.name, None)
    return weights


def _choose_rows(config: Config, names: set[str], file: Path) -> list[Row]:
    """The rows whose tensors are there, checked to fill every part of every parameter once."""
    rows = {row.name: row for row in meta_rows(config, None)}
    chosen = [rows[name] for name in rows if name in names]
    filled: dict[tuple[str, int | None], str] = {}
    for row in chosen:
        for part in ((name, row.half) for name in row.ours):
            if part in filled:
                raise InputError(
                    f"{file} holds both {filled[part]} and {row.name}, two names of one weight: remove one."
                )
            filled[part] = row.name
    load = meta_rows(config, "load")
    missing = {row.name for row in load if any((name, row.half) not in filled for name in row.ours)}
    require_same_names(names, {row.name for row in chosen} | missing, str(file))
    return chosen


def _group(rows: list[Row], shapes: dict[str, tuple[int, ...]]) -> list[_Group]:
    """Rows that fill the same parameters, in the order of our names."""
    by_first: dict[str, _Group] = defaultdict(lambda: _Group([], []))
    home: dict[str, str] = {}
    for row in rows:
        first = next((home[name] for name in row.ours if name in home), row.ours[0])
        group = by_first[first]
        group.rows.append(row)
        for name in row.ours:
            if name not in home:
                home[name] = first
                group.ours.append(name)
    order = {name: index for index, name in enumerate(shapes)}
    return sorted(by_first.values(), key=lambda group: order[group.ours[0]])


def _same_bits(first: Tensor, second: Tensor) -> bool:
    return torch.equal(first.contiguous().view(torch.uint8), second.contiguous().view(torch.uint8))
