"""Pins the reading and writing of both official configuration files: what each key means, what an absent one means, what is
refused, and that transformers and Meta's own code understand what is written here.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from random_configs import random_config, text_json, vision_json

from llama4.config import Config, LayerSpec, RopeScaling, Temperature, VisionConfig, irope_layers
from llama4.config_io import from_hf, from_meta, to_hf, to_meta
from llama4.errors import InputError

CONFIGS = Path(__file__).parent / "data" / "configs"


def _load(name: str) -> dict[str, Any]:
    return json.loads((CONFIGS / name).read_text())


# Official files


def test_scout_and_maverick_files_are_the_presets() -> None:
    assert Config.from_dir(CONFIGS / "scout-instruct.config.json") == Config.scout()
    assert Config.from_dir(CONFIGS / "maverick.config.json") == Config.maverick()
    # Meta's files leave temperature tuning out, which there means off.
    assert Config.from_dir(CONFIGS / "scout.params.json") == replace(Config.scout(), temperature=None)
    assert Config.from_dir(CONFIGS / "maverick.params.json") == replace(Config.maverick(), temperature=None)


def test_old_scout_file_has_its_stale_scaling_replaced_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="16 and 1 are used"):
        config = Config.from_dir(CONFIGS / "scout-base-old.config.json")
    assert config == replace(Config.scout(), max_context=262144)
    assert config.temperature == Temperature()  # the file says attn_temperature_tuning: 4


def test_the_same_scaling_in_another_shape_is_kept_with_a_warning() -> None:
    stale = {**_load("scout-base-old.config.json")["text_config"], "num_local_experts": 8}
    with pytest.warns(UserWarning, match="kept as written"):
        assert from_hf(stale).rope_scaling == RopeScaling(8.0, 1.0, 4.0, 8192)


def test_meta_files_are_written_back_key_for_key() -> None:
    for name in ("scout.params.json", "maverick.params.json"):
        given = _load(name)
        written = to_meta(from_meta(given))
        assert {key: written[key] for key in given} == given


# Hugging Face, key by key


def test_absent_keys_have_transformers_defaults() -> None:
    pytest.importorskip("transformers")
    from transformers import Llama4TextConfig

    ours, theirs = from_hf({"model_type": "llama4_text"}), Llama4TextConfig()
    pairs = {
        "vocab_size": "vocab_size",
        "width": "hidden_size",
        "heads": "num_attention_heads",
        "kv_heads": "num_key_value_heads",
        "head_width": "head_dim",
        "experts": "num_local_experts",
        "expert_width": "intermediate_size",
        "dense_width": "intermediate_size_mlp",
        "chunk": "attention_chunk_size",
        "qk_norm": "use_qk_norm",
        "norm_eps": "rms_norm_eps",
        "tied_embeddings": "tie_word_embeddings",
        "max_context": "max_position_embeddings",
        "bos_id": "bos_token_id",
    }
    for our_name, their_name in pairs.items():
        assert getattr(ours, our_name) == getattr(theirs, their_name), our_name
    assert ours.temperature == Temperature(float(theirs.floor_scale), theirs.attn_scale)
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
    assert ours.stop_ids == (theirs.eos_token_id,)
    assert [spec.ffn == "moe" for spec in ours.layers] == [i in theirs.moe_layers for i in range(48)]
    assert [spec.position == "rope" for spec in ours.layers] == [bool(rope) for rope in theirs.no_rope_layers]


@pytest.mark.parametrize("absent", [..., None, []])
def test_no_rope_layers_absent_null_or_empty_means_every_interval(absent: Any) -> None:
    config = from_hf(text_json(no_rope_layers=absent, no_rope_layer_interval=3))
    assert [spec.position for spec in config.layers] == ["rope", "rope", "nope", "rope"]


def test_no_rope_layers_may_be_longer_than_the_model() -> None:
    config = from_hf(text_json(no_rope_layers=[0, 1, 1, 0, 1, 0]))
    assert [spec.position for spec in config.layers] == ["nope", "rope", "rope", "nope"]
    assert [spec.span for spec in config.layers] == ["all", "chunk", "chunk", "all"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [(..., [1, 3]), (None, [1, 3]), ([], []), ([0, 3], [0, 3])],
)
def test_moe_layers_absent_or_null_means_the_step_and_empty_means_none(given: Any, expected: list[int]) -> None:
    config = from_hf(text_json(moe_layers=given, interleave_moe_layer_step=2))
    assert [index for index, spec in enumerate(config.layers) if spec.ffn == "moe"] == expected


def test_moe_layers_past_the_end_are_ignored_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="layer 9"):
        config = from_hf(text_json(moe_layers=[1, 9]))
    assert [spec.ffn for spec in config.layers] == ["dense", "moe", "dense", "dense"]


def test_layer_types_rule_the_span() -> None:
    types = ["full_attention", "chunked_attention", "full_attention", "chunked_attention"]
    config = from_hf(text_json(layer_types=types))
    assert [spec.span for spec in config.layers] == ["all", "chunk", "all", "chunk"]
    assert [spec.position for spec in config.layers] == ["rope", "rope", "rope", "nope"]


def test_llama_guard_form_is_dense_and_unchunked() -> None:
    guard = text_json(moe_layers=[], attention_chunk_size=None, num_experts_per_tok=0, interleave_moe_layer_step=0)
    config = from_hf({**guard, "layer_types": ["chunked_attention"] * 3 + ["full_attention"]})
    assert config.chunk is None
    assert {spec.span for spec in config.layers} == {"all"}
    assert {spec.ffn for spec in config.layers} == {"dense"}
    assert [spec.position for spec in config.layers] == ["rope", "rope", "rope", "nope"]


@pytest.mark.parametrize(("given", "on"), [(4, True), (True, True), (..., True), (False, False), (0, False)])
def test_temperature_tuning_in_hf(given: Any, on: bool) -> None:
    config = from_hf(text_json(attn_temperature_tuning=given, floor_scale=16, attn_scale=0.5))
    assert config.temperature == (Temperature(16.0, 0.5) if on else None)


def test_rope_values_under_either_name() -> None:
    values = {
        "rope_type": "llama3",
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 2.0,
        "original_max_position_embeddings": 128,
    }
    old = from_hf(text_json(rope_scaling=values, rope_theta=1000.0))
    new = from_hf(text_json(rope_parameters={**values, "rope_theta": 1000.0}))
    assert old == new
    assert (old.rope_theta, old.rope_scaling) == (1000.0, RopeScaling(4.0, 1.0, 2.0, 128))
    plain = from_hf(text_json(rope_parameters={"rope_type": "default", "rope_theta": 7.0}))
    assert (plain.rope_theta, plain.rope_scaling) == (7.0, None)


def test_tying_follows_the_text_config() -> None:
    both = {**vision_json(), "tie_word_embeddings": False}
    assert not from_hf(both).tied_embeddings
    both["text_config"] = text_json(tie_word_embeddings=True)
    assert from_hf(both).tied_embeddings


def test_text_only_inside_the_multimodal_form() -> None:
    data = {"model_type": "llama4", "architectures": ["Llama4ForCausalLM"], "text_config": text_json()}
    assert from_hf(data) == from_hf(text_json())


def test_sizes_of_images_may_be_lists() -> None:
    assert from_hf(vision_json(image_size=[28, 28], patch_size=[7, 7])) == from_hf(vision_json())


# Meta, key by key


def test_meta_defaults() -> None:
    base = {"dim": 48, "n_layers": 3, "n_heads": 6, "n_kv_heads": 2, "multiple_of": 16}
    config = from_meta(base)
    assert config.vocab_size == 202048
    assert (config.patch_id, config.bos_id, config.stop_ids) == (200092, 200000, (200001, 200007, 200008))
    assert config.layers == (LayerSpec("rope", "all", "dense"),) * 3  # no interval, no chunk, no moe_args
    assert (config.temperature, config.rope_scaling, config.chunk, config.qk_norm) == (None, None, None, False)
    assert from_meta({**base, "use_scaled_rope": True}).rope_scaling == RopeScaling(16.0, 1.0, 1.0, 8192)
    assert from_meta({**base, "vocab_size": 3000}).patch_id == 3000 - 2048 + 92
    assert from_meta({key: value for key, value in base.items() if key != "n_kv_heads"}).kv_heads == 6


@pytest.mark.parametrize("multiplier", [None, 0.7, 1.0, 1.2, 2.3])
@pytest.mark.parametrize("multiple_of", [1, 16, 100])
def test_meta_widths_are_those_of_metas_modules(multiplier: float | None, multiple_of: int) -> None:
    from reference_meta import meta_model

    for dim, ffn_exp, auto, capacity in ((24, 4.0, True, 1.0), (40, 3.3, True, 1.5), (56, 4.0, False, 1.0)):
        moe = {"num_experts": 2, "auto_scale_F": auto, "capacity_factor": capacity, "interleave_moe_layer_step": 2}
        args = {
            "dim": dim,
            "n_layers": 2,
            "n_heads": 4,
            "n_kv_heads": 2,
            "vocab_size": 32,
            "multiple_of": multiple_of,
            "ffn_dim_multiplier": multiplier,
            "ffn_exp": ffn_exp,
            "moe_args": None if multiplier is None else moe,
        }
        config, model = from_meta(args), meta_model(args, seed=None)
        assert config.dense_width == model.layers[0].feed_forward.w1.weight.shape[0]
        if multiplier is not None:
            assert config.expert_width == model.layers[1].feed_forward.experts.w1.shape[-1]


# Round trips


@pytest.mark.parametrize("seed", range(40))
def test_hf_round_trip_and_transformers_reads_it(seed: int) -> None:
    pytest.importorskip("transformers")
    from reference_hf import hf_config

    config = random_config(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the draw includes Llama 3's scaling
        written = json.loads(json.dumps(to_hf(config)))
        assert from_hf(written) == config
        theirs = hf_config(written)
        assert from_hf(json.loads(theirs.to_json_string())) == config  # and what transformers writes of it
    text = theirs if config.vision is None else theirs.text_config
    assert (text.hidden_size, text.head_dim, text.attention_chunk_size) == (
        config.width,
        config.head_width,
        config.chunk,
    )


@pytest.mark.parametrize("seed", range(40))
def test_meta_round_trip_and_meta_reads_it(seed: int) -> None:
    pytest.importorskip("llama_models")
    from llama_models.llama4.args import ModelArgs

    config = random_config(seed, regular=True)
    written = json.loads(json.dumps(to_meta(config)))
    assert from_meta(written) == config
    args = ModelArgs(**written, max_seq_len=64, max_batch_size=1)  # as Meta's own build passes them
    assert (args.dim, args.n_heads, args.attention_chunk_size) == (config.width, config.heads, config.chunk)
    assert args.rope_scaling_factor == (config.rope_scaling.factor if config.rope_scaling else None)


def test_meta_widths_can_always_be_written() -> None:
    base = random_config(3, regular=True)
    for width, expert, dense in (
        (64, 1, 1000),
        (64, 1001, 3),
        (40, 333, 777),
        (5120, 8191, 16385),
        (14, 5, 5),
    ):
        config = replace(base, width=width * base.heads, head_width=width, expert_width=expert, dense_width=dense)
        assert from_meta(to_meta(config)) == config


def test_default_ids_survive_a_small_vocabulary() -> None:
    config = Config(64, 24, irope_layers(4, 2), 4, 2, 6, 2, 8, 8, 5, True)
    assert from_hf(to_hf(config)) == config
    assert to_hf(config)["pad_token_id"] is None  # transformers refuses a padding id outside the vocabulary
    assert from_meta(to_meta(config)) == config


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"head_width": 8}, "heads of width 8"),
        ({"layers": (LayerSpec("nope", "all", "moe"), LayerSpec("rope", "chunk", "moe"))}, "irregular from layer 1"),
        ({"layers": (LayerSpec("rope", "all", "moe"), LayerSpec("rope", "chunk", "moe"))}, "irregular from layer 0"),
        ({"rope_scaling": RopeScaling(original_context=64)}, "original context 64"),
        ({"vision": VisionConfig(rope_theta=100.0), "vocab_size": 202048}, "theta of 100"),
    ],
)
def test_meta_layout_says_what_it_cannot_express(changes: dict[str, Any], names: str) -> None:
    base = Config(64, 24, irope_layers(4, 2), 4, 2, 6, 2, 8, 8, 5, True)
    with pytest.raises(InputError, match=names):
        to_meta(replace(base, **changes))


def test_hf_layout_says_what_it_cannot_express() -> None:
    with pytest.raises(InputError, match="intermediate_size"):
        to_hf(replace(Config.scout(), vision=VisionConfig(mlp_width=4000)))
    with pytest.raises(InputError, match="floor_scale"):
        to_hf(replace(Config.scout(), temperature=Temperature(floor=8.5)))
