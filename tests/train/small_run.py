"""The pretrain command with the small model and a short recipe: what the tests run, here or as a process of its own.

python small_run.py --data DATA --into RUN
"""

from __future__ import annotations

import signal
import sys
from dataclasses import replace

import pytest
import small_training
import torch

from llama4.train import loop, pretrain
from llama4.train.recipe import Plan, Recipe

RECIPE = replace(
    small_training.RECIPE,
    see=replace(small_training.SHORT, steps=30, evaluate_every=15, save_every=10),
    words=Plan(steps=3, rows=4, tokens=300, muon_lr=0.02, adam_lr=1e-3, warmup=2, evaluate_every=3, save_every=2),
    few=replace(small_training.SHORT, steps=2),
    speak=Plan(steps=4, rows=4, tokens=300, muon_lr=0.02, adam_lr=1e-3, warmup=2, evaluate_every=4, save_every=2),
    gather=replace(small_training.SHORT, steps=3),
    rehearse=Plan(steps=2, rows=4, tokens=300, muon_lr=0.02, adam_lr=1e-3, warmup=2, evaluate_every=2, save_every=2),
    relate=Plan(steps=2, rows=4, tokens=300, muon_lr=0.02, adam_lr=1e-3, warmup=2, evaluate_every=2, save_every=2),
    together=replace(small_training.SHORT, steps=3, rows=4, tokens=300, encoder=0.5, save_every=2),
    discern=replace(small_training.SHORT, steps=3, rows=4, tokens=300, encoder=0.5, save_every=2),
    broaden=replace(small_training.SHORT, steps=3, rows=4, tokens=300, encoder=0.5, save_every=2),
    vary=replace(small_training.SHORT, steps=3, rows=4, tokens=300, encoder=1.0, save_every=2),
    settle=replace(small_training.SHORT, steps=4, rows=4, tokens=300, encoder=1.0, save_every=2),
    scatter=replace(small_training.SHORT, steps=3, rows=4, tokens=300, save_every=2),
    follow=replace(small_training.SHORT, steps=3, rows=4, tokens=300, encoder=1.0, save_every=2),
    again=replace(small_training.SHORT, steps=2, rows=4, tokens=300, encoder=1.0, save_every=2),
    redraw=replace(small_training.SHORT, steps=2, rows=4, tokens=300, encoder=1.0, save_every=2),
)


def shrink(patch: pytest.MonkeyPatch, recipe: Recipe = RECIPE) -> None:
    """Put the small model and the short recipe in place of the real ones, and log every step."""
    patch.setattr(pretrain, "small_config", small_training.small_config)
    patch.setattr(pretrain, "Recipe", lambda: recipe)
    patch.setattr(pretrain, "keep_freed_memory", lambda: False)  # malloc's settings outlive the test
    patch.setattr(pretrain, "keep_kernels", lambda: None)  # and so does the environment
    patch.setattr(loop, "LOG_EVERY", 1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a process begun in the background ignores it
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        sys.exit(pretrain.main())
