"""The files that a Hugging Face checkpoint is written as: one, or several of at most so many bytes and their index.

model.safetensors                                           all of it
model-00001-of-00003.safetensors …                          in the order of the tensors; a larger tensor has a file of its own
model.safetensors.index.json                                {"metadata": {"total_size": …}, "weight_map": {tensor: file}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama4.checkpoint.folder import HF_INDEX, HF_SHARD, HF_SINGLE

HEADERS = 1 << 20  # bytes to spare for headers, index and config when the disk is asked for room


def filled(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Names in their order, cut into stretches of at most `limit` bytes; a larger one is alone."""
    stretches: list[list[str]] = [[]]
    held = 0
    for name, size in sizes.items():
        if stretches[-1] and held + size > limit:
            stretches.append([])
            held = 0
        stretches[-1].append(name)
        held += size
    return stretches


def planned(sizes: Mapping[str, int], limit: int) -> dict[str, list[str]]:
    """File → its tensors, for `sizes` in bytes, file after file of at most `limit` bytes."""
    shards = filled(sizes, limit)
    count = len(shards)
    if count == 1:
        return {HF_SINGLE: shards[0]}
    return {f"model-{number:05d}-of-{count:05d}.safetensors": shard for number, shard in enumerate(shards, start=1)}


def index(where: Mapping[str, str], total: int) -> dict[str, Any]:
    """What stands in the index, for tensor → file and the bytes of all."""
    return {"metadata": {"total_size": total}, "weight_map": dict(where)}


def write_json(file: Path, data: Mapping[str, Any]) -> None:
    """As Hugging Face indents it."""
    file.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def remove_others(folder: Path, files: Mapping[str, object]) -> None:
    """Remove what an earlier save has left beside `files`: a reader would take an old index for the new one."""
    kept = {*files, *([HF_INDEX] if len(files) > 1 else [])}
    for old in folder.iterdir():
        if (old.name in (HF_SINGLE, HF_INDEX) or HF_SHARD.fullmatch(old.name)) and old.name not in kept:
            old.unlink()
