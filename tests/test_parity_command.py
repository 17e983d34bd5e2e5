"""`llama4 parity`: what transformers recorded is met, a broken layer is named, a file that does not belong is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from reference_hf import hf_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from llama4 import Config, parity
from llama4.config import RopeScaling, Temperature, VisionConfig, irope_layers
from llama4.config_io import to_hf
from llama4.errors import InputError

VISION = VisionConfig(tile_side=12, patch_side=3, width=24, layers=2, heads=3, mlp_width=96, adapter_width=20)
CONFIG = Config(
    vocab_size=131,
    width=40,
    layers=irope_layers(6, moe_every=2),
    heads=4,
    kv_heads=2,
    head_width=10,
    experts=3,
    expert_width=18,
    dense_width=34,
    chunk=7,
    qk_norm=True,
    rope_scaling=RopeScaling(original_context=40),
    temperature=Temperature(floor=3.0, scale=0.4),
    max_context=4096,
    vision=VISION,
    patch_id=120,
    image_start_id=121,
    image_end_id=122,
    bos_id=0,
    stop_ids=(1, 5),
    pad_id=7,
)
STAGES = ["embedding", *(f"layer {number}" for number in range(6)), "logits"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that transformers wrote, and reference.safetensors beside it."""
    folder = tmp_path_factory.mktemp("recorded")
    hf_model(to_hf(CONFIG), seed=3).save_pretrained(folder)
    parity.record(folder, folder / "reference.safetensors")
    return folder


@pytest.fixture
def folder(recorded: Path, tmp_path: Path) -> Path:
    """A copy of `recorded` to spoil."""
    return Path(shutil.copytree(recorded, tmp_path / "copy"))


def change(file: Path, **changes: torch.Tensor | None) -> None:
    """Replace tensors of a parity file; None removes one."""
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = {**load_file(file), **changes}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, file, metadata=metadata)


def spoil(folder: Path, name: str) -> None:
    """Turn the rows of one weight of the checkpoint by one."""
    (file,) = folder.glob("model*.safetensors")
    weights = load_file(file)
    weights[name] = weights[name].roll(1, dims=-1)
    save_file(weights, file, metadata={"format": "pt"})


def test_the_reference_is_met_stage_by_stage(recorded: Path) -> None:
    report = parity.compare(recorded, recorded / "reference.safetensors")
    assert report.passed
    assert report.first_divergent is None
    assert [stage.name for stage in report.stages] == STAGES
    assert report.reference.startswith("transformers 5")
    assert report.dtype == "float32"
    assert all(stage.measure == "max_abs" and stage.bound >= 1e-5 for stage in report.stages)
    assert [stage.rerouted for stage in report.stages] == [None, None, 0, None, 0, None, 0, None]
    text = parity.render(report)
    assert "parity holds" in text
    assert json.loads(json.dumps(report.as_dict(), allow_nan=False))["passed"] is True


def test_bf16_is_held_to_what_bf16_costs_the_reference(recorded: Path) -> None:
    report = parity.compare(recorded, recorded / "reference.safetensors", dtype="bfloat16")
    assert report.passed, parity.render(report)
    assert {stage.measure for stage in report.stages} == {"relative_rms"}
    own = load_file(recorded / "reference.safetensors")["own_error"].tolist()
    assert [stage.bound for stage in report.stages] == [1.25 * error for error in own]
    assert 1e-3 < own[0] < 3e-3  # one rounding to 8 bits: 2^-9 at most, 2^-9 / sqrt(3) and less on average
    assert all(error < 0.05 for error in own)


def test_the_inputs_hold_an_image_and_cross_chunks(recorded: Path) -> None:
    tensors = load_file(recorded / "reference.safetensors")
    assert tensors["images"].shape == (1, 3, 12, 12)
    assert (tensors["tokens_BS"] == CONFIG.patch_id).sum(dim=1).tolist() == [0, VISION.tokens_per_tile]
    assert tensors["tokens_BS"].shape[1] > 2 * CONFIG.chunk
    again = parity.fixed_inputs(CONFIG)
    assert all(torch.equal(tensors[name], again[name]) for name in again)


@pytest.mark.parametrize(
    ("weight", "named"),
    [
        ("language_model.model.layers.3.self_attn.v_proj.weight", "layer 3"),
        ("language_model.model.layers.3.feed_forward.experts.down_proj", "layer 3"),
        ("language_model.model.layers.0.input_layernorm.weight", "layer 0"),
        ("language_model.model.norm.weight", "logits"),
        ("vision_model.model.layers.1.mlp.fc1.weight", "embedding"),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_first_stage_that_diverges_is_named(folder: Path, weight: str, named: str, dtype: str) -> None:
    spoil(folder, weight)
    report = parity.compare(folder, folder / "reference.safetensors", dtype=dtype)
    assert not report.passed
    assert report.first_divergent == named
    assert report.stages[STAGES.index(named)].max_abs > 1000 * 1e-5
    assert all(stage.ok for stage in report.stages[: STAGES.index(named)])
    assert f"{named} is the first that diverges" in parity.render(report)
    assert report.as_dict()["first_divergent"] == named


def test_a_router_that_sends_tokens_elsewhere_is_counted(folder: Path) -> None:
    spoil(folder, "language_model.model.layers.1.feed_forward.router.weight")
    report = parity.compare(folder, folder / "reference.safetensors")
    assert report.first_divergent == "layer 1"
    assert report.stages[STAGES.index("layer 1")].rerouted > 10


def test_bf16_takes_the_experts_of_the_file_and_float32_its_own(folder: Path) -> None:
    file = folder / "reference.safetensors"
    routing_BS = load_file(file)["routing.1"]
    change(file, **{"routing.1": (routing_BS + 1) % CONFIG.experts})
    own, taken = (parity.compare(folder, file, dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert own.passed
    assert own.stages[STAGES.index("layer 1")].rerouted == routing_BS.numel()
    assert taken.first_divergent == "layer 1"


def test_the_worst_token_is_found(folder: Path) -> None:
    file = folder / "reference.safetensors"
    logits_BSV = load_file(file)["logits_BSV"]
    logits_BSV[1, 17, 5] += 1.0
    change(file, logits_BSV=logits_BSV)
    report = parity.compare(folder, file)
    assert report.first_divergent == "logits"
    assert report.stages[-1].worst == (1, 17)
    assert report.stages[-1].max_abs == pytest.approx(1.0, abs=1e-4)


def test_nan_from_us_diverges_and_is_json(folder: Path) -> None:
    (weights,) = folder.glob("model*.safetensors")
    tensors = load_file(weights)
    tensors["language_model.model.layers.2.self_attn.o_proj.weight"][0, 0] = torch.nan
    save_file(tensors, weights, metadata={"format": "pt"})
    report = parity.compare(folder, folder / "reference.safetensors")
    assert report.first_divergent == "layer 2"
    json.dumps(report.as_dict(), allow_nan=False)


def test_logits_alone_are_enough(folder: Path) -> None:
    file = folder / "reference.safetensors"
    tensors = load_file(file)
    save_file({name: tensors[name] for name in ("tokens_BS", "images", "logits_BSV")}, file)
    report = parity.compare(folder, file)
    assert report.passed
    assert [stage.name for stage in report.stages] == ["logits"]
    assert parity.compare(folder, file, dtype="bfloat16").stages[0].bound == parity.BF16_BOUND
    spoil(folder, "language_model.model.layers.3.self_attn.v_proj.weight")
    assert parity.compare(folder, file).first_divergent == "logits"


def test_a_reference_in_bf16(recorded: Path, tmp_path: Path) -> None:
    file = tmp_path / "bf16.safetensors"
    parity.record(recorded, file, dtype="bfloat16")
    report = parity.compare(recorded, file)
    assert report.dtype == "bfloat16"
    assert report.passed, parity.render(report)
    assert {stage.bound for stage in report.stages} == {parity.BF16_BOUND}


def test_files_that_do_not_belong_are_refused(folder: Path) -> None:
    file = folder / "reference.safetensors"
    whole = load_file(file)
    cases = [
        ({"logits_BSV": None}, "has no tensor logits_BSV"),
        ({"tokens_BS": None}, "has no tensor tokens_BS"),
        ({"logits_BSV": whole["logits_BSV"][:, :, :130].contiguous()}, r"logits_BSV has shape .* 130\] where .* 131\]"),
        ({"logits_BSV": whole["logits_BSV"][:, 1:].contiguous()}, "logits_BSV has shape"),
        ({"hidden.2": None}, "has no tensor hidden.2"),
        ({"hidden.embedding": None}, "has no tensor hidden.embedding"),
        ({"hidden.6": whole["hidden.5"].clone()}, "hidden.6 belongs to no part"),
        ({"hidden.3": whole["hidden.3"][..., :39].contiguous()}, "hidden.3 has shape"),
        ({"tokens_BS": whole["tokens_BS"].int()}, "must be int64"),
        ({"tokens_BS": whole["tokens_BS"] + 100}, "tokens_BS holds ids outside 0 to 130"),
        ({"routing.1": whole["routing.1"] + 1}, "routing.1 holds ids outside 0 to 2"),
        ({"hidden.1": whole["hidden.1"] / 0}, "hidden.1 holds NaN or infinite"),
        ({"images": whole["images"][:, :, 1:].contiguous()}, "images has shape"),
        ({"images": None}, "1 groups .* 0 tiles"),
    ]
    for changes, message in cases:
        save_file(whole, file)
        change(file, **changes)
        with pytest.raises(InputError, match=message):
            parity.compare(folder, file)


def test_what_is_no_parity_file_is_refused(recorded: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.safetensors"
    page.write_text("<html>not here</html>")
    for file in (page, tmp_path / "absent.safetensors"):
        with pytest.raises(InputError, match="not a safetensors file that can be read"):
            parity.compare(recorded, file)
    with pytest.raises(InputError, match="float16"):
        parity.compare(recorded, recorded / "reference.safetensors", dtype="float16")


def test_recording_refuses_what_it_cannot_do(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no reference 'jax'"):
        parity.record(folder, tmp_path / "x", reference="jax")
    with pytest.raises(InputError, match="not 'float64'"):
        parity.record(folder, tmp_path / "x", dtype="float64")
    (weights,) = folder.glob("model*.safetensors")
    tensors = load_file(weights)
    del tensors["language_model.model.layers.4.self_attn.q_proj.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"missing_keys .*layers\.4\.self_attn\.q_proj"):
        parity.record(folder, tmp_path / "x")
    assert list(tmp_path.glob("x*")) == []
