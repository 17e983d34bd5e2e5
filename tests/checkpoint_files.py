"""Small checkpoints for the tests of loading and saving: a model with every weight drawn, and files of it."""

from __future__ import annotations

from pathlib import Path

import torch
from random_weights import draw_weights

from llama4.config import Config
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
