"""One safetensors file: its header checked byte by byte, its data mapped, never copied.

    8 bytes   n, little-endian
    n bytes   JSON: {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}, …, "__metadata__": {str: str}}
    the rest  data; offsets count from here, and leave neither gaps nor overlaps

Why not `safetensors.safe_open`: it stops at the first thing wrong and names neither the file nor the remedy, and offers no way
to let go of pages that were read. The format is the one of https://github.com/huggingface/safetensors (the limit of 100 MB for
the header is theirs). The map is private: whoever writes into a parameter changes a copy of the page, not the file.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llama4.errors import InputError

MAX_HEADER = 100_000_000
ALIGNMENT = 64  # of the data section in files written here, so that mapped tensors suit vector instructions

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """One tensor of one file. `start` counts from the beginning of the file."""

    file: Path
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    nbytes: int


class Mapping:
    """A safetensors file mapped into memory; tensors alias it and keep it alive."""

    def __init__(self, file: Path) -> None:
        with file.open("rb") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)

    def tensor(self, entry: Entry) -> Tensor:
        """The entry's values, without a copy (with one where the file is not aligned to the dtype)."""
        if entry.nbytes == 0:
            return torch.empty(entry.shape, dtype=entry.dtype)
        raw = torch.frombuffer(self._map, dtype=torch.uint8, count=entry.nbytes, offset=entry.start)
        if entry.start % entry.dtype.itemsize:
            raw = raw.clone()
        return raw.view(entry.dtype).reshape(entry.shape)

    def release(self, entry: Entry) -> None:
        """Drop the pages under `entry` from memory. Only for tensors that nobody has written to."""
        if hasattr(self._map, "madvise") and entry.nbytes:
            start = entry.start // mmap.PAGESIZE * mmap.PAGESIZE
            self._map.madvise(mmap.MADV_DONTNEED, start, entry.start + entry.nbytes - start)


def read_header(file: Path) -> dict[str, Entry]:
    """Every tensor that the file holds, by name. Reads the header only; raises InputError for a file that is not whole."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            beginning = stream.read(1024)
            check_beginning(file, beginning, size)
            if size < 8:
                raise InputError(f"{file} is truncated to {size} bytes: download it again.")
            (length,) = struct.unpack("<Q", beginning[:8])
            if length > min(size - 8, MAX_HEADER):
                raise InputError(
                    f"{file} announces a header of {length} bytes in a file of {size}: "
                    "it is truncated or no safetensors file, so download it again."
                )
            stream.seek(8)
            raw = stream.read(length)
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}): check the path and its permissions.") from error
    entries = [_entry(file, name, value, 8 + length) for name, value in _parse(file, raw).items()]
    _check_layout(file, entries, 8 + length, size)
    return {entry.name: entry for entry in entries}


def check_beginning(file: Path, beginning: bytes, size: int, expects: str = "safetensors") -> None:
    """Recognise what is often found in place of weights, by its first bytes."""
    again = "download the weights again"
    text = beginning.lstrip()[:64].lower()
    if size == 0:
        raise InputError(f"{file} is empty: {again}.")
    if beginning.startswith(b"version https://git-lfs"):
        raise InputError(f"{file} is a Git LFS pointer, not the weights: fetch them with `git lfs pull`.")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise InputError(f"{file} is a web page, not weights: log in, accept the licence, and {again}.")
    renamed = beginning.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04"))
    if expects == "safetensors" and renamed and beginning[8:9] != b"{":  # a header of 640 bytes begins with 80 02 too
        raise InputError(f"{file} is a PyTorch file that was renamed: give it back its .pth name, or convert it.")
    if beginning.startswith(b"GGUF"):
        raise InputError(f"{file} is a GGUF file: start from the official checkpoint.")


def _parse(file: Path, raw: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("a name occurs twice")
        return dict(pairs)

    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} has a header that is not JSON ({error}): download it again.") from error
    if not isinstance(header, dict):
        raise InputError(f"{file} has a header that is no JSON object: download it again.")
    header.pop("__metadata__", None)
    return header


def _entry(file: Path, name: str, value: Any, data_start: int) -> Entry:
    try:
        dtype, shape, (begin, end) = value["dtype"], value["shape"], value["data_offsets"]
        numbers, known = [*shape, begin, end], dtype in DTYPES
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{file} describes tensor {name} without dtype, shape or data_offsets: download it again."
        ) from error
    if not known:
        raise InputError(f"{file} holds tensor {name} in dtype {dtype}, which is not supported: convert it to BF16.")
    if any(not isinstance(number, int) or isinstance(number, bool) or number < 0 for number in numbers):
        raise InputError(f"{file} gives tensor {name} a shape or offsets that are no sizes: download it again.")
    nbytes = math.prod(shape) * DTYPES[dtype].itemsize
    if end - begin != nbytes:
        raise InputError(
            f"{file} gives tensor {name} {end - begin} bytes, but its shape {shape} in {dtype} takes {nbytes}: "
            "download it again."
        )
    return Entry(file, name, DTYPES[dtype], tuple(shape), data_start + begin, nbytes)


def _check_layout(file: Path, entries: list[Entry], data_start: int, size: int) -> None:
    """Data lies end to end and fills the file."""
    position = data_start
    for entry in sorted(entries, key=lambda entry: (entry.start, entry.nbytes)):
        if entry.start != position:
            what = "overlaps another" if entry.start < position else "leaves a gap before it"
            raise InputError(f"{file} places tensor {entry.name} so that it {what}: download it again.")
        position += entry.nbytes
        if position > size:
            raise InputError(
                f"{file} is truncated: tensor {entry.name} ends at byte {position} of a file of {size}, so download it again."
            )
    if position != size:
        raise InputError(f"{file} has {size - position} bytes after its last tensor: download it again.")


def write_file(file: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write a safetensors file, holding no copy of the weights (of those on a device: one tensor at a time)."""
    tensors = sorted(tensors, key=lambda item: -item[1].dtype.itemsize)  # larger dtypes first keeps every one aligned
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors:
        begin, end = end, end + tensor.numel() * tensor.dtype.itemsize
        header[name] = {"dtype": _DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-(len(raw) + 8) % ALIGNMENT)
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(raw)) + raw)
        for _, tensor in tensors:
            stream.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
