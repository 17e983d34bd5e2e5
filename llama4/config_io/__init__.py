"""Reading and writing the official configuration files.

Hugging Face's `config.json` (hf.py) spells the layers out; Meta's `params.json` (meta.py) gives intervals and
lets the feed-forward widths follow from a formula. Both become the same `Config`, and where a key is absent each format's
own default holds: attention temperature tuning, for one, is on in `config.json` and off in `params.json`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llama4.config import Config
from llama4.config_io.hf import from_hf, to_hf
from llama4.config_io.meta import from_meta, to_meta
from llama4.errors import InputError

__all__ = ["find_config", "from_hf", "from_meta", "read_config", "read_json", "to_hf", "to_meta"]

HF_FILE = "config.json"
META_FILE = "params.json"


def read_config(path: str | Path) -> Config:
    """Read a folder that holds `config.json` or `params.json`, or one such file itself, under any name.

    A folder with both is read by the one whose weights are there, `config.json` when that decides nothing.
    Raises InputError, naming the file, for whatever cannot be understood.
    """
    file = find_config(Path(path))
    data = read_json(file)
    try:
        return from_meta(data) if _is_meta(data, file) else from_hf(data)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def find_config(path: Path) -> Path:
    """The configuration file that `path` means: itself when it is a file, else the folder's."""
    if path.suffix in (".safetensors", ".pth"):
        raise InputError(f"{path} is a file of weights: give the folder it lies in.")
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(f"{path} does not exist: give the folder of a checkpoint, or its config.json or params.json.")
    hf, meta = path / HF_FILE, path / META_FILE
    found = [file for file in (hf, meta) if file.is_file()]
    if not found:
        raise InputError(f"{path} holds neither config.json nor params.json: give the folder of a checkpoint.")
    if len(found) == 2 and any(path.glob("*.pth")) and not any(path.glob("*.safetensors*")):
        return meta
    return found[0]


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file that holds one object; InputError for anything else."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}): check the path and its permissions.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON ({error}): download it again.") from error
    if not isinstance(data, dict):
        raise InputError(f"{file} holds a JSON {type(data).__name__} where an object belongs: download it again.")
    return data


def _is_meta(data: dict[str, Any], file: Path) -> bool:
    if "model_type" in data or "text_config" in data:
        return False
    return file.name == META_FILE or {"dim", "n_layers"} <= data.keys()
