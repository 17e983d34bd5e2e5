"""From a path to something that answers: `llama4.load` and `llama4.load_model`.

A path is a checkpoint folder in either official layout, or the word "tiny": the small model that ships inside the package.
Left alone, the device is a CUDA card where there is one, else the CPU, and the dtype is the checkpoint's own.
"""

from __future__ import annotations

from pathlib import Path

import torch

from llama4 import checkpoint
from llama4.errors import InputError
from llama4.generate import LLM
from llama4.model import Llama4
from llama4.quant import is_int4_folder, load_int4, quantise
from llama4.tokenizer import Tokenizer

TINY = Path(__file__).parent / "assets" / "tiny"
QUANTS = (None, "int4")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(
    path: str | Path,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    quant: str | None = None,
) -> Llama4:
    """The model of a checkpoint folder, in eval mode. Raises InputError for anything about the files that is not right.

    `quant="int4"` quantises on the CPU, layer after layer, and moves what has become a quarter of its size (quant/). A
    folder that `llama4 quantize` has written is int4 as it lies there, whether `quant` says so or not.
    """
    if quant not in QUANTS:
        raise InputError(f"There is no quant {quant!r} here: leave it out, or use int4.")
    folder, target, own = resolve_path(path), resolve_device(device), resolve_dtype(dtype)
    if is_int4_folder(folder):
        return load_int4(folder, target, own)
    if quant is None:
        return checkpoint.load_model(folder, device=target, dtype=own)
    return quantise(checkpoint.load_model(folder, device="cpu", dtype=own)).to(target)


def load(
    path: str | Path,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    quant: str | None = None,
) -> LLM:
    """The model and its tokenizer. The tokenizer is read first: a folder without one fails before the weights load."""
    tokenizer = Tokenizer.from_file(resolve_path(path))
    return LLM(load_model(path, device, dtype, quant), tokenizer)


def resolve_path(path: str | Path) -> Path:
    """The folder that `path` names; "tiny" is the model inside this package."""
    folder = TINY if str(path) == "tiny" else Path(path).expanduser()
    if not folder.exists():
        raise InputError(
            f"There is no checkpoint at {folder}: give the folder that holds config.json or params.json, or `tiny`."
        )
    return folder


def resolve_device(device: str | torch.device | None) -> torch.device:
    """None and "auto" mean CUDA where there is a card, else the CPU."""
    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        resolved = None
    if resolved is None or resolved.type == "meta":  # torch knows it, and it holds no numbers
        raise InputError(f"There is no device called {str(device)!r}: use auto, cpu, cuda or cuda:N.")
    if resolved.type != "cuda":
        return resolved
    if not torch.cuda.is_available():
        raise InputError(f"The device {device} was asked for and torch sees no CUDA card: use --device cpu.")
    if (resolved.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"The device {device} was asked for and torch sees {torch.cuda.device_count()} CUDA cards, counted from 0: "
            "use one of them."
        )
    return resolved


def resolve_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """A torch dtype, or None for the checkpoint's own ("auto")."""
    if dtype is None or dtype == "auto":
        return None
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    if dtype not in DTYPES:
        raise InputError(f"There is no dtype {dtype!r} here: use auto, {', '.join(DTYPES)}.")
    return DTYPES[dtype]
