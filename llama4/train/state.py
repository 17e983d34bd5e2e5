"""A stage's state on disk, so that a stopped run goes on bit for bit: weights, momenta, and the number of the next step.

    RUN/STAGE.pt      fp32 weights, what is not shipped, the optimisers' state, the step, the sums for the log's next line,
                      the numbers it was run with

There is no generator to save: everything drawn depends on the seed, the step, and at most on what is saved. A state is written
beside and renamed, so a run killed while it writes goes on from the state before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llama4.errors import InputError
from llama4.files import replacing

if TYPE_CHECKING:
    from llama4.train.loop import Stage


def save(folder: Path, stage: Stage, optims: list[torch.optim.Optimizer], step: int, sums: Mapping[str, float]) -> None:
    """Write the state from which `step` is run next; `sums` are of the steps since the log's last line."""
    saved = {
        "step": step,
        "sums": dict(sums),
        "numbers": dict(stage.numbers),
        "weights": {name: weight.detach() for name, weight in stage.masters.weights.items()},
        "extra": stage.extra.state_dict(),
        "optimisers": [optim.state_dict() for optim in optims],
    }
    with replacing(folder) as part:
        try:
            torch.save(saved, part(f"{stage.name}.pt"))
        except RuntimeError as error:  # what torch's zip writer makes of a full disk
            raise InputError(
                f"The state cannot be written to {folder}: make room, and the run goes on from there."
            ) from error


def load(folder: Path, stage: Stage, optims: list[torch.optim.Optimizer]) -> tuple[int, Counter[str]]:
    """Put a saved state back and return its step and sums, 0 and nothing where none was saved.

    Raises InputError when a number of the recipe was another.
    """
    path = folder / f"{stage.name}.pt"
    if not path.exists():
        return 0, Counter()
    saved = _read(path)
    held = dict(saved["numbers"])
    changed = [name for name, value in stage.numbers.items() if held.get(name) != value]
    if changed:
        raise InputError(
            f"{path} belongs to a run with other numbers ({', '.join(changed)}): use those, or choose another folder."
        )
    try:
        _put_back(saved, stage, optims)
    except (KeyError, RuntimeError, ValueError) as error:  # missing names, other shapes, other parameters
        raise InputError(f"{path} belongs to another model or other data: choose another folder.") from error
    return int(saved["step"]), Counter(saved.get("sums", {}))


def weights_of(folder: Path, stage: str) -> dict[str, torch.Tensor]:
    """The fp32 weights that a stage of this name left, by name. Raises InputError where there is no state, or a damaged one."""
    path = folder / f"{stage}.pt"
    if not path.exists():
        raise InputError(f"{path} is missing, and what ships is a mean of it: put it back, or begin in another folder.")
    return _read(path)["weights"]


def _read(path: Path) -> dict[str, Any]:
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        saved["numbers"], saved["weights"] = dict(saved["numbers"]), dict(saved["weights"])
    except Exception as error:  # a damaged zip file can raise nearly anything, in several paragraphs
        raise InputError(f"{path} is damaged: delete it to begin this stage again.") from error
    return saved


@torch.no_grad()
def _put_back(saved: dict[str, Any], stage: Stage, optims: list[torch.optim.Optimizer]) -> None:
    for name, weight in stage.masters.weights.items():
        weight.copy_(saved["weights"][name])
    stage.masters.publish()
    stage.extra.load_state_dict(saved["extra"])
    for optim, held in zip(optims, saved["optimisers"], strict=True):
        optim.load_state_dict(held)
