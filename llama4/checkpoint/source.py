"""What loading needs to know of a checkpoint, whichever format it has, and the checks that both formats share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from llama4.errors import InputError

Advance = Callable[[int], object]  # told the bytes of the file that have been dealt with


class Source(Protocol):
    """A checkpoint whose headers have been checked against a config."""

    dtypes: dict[str, tuple[str, torch.dtype]]  # official name -> (file, dtype)
    nbytes: int  # of all tensors in the files
    official: dict[str, str]  # our name -> the official one, or several joined by "and", which together make ours

    def tensors(self, dtype: torch.dtype, device: torch.device, advance: Advance) -> Iterator[tuple[str, Tensor]]:
        """Our names and their tensors in `dtype` on `device`. Where nothing has to change they alias the file."""
        ...


class TensorInfo(NamedTuple):
    """One tensor of a checkpoint as its header describes it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: str  # its first file's name, when tensor parallelism cut it into several
    bytes: int  # over all its files


def common_dtype(source: Source) -> torch.dtype:
    """The one floating dtype of all weights; InputError names the first tensor that differs."""
    counts = Counter(dtype for _, dtype in source.dtypes.values())
    dtype = counts.most_common(1)[0][0]
    for name, (file, other) in source.dtypes.items():
        if other != dtype:
            raise InputError(
                f"{file} holds tensor {name} in {short(other)} and most others are in {short(dtype)}: "
                "ask for one dtype to have all of them converted, if that is meant."
            )
    return dtype


def require_floating(name: str, file: str, dtype: torch.dtype) -> None:
    """Weights are float32, float64, bfloat16 or float16; integers and 8-bit floats are someone's quantised form."""
    if not dtype.is_floating_point or dtype.itemsize < 2:
        raise InputError(
            f"{file} holds tensor {name} in {short(dtype)}, not in a floating dtype: use unquantised weights."
        )


def require_shape(
    name: str, file: str, shape: tuple[int, ...], wanted: tuple[int, ...], why: str = "this config"
) -> None:
    """The file's shape must be the config's."""
    if tuple(shape) != tuple(wanted):
        raise InputError(
            f"{file} holds tensor {name} with shape {list(shape)}, and {why} needs {list(wanted)}: "
            "the config and the weights do not belong together."
        )


def require_same_names(found: set[str], wanted: set[str], where: str) -> None:
    """Nothing missing, nothing left over."""
    if missing := sorted(wanted - found):
        raise InputError(
            f"{where} lacks {_some(missing)}, which this config needs: download it again or correct the config."
        )
    if extra := sorted(found - wanted):
        raise InputError(f"{where} holds {_some(extra)}, which this config has no place for: correct the config.")


def short(dtype: torch.dtype) -> str:
    """ "bfloat16" for torch.bfloat16."""
    return str(dtype).removeprefix("torch.")


def _some(names: list[str]) -> str:
    return f"tensor {names[0]}" if len(names) == 1 else f"{len(names)} tensors, {names[0]} among them"
