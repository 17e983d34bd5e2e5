"""Load a checkpoint of either official format into a model.

    config -> the shapes it needs -> the files' headers, checked against them -> memory, checked -> tensors, one by one

Nothing is allocated before everything has been checked that can be checked without reading the weights themselves.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from llama4.checkpoint.folder import hf_entries, meta_files, weights_format
from llama4.checkpoint.hf import HFSource
from llama4.checkpoint.memory import MemoryProbe, available_memory, require_memory
from llama4.checkpoint.meta import MetaSource
from llama4.checkpoint.shapes import parameter_count
from llama4.checkpoint.source import Source, TensorInfo, common_dtype
from llama4.checkpoint.torch_file import open_shard
from llama4.config import Config
from llama4.config_io import HF_FILE, read_config, read_json
from llama4.errors import InputError
from llama4.model import Llama4

BAR_DELAY = 2  # seconds that loading may take before it shows a bar
_CHECK_AT_ONCE = 1 << 16  # numbers looked at in one go: they stay in the cache, and checking needs no memory


def load_model(
    path: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    check: bool = False,
    *,
    available: MemoryProbe = available_memory,
) -> Llama4:
    """A model in evaluation mode from a checkpoint folder, Hugging Face's or Meta's.

    device: where the weights go; the CPU by default. dtype: what they become; the files' own by default, in which case a
    Hugging Face checkpoint on the CPU is not read at all but aliased, and pages come in as the model touches them.
    check: look at every number, and refuse NaN and infinity by name. available: asked for the bytes that are free.
    Raises InputError before anything is allocated, for whatever is wrong with the folder.
    """
    folder = Path(path)
    folder = folder.parent if folder.is_file() else folder
    config = read_config(path)
    source = open_source(folder, config)
    dtype = common_dtype(source) if dtype is None else dtype
    device = torch.device("cpu" if device is None else device)
    require_memory(parameter_count(config) * dtype.itemsize, f"Loading {folder}", device, available)
    with torch.device("meta"):
        model = Llama4(config)
    bad: list[str] = []
    with tqdm(total=source.nbytes, desc="loading", unit="B", unit_scale=True, delay=BAR_DELAY, disable=None) as bar:
        for name, tensor in source.tensors(dtype, device, bar.update):
            if check and not is_finite(tensor):
                bad.append(source.official[name])
            _assign(model, name, tensor)
    if bad:
        raise InputError(
            f"{folder} holds NaN or infinite numbers in {', '.join(dict.fromkeys(bad))}: download it again."
        )
    return model.eval()


def open_source(folder: Path, config: Config) -> Source:
    """The weights of a folder, checked against a config from their headers."""
    if weights_format(folder) == "hf" and read_json(folder / HF_FILE).get("quantization_config") is not None:
        raise InputError(f"{folder} holds int4 weights: start from the unquantised model.")
    return HFSource(folder, config) if weights_format(folder) == "hf" else MetaSource(folder, config)


def list_tensors(path: str | Path) -> dict[str, TensorInfo]:
    """Every tensor of a checkpoint by its official name, from the headers alone."""
    folder = Path(path)
    if weights_format(folder) == "hf":
        entries = hf_entries(folder)
        return {name: TensorInfo(e.shape, e.dtype, e.file.name, e.nbytes) for name, e in entries.items()}
    infos: dict[str, TensorInfo] = {}
    for file in meta_files(folder):
        for name, tensor in open_shard(file).items():
            first = infos.get(name, TensorInfo(tuple(tensor.shape), tensor.dtype, file.name, 0))
            infos[name] = first._replace(bytes=first.bytes + tensor.nbytes)
    return infos


def is_finite(tensor: Tensor) -> bool:
    """Whether no number of `tensor` is NaN or infinite."""
    return all(bool(torch.isfinite(part).all()) for part in tensor.reshape(-1).split(_CHECK_AT_ONCE))


def _assign(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Put `tensor` in the place of a parameter of the meta-device model, as it is: no copy."""
    module, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(module), leaf, nn.Parameter(tensor))
