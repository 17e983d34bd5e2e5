"""Pins loading and saving of Hugging Face checkpoints: what transformers writes is read bit for bit, what is written here
transformers reads with nothing missing or left over, parameters alias the file, and a save that fails changes nothing.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoint_files import assert_same_weights, drawn_model, files_of
from random_configs import random_config
from safetensors.torch import load_file, save_file

from llama4.checkpoint import hf_names, list_tensors, load_model, save_hf
from llama4.config import Config
from llama4.config_io import to_hf
from llama4.errors import InputError
from llama4.model import Llama4

pytestmark = pytest.mark.filterwarnings("ignore:RoPE scaling 8")


def _hf_checkpoint(config: Config, folder: Path, **options: object) -> torch.nn.Module:
    """transformers' own model of `config`, drawn and saved by transformers."""
    pytest.importorskip("transformers")
    from reference_hf import hf_model

    model = hf_model(to_hf(config), seed=5)
    model.save_pretrained(folder, **options)
    return model


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_what_transformers_writes_is_read_bit_for_bit(tmp_path: Path, seed: int, shard: str) -> None:
    config = random_config(seed)
    theirs = _hf_checkpoint(config, tmp_path, max_shard_size=shard).state_dict()
    assert len(list(tmp_path.glob("*.safetensors"))) > 1 or shard == "5GB"
    model = load_model(tmp_path, check=True)
    assert model.config == config
    assert not model.training
    ours = model.state_dict()
    for our_name, name in hf_names(config).items():
        assert torch.equal(ours[our_name], theirs[name]), our_name


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4, 5])
def test_transformers_gives_the_same_logits_from_what_is_written_here(tmp_path: Path, seed: int) -> None:
    transformers = pytest.importorskip("transformers")
    config = random_config(seed)
    config = replace(config, chunk=64 if config.chunk is None else config.chunk)  # transformers fails without a chunk
    model = drawn_model(config, seed)
    save_hf(model, tmp_path, max_shard_bytes=40_000)
    kind = "Llama4ForCausalLM" if config.vision is None else "Llama4ForConditionalGeneration"
    theirs, info = getattr(transformers, kind).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokens_BS = torch.randint(0, 100, (2, 23), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        ours_BSV, theirs_BSV = model(tokens_BS), theirs(input_ids=tokens_BS).logits
    # One wrong name or shape moves logits by about their own size; 1e-4 is float32 rounding of sums over a few layers.
    assert (ours_BSV - theirs_BSV).abs().max() <= 1e-4 * max(1.0, float(theirs_BSV.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("limit", [5_000_000_000, 30_000])
def test_round_trip(tmp_path: Path, dtype: torch.dtype, limit: int) -> None:
    model = drawn_model(random_config(1, vision=True), dtype=dtype)
    save_hf(model, tmp_path, max_shard_bytes=limit)
    assert_same_weights(model, load_model(tmp_path))
    for file in tmp_path.glob("model*.safetensors"):  # the library reads what is written here
        largest = max(tensor.nbytes for tensor in load_file(file).values())
        assert file.stat().st_size <= max(limit, largest) + 10_000
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == str(dtype).removeprefix("torch.")


def test_tied_embeddings_are_written_once_and_read_tied(tmp_path: Path) -> None:
    config = replace(random_config(2, vision=False), tied_embeddings=True)
    model = drawn_model(config)
    save_hf(model, tmp_path)
    assert "lm_head.weight" not in list_tensors(tmp_path)
    assert_same_weights(model, load_model(tmp_path))
    tokens_BS = torch.arange(10)[None]
    with torch.no_grad():
        assert torch.equal(model(tokens_BS), load_model(tmp_path)(tokens_BS))


def test_a_tied_head_may_be_written_a_second_time_if_it_is_the_same(tmp_path: Path) -> None:
    config = replace(random_config(2, vision=False), tied_embeddings=True)
    model = drawn_model(config)
    save_hf(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "model.safetensors")
    assert_same_weights(model, load_model(tmp_path))
    tensors["lm_head.weight"][3, 3] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"lm_head\.weight unlike the embedding"):
        load_model(tmp_path)


def test_text_only_files_with_the_prefix_are_read_too(tmp_path: Path) -> None:
    model = drawn_model(random_config(2, vision=False))
    save_hf(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert "model.embed_tokens.weight" in tensors
    save_file({f"language_model.{name}": value for name, value in tensors.items()}, tmp_path / "model.safetensors")
    assert_same_weights(model, load_model(tmp_path))


def test_conversion_of_the_dtype(tmp_path: Path) -> None:
    model = drawn_model(random_config(1, vision=True))
    save_hf(model, tmp_path)
    assert_same_weights(model.to(torch.bfloat16), load_model(tmp_path, dtype=torch.bfloat16))


def test_parameters_can_be_changed_without_changing_the_file(tmp_path: Path) -> None:
    model = drawn_model(random_config(1, vision=True))
    save_hf(model, tmp_path)
    before = files_of(tmp_path)
    loaded = load_model(tmp_path)
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.add_(1.0)
    assert files_of(tmp_path) == before
    assert_same_weights(model, load_model(tmp_path))


def test_unaligned_files_are_read(tmp_path: Path) -> None:
    """Older writers did not pad the header, so float32 data may begin at any byte."""
    model = drawn_model(random_config(1))
    save_hf(model, tmp_path)
    file = tmp_path / "model.safetensors"
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = raw[8 : 8 + length].rstrip() + b" " * (-(len(raw[8 : 8 + length].rstrip())) % 8 + 1)
    file.write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + length :])
    loaded = load_model(tmp_path)
    assert_same_weights(model, loaded)
    assert all(parameter.data_ptr() % 4 == 0 for parameter in loaded.parameters())


def test_saving_over_another_sharding_leaves_no_stale_file(tmp_path: Path) -> None:
    model = drawn_model(random_config(1, vision=True))
    (tmp_path / "tokenizer.model").write_text("kept")
    save_hf(model, tmp_path, max_shard_bytes=30_000)
    assert (tmp_path / "model.safetensors.index.json").exists()
    save_hf(model, tmp_path)
    assert sorted(files_of(tmp_path)) == ["config.json", "model.safetensors", "tokenizer.model"]
    save_hf(model, tmp_path, max_shard_bytes=60_000)
    assert "model.safetensors" not in files_of(tmp_path)
    assert_same_weights(model, load_model(tmp_path))


def test_a_model_can_be_saved_over_the_files_it_aliases(tmp_path: Path) -> None:
    model = drawn_model(random_config(1, vision=True))
    save_hf(model, tmp_path)
    save_hf(load_model(tmp_path), tmp_path, max_shard_bytes=30_000)
    save_hf(load_model(tmp_path), tmp_path)
    assert_same_weights(model, load_model(tmp_path))


@pytest.mark.parametrize("fail_at", ["first shard", "third shard", "index"])
def test_a_failed_save_leaves_the_old_checkpoint(tmp_path: Path, fail_at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import llama4.checkpoint.save as save

    save_hf(drawn_model(random_config(1, vision=True)), tmp_path, max_shard_bytes=8_000)
    before, calls = files_of(tmp_path), []
    assert len(before) > 5

    def full(file: Path, *_: object) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    def write_file(file: Path, tensors: object, real: Callable[..., None] = save.write_file) -> None:
        calls.append(file)
        stop = fail_at == "first shard" or (fail_at == "third shard" and len(calls) == 3)
        (full if stop else real)(file, tensors)

    monkeypatch.setattr(save, "write_file", write_file)
    if fail_at == "index":
        monkeypatch.setattr(save, "write_json", full)
    with pytest.raises(InputError, match="No space left"):
        save_hf(drawn_model(random_config(1, vision=True), seed=9), tmp_path, max_shard_bytes=8_000)
    assert files_of(tmp_path) == before


def test_list_tensors_reads_headers(tmp_path: Path) -> None:
    model = drawn_model(random_config(1, vision=True), dtype=torch.bfloat16)
    save_hf(model, tmp_path, max_shard_bytes=30_000)
    listed, weights = list_tensors(tmp_path), model.state_dict()
    names = hf_names(model.config)
    assert listed.keys() == set(names.values())
    for ours, name in names.items():
        assert listed[name].shape == tuple(weights[ours].shape)
        assert listed[name].dtype == torch.bfloat16
        assert listed[name].bytes == weights[ours].nbytes
        assert (tmp_path / listed[name].file).is_file()


def test_only_whole_models_can_be_saved(tmp_path: Path) -> None:
    with torch.device("meta"):
        empty = Llama4(random_config(1))
    with pytest.raises(InputError, match="meta device"):
        save_hf(empty, tmp_path)
    model = drawn_model(random_config(1))
    model.register_parameter("extra", torch.nn.Parameter(torch.zeros(1)))
    with pytest.raises(InputError, match="extra"):
        save_hf(model, tmp_path)


def test_warnings_of_reading_are_only_those_of_the_config(tmp_path: Path) -> None:
    save_hf(drawn_model(replace(random_config(1), rope_scaling=None)), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(tmp_path)
