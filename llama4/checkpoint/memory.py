"""How much memory and disk there is, and giving mapped pages back.

A file that is mapped costs memory only for the pages that were touched, and those count as resident until someone lets go of
them: converting 200 GB of mapped bfloat16 without `release` would hold the map and the copy. MADV_DONTNEED drops the pages of
a private mapping; clean ones are read again from the file if they are ever needed.

The two probes are plain functions that callers take as arguments, so that a test can pass a machine that is full.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from llama4.errors import InputError

MemoryProbe = Callable[[torch.device], "int | None"]
DiskProbe = Callable[[Path], int]

_CGROUP = Path("/sys/fs/cgroup")
_MADV_DONTNEED = 4  # Linux


def available_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated on `device`; None where nobody can say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    limits = [limit for limit in (_machine_memory(), _container_memory()) if limit is not None]
    return min(limits, default=None)


def free_disk(folder: Path) -> int:
    """Bytes free where `folder` lies (or will lie)."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def require_memory(needed: int, what: str, device: torch.device, probe: MemoryProbe) -> None:
    """Raise InputError when `device` has less than `needed` bytes left."""
    available = probe(device)
    if available is not None and needed > available:
        raise InputError(
            f"{what} needs {in_units(needed)} on {device} and {in_units(available)} are free: "
            "choose a smaller dtype or a machine with more memory."
        )


def require_disk(needed: int, folder: Path, probe: DiskProbe) -> None:
    """Raise InputError when the disk under `folder` has less than `needed` bytes left."""
    free = probe(folder)
    if needed > free:
        raise InputError(
            f"Writing {folder} needs {in_units(needed)} and its disk has {in_units(free)} free: "
            "make room or choose another place."
        )


def in_units(size: int) -> str:
    """1536 -> "1.5 kB" (powers of ten, as disks and downloads are sold)."""
    amount, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while amount >= 1000 and len(units) > 1:
        amount, units = amount / 1000, units[1:]
    return f"{amount:.1f} {units[0]}" if units[0] != "B" else f"{size} B"


def release(tensor: Tensor) -> None:
    """Drop the resident pages under a CPU tensor that lies in a private, unmodified file mapping. Elsewhere: nothing."""
    if not sys.platform.startswith("linux") or tensor.numel() == 0:
        return
    page = os.sysconf("SC_PAGE_SIZE")
    storage = tensor.untyped_storage()
    start = storage.data_ptr() // page * page
    length = storage.data_ptr() + storage.nbytes() - start
    ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _MADV_DONTNEED)


def _machine_memory() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _container_memory() -> int | None:
    """What this cgroup may still take; pages of files that nobody uses count as free."""
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no cgroup, or "max": no limit
        return None
    return max(0, limit - used + int(stat.get("inactive_file", 0)))
