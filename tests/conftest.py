"""What all tests share: one torch thread a worker, since `pytest -n 2` already fills two cores, and no hub access."""

from __future__ import annotations

import os

import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
torch.set_num_threads(1)
