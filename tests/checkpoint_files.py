"""Small checkpoints for the tests of loading and saving: a model with every weight drawn, its files, and what is no such file."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from random_weights import draw_weights

from llama4.checkpoint import load_model
from llama4.config import Config
from llama4.errors import InputError
from llama4.model import Llama4


def drawn_model(config: Config, seed: int = 0, dtype: torch.dtype = torch.float32) -> Llama4:
    """A model of `config` whose every parameter is drawn, norms and biases too."""
    model = Llama4(config).eval()
    draw_weights(dict(model.named_parameters()), seed)
    return model.to(dtype)


def assert_same_weights(first: torch.nn.Module, second: torch.nn.Module) -> None:
    """Bit for bit, and in the same dtypes."""
    one, two = first.state_dict(), second.state_dict()
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert tensor.dtype == two[name].dtype, name
        assert torch.equal(tensor, two[name]), name


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file of a folder and its contents, hidden ones too."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def refused(folder: Path, message: str, **options: Any) -> None:
    """Loading `folder` raises one clear sentence that matches `message`."""
    with pytest.raises(InputError, match=message) as caught:
        load_model(folder, **options)
    text = str(caught.value)
    assert text.endswith(".")
    assert ". " not in text.replace(str(folder), "")  # one sentence
    assert "\n" not in text


# What is found in place of weights, and what the refusal calls it.
INSTEAD = {
    "empty": (b"", "is empty"),
    "html": (b"\n<!DOCTYPE html><html><body>Access denied</body></html>", "is a web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4\n", "is a Git LFS pointer"),
    "short": (b"abc", "truncated to 3 bytes"),
    "gguf": (b"GGUF\x03\x00\x00\x00" + b"\x00" * 64, "is a GGUF file"),
    "huge header": (struct.pack("<Q", 2**63) + b"{}", "announces a header of 9223372036854775808 bytes"),
    "header past the end": (struct.pack("<Q", 100) + b"{}", "announces a header of 100 bytes in a file of 10"),
    "no json": (struct.pack("<Q", 2) + b"{x", "header that is not JSON"),
    "deep json": (struct.pack("<Q", 100_000) + b"[" * 100_000, "header that is not JSON"),
    "binary": (struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc", "header that is not JSON"),
    "list": (struct.pack("<Q", 2) + b"[]", "header that is no JSON object"),
    "twice": (struct.pack("<Q", 15) + b'{"a": 1,"a": 2}', "a name occurs twice"),
}
