"""Pins loading and saving of Meta's checkpoints: names of both kinds, tensor parallelism undone as Meta's own resharding
undoes it, the raw position embedding as Meta's hook resamples it, and Meta -> Hugging Face -> Meta bit for bit.
"""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import assert_same_weights, drawn_model, files_of
from random_configs import random_config

from llama4.checkpoint import list_tensors, load_model, meta_rows, save_hf, save_meta
from llama4.config import Config
from llama4.config_io import from_meta, to_meta
from llama4.errors import InputError

POSITIONS = "vision_embeddings.vision_encoder.positional_embedding"


def _meta_folder(folder: Path, args: dict[str, Any], shards: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "params.json").write_text(json.dumps(args))
    for number, weights in enumerate(shards):
        torch.save(weights, folder / f"consolidated.{number:02d}.pth")
    return folder


def _shards(folder: Path) -> list[dict[str, torch.Tensor]]:
    return [torch.load(file) for file in sorted(folder.glob("*.pth"))]


# Against Meta's own code


@pytest.mark.parametrize("seed", range(8))
def test_metas_own_weights_give_metas_logits(tmp_path: Path, seed: int) -> None:
    from reference_meta import meta_logits, meta_model

    args = to_meta(random_config(seed, regular=True))
    theirs = meta_model(args, seed)
    model = load_model(_meta_folder(tmp_path / "m", args, [theirs.state_dict()]), check=True)
    tokens_BS = torch.randint(0, 100, (2, 23), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        ours_BSV, theirs_BSV = model(tokens_BS), meta_logits(theirs, tokens_BS)
    # One wrong name or transform moves logits by about their own size; 1e-4 is float32 rounding of sums over a few layers.
    assert (ours_BSV - theirs_BSV).abs().max() <= 1e-4 * max(1.0, float(theirs_BSV.abs().max()))


@pytest.mark.parametrize("names", ["load", "training"])
@pytest.mark.parametrize("seed", range(6))
def test_metas_model_loads_what_is_written_here(tmp_path: Path, seed: int, names: str) -> None:
    """Through Meta's load hooks, strictly: so each training name is one that the hooks know."""
    from reference_meta import meta_model

    config = random_config(seed, regular=True)
    model = drawn_model(config, seed)
    save_meta(model, tmp_path, names=names)
    theirs = meta_model(json.loads((tmp_path / "params.json").read_text()), seed=None)
    theirs.load_state_dict(_shards(tmp_path)[0], strict=True)
    again = load_model(_meta_folder(tmp_path / "again", to_meta(config), [theirs.state_dict()]))
    assert_same_weights(model, again)


@pytest.mark.parametrize("shards", [2, 4, 8])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sharding_is_that_of_metas_resharding(tmp_path: Path, shards: int, seed: int) -> None:
    """`maybe_reshard_state_dict` merges the shards written here, and Meta's model then loads them strictly."""
    from llama_models.checkpoint import maybe_reshard_state_dict
    from reference_meta import meta_model

    config = random_config(seed, regular=True, shards=shards)
    model = drawn_model(config, seed)
    save_meta(model, tmp_path, shards=shards, names="training")
    theirs = meta_model(to_meta(config), seed=None)
    try:
        merged = maybe_reshard_state_dict(
            sorted(tmp_path.glob("*.pth")),
            config.kv_heads,
            config.experts if meta_has_moe(config) else None,
            mmap=False,
        )
    finally:
        torch.set_default_dtype(torch.float32)  # Meta's function leaves it at bfloat16
    theirs.load_state_dict(merged, strict=True)
    again = load_model(_meta_folder(tmp_path / "again", to_meta(config), [theirs.state_dict()]))
    assert_same_weights(model, again)


def meta_has_moe(config: Config) -> bool:
    """Whether Meta's resharding has experts to unflatten."""
    return any(spec.ffn == "moe" for spec in config.layers)


@pytest.mark.parametrize("raw_too", [False, True])
def test_raw_positions_are_resampled_as_metas_hook_does(tmp_path: Path, raw_too: bool) -> None:
    from reference_meta import meta_model

    config = random_config(5, regular=True, vision=True)
    args, model = to_meta(config), drawn_model(config)
    save_meta(model, tmp_path / "plain")
    weights = _shards(tmp_path / "plain")[0]
    finished = weights.pop(f"{POSITIONS}_vlm")
    weights[POSITIONS] = torch.randn(finished.shape, generator=torch.Generator().manual_seed(3))
    if raw_too:  # a file with both: the hook overwrites the finished one
        weights[f"{POSITIONS}_vlm"] = finished
    loaded = load_model(_meta_folder(tmp_path / "raw", args, [weights])).vision.position_embedding
    theirs = meta_model(args, seed=None)
    theirs.load_state_dict(dict(weights), strict=False)
    reference = theirs.vision_embeddings.vision_encoder.positional_embedding_vlm
    assert torch.equal(loaded[-1], weights[POSITIONS][0])  # the class row moved from first to last
    # The mean of four float32 numbers of about 1, each weight 0.25 up to rounding of the grid: a few units in the last place.
    assert (loaded - reference).abs().max() <= 1e-6
    assert (loaded[:-1] - weights[POSITIONS][1:]).abs().max() > 0.5


def test_fused_vision_attention_is_split_as_metas_hook_does(tmp_path: Path) -> None:
    """The vision blocks use the text model's attention module, whose hook takes `wqkv.weight` (and knows no fused bias)."""
    from reference_meta import meta_model

    config = random_config(5, regular=True, vision=True)
    model = drawn_model(config)
    save_meta(model, tmp_path / "plain")
    weights = _shards(tmp_path / "plain")[0]
    for layer in range(config.vision.layers):
        attention = f"vision_embeddings.vision_encoder.transformer.resblocks.{layer}.attn."
        parts = [weights.pop(f"{attention}w{name}.weight") for name in "qkv"]
        weights[f"{attention}wqkv.weight"] = torch.cat(parts)
    meta_model(to_meta(config), seed=None).load_state_dict(dict(weights), strict=True)
    assert_same_weights(model, load_model(_meta_folder(tmp_path / "fused", to_meta(config), [weights])))


def test_a_safetensors_file_among_the_shards_is_none_of_ours(tmp_path: Path) -> None:
    """Reference logits may be kept beside the weights they belong to."""
    model = drawn_model(random_config(0, regular=True))
    save_meta(model, tmp_path)
    (tmp_path / "reference.safetensors").write_bytes(b"not read")
    assert_same_weights(model, load_model(tmp_path))


# Sharding undone, names mixed, what is dropped


@pytest.mark.parametrize("names", ["load", "training"])
@pytest.mark.parametrize("shards", [1, 2, 4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip(tmp_path: Path, shards: int, names: str, dtype: torch.dtype) -> None:
    model = drawn_model(random_config(shards, regular=True, shards=shards), shards, dtype)
    save_meta(model, tmp_path, shards=shards, names=names)
    assert len(list(tmp_path.glob("consolidated.*.pth"))) == shards
    assert_same_weights(model, load_model(tmp_path, check=True))


@pytest.mark.parametrize("names", ["load", "training"])
@pytest.mark.parametrize("shards", [1, 4])
def test_meta_to_hf_to_meta_is_bit_exact(tmp_path: Path, shards: int, names: str) -> None:
    model = drawn_model(random_config(7, regular=True, shards=shards, vision=True), dtype=torch.bfloat16)
    save_meta(model, tmp_path / "one", shards=shards, names=names)
    save_hf(load_model(tmp_path / "one"), tmp_path / "two")
    save_meta(load_model(tmp_path / "two"), tmp_path / "three", shards=shards, names=names)
    assert (tmp_path / "one/params.json").read_bytes() == (tmp_path / "three/params.json").read_bytes()
    for first, third in zip(_shards(tmp_path / "one"), _shards(tmp_path / "three"), strict=True):
        assert first.keys() == third.keys()
        for name, tensor in first.items():
            assert torch.equal(tensor, third[name]), name


def test_written_tensors_carry_no_more_than_themselves(tmp_path: Path) -> None:
    """torch.save writes the whole storage behind a view; a shard of a half must not drag the whole along."""
    model = drawn_model(random_config(7, regular=True, shards=4, vision=True))
    save_meta(model, tmp_path, shards=4)
    for weights in _shards(tmp_path):
        for name, tensor in weights.items():
            assert tensor.untyped_storage().nbytes() == tensor.nbytes, name


def test_mixed_names_extra_entries_and_nesting(tmp_path: Path) -> None:
    """Training names in some places and load names in others, what is no weight beside them, all of it under "model"."""
    model = drawn_model(random_config(7, regular=True, vision=True))
    save_meta(model, tmp_path / "load", names="load")
    save_meta(model, tmp_path / "training", names="training")
    mixed = _shards(tmp_path / "load")[0]
    training = _shards(tmp_path / "training")[0]
    for name in ("wq", "wk", "wv"):
        del mixed[f"layers.0.attention.{name}.weight"]
    mixed["layers.0.attention.wqkv.weight"] = training["layers.0.attention.wqkv.weight"]
    mixed["layers.0.feed_forward.norm.weight"] = mixed.pop("layers.0.ffn_norm.weight")
    extra = {
        "rope.freqs": torch.ones(3),
        "layers.0.attention.wqkv._extra_state": io.BytesIO(b"fp8"),
        "layers.1.attention.wo._extra_state": None,
        "layers.1.feed_forward.running_gate_stats_3E": torch.ones(3, 2),
        "layers.1.feed_forward.expert_activation_DE": torch.ones(2),
    }
    folder = _meta_folder(tmp_path / "mixed", to_meta(model.config), [{"model": {**mixed, **extra}, "step": 3}])
    assert_same_weights(model, load_model(folder))
    assert "rope.freqs" not in list_tensors(folder)


def test_conversion_of_the_dtype(tmp_path: Path) -> None:
    model = drawn_model(random_config(7, regular=True, shards=2, vision=True))
    save_meta(model, tmp_path, shards=2)
    assert_same_weights(model.to(torch.bfloat16), load_model(tmp_path, dtype=torch.bfloat16))


def test_list_tensors_adds_shards_up(tmp_path: Path) -> None:
    model = drawn_model(random_config(7, regular=True, shards=4, vision=True))
    save_meta(model, tmp_path, shards=4, names="training")
    listed = list_tensors(tmp_path)
    assert listed.keys() == {row.name for row in meta_rows(model.config, "training")}
    embedding = listed["tok_embeddings.weight"]
    assert embedding.shape == (model.config.vocab_size // 4, model.config.width)
    assert embedding.bytes == model.decoder.embedding.weight.nbytes
    assert embedding.file == "consolidated.00.pth"


def test_tied_embeddings_are_expanded(tmp_path: Path) -> None:
    config = replace(random_config(7, regular=True, vision=False), tied_embeddings=True)
    model = drawn_model(config)
    save_meta(model, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.config == replace(config, tied_embeddings=False)
    assert torch.equal(loaded.decoder.head.weight, model.decoder.embedding.weight)


def test_saving_over_more_shards_leaves_no_stale_file(tmp_path: Path) -> None:
    model = drawn_model(random_config(7, regular=True, shards=4))
    save_meta(model, tmp_path, shards=4)
    save_meta(model, tmp_path, shards=2)
    assert sorted(files_of(tmp_path)) == ["consolidated.00.pth", "consolidated.01.pth", "params.json"]


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_meta(drawn_model(random_config(7, regular=True, shards=2)), tmp_path, shards=2)
    before, calls, real = files_of(tmp_path), [], torch.save

    def failing(content: object, file: Path) -> None:
        calls.append(file)
        if len(calls) == 2:
            raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")
        real(content, file)

    monkeypatch.setattr(torch, "save", failing)
    with pytest.raises(InputError, match="cannot be written"):
        save_meta(drawn_model(random_config(7, regular=True, shards=2), seed=4), tmp_path, shards=2)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize(
    ("shards", "message"), [(0, "into 0 shards"), (3, "into 3 shards"), (4, "into 4 shards"), (16, "into 16 shards")]
)
def test_a_number_of_shards_that_does_not_divide(tmp_path: Path, shards: int, message: str) -> None:
    model = drawn_model(random_config(7, regular=True, shards=2))
    with pytest.raises(InputError, match=message):
        save_meta(model, tmp_path, shards=shards)
    assert not list(tmp_path.iterdir())


def test_what_metas_layout_cannot_express_is_said_before_anything_is_written(tmp_path: Path) -> None:
    model = drawn_model(replace(random_config(0), head_width=20))
    with pytest.raises(InputError, match="Meta's params"):
        save_meta(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(InputError, match="'official'"):
        save_meta(drawn_model(random_config(7, regular=True)), tmp_path, names="official")


def test_from_meta_reads_what_save_meta_writes(tmp_path: Path) -> None:
    for seed in range(5):
        config = random_config(seed, regular=True)
        save_meta(drawn_model(config), tmp_path)
        assert from_meta(json.loads((tmp_path / "params.json").read_text())) == config
