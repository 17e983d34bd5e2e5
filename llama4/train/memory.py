"""Keep what a training step will want again: the memory that tensors have freed, and the kernels that oneDNN has built.

A training step on a CPU allocates and frees some hundred tensors of a few megabytes. glibc serves blocks that large by `mmap`,
and every first touch of a page is a fault: measured here, doubling a 50 MB tensor ran at 2.9 GB/s, and at 17 GB/s with the
memory kept, and the vision encoder's step took half the time.

oneDNN builds a kernel for each shape of a matrix product and keeps 1024 of them, and a step's shapes follow from the lengths of
its rows. Measured here on small products in bf16: 27 µs with the kernel kept, 218 µs with it built anew.
"""

from __future__ import annotations

import ctypes
import os

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h
KEPT = 2**31 - 1
PAD = 64 << 20
KERNELS = 20_000


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to keep what is freed. False where there is no glibc: training is slower there, nothing else."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, Windows
        return False
    return all(
        mallopt(option, value) for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, KEPT), (M_TOP_PAD, PAD))
    )


def keep_kernels() -> None:
    """Let oneDNN keep every kernel it builds, unless the environment says how many. Call it before the first product."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))
