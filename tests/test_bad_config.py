"""Pins what a configuration file is refused for, that the refusal is one sentence naming the value, and which file is read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from random_configs import text_json, vision_json

from llama4.config_io import from_hf, from_meta, read_config
from llama4.errors import InputError

BAD_HF = [
    ({"model_type": "mistral"}, "'mistral'"),
    (text_json(model_type=...), "type None"),
    ({"model_type": "llama4"}, "no text_config"),
    ({"model_type": "llama4", "text_config": text_json()}, "no vision_config"),
    (text_json(attention_bias=True), "attention_bias true"),
    (text_json(hidden_act="gelu"), "hidden_act 'gelu'"),
    (text_json(num_experts_per_tok=2), "num_experts_per_tok 2"),
    (text_json(quantization_config={"quant_method": "fp8"}), "quantization_config"),
    ({**vision_json(), "quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
    (text_json(rope_scaling={"rope_type": "yarn", "factor": 2.0}), "'yarn'"),
    (text_json(rope_scaling={"rope_type": "llama3", "factor": 2.0}), "no low_freq_factor"),
    (text_json(rope_scaling={"factor": 2}, rope_parameters={"factor": 4}), "factor twice"),
    (text_json(rope_theta=10.0, rope_parameters={"rope_theta": 20.0}), "rope_theta twice"),
    (text_json(rope_theta=0), "rope_theta 0"),
    (text_json(rope_theta=float("nan")), "rope_theta nan"),
    (text_json(hidden_size="big"), "hidden_size 'big'"),
    (text_json(hidden_size=None), "hidden_size null"),
    (text_json(hidden_size=True), "hidden_size true"),
    (text_json(hidden_size=12.5), "hidden_size 12.5"),
    (text_json(num_hidden_layers=0), "no layers"),
    (text_json(num_hidden_layers=-1, no_rope_layers=[1, 1, 1, 0]), "num_hidden_layers -1"),
    (text_json(floor_scale=0), "floor_scale of 0"),
    (text_json(eos_token_id="</s>"), "eos_token_id '</s>'"),
    (
        text_json(
            rope_scaling={
                "rope_type": "llama3",
                "factor": 0,
                "low_freq_factor": 1,
                "high_freq_factor": 1,
                "original_max_position_embeddings": 8192,
            }
        ),
        "factor 0",
    ),
    (text_json(num_attention_heads=40, num_key_value_heads=7), "not a multiple"),
    (text_json(no_rope_layers=[1, 0]), "each of its 4 layers"),
    (text_json(no_rope_layers=[1, 0, 2, 1]), "0 or 1"),
    (text_json(no_rope_layer_interval=0), "no_rope_layer_interval 0"),
    (text_json(moe_layers=[-1]), "negative layer -1"),
    (text_json(moe_layers="all"), "moe_layers 'all'"),
    (text_json(interleave_moe_layer_step=0), "interleave_moe_layer_step 0"),
    (text_json(layer_types=["sliding_attention"] * 4), "layer_types"),
    (text_json(layer_types=["full_attention"]), "layer_types"),
    (text_json(attention_chunk_size=0), "chunk of 0"),
    (text_json(head_dim=7), "must be even"),
    (text_json(attn_temperature_tuning="yes"), "attn_temperature_tuning 'yes'"),
    ({"model_type": "llama4", "text_config": [1], "vision_config": {}}, "where a JSON object belongs"),
    (vision_json(image_size=[28, 14]), "a square"),
    (vision_json(image_size=30), "does not divide"),
    (vision_json(pixel_shuffle_ratio=0.3), "one over a whole number"),
    (vision_json(num_channels=1), "num_channels 1"),
    (vision_json(hidden_act="silu"), "hidden_act 'silu'"),
    (vision_json(projector_input_dim=25), "projector_input_dim 25"),
    (vision_json(vision_output_dim=25), "vision_output_dim 25"),
    (vision_json(intermediate_size=100), "intermediate_size 100"),
    ({**vision_json(), "image_token_index": 300}, "outside the vocabulary"),
]


@pytest.mark.parametrize(("data", "message"), BAD_HF, ids=[message for _, message in BAD_HF])
def test_bad_hf_configs(data: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        from_hf(data)
    assert str(caught.value).count(". ") == 0  # one sentence


META = {"dim": 24, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 64}
BAD_META = [
    ({"dim": 24, "n_layers": 2}, "no n_heads"),
    ({**META, "n_heads": 5}, "dim 24 over 5 heads"),
    ({**META, "head_dim": 8}, "head_dim 8"),
    ({**META, "nope_layer_interval": 0}, "nope_layer_interval 0"),
    ({**META, "quantization_args": {"scheme": "int4"}}, "quantization_args"),
    ({**META, "lora_args": {"rank": 4, "scale": 1.0}}, "lora_args"),
    ({**META, "moe_args": {"num_experts": 2}}, "no ffn_dim_multiplier"),
    ({**META, "ffn_dim_multiplier": 1.2, "moe_args": {"num_experts": 2}}, "no ffn_exp"),
    ({**META, "ffn_dim_multiplier": 1.2, "ffn_exp": 4, "moe_args": {"top_k": 2}}, "top_k 2"),
    ({**META, "multiple_of": 0}, "multiple_of 0"),
    ({**META, "n_kv_heads": 3}, "not a multiple"),
]


@pytest.mark.parametrize(("data", "message"), BAD_META, ids=[message for _, message in BAD_META])
def test_bad_meta_configs(data: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        from_meta(data)


# Finding the file


def test_a_folder_with_both_files_is_read_by_its_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(text_json()))
    (tmp_path / "params.json").write_text(json.dumps(META))
    assert read_config(tmp_path).width == 64
    (tmp_path / "consolidated.00.pth").touch()
    assert read_config(tmp_path).width == 24
    (tmp_path / "model.safetensors").touch()
    assert read_config(tmp_path).width == 64
    assert read_config(tmp_path / "params.json").width == 24


@pytest.mark.parametrize("content", ["", "<html>", "[1, 2]", "{" * 100_000, '{"a": 1', "\x00\xff"])
def test_a_file_that_is_no_json_object_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json"):
        read_config(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither config"):
        read_config(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        read_config(tmp_path / "absent")


def test_a_refusal_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen"}))
    with pytest.raises(InputError, match=r"config.json: .*'qwen'"):
        read_config(tmp_path)
