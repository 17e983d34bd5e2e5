"""Pins what is refused in place of Meta's shards: pickles that run code, files that are damaged, shards that are missing or
disagree, weights unlike the config. Every refusal is one sentence that names the file and the tensor.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import INSTEAD, drawn_model, refused
from random_configs import random_config

from llama4.checkpoint import load_model, save_meta

CONFIG = replace(random_config(7, regular=True, vision=False, shards=2), rope_scaling=None)


@pytest.fixture
def meta(tmp_path: Path) -> Path:
    """A good checkpoint of Meta's, two shards."""
    save_meta(drawn_model(CONFIG), tmp_path / "meta", shards=2)
    return tmp_path / "meta"


def test_the_same_in_place_of_a_pth(meta: Path) -> None:
    for kind in ("empty", "html", "lfs", "gguf"):
        content, message = INSTEAD[kind]
        (meta / "consolidated.01.pth").write_bytes(content)
        refused(meta, rf"consolidated\.01\.pth {message}")


def _edit_shard(folder: Path, shard: int, edit: Callable[[dict[str, Any]], Any]) -> None:
    file = folder / f"consolidated.{shard:02d}.pth"
    weights = torch.load(file)
    edit(weights)
    torch.save(weights, file)


class Payload:
    """What an attacker pickles: reading it runs `touch`."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.target}",))


@pytest.mark.parametrize("where", ["weights", "extra state"])
def test_pickles_that_run_code_are_refused(meta: Path, tmp_path: Path, where: str) -> None:
    name = "surprise" if where == "weights" else "layers.0.attention.wqkv._extra_state"
    _edit_shard(meta, 0, lambda w: w.update({name: Payload(tmp_path / "ran")}))
    refused(meta, r"consolidated\.00\.pth asks to run \w+\.system while it is read")
    assert not (tmp_path / "ran").exists()


def test_allowing_extra_state_does_not_outlast_the_load(meta: Path) -> None:
    before = torch.serialization.get_safe_globals()
    load_model(meta)
    assert torch.serialization.get_safe_globals() == before


def test_a_truncated_pth(meta: Path) -> None:
    file = meta / "consolidated.01.pth"
    content = file.read_bytes()
    for keep in (100, len(content) // 2, len(content) - 10):
        file.write_bytes(content[:keep])
        refused(meta, r"consolidated\.01\.pth is (truncated|damaged)")


def test_a_zip_that_is_no_checkpoint(meta: Path) -> None:
    with zipfile.ZipFile(meta / "consolidated.01.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(meta, r"consolidated\.01\.pth is damaged")


@pytest.mark.parametrize("number", [0, 1])
def test_a_missing_shard_number(meta: Path, number: int) -> None:
    (meta / "consolidated.02.pth").write_bytes((meta / "consolidated.00.pth").read_bytes())
    (meta / f"consolidated.{number:02d}.pth").unlink()
    refused(meta, rf"lacks consolidated\.{number:02d}\.pth")


def test_the_last_shard_missing(meta: Path) -> None:
    (meta / "consolidated.01.pth").unlink()
    refused(meta, r"this config in 1 shard\(s\) needs")


def test_shards_that_disagree_in_shape(meta: Path) -> None:
    _edit_shard(meta, 1, lambda w: w.update({"output.weight": w["output.weight"][:-1]}))
    refused(meta, r"consolidated\.01\.pth holds tensor output\.weight with shape")


def test_shards_that_disagree_in_names(meta: Path) -> None:
    _edit_shard(meta, 1, lambda w: w.pop("norm.weight"))
    refused(meta, r"consolidated\.01\.pth lacks tensor norm\.weight")


def test_shards_that_disagree_in_dtype(meta: Path) -> None:
    _edit_shard(meta, 1, lambda w: w.update({"norm.weight": w["norm.weight"].bfloat16()}))
    refused(meta, r"consolidated\.01\.pth holds tensor norm\.weight in bfloat16, unlike")


def test_replicated_tensors_that_differ(meta: Path) -> None:
    _edit_shard(meta, 1, lambda w: w["norm.weight"].add_(1e-6))
    refused(meta, r"consolidated\.01\.pth holds another norm\.weight than consolidated\.00\.pth")


META_WEIGHTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "missing": (lambda w: w.pop("layers.0.attention.wo.weight"), r"lacks tensor layers\.0\.attention\.wo\.weight"),
    "unexpected": (lambda w: w.update(surprise=torch.ones(2)), "holds tensor surprise"),
    "twice": (
        lambda w: w.update({"layers.0.attention.wqkv.weight": torch.ones(2)}),
        r"holds both layers\.0\.attention\.wq\.weight and layers\.0\.attention\.wqkv\.weight|holds both",
    ),
    "int8": (lambda w: w.update({"norm.weight": w["norm.weight"].to(torch.int8)}), "in int8"),
    "no tensor": (lambda w: w.update({"norm.weight": [1.0]}), "which is a list and no tensor"),
    "mixed": (
        lambda w: w.update({"norm.weight": w["norm.weight"].half()}),
        "in float16 and most others are in float32",
    ),
}


@pytest.mark.parametrize("kind", META_WEIGHTS)
def test_meta_weights_unlike_the_config(meta: Path, kind: str) -> None:
    edit, message = META_WEIGHTS[kind]
    for shard in (0, 1):
        _edit_shard(meta, shard, edit)
    refused(meta, message)


def test_a_pth_of_something_else(meta: Path) -> None:
    torch.save([torch.ones(2)], meta / "consolidated.00.pth")
    refused(meta, "holds a list, not named tensors")
