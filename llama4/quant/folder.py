"""A model in int4 as a folder: `llama4 quantize` writes it, `llama4.load` reads it like any other.

    config.json          Hugging Face's keys, and "quantization_config": {"quant_method": "llama4-int4", "version": 1, …}
    *.safetensors        Hugging Face's names; a weight W that became int4 is the two tensors W.q and W.scale (int4.py)
    tokenizer.model …    as they were

The weights that become int4 are those of apply.py, and what a folder holds must be just that. Bit for bit a folder gives the
model that `load(…, quant="int4")` makes of its source, in the source's dtype.

Scout is read as a map of its 218 GB and written file by file: one file's weights, 5 GB, are held at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from llama4.checkpoint import hf_names, parameter_shapes
from llama4.checkpoint.folder import HF_INDEX, HF_SINGLE, hf_entries
from llama4.checkpoint.memory import DiskProbe, MemoryProbe, available_memory, free_disk, require_disk, require_memory
from llama4.checkpoint.safetensors_file import Entry, Mapping, write_file
from llama4.checkpoint.shards import HEADERS, index, planned, remove_others, write_json
from llama4.checkpoint.source import require_same_names, require_shape, short
from llama4.config import Config
from llama4.config_io import HF_FILE, read_config, read_json, to_hf
from llama4.config_io.hf import INT4_METHOD
from llama4.errors import InputError
from llama4.files import replacing
from llama4.model import Llama4
from llama4.quant.apply import Packing, is_quantised, pack_parameter, packable, packed_shape, put_in
from llama4.quant.int4 import GROUPS, Int4, group_of, require_group

VERSION = 1


def is_int4_folder(folder: Path) -> bool:
    """Does `folder` hold a model that `save_int4` has written?"""
    file = folder / HF_FILE
    if not file.is_file() or not ((folder / HF_SINGLE).exists() or (folder / HF_INDEX).exists()):
        return False
    told = read_json(file).get("quantization_config")
    return isinstance(told, dict) and told.get("quant_method") == INT4_METHOD


def save_int4(
    model: Llama4,
    dir: str | Path,
    group: int | None = None,
    pack: Packing = pack_parameter,
    max_shard_bytes: int = 5_000_000_000,
    *,
    free: DiskProbe = free_disk,
) -> int:
    """Quantise an unquantised model into a folder, weight by weight; returns the bytes written. The model stays as it is.

    pack: how a weight is rounded (calibrated.py has another way).

    Raises InputError, and leaves the folder as it was, for a width without a group, NaN, a full disk, or a model in int4.
    """
    if is_quantised(model):
        raise InputError("This model is in int4 already: quantise the unquantised one.")
    folder, config = Path(dir), model.config
    weights, wanted = dict(model.named_parameters()), set(packable(config))
    sizes = int4_sizes(model, group)
    total = sum(sizes.values())
    require_int4_room(model, folder, group, free=free)
    files, names, where = planned(sizes, max_shard_bytes), hf_names(config), {}
    groups: set[int] = set()
    whole = sum(weight.nbytes for weight in weights.values())
    bar = tqdm(total=whole, desc="quantising", unit="B", unit_scale=True, delay=2, disable=None)
    with bar, replacing(folder) as part:
        for file, shard in files.items():
            held: dict[str, Tensor] = {}
            for name in shard:
                if name in wanted:
                    packed = pack(name, weights[name], group)
                    groups.add(packed.group)
                    held |= {f"{names[name]}.q": packed.q, f"{names[name]}.scale": packed.scale}
                else:
                    held[names[name]] = weights[name].detach()
                bar.update(weights[name].nbytes)
            write_file(part(file), held.items())
            where |= dict.fromkeys(held, file)
        if len(files) > 1:
            write_json(part(HF_INDEX), index(where, total))
        told = {"quant_method": INT4_METHOD, "version": VERSION, "bits": 4, "groups": sorted(groups)}
        dtype = short(next(iter(weights.values())).dtype)
        write_json(part(HF_FILE), {**to_hf(config), "torch_dtype": dtype, "quantization_config": told})
    remove_others(folder, files)
    return total


def int4_sizes(model: Llama4, group: int | None = None) -> dict[str, int]:
    """Bytes of each of an unquantised model's parameters when `save_int4` has written it.

    Raises InputError for a group that nothing reads and for a width without a group.
    """
    require_group(group)
    wanted = set(packable(model.config))
    return {
        name: _size(name, weight, group) if name in wanted else weight.nbytes
        for name, weight in model.named_parameters()
    }


def require_int4_room(model: Llama4, folder: Path, group: int | None = None, *, free: DiskProbe = free_disk) -> None:
    """Raise InputError unless `folder`'s disk has room for the model in int4: known before a calibration that takes minutes."""
    require_disk(sum(int4_sizes(model, group).values()) + HEADERS, folder, free)


def load_int4(
    folder: Path,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    available: MemoryProbe = available_memory,
) -> Llama4:
    """The model of such a folder, in eval mode; on the CPU and in its own dtype the files are mapped, not read.

    Raises InputError, before anything is allocated, for a folder that is not whole.
    """
    device, config = device or torch.device("cpu"), read_config(folder)
    _check_version(folder)
    entries, packed = _checked(folder, config)
    require_memory(sum(entry.nbytes for entry in entries.values()), f"Loading {folder}", device, available)
    with torch.device("meta"):
        model = Llama4(config)
    read: dict[str, Tensor] = {}
    for name, tensor in _tensors(entries, device, dtype):
        if name in packed:
            read[name] = tensor
        else:
            module, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(module), leaf, nn.Parameter(tensor))
    pairs = {name: Int4(read[f"{name}.q"], read[f"{name}.scale"]) for name in packable(config)}
    return put_in(model, pairs).eval()


def _check_version(folder: Path) -> None:
    told = read_json(folder / HF_FILE)["quantization_config"]
    if told.get("version") != VERSION:
        raise InputError(
            f"{folder / HF_FILE} is int4 of version {told.get('version')!r} and this program reads {VERSION}: "
            "quantise the unquantised model again with `llama4 quantize`."
        )


def _checked(folder: Path, config: Config) -> tuple[dict[str, Entry], set[str]]:
    """What the files hold, by our names (`….q` and `….scale` where they are int4), and which of these are int4."""
    names, shapes, wanted = hf_names(config), parameter_shapes(config), packable(config)
    pairs = {f"{name}.{half}": f"{names[name]}.{half}" for name in wanted for half in ("q", "scale")}
    ours = {name: theirs for name, theirs in names.items() if name not in set(wanted)} | pairs
    found = hf_entries(folder)
    require_same_names(set(found), set(ours.values()), str(folder))
    entries = {name: found[theirs] for name, theirs in ours.items()}
    for name, entry in entries.items():
        if name in pairs:
            _check_half(name, entry, packed_shape(name.rpartition(".")[0], shapes[name.rpartition(".")[0]]))
        else:
            require_shape(entry.name, str(entry.file), entry.shape, shapes[name])
    return entries, set(pairs)


def _check_half(name: str, entry: Entry, shape: tuple[int, ...]) -> None:
    *lead, width = shape
    fits = (
        [(*lead, width // 2)]
        if name.endswith(".q")
        else [(*lead, width // group) for group in GROUPS if width % group == 0]
    )
    narrow = entry.dtype == torch.uint8 if name.endswith(".q") else entry.dtype.is_floating_point
    if entry.shape not in fits or not narrow:
        raise InputError(
            f"{entry.file} holds {entry.name} as {short(entry.dtype)} {list(entry.shape)}, which is no int4 of {list(shape)}: "
            "quantise the unquantised model again with `llama4 quantize`."
        )


def _tensors(
    entries: dict[str, Entry], device: torch.device, dtype: torch.dtype | None
) -> Iterator[tuple[str, Tensor]]:
    """File by file, so that each is mapped only while it is needed; bytes stay bytes, all else becomes `dtype`."""
    mapping, file = None, None
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].file, item[1].start)):
        if mapping is None or entry.file != file:
            mapping, file = Mapping(entry.file), entry.file
        mapped = mapping.tensor(entry)
        tensor = mapped.to(device=device, dtype=mapped.dtype if mapped.dtype == torch.uint8 else dtype)
        if tensor is not mapped:
            mapping.release(entry)
        yield name, tensor


def _size(name: str, weight: Tensor, group: int | None) -> int:
    """Bytes of a weight in int4."""
    group = group or group_of(packed_shape(name, tuple(weight.shape))[-1])
    return weight.numel() // 2 + weight.numel() // group * weight.itemsize
