"""Save a model in either official layout. All files of a save appear together at its end; a failed save leaves the old ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from llama4.checkpoint.folder import HF_INDEX, META_SHARD
from llama4.checkpoint.load import list_tensors
from llama4.checkpoint.memory import DiskProbe, free_disk, require_disk
from llama4.checkpoint.names import Row, Style, hf_names, meta_rows
from llama4.checkpoint.safetensors_file import write_file
from llama4.checkpoint.shapes import parameter_count, parameter_shapes
from llama4.checkpoint.shards import HEADERS, index, planned, remove_others, write_json
from llama4.checkpoint.source import short
from llama4.checkpoint.transforms import to_file
from llama4.config import Config
from llama4.config_io import HF_FILE, META_FILE, read_config, to_hf, to_meta
from llama4.errors import InputError
from llama4.files import replacing


def save_hf(
    model: nn.Module, dir: str | Path, max_shard_bytes: int = 5_000_000_000, *, free: DiskProbe = free_disk
) -> None:
    """Write config.json and safetensors: one file, or shards of at most `max_shard_bytes` (a larger tensor has its own) and
    their index. transformers reads the result. `free` is asked for the bytes that the disk has left.
    """
    folder, config, weights = Path(dir), model.config, _weights(model)
    tensors = {theirs: weights[ours] for ours, theirs in hf_names(config).items()}
    settings = {**to_hf(config), "torch_dtype": short(next(iter(tensors.values())).dtype)}
    sizes = {name: tensor.nbytes for name, tensor in tensors.items()}
    total = sum(sizes.values())
    require_disk(total + HEADERS, folder, free)
    files = planned(sizes, max_shard_bytes)
    with replacing(folder) as part:
        for file, names in files.items():
            write_file(part(file), ((name, tensors[name]) for name in names))
        if len(files) > 1:
            where = {name: file for file, names in files.items() for name in names}
            write_json(part(HF_INDEX), index(where, total))
        write_json(part(HF_FILE), settings)
    remove_others(folder, files)


def save_meta(
    model: nn.Module, dir: str | Path, shards: int = 1, names: Style = "load", *, free: DiskProbe = free_disk
) -> None:
    """Write params.json and consolidated.00.pth, …: as many files as `shards`, cut as tensor parallelism cuts.

    names: "load" as Meta's modules call their parameters, "training" as Meta's released files do. Tied embeddings are written
    twice. Raises InputError for a model that the layout cannot express or that does not divide into `shards`.
    """
    folder, config, weights = Path(dir), model.config, _weights(model)
    if names not in ("load", "training"):
        raise InputError(f'names is {names!r}: ask for "load" or "training".')
    settings = to_meta(config)
    if config.tied_embeddings:
        config = replace(config, tied_embeddings=False)
        weights["decoder.head.weight"] = weights["decoder.embedding.weight"]
    rows = meta_rows(config, names)
    _require_divisible(config, rows, shards)
    copies = sum(weights[name].nbytes for row in rows for name in row.ours if row.split is None) * (shards - 1)
    require_disk(sum(tensor.nbytes for tensor in weights.values()) + copies + HEADERS, folder, free)
    files = [f"consolidated.{shard:02d}.pth" for shard in range(shards)]
    with replacing(folder) as part:
        for shard, file in enumerate(files):
            content = {row.name: _own(to_file(row, [weights[n] for n in row.ours], shard, shards)) for row in rows}
            _torch_save(content, part(file))
        write_json(part(META_FILE), settings)
    for old in folder.iterdir():
        if META_SHARD.fullmatch(old.name) and old.name not in files:
            old.unlink()


def require_room(source: Path, target: Path, dtype: torch.dtype | None, *, free: DiskProbe = free_disk) -> None:
    """Raise InputError unless `target`'s disk has room for the checkpoint `source` in `dtype` (None: its own).

    From the headers alone, so that a full disk is known before the weights are read, which may take minutes.
    """
    own = max(tensor.dtype.itemsize for tensor in list_tensors(source).values())
    needed = parameter_count(read_config(source)) * (own if dtype is None else dtype.itemsize)
    require_disk(needed + HEADERS, target, free)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """The model's weights by our names; only whole, unquantised models can be saved in the official layouts."""
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    shapes = parameter_shapes(model.config)
    for name in weights.keys() | shapes.keys():
        if name not in weights or name not in shapes or tuple(weights[name].shape) != shapes[name]:
            raise InputError(
                f"The model's {name} is not as its config says, so it cannot be saved: save the unquantised model."
            )
        if weights[name].is_meta:
            raise InputError(
                f"The model's {name} has no values (it is on the meta device): load weights before saving."
            )
    return weights


def _require_divisible(config: Config, rows: list[Row], shards: int) -> None:
    shapes = parameter_shapes(config)
    if shards < 1 or config.kv_heads % shards:
        raise InputError(
            f"{config.kv_heads} key/value heads do not divide into {shards} shards: choose another number."
        )
    if config.vision is not None and config.vision.heads % shards:
        raise InputError(
            f"{config.vision.heads} vision heads do not divide into {shards} shards: choose another number."
        )
    for row in rows:
        for name in row.ours:
            size = 0 if row.split is None else shapes[name][row.split] // (1 if row.half is None else 2)
            if size % shards:
                raise InputError(
                    f"{row.name} has {size} rows or columns to cut into {shards} shards: choose another number."
                )


def _own(tensor: Tensor) -> Tensor:
    """The tensor in memory of its own: torch.save writes the whole storage that a view belongs to."""
    tensor = tensor.cpu().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _torch_save(content: dict[str, Tensor], file: Path) -> None:
    try:
        torch.save(content, file)
    except RuntimeError as error:  # torch's own name for a disk that is full or a folder that is not ours
        raise InputError(f"{file} cannot be written ({error}): make room or choose another place.") from error
