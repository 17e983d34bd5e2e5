"""Pins the name tables: every parameter has both official names and shapes, as both references' own modules have them, for
random configs and, on the meta device, for Scout and Maverick at full size.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from random_configs import random_config

from llama4.checkpoint import hf_names, meta_rows, parameter_count, parameter_shapes
from llama4.checkpoint.names import META_DROPPED
from llama4.checkpoint.transforms import file_shape, to_file
from llama4.config import Config
from llama4.config_io import to_hf, to_meta
from llama4.model import Llama4


@pytest.mark.parametrize("seed", range(20))
def test_shapes_are_the_models(seed: int) -> None:
    config = random_config(seed)
    with torch.device("meta"):
        model = Llama4(config)
    assert parameter_shapes(config) == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def test_published_counts() -> None:
    assert parameter_count(Config.scout()) == 108_641_793_536
    assert parameter_count(Config.maverick()) == 401_583_781_376
    vision = {
        name: shape for name, shape in parameter_shapes(Config.scout()).items() if not name.startswith("decoder.")
    }
    projector = vision.pop("fusion.projection.weight")
    assert sum(torch.Size(shape).numel() for shape in vision.values()) == 850_960_896
    assert torch.Size(projector).numel() == 20_971_520


def _hf_state(config: Config) -> dict[str, tuple[int, ...]]:
    from reference_hf import hf_config
    from transformers import Llama4ForCausalLM, Llama4ForConditionalGeneration

    kind = Llama4ForCausalLM if config.vision is None else Llama4ForConditionalGeneration
    with torch.device("meta"):
        model = kind(hf_config(to_hf(config)))
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _assert_hf_names(config: Config) -> None:
    theirs, shapes = _hf_state(config), parameter_shapes(config)
    ours = {name: shapes[our_name] for our_name, name in hf_names(config).items()}
    if config.tied_embeddings:
        del theirs[next(name for name in theirs if name.endswith("lm_head.weight"))]
    assert ours == theirs
    assert len(ours) == len(shapes)  # no two of ours share a name: the table reads both ways


@pytest.mark.parametrize("seed", range(20))
def test_hf_names_are_transformers(seed: int) -> None:
    pytest.importorskip("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _assert_hf_names(random_config(seed))


@pytest.mark.parametrize("preset", [Config.scout, Config.maverick])
def test_hf_names_at_full_size(preset: Callable[[], Config]) -> None:
    pytest.importorskip("transformers")
    _assert_hf_names(preset())


def _meta_state(config: Config) -> dict[str, tuple[int, ...]]:
    """Names and shapes of Meta's own module, which cannot be built on the meta device: small configs only."""
    from reference_meta import meta_model

    return {name: tuple(tensor.shape) for name, tensor in meta_model(to_meta(config), seed=None).state_dict().items()}


@pytest.mark.parametrize("seed", range(10))
def test_meta_load_names_are_metas(seed: int) -> None:
    config = random_config(seed, regular=True)
    shapes = parameter_shapes(config)
    ours = {row.name: file_shape(row, [shapes[name] for name in row.ours], 1) for row in meta_rows(config, "load")}
    assert ours == _meta_state(config)


@pytest.mark.parametrize("style", ["load", "training"])
@pytest.mark.parametrize("preset", [Config.scout, Config.maverick])
def test_meta_rows_cover_a_full_size_model_once(preset: Callable[[], Config], style: str) -> None:
    config = preset()
    rows = meta_rows(config, style)
    assert len({row.name for row in rows}) == len(rows)
    parts = sorted((name, -1 if row.half is None else row.half) for row in rows for name in row.ours)
    halved = [name for name in parameter_shapes(config) if name.endswith("gate_up")]
    whole = [name for name in parameter_shapes(config) if name not in halved]
    assert parts == sorted([(name, -1) for name in whole] + [(name, half) for name in halved for half in (0, 1)])


def test_official_shard_shapes_of_scout() -> None:
    """The figures of the published files: 8 shards, wqkv of 640 + 128 + 128 rows, experts flattened to [E * D, F / 8]."""
    config = replace(Config.scout(), vision=None)
    shapes = parameter_shapes(config)
    rows = {row.name: row for row in meta_rows(config, "training")}
    shape = {name: file_shape(row, [shapes[ours] for ours in row.ours], 8) for name, row in rows.items()}
    assert shape["layers.0.attention.wqkv.weight"] == (640 + 128 + 128, 5120)
    assert shape["layers.0.attention.wo.weight"] == (5120, 640)
    assert shape["layers.0.feed_forward.experts.moe_w_in_eD_F"] == (16 * 5120, 1024)
    assert shape["layers.0.feed_forward.experts.moe_w_out_eF_D"] == (16 * 1024, 5120)
    assert shape["layers.0.feed_forward.router_DE"] == (5120, 16)
    assert shape["layers.0.feed_forward.w_out_shared_DF.weight"] == (5120, 1024)
    assert shape["output.weight"] == (202048 // 8, 5120)


@pytest.mark.parametrize("style", ["load", "training"])
@pytest.mark.parametrize("shards", [1, 2, 4])
def test_shape_arithmetic_is_that_of_the_tensors(shards: int, style: str) -> None:
    config = random_config(11, regular=True, shards=shards, vision=True)
    shapes = parameter_shapes(config)
    for row in meta_rows(config, style):
        tensors = [torch.empty(shapes[name]) for name in row.ours]
        for shard in range(shards):
            wanted = file_shape(row, [shapes[name] for name in row.ours], shards)
            assert tuple(to_file(row, tensors, shard, shards).shape) == wanted


@pytest.mark.parametrize(
    "name",
    [
        "rope.freqs",
        "freqs_cis",
        "vision_embeddings.vision_encoder.freq_cis",
        "layers.3.attention.wqkv._extra_state",
        "layers.3.feed_forward.experts.mlp._extra_state",
        "layers.0.feed_forward.running_gate_stats_3E",
        "layers.0.feed_forward.global_gate_stats_3E",
        "layers.0.feed_forward.expert_activation_DE",
    ],
)
def test_names_that_are_dropped(name: str) -> None:
    assert META_DROPPED.search(name)


def test_no_weight_is_dropped() -> None:
    for config in (Config.scout(), Config.maverick()):
        assert not [row.name for row in meta_rows(config, None) if META_DROPPED.search(row.name)]
