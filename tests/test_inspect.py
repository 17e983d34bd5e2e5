"""`llama4 inspect`: the counts of the released models, the memory formula against a full cache, files by header."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llama4 import Config, Llama4, checkpoint, inspect
from llama4.cli import main
from llama4.config import LayerSpec, VisionConfig, irope_layers
from llama4.errors import InputError

CONFIGS = Path(__file__).parent / "data" / "configs"
SCOUT, MAVERICK = 108_641_793_536, 401_583_781_376
VISION = VisionConfig(
    tile_side=28, patch_side=7, width=16, layers=1, heads=2, mlp_width=64, shuffle=2, adapter_width=20
)
SMALL = Config(
    vocab_size=2100,
    width=24,
    layers=irope_layers(5, moe_every=2),
    heads=4,
    kv_heads=2,
    head_width=6,
    experts=3,
    expert_width=10,
    dense_width=14,
    chunk=5,
    qk_norm=True,
    vision=VISION,
    patch_id=144,
    image_start_id=132,
    image_end_id=133,
    bos_id=52,
    stop_ids=(53, 59, 60),
    pad_id=70,
)


@pytest.mark.filterwarnings("ignore:RoPE scaling 8")  # the old Scout file's; tests/test_config.py pins the warning
@pytest.mark.parametrize(
    ("file", "total"),
    [
        ("scout-instruct.config.json", SCOUT),
        ("scout-base-old.config.json", SCOUT),
        ("scout.params.json", SCOUT),
        ("maverick.config.json", MAVERICK),
        ("maverick.params.json", MAVERICK),
    ],
)
def test_a_bare_config_counts_the_released_models(file: str, total: int) -> None:
    found = inspect.report(CONFIGS / file)
    assert found["parameters"]["total"] == total
    assert found["files"] is None
    assert found["memory"]["weights"]["bfloat16"] == 2 * total
    assert f"{total:,}" in inspect.render(found)
    json.dumps(found)  # plain types only


def test_the_readme_shows_what_the_command_ends_with_for_scout(capsys: pytest.CaptureFixture[str]) -> None:
    shown = (
        (CONFIGS.parents[2] / "README.md")
        .read_text(encoding="utf-8")
        .partition("For Scout's it ends with:\n\n```\n")[2]
    )
    shown = shown.partition("```")[0]
    assert main(["inspect", str(CONFIGS / "scout-instruct.config.json"), "--context", "1048576"]) == 0
    assert shown.startswith("layers  positions") and capsys.readouterr().out.endswith(shown)


def test_parts_of_scout() -> None:
    parts = inspect.count_parameters(Config.scout())
    assert parts["vision encoder"] == 850_960_896
    assert parts["projector"] == 20_971_520
    assert parts["routed experts"] == 48 * 16 * 3 * 5120 * 8192
    assert parts["shared experts"] == 48 * 3 * 5120 * 8192
    assert parts["router"] == 48 * 16 * 5120
    assert parts["attention"] == 48 * 5120 * 128 * (40 + 8 + 8 + 40)
    assert parts["norms"] == (2 * 48 + 1) * 5120
    assert parts["embedding"] == parts["head"] == 202048 * 5120
    assert "dense ffn" not in parts
    assert round(parts["active"] / 1e9, 2) == 17.17


def test_parts_of_a_mixed_model_add_up_and_tied_embeddings_count_once() -> None:
    parts = inspect.count_parameters(SMALL)
    total, active = parts.pop("total"), parts.pop("active")
    assert sum(parts.values()) == total == sum(p.numel() for p in Llama4(SMALL).parameters())
    assert parts["dense ffn"] == 3 * 3 * 24 * 14
    assert (
        active == total - parts["vision encoder"] - parts["projector"] - 2 * 2 * 3 * 24 * 10
    )  # 2 of 3 experts idle, 2 layers
    tied = inspect.count_parameters(replace(SMALL, tied_embeddings=True))
    assert tied["total"] == total - 2100 * 24
    assert "head" not in tied


def test_layer_runs_join_equal_neighbours() -> None:
    runs = inspect.layer_runs(SMALL)
    assert [(run["first"], run["last"], run["position"], run["ffn"]) for run in runs] == [
        (0, 0, "rope", "dense"),
        (1, 1, "rope", "moe"),
        (2, 2, "rope", "dense"),
        (3, 3, "nope", "moe"),
        (4, 4, "rope", "dense"),
    ]
    assert [(run["first"], run["last"]) for run in inspect.layer_runs(Config.scout())][:3] == [(0, 2), (3, 3), (4, 6)]


@pytest.mark.parametrize("context", [3, 5, 17])  # below one chunk, one chunk, past three
@pytest.mark.parametrize("batch", [1, 2])
def test_the_memory_formula_is_what_a_full_cache_takes(context: int, batch: int) -> None:
    config = replace(SMALL, vision=None)
    model = Llama4(config)
    cache = model.new_cache(batch, context)
    model(torch.zeros(batch, context, dtype=torch.int64), cache=cache)
    assert inspect.cache_bytes(config, batch, context, number_bytes=4)["total"] == cache.nbytes


def test_a_model_without_chunks_caches_everything() -> None:
    config = replace(SMALL, vision=None, chunk=None, layers=(LayerSpec("rope", "all", "dense"),) * 2)
    size = inspect.cache_bytes(config, batch=3, context=11, number_bytes=2)
    assert size == {"chunked": 0, "global": 2 * 3 * 11 * 2 * 2 * 6 * 2, "total": 2 * 3 * 11 * 2 * 2 * 6 * 2}


def test_the_default_context_fits_a_model_whose_own_is_shorter(tmp_path: Path) -> None:
    checkpoint.save_hf(Llama4(replace(SMALL, max_context=100)), tmp_path)
    assert inspect.report(tmp_path)["memory"]["context"] == 100
    assert inspect.report(CONFIGS / "maverick.params.json")["memory"]["context"] == 8192


def test_hugging_face_files_by_their_headers(tmp_path: Path) -> None:
    checkpoint.save_hf(Llama4(SMALL), tmp_path, max_shard_bytes=40_000)
    found = inspect.report(tmp_path, dtype="float32")
    files = found["files"]
    on_disk = {file.name: load_file(file) for file in tmp_path.glob("*.safetensors")}
    assert len(on_disk) > 1
    assert [entry["name"] for entry in files["files"]] == sorted(on_disk)
    assert all(entry["bytes"] == (tmp_path / entry["name"]).stat().st_size for entry in files["files"])
    assert files["tensors"] == sum(len(tensors) for tensors in on_disk.values())
    assert files["parameters"] == found["parameters"]["total"]
    assert files["dtypes"] == {"float32": 4 * found["parameters"]["total"]}
    assert list(found["memory"]["weights"]) == ["float32"]
    assert all(name in inspect.render(found) for name in on_disk)


def test_meta_files_by_their_headers(tmp_path: Path) -> None:
    model = Llama4(replace(SMALL, layers=irope_layers(4, moe_every=1))).bfloat16()
    checkpoint.save_meta(model, tmp_path, shards=2)
    found = inspect.report(tmp_path)
    assert [entry["name"] for entry in found["files"]["files"]] == ["consolidated.00.pth", "consolidated.01.pth"]
    assert set(found["files"]["dtypes"]) == {"bfloat16"}
    shards = [torch.load(file, weights_only=True) for file in sorted(tmp_path.glob("*.pth"))]
    assert found["files"]["tensors"] == len(shards[0])
    assert found["files"]["parameters"] == sum(tensor.numel() for shard in shards for tensor in shard.values())
    assert found["files"]["parameters"] > found["parameters"]["total"]  # norms and the router lie in both shards


def test_questions_that_cannot_be_answered() -> None:
    file = CONFIGS / "maverick.params.json"
    with pytest.raises(InputError, match="1048577 exceeds the model's 1048576"):
        inspect.report(file, context=1_048_577)
    with pytest.raises(InputError, match="holds nothing"):
        inspect.report(file, batch=0)
    with pytest.raises(InputError, match="no dtype 'int3'"):
        inspect.report(file, dtype="int3")
    with pytest.raises(InputError, match="does not exist"):
        inspect.report(CONFIGS / "absent")
