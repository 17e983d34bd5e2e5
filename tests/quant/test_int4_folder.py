"""Pins folders in int4: bit for bit what loading with `quant` makes, in one file or several, and whole or not there at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_models import drawn_model, random_tokens, small_config

import llama4
from llama4 import checkpoint
from llama4.checkpoint.safetensors_file import read_header, write_file
from llama4.cli import main
from llama4.errors import InputError
from llama4.model import Llama4
from llama4.quant import is_int4_folder, is_quantised, load_int4, quantise, save_int4


def small(dtype: torch.dtype = torch.bfloat16, **changes: object) -> Llama4:
    """Both kinds of layer, and a vision encoder."""
    config = small_config(vision=True, width=64, expert_width=32, dense_width=96, heads=4, head_width=16, **changes)
    vision = replace(config.vision, mlp_width=config.vision.width * config.vision.shuffle**2)  # as config.json has it
    return drawn_model(replace(config, vision=vision)).to(dtype)


def assert_same(found: Llama4, expected: Llama4) -> None:
    ours, theirs = found.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype and torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("group", [None, 32])
def test_a_folder_is_bit_for_bit_the_model_in_int4(tmp_path: Path, dtype: torch.dtype, group: int | None) -> None:
    model = small(dtype)
    written = save_int4(model, tmp_path, group)
    assert not is_quantised(model) and is_int4_folder(tmp_path)
    found = load_int4(tmp_path)
    assert written == sum(tensor.nbytes for tensor in found.state_dict().values())
    assert written < (tmp_path / "model.safetensors").stat().st_size < written + 30_000
    assert_same(found, quantise(model, group))
    assert found.config == model.config and not found.training
    tokens_BS = random_tokens(2, 9)
    assert torch.equal(found(tokens_BS), model(tokens_BS))


def test_tied_embeddings_and_several_files(tmp_path: Path) -> None:
    model = small(tied_embeddings=True)
    save_int4(model, tmp_path / "one")
    save_int4(model, tmp_path / "many", max_shard_bytes=20_000)
    files = sorted(file.name for file in (tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 3 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert_same(load_int4(tmp_path / "many"), load_int4(tmp_path / "one"))


@pytest.mark.parametrize("limits", [(20_000, 10**9), (20_000, 40_000), (10**9, 20_000)])
def test_a_second_save_replaces_the_first(tmp_path: Path, limits: tuple[int, int]) -> None:
    """An index or a shard of the first would be read in place of the second."""
    for limit, model in zip(limits, (small(), small(dtype=torch.float32)), strict=True):
        save_int4(model, tmp_path, max_shard_bytes=limit)
    assert_same(load_int4(tmp_path), quantise(model))


def test_another_dtype_keeps_the_bytes(tmp_path: Path) -> None:
    save_int4(small(), tmp_path)
    narrow, wide = load_int4(tmp_path), load_int4(tmp_path, dtype=torch.float32)
    for name, tensor in wide.state_dict().items():
        assert tensor.dtype == (torch.uint8 if name.endswith(".q") else torch.float32)
        assert torch.equal(tensor, narrow.state_dict()[name].to(tensor.dtype))


def test_the_command_writes_what_load_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "int4"
    assert main(["quantize", "tiny", "--into", str(target)]) == 0
    told = capsys.readouterr().err
    assert "Wrote" in told and "MB became" in told and "tokenizer.model" in told
    assert not [file for file in target.iterdir() if file.name.startswith(".")]
    assert_same(llama4.load_model(target, device="cpu"), llama4.load_model("tiny", device="cpu", quant="int4"))
    assert json.loads((target / "config.json").read_text())["quantization_config"]["quant_method"] == "llama4-int4"
    for options in ([], ["--quant", "int4"]):
        assert (
            main(["generate", "--model", str(target), "hello", "--max-new-tokens", "2", "--device", "cpu", *options])
            == 0
        )
        assert "linear layers in int4" in capsys.readouterr().err
    assert main(["inspect", str(target)]) == 0 and "uint8" in capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *command: object) -> str:
    assert main([str(word) for word in command]) == 2
    message = capsys.readouterr().err.strip()
    assert message.endswith(".") and "\n" not in message
    return message


def test_what_cannot_be_done_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "int4"
    save_int4(small(), target)
    assert "exists and is not an empty folder" in refused(capsys, "quantize", "tiny", "--into", target)
    assert "holds int4 weights" in refused(capsys, "quantize", target, "--into", tmp_path / "other")
    assert "holds int4 weights" in refused(capsys, "convert", target, tmp_path / "other")
    assert "--max-shard-gb is 0" in refused(capsys, "quantize", "tiny", "--into", tmp_path / "x", "--max-shard-gb", 0)
    assert "There is no checkpoint" in refused(capsys, "quantize", tmp_path / "none", "--into", tmp_path / "x")
    assert not (tmp_path / "other").exists() and not (tmp_path / "x").exists()


def test_a_width_without_a_group_nan_and_a_full_disk_leave_nothing(tmp_path: Path) -> None:
    odd = drawn_model(small_config(width=64, expert_width=36, heads=4, head_width=16))
    with pytest.raises(InputError, match=r"36 is a multiple of none"):
        save_int4(odd, tmp_path / "odd")
    bad = small()
    bad.decoder.layers[1].ffn.down.weight.data[3, 5] = torch.nan
    with pytest.raises(InputError, match=r"decoder\.layers\.1\.ffn\.down\.weight: A weight is NaN"):
        save_int4(bad, tmp_path / "bad", max_shard_bytes=20_000)
    with pytest.raises(InputError, match=r"needs .* and its disk has 1\.0 kB free"):
        save_int4(small(), tmp_path / "full", free=lambda _: 1000)
    for make in (lambda: save_int4(small(), tmp_path / "group", group=16), lambda: quantise(small(), group=16)):
        with pytest.raises(InputError, match="group is 16: choose 128, 64, 32"):
            make()
    with pytest.raises(InputError, match="in int4 already"):
        save_int4(quantise(small()), tmp_path / "twice")
    left = [file for folder in tmp_path.iterdir() for file in folder.iterdir()]
    assert left == []


def changed(folder: Path, **tensors: torch.Tensor | None) -> None:
    """The folder's one file with some tensors replaced, or taken out; names with `__` for a dot."""
    file = folder / "model.safetensors"
    from llama4.checkpoint.safetensors_file import Mapping

    mapping = Mapping(file)
    held = {name: mapping.tensor(entry).clone() for name, entry in read_header(file).items()}
    held |= {name: tensor for name, tensor in tensors.items() if tensor is not None}
    write_file(file, [(name, tensor) for name, tensor in held.items() if tensors.get(name, tensor) is not None])


def test_a_folder_that_is_not_whole_is_refused_by_name(tmp_path: Path) -> None:
    name = "language_model.model.layers.0.self_attn.q_proj.weight"
    half = torch.zeros(64, 16, dtype=torch.uint8)
    for tensors, words in (
        ({f"{name}.q": None}, f"lacks tensor {name}.q"),
        ({name: torch.zeros(64, 64)}, f"holds tensor {name}, which this config has no place for"),
        ({f"{name}.q": half}, f"{name}.q as uint8 [64, 16], which is no int4 of [64, 64]"),
        ({f"{name}.scale": half}, f"{name}.scale as uint8 [64, 16]"),
        ({f"{name}.scale": torch.zeros(64, 3)}, f"{name}.scale as float32 [64, 3]"),
    ):
        save_int4(small(), tmp_path)
        changed(tmp_path, **tensors)
        with pytest.raises(InputError) as caught:
            llama4.load_model(tmp_path, device="cpu")
        assert words in str(caught.value)


def test_another_version_and_other_programs_are_refused(tmp_path: Path) -> None:
    save_int4(small(), tmp_path)
    file = tmp_path / "config.json"
    told = json.loads(file.read_text())
    told["quantization_config"]["version"] = 2
    file.write_text(json.dumps(told))
    with pytest.raises(InputError, match="int4 of version 2 and this program reads 1"):
        llama4.load_model(tmp_path, device="cpu")
    told["quantization_config"]["quant_method"] = "gptq"
    file.write_text(json.dumps(told))
    with pytest.raises(InputError, match="quantised checkpoints of other programs"):
        llama4.load_model(tmp_path, device="cpu")


def test_too_little_memory_is_told_before_anything_is_read(tmp_path: Path) -> None:
    save_int4(small(), tmp_path)
    with pytest.raises(InputError, match=r"needs .* and 10 B are free"):
        load_int4(tmp_path, available=lambda _: 10)


def test_the_unquantised_layouts_refuse_an_int4_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="save the unquantised model"):
        checkpoint.save_hf(quantise(small()), tmp_path)
