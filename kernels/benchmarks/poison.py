"""Every new tensor begins as NaN: what a kernel does not write stays to be seen.

A tensor from `torch.empty` often lies where the last result lay, and a kernel that skips a row would then be right by accident.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch


@contextmanager
def poisoned() -> Iterator[None]:
    """Within it `torch.empty`, `empty_like` and `new_empty` fill floating-point tensors with NaN."""
    with (
        patch.object(torch, "empty", _filled(torch.empty)),
        patch.object(torch, "empty_like", _filled(torch.empty_like)),
        patch.object(torch.Tensor, "new_empty", _filled(torch.Tensor.new_empty)),
    ):
        yield


def _filled(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def poison(*args: object, **kwargs: object) -> torch.Tensor:
        made = make(*args, **kwargs)
        return made.fill_(torch.nan) if made.is_floating_point() else made

    return poison
