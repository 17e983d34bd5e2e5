"""The files of a checkpoint folder: finding them, staying inside the folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from llama4.checkpoint.safetensors_file import Entry, read_header
from llama4.config_io import read_json
from llama4.errors import InputError

HF_SINGLE = "model.safetensors"
HF_INDEX = "model.safetensors.index.json"
HF_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
META_SHARD = re.compile(r"consolidated\.(\d+)\.pth")


def weights_format(folder: Path) -> Literal["hf", "meta"]:
    """Which official layout the weights of `folder` have. With both, safetensors, since they cannot run code."""
    if (folder / HF_SINGLE).exists() or (folder / HF_INDEX).exists():
        return "hf"
    if any(META_SHARD.fullmatch(file.name) for file in folder.glob("*.pth")):
        return "meta"
    if any(folder.glob("*.safetensors")):
        raise InputError(f"{folder} has safetensors files but no {HF_SINGLE} or {HF_INDEX}: download the index too.")
    raise InputError(f"{folder} holds no weights: it needs {HF_SINGLE}, {HF_INDEX} or consolidated.00.pth.")


def hf_entries(folder: Path) -> dict[str, Entry]:
    """Every tensor of a Hugging Face checkpoint, by its official name, from the headers alone."""
    if not (folder / HF_INDEX).exists():
        return read_header(inside(folder, HF_SINGLE))
    entries: dict[str, Entry] = {}
    for shard, names in _read_index(folder / HF_INDEX).items():
        file = inside(folder, shard)
        if not file.is_file():
            raise InputError(f"{file} is missing though {HF_INDEX} names it: download it.")
        found = read_header(file)
        if absent := names - found.keys():
            raise InputError(f"{file} lacks tensor {min(absent)}, which {HF_INDEX} places there: download both again.")
        if extra := found.keys() - names:
            raise InputError(f"{file} holds tensor {min(extra)}, which {HF_INDEX} does not list: download both again.")
        entries |= found
    return entries


def _read_index(file: Path) -> dict[str, set[str]]:
    """Shard file -> the names of its tensors."""
    weight_map = read_json(file).get("weight_map")
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or any(not isinstance(name, str) for name in weight_map.values())
    ):
        raise InputError(f"{file} has no weight_map from tensors to files: download it again.")
    shards: dict[str, set[str]] = {}
    for name, shard in weight_map.items():
        shards.setdefault(shard, set()).add(name)
    return shards


def inside(folder: Path, name: str) -> Path:
    """`folder / name`, refused if it leads out of the folder, by `..`, as an absolute path or through a link.

    One link out is normal: in the cache of huggingface_hub a snapshot's files are links to `blobs` beside `snapshots`.
    """
    home = folder.resolve()
    allowed = [home]
    if home.parent.name == "snapshots":
        allowed.append(home.parent.parent / "blobs")
    target = (home / name).resolve()
    plain = not Path(name).is_absolute() and ".." not in Path(name).parts
    if not plain or not any(target.is_relative_to(place) for place in allowed):
        raise InputError(f"{folder} names the file {name}, which leads out of the folder: put the file itself into it.")
    return folder / name


def meta_files(folder: Path) -> list[Path]:
    """consolidated.00.pth, consolidated.01.pth, …, all there."""
    found = {int(match[1]): file for file in folder.glob("*.pth") if (match := META_SHARD.fullmatch(file.name))}
    for number in range(max(found, default=0) + 1):
        if number not in found:
            raise InputError(f"{folder} lacks consolidated.{number:02d}.pth: download all shards.")
    return [inside(folder, found[number].name) for number in sorted(found)]
