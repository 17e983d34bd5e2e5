"""Pins what is refused in place of a checkpoint: each file that is often found instead of weights, each way a header, an index
or a pickle can lie, each mismatch between weights and config. Every refusal is one sentence that names the file or tensor.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import INSTEAD, assert_same_weights, drawn_model, refused
from random_configs import random_config
from safetensors.torch import load_file, save_file

from llama4.checkpoint import list_tensors, load_model, save_hf, save_meta
from llama4.checkpoint.safetensors_file import read_header
from llama4.errors import InputError

CONFIG = replace(random_config(7, regular=True, vision=False, shards=2), rope_scaling=None)
NORM = "model.norm.weight"
FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def single(tmp_path: Path) -> Path:
    """A good checkpoint of one file."""
    save_hf(drawn_model(CONFIG), tmp_path / "hf")
    return tmp_path / "hf"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A good checkpoint of several files."""
    save_hf(drawn_model(CONFIG), tmp_path / "hf", max_shard_bytes=20_000)
    return tmp_path / "hf"


# Something else in place of the file


@pytest.mark.parametrize("kind", INSTEAD)
def test_another_file_in_place_of_safetensors(single: Path, kind: str) -> None:
    content, message = INSTEAD[kind]
    (single / FILE).write_bytes(content)
    refused(single, rf"{FILE} .*{message}|{FILE} {message}")


@pytest.mark.parametrize("keep", [4, 100, 5_000, -1])
def test_truncated_safetensors(single: Path, keep: int) -> None:
    content = (single / FILE).read_bytes()
    (single / FILE).write_bytes(content[:keep])
    refused(single, "truncated")


def test_bytes_after_the_end(single: Path) -> None:
    with (single / FILE).open("ab") as stream:
        stream.write(b"\x00")
    refused(single, "1 bytes after its last tensor")


@pytest.mark.parametrize("length", [0x0280, 0x0480, 0x10280])
def test_a_header_whose_length_reads_like_a_pickle_is_none(tmp_path: Path, length: int) -> None:
    """The first two bytes of a length of 640 are 80 02, with which a pickle of protocol 2 begins."""
    header = json.dumps({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode().ljust(length)
    (tmp_path / FILE).write_bytes(struct.pack("<Q", length) + header + b"\x00")
    assert read_header(tmp_path / FILE).keys() == {"a"}


@pytest.mark.parametrize("protocol", ["zip", 2, 4])
def test_a_pth_renamed_to_safetensors(single: Path, protocol: Any) -> None:
    weights = {"a": 1} if protocol != "zip" else {"a": torch.ones(2)}
    if protocol == "zip":
        torch.save(weights, single / FILE)
    else:
        (single / FILE).write_bytes(pickle.dumps(weights, protocol=protocol))
    refused(single, "is a PyTorch file that was renamed")


# Headers that lie


def _edit_header(file: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    edit(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def _overlap(header: dict[str, Any]) -> None:
    begin, end = header[NORM]["data_offsets"]
    move = -4 if begin else 4
    header[NORM]["data_offsets"] = [begin + move, end + move]


HEADERS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "past the end": (lambda h: h[NORM].update(data_offsets=[10**9, 10**9 + 4 * CONFIG.width]), "gap|truncated"),
    "overlap": (_overlap, "overlaps|gap"),
    "negative": (
        lambda h: h[NORM].update(data_offsets=[-4, 4 * CONFIG.width - 4]),
        "shape or offsets that are no sizes",
    ),
    "backwards": (lambda h: h[NORM].update(data_offsets=h[NORM]["data_offsets"][::-1]), "bytes, but its shape"),
    "wrong length": (lambda h: h[NORM].update(shape=[CONFIG.width + 1]), "bytes, but its shape"),
    "negative shape": (lambda h: h[NORM].update(shape=[-1]), "no sizes"),
    "shape of text": (lambda h: h[NORM].update(shape="x"), "no sizes"),
    "no shape": (lambda h: h[NORM].pop("shape"), "without dtype, shape or data_offsets"),
    "one offset": (lambda h: h[NORM].update(data_offsets=[0]), "without dtype, shape or data_offsets"),
    "not an object": (lambda h: h.update({NORM: 3}), "without dtype, shape or data_offsets"),
    "unknown dtype": (lambda h: h[NORM].update(dtype="F4"), "in dtype F4"),
    "dtype of a list": (lambda h: h[NORM].update(dtype=["F32"]), "without dtype, shape or data_offsets"),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_that_lie(single: Path, kind: str) -> None:
    edit, message = HEADERS[kind]
    _edit_header(single / FILE, edit)
    refused(single, message)
    with pytest.raises(InputError):
        list_tensors(single)


# Indexes that lie


def _edit_index(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    index = json.loads((folder / INDEX).read_text())
    edit(index)
    (folder / INDEX).write_text(json.dumps(index))


def test_a_missing_shard(sharded: Path) -> None:
    (sharded / "model-00001-of-00002.safetensors").unlink(missing_ok=True)
    shard = sorted(sharded.glob("model-*.safetensors"))[0]
    shard.unlink()
    refused(sharded, f"{shard.name} is missing though {INDEX} names it|is missing")


def test_a_missing_index(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    refused(sharded, "safetensors files but no")


def test_no_weights(single: Path) -> None:
    (single / FILE).unlink()
    refused(single, "holds no weights")


def test_an_index_naming_a_tensor_its_shard_lacks(sharded: Path) -> None:
    names = json.loads((sharded / INDEX).read_text())["weight_map"]
    other = next(file for file in names.values() if file != names[NORM])
    _edit_index(sharded, lambda index: index["weight_map"].update({NORM: other}))
    refused(sharded, rf"lacks tensor {NORM}|holds tensor {NORM}, which")


def test_an_index_naming_a_tensor_that_no_shard_has(sharded: Path) -> None:
    _edit_index(sharded, lambda index: index["weight_map"].update(ghost=index["weight_map"][NORM]))
    refused(sharded, r"lacks tensor ghost, which model\.safetensors\.index\.json places there")


def test_an_index_leaving_a_tensor_out(sharded: Path) -> None:
    _edit_index(sharded, lambda index: index["weight_map"].pop(NORM))
    refused(sharded, rf"holds tensor {NORM}, which {INDEX} does not list")


@pytest.mark.parametrize(
    "content", ["{}", '{"weight_map": {}}', '{"weight_map": {"a": 3}}', '{"weight_map": []}', "<html>"]
)
def test_an_index_that_is_none(sharded: Path, content: str) -> None:
    (sharded / INDEX).write_text(content)
    refused(sharded, INDEX)


@pytest.mark.parametrize("way", ["parent", "absolute", "link", "linked folder", "single"])
def test_shards_outside_the_folder(sharded: Path, tmp_path: Path, way: str) -> None:
    shard = sorted(sharded.glob("model-*.safetensors"))[0]
    outside = tmp_path / "outside"
    outside.mkdir()
    moved = outside / shard.name
    shard.rename(moved)
    name = {"parent": f"../outside/{shard.name}", "absolute": str(moved), "linked folder": f"in/{shard.name}"}.get(
        way, shard.name
    )
    if way == "link":
        shard.symlink_to(moved)
    if way == "linked folder":
        (sharded / "in").symlink_to(outside)
    if way == "single":
        (sharded / INDEX).unlink()
        (sharded / FILE).symlink_to(moved)
    else:
        _edit_index(
            sharded, lambda i: i["weight_map"].update({k: name for k, v in i["weight_map"].items() if v == shard.name})
        )
    refused(sharded, "leads out of the folder")


@pytest.mark.parametrize("form", ["absolute", "up and down"])
def test_shard_paths_that_come_back_are_refused_too(sharded: Path, form: str) -> None:
    before = {"absolute": f"{sharded}/", "up and down": f"../{sharded.name}/"}[form]
    _edit_index(sharded, lambda i: i["weight_map"].update({k: before + v for k, v in i["weight_map"].items()}))
    refused(sharded, "leads out of the folder")


def test_links_inside_a_hub_cache_are_followed(single: Path, tmp_path: Path) -> None:
    """huggingface_hub keeps snapshots/REVISION/FILE as links to blobs/HASH."""
    model = load_model(single)
    snapshot, blobs = tmp_path / "models--x" / "snapshots" / "abc", tmp_path / "models--x" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(list(single.iterdir())):
        file.rename(blobs / str(number))
        (snapshot / file.name).symlink_to(os.path.relpath(blobs / str(number), snapshot))
    assert_same_weights(model, load_model(snapshot))
    elsewhere = tmp_path / "elsewhere"
    (snapshot / FILE).resolve().rename(elsewhere)
    (snapshot / FILE).unlink()
    (snapshot / FILE).symlink_to(elsewhere)
    refused(snapshot, "leads out of the folder")


# Weights and config that do not belong together


def _edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / FILE)
    edit(tensors)
    save_file(tensors, folder / FILE)


WEIGHTS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "missing": (lambda w: w.pop(NORM), rf"lacks tensor {NORM}"),
    "unexpected": (
        lambda w: w.update(surprise=torch.ones(2)),
        "holds tensor surprise, which this config has no place for",
    ),
    "several": (lambda w: w.update(a=torch.ones(1), b=torch.ones(1)), "holds 2 tensors, a among them"),
    "shape": (lambda w: w.update({NORM: torch.ones(3)}), rf"tensor {NORM} with shape \[3\]"),
    "transposed": (lambda w: w.update({NORM: w[NORM][None]}), rf"tensor {NORM} with shape \[1, "),
    "int8": (lambda w: w.update({NORM: w[NORM].to(torch.int8)}), rf"tensor {NORM} in int8, not in a floating dtype"),
    "fp8": (lambda w: w.update({NORM: w[NORM].to(torch.float8_e4m3fn)}), rf"tensor {NORM} in float8_e4m3fn"),
    "mixed": (
        lambda w: w.update({NORM: w[NORM].to(torch.bfloat16)}),
        rf"tensor {NORM} in bfloat16 and most others are in float32",
    ),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_unlike_the_config(single: Path, kind: str) -> None:
    edit, message = WEIGHTS[kind]
    _edit_weights(single, edit)
    refused(single, message)


def test_mixed_dtypes_load_when_one_is_asked_for(single: Path) -> None:
    _edit_weights(single, WEIGHTS["mixed"][0])
    assert {p.dtype for p in load_model(single, dtype=torch.float32).parameters()} == {torch.float32}


def test_a_config_of_another_model(single: Path) -> None:
    config = json.loads((single / "config.json").read_text())
    (single / "config.json").write_text(json.dumps({**config, "intermediate_size": config["intermediate_size"] + 1}))
    refused(single, "the config and the weights do not belong together")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("layout", ["hf", "meta"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_and_infinity_are_reported_by_name_on_request(
    tmp_path: Path, value: float, layout: str, dtype: torch.dtype
) -> None:
    model = drawn_model(CONFIG, dtype=dtype)
    with torch.no_grad():
        model.decoder.norm.weight[1] = value
        model.decoder.layers[0].attention.q.weight[2, 3] = value
    (save_hf if layout == "hf" else save_meta)(model, tmp_path)
    load_model(tmp_path)
    refused(tmp_path, r"NaN or infinite", check=True)
    with pytest.raises(InputError) as caught:
        load_model(tmp_path, check=True)
    names = {  # those of the files
        "hf": "model.layers.0.self_attn.q_proj.weight, model.norm.weight",
        "meta": "layers.0.attention.wq.weight, norm.weight",
    }
    assert f"numbers in {names[layout]}: " in str(caught.value)


def test_a_nan_is_reported_once_under_each_name_that_may_hold_it(tmp_path: Path) -> None:
    """Meta's training files join q, k and v, and part gate from up."""
    model = drawn_model(CONFIG)
    moe = next(number for number, spec in enumerate(CONFIG.layers) if spec.ffn == "moe")
    with torch.no_grad():
        model.decoder.layers[moe].attention.q.weight[0, 0] = float("nan")
        model.decoder.layers[moe].attention.k.weight[0, 0] = float("nan")
        model.decoder.layers[moe].ffn.experts.gate_up[0, 0, 0] = float("nan")
    save_meta(model, tmp_path, names="training")
    with pytest.raises(InputError) as caught:
        load_model(tmp_path, check=True)
    layer = f"layers.{moe}."
    experts = f"{layer}feed_forward.experts.moe_w_in_eD_F and {layer}feed_forward.experts.moe_w_swiglu_eD_F"
    assert f"numbers in {layer}attention.wqkv.weight, {experts}: " in str(caught.value)


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_model(tmp_path / "absent")


def test_a_file_of_weights_in_place_of_the_folder(single: Path) -> None:
    with pytest.raises(InputError, match="give the folder it lies in"):
        load_model(single / FILE)
    assert load_model(single / "config.json").config == CONFIG


def test_a_header_is_read_without_the_data(single: Path) -> None:
    """The file's data may be a hole: reading the header must not mind (nor read it)."""
    names = read_header(single / FILE)
    file = single / FILE
    start = min(entry.start for entry in names.values())
    size = file.stat().st_size
    with file.open("r+b") as stream:
        stream.truncate(start)
        stream.truncate(size)
    assert read_header(file) == names
