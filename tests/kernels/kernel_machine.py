"""What the kernels' tests run on: a GPU where there is one, else Triton's interpreter, chosen before a kernel is imported."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import torch

KERNELS = Path(__file__).resolve().parents[2] / "kernels"
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
NARROW = torch.bfloat16 if CUDA else torch.float16  # the 16-bit type that can be trusted here
if not CUDA:
    os.environ["TRITON_INTERPRET"] = "1"
if importlib.util.find_spec("llama4_kernels") is None:
    sys.path.append(str(KERNELS))
sys.path.append(str(KERNELS / "benchmarks"))
