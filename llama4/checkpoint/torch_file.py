"""One `.pth` file of Meta's: opened without running what it holds, its data mapped.

`torch.load(weights_only=True)` unpickles with a list of what may be called. Meta's shards need two things on it, for the
`_extra_state` entries of fp8 training: `io.BytesIO` and `codecs.encode`. Both only make bytes. They are allowed for this load
and not for the process.
"""

from __future__ import annotations

import codecs
import io
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llama4.checkpoint.names import META_DROPPED
from llama4.checkpoint.safetensors_file import check_beginning
from llama4.errors import InputError


def open_shard(file: Path) -> dict[str, Tensor]:
    """The tensors of a shard by name, mapped from the file. What is no weight is dropped, by name (`META_DROPPED`)."""
    content = _load(file)
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict):
        raise InputError(f"{file} holds a {type(content).__name__}, not named tensors: use Meta's consolidated files.")
    weights = {name: value for name, value in content.items() if not META_DROPPED.search(str(name))}
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            raise InputError(
                f"{file} holds {name}, which is a {type(value).__name__} and no tensor: use Meta's own files."
            )
    return weights


def _load(file: Path) -> Any:
    try:
        with file.open("rb") as stream:
            check_beginning(file, stream.read(1024), file.stat().st_size, expects="pth")
        if not zipfile.is_zipfile(file):
            raise InputError(f"{file} is truncated or no PyTorch file of today's zip format: download it again.")
        with torch.serialization.safe_globals([io.BytesIO, codecs.encode]):
            return torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise InputError(
            f"{file} asks to run {wanted[1] if wanted else 'code'} while it is read, which weights never need: "
            "it was refused, so get the file from Meta."
        ) from error
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}): check the path and its permissions.") from error
    except (RuntimeError, EOFError, KeyError, ValueError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file} is damaged or no PyTorch checkpoint: download it again.") from error
