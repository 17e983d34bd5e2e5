"""What transformers loads without complaint and this package refuses: the reference's side of docs/divergences.md's rows on
files. Our side, case by case: tests/test_bad_checkpoints.py."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from random_configs import random_config
from safetensors.torch import load_file, save_file
from small_models import drawn_model

import llama4
from llama4.checkpoint import save_hf
from llama4.errors import InputError

pytest.importorskip("transformers")


def one_file(folder: Path) -> Path:
    """The folder's only safetensors file."""
    (file,) = folder.glob("*.safetensors")
    return file


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Rewrite the folder's tensors after `change`."""
    tensors = load_file(one_file(folder))
    change(tensors)
    save_file(tensors, one_file(folder), metadata={"format": "pt"})


def missing(folder: Path) -> None:
    """One weight fewer."""
    edit(folder, lambda tensors: tensors.pop("model.norm.weight"))


def extra(folder: Path) -> None:
    """One weight more."""
    edit(folder, lambda tensors: tensors.update({"model.layers.0.surprise.weight": torch.zeros(3)}))


def wrong_dtype(folder: Path) -> None:
    """One weight in another dtype than the rest."""
    edit(folder, lambda t: t.update({"model.norm.weight": t["model.norm.weight"].double()}))


def index_over(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    """Give the folder an index after `change`, its one file being the shard `a.safetensors`."""
    file = one_file(folder).rename(folder / "a.safetensors")
    places = dict.fromkeys(load_file(file), "a.safetensors")
    change(places)
    content = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def lying_index(folder: Path) -> None:
    """The index names a tensor that its shard lacks."""
    index_over(folder, lambda places: places.update({"model.layers.9.norm.weight": "a.safetensors"}))


def outside(folder: Path) -> None:
    """The index names a shard in the folder above."""
    index_over(folder, lambda places: places.update(dict.fromkeys(places, "../a.safetensors")))
    shutil.move(folder / "a.safetensors", folder.parent / "a.safetensors")


@pytest.mark.parametrize("damage", [missing, extra, wrong_dtype, lying_index, outside], ids=lambda f: f.__name__)
def test_transformers_loads_what_is_refused_here(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    from transformers import Llama4ForCausalLM

    folder = tmp_path / "model"
    save_hf(drawn_model(random_config(3, vision=False)), folder)
    llama4.load_model(folder)  # sound before
    damage(folder)
    Llama4ForCausalLM.from_pretrained(folder)
    with pytest.raises(InputError):
        llama4.load_model(folder)
