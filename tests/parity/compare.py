"""Compare two models layer by layer, and say where they part.

"The logits differ by 0.3" starts a search; "decoder layer 3 (nope, all, moe) differs by 0.11, everything before it agrees"
nearly ends it. Forward hooks record what each pair of layers puts out during the two runs; the first pair outside the
tolerance is named. What goes into the first decoder layer is recorded as well: it tells a wrong layer from a wrong embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from tolerances import FP32, Tolerance
from torch import Tensor, nn


@dataclass(frozen=True)
class Place:
    """One point of the model: its name, and the modules that stand there in the two programs."""

    name: str
    ours: nn.Module
    reference: nn.Module
    entry: bool = False  # record what goes in, not what comes out


def difference(ours: Tensor, reference: Tensor) -> float:
    """max|ours - reference|; infinity where the shapes or the non-finite values differ."""
    if ours.shape != reference.shape or not torch.isfinite(ours).all():
        return float("inf")
    return float((ours.double() - reference.double()).abs().max()) if ours.numel() else 0.0


def assert_close(ours: Tensor, reference: Tensor, what: str, tolerance: Tolerance = FP32) -> None:
    """Fail, naming `what`, unless the two agree within `tolerance`."""
    assert ours.shape == reference.shape, f"{what}: shape {list(ours.shape)} against {list(reference.shape)}"
    found, limit = difference(ours, reference), tolerance.limit(reference)
    assert found <= limit, f"{what} differs by {found:.3g}; the limit is {limit:.3g} ({tolerance.reason})"


@contextmanager
def recorded(modules: dict[str, tuple[nn.Module, bool]]) -> Iterator[dict[str, Tensor]]:
    """While the context lasts, keep the last output (or first input, where True) of every module under its name."""
    seen: dict[str, Tensor] = {}
    handles = []
    for name, (module, entry) in modules.items():
        if entry:
            handles.append(module.register_forward_pre_hook(_keep_input(seen, name), with_kwargs=True))
        else:
            handles.append(module.register_forward_hook(_keep_output(seen, name)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def assert_same_run(
    places: list[Place],
    run_ours: Callable[[], Tensor],
    run_reference: Callable[[], Tensor],
    what: str = "logits",
    tolerance: Tolerance = FP32,
) -> None:
    """Run both; fail unless the results agree, naming the first of `places` where they part."""
    with recorded({place.name: (place.ours, place.entry) for place in places}) as seen_ours:
        ours = run_ours()
    with recorded({place.name: (place.reference, place.entry) for place in places}) as seen_reference:
        reference = run_reference()
    if difference(ours, reference) > tolerance.limit(reference):
        where = first_divergence([place.name for place in places], seen_ours, seen_reference, tolerance)
        found, limit = difference(ours, reference), tolerance.limit(reference)
        raise AssertionError(f"{what} differ by {found:.3g} (limit {limit:.3g}): {where}")


def first_divergence(
    names: list[str], ours: dict[str, Tensor], reference: dict[str, Tensor], tolerance: Tolerance = FP32
) -> str:
    """One sentence that names the first of `names`, in order, whose two recordings differ."""
    for name in names:
        if (name in ours) != (name in reference):
            return f"{name} ran in one program only"
        if name not in ours:
            continue
        found = difference(ours[name], reference[name])
        if found > tolerance.limit(reference[name]):
            return f"{name} is the first to diverge, by {found:.3g}; everything before it agrees"
    return "every recorded layer agrees, so the fault lies after the last of them"


def _keep_input(seen: dict[str, Tensor], name: str) -> Callable:
    def hook(_module: nn.Module, args: tuple, kwargs: dict) -> None:
        seen.setdefault(name, _tensor(args or tuple(kwargs.values())))

    return hook


def _keep_output(seen: dict[str, Tensor], name: str) -> Callable:
    def hook(_module: nn.Module, _args: tuple, output: Tensor | tuple) -> None:
        seen[name] = _tensor(output)

    return hook


def _tensor(value: Tensor | tuple) -> Tensor:
    return (value if isinstance(value, Tensor) else value[0]).detach().clone()
