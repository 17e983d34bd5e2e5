"""The loop that every stage runs.

    for step in steps:
        gradients of the batch, part by part      bf16 weights, fp32 sums
        clip, update                              Muon and AdamW on the fp32 copies; the bf16 weights are theirs, rounded
        now and then: a line in the log, exact names of the artist to validate on, the state on disk

Ctrl-C (or a polite kill) ends the step that runs, saves, and returns; the same call goes on from there, bit for bit.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch import nn
from tqdm import tqdm

from llama4.train import log, state
from llama4.train.recipe import Plan
from llama4.train.weights import Masters, optimisers

LOG_EVERY = 20


class Stage(Protocol):
    """What a stage is made of. `extra` are fp32 modules that learn too, or keep count, and are not shipped.

    `numbers`: what the stage's weights depend on, as text; a state of other numbers is refused.
    """

    name: str
    plan: Plan
    numbers: Mapping[str, str]
    masters: Masters
    extra: nn.Module

    def gradients(self, step: int) -> Mapping[str, float]:
        """Leave the gradients of batch `step` in `masters` and `extra`; return sums for the log. What `extra` counts goes on."""

    def summary(self, sums: Mapping[str, float]) -> dict[str, float]:
        """The log's line from the sums of some steps."""

    def validate(self) -> dict[str, float]:
        """Shares of right answers by an artist that is not learnt from; empty where there is none."""


def train(stage: Stage, folder: Path, until: int | None = None) -> bool:
    """Run a stage from where its saved state is to its last step (or to `until`). True when the stage is finished."""
    plan = stage.plan
    optims = optimisers(stage.masters, stage.extra.parameters(), plan)
    step, sums = state.load(folder, stage, optims)
    begun = time.monotonic() - log.forget_after(folder, stage.name, step)
    last = plan.steps if until is None else min(plan.steps, until)
    with interrupted() as stopped, tqdm(total=plan.steps, initial=step, desc=stage.name, disable=None) as bar:
        while step < last and not stopped:
            sums.update(update(stage, optims, step))
            step += 1
            seconds = round(time.monotonic() - begun, 1)
            if step % LOG_EVERY == 0:
                line = {name: round(value, 4) for name, value in stage.summary(sums).items()}
                log.write(folder, {"stage": stage.name, "step": step, "seconds": seconds, **line})
                bar.set_postfix(line)
                sums.clear()
            if step % plan.evaluate_every == 0 and (shares := stage.validate()):
                log.write(folder, {"stage": stage.name, "step": step, "seconds": seconds, "validation": shares})
                bar.write(f"{stage.name} {step}: " + "  ".join(f"{name} {share:.1%}" for name, share in shares.items()))
            if step % plan.save_every == 0:
                state.save(folder, stage, optims, step, sums)
            bar.update()
    state.save(folder, stage, optims, step, sums)
    return step == plan.steps


def update(stage: Stage, optims: list[torch.optim.Optimizer], step: int) -> Counter[str]:
    """One step. Returns the stage's sums, and the norm of the gradients before they were clipped."""
    sums = Counter(stage.gradients(step))
    for optim in optims:
        for group in optim.param_groups:
            group["lr"] = group["peak"] * stage.plan.rate(step)
    gradients = [*stage.masters.weights.values(), *stage.extra.parameters()]
    sums["norm"] = float(nn.utils.clip_grad_norm_(gradients, stage.plan.clip))
    sums["steps"] = 1
    for optim in optims:
        optim.step()
    stage.masters.publish()
    stage.extra.zero_grad()
    return sums


@contextmanager
def interrupted() -> Iterator[list[int]]:
    """A list that is empty until Ctrl-C or a polite kill fills it; a second one stops at once."""
    stopped: list[int] = []

    def note(number: int, _: object) -> None:
        if stopped:
            raise KeyboardInterrupt
        stopped.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
