"""What all tests share: one torch thread a worker, since `pytest -n 2` already fills two cores; no hub access; and the same
hypothesis examples in every run (`pytest --hypothesis-profile explore` draws new ones)."""

from __future__ import annotations

import os

import torch
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
torch.set_num_threads(1)

settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", derandomize=False, deadline=None)
settings.load_profile("same")
