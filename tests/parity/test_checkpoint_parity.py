"""From files to logits: a checkpoint that a reference wrote, pictures through tiling and the chat format, the same logits.

transformers writes shards of safetensors with `save_pretrained`; Meta's code is saved as its releases are, `torch.save` of the
state dict beside a `params.json`. Meta's run takes its own chat format's ids and tiles, so everything it does is compared. The
other direction too: both references read what `save_hf` and `save_meta` write.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from compare import assert_close
from PIL import Image
from tolerances import EXACT
from torch import Tensor

import llama4
from tests.torchvision_stand_in import install

TOKENIZER = Path(__file__).parents[1] / "tokenizer512" / "tokenizer.model"
VOCAB, PATCH = 2560, 604
SIZES = (
    (90, 30),
    (23, 170),
    (200, 150),
)  # px, beside tiles of 56: a wide, a tall and a large picture, several tiles each
VISION: dict[str, Any] = {"patch": 14, "side": 56, "width": 24, "layers": 2, "heads": 3, "adapter": 20}
HF: dict[str, Any] = {
    "model_type": "llama4",
    "image_token_index": PATCH,
    "boi_token_index": 592,
    "eoi_token_index": 593,
    "text_config": {
        "model_type": "llama4_text",
        "vocab_size": VOCAB,
        "hidden_size": 40,
        "intermediate_size": 36,
        "intermediate_size_mlp": 52,
        "num_hidden_layers": 5,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "num_local_experts": 5,
        "interleave_moe_layer_step": 2,
        "attention_chunk_size": 37,
        "floor_scale": 30,
        "attn_scale": 0.3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    },
    "vision_config": {
        "model_type": "llama4_vision_model",
        "hidden_size": VISION["width"],
        "num_hidden_layers": VISION["layers"],
        "num_attention_heads": VISION["heads"],
        "intermediate_size": VISION["width"] * 4,
        "vision_output_dim": VISION["adapter"],
        "projector_input_dim": VISION["adapter"],
        "projector_output_dim": VISION["adapter"],
        "image_size": VISION["side"],
        "patch_size": VISION["patch"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
}
META: dict[str, Any] = {
    "dim": 48,
    "n_layers": 5,
    "n_heads": 6,
    "n_kv_heads": 2,
    "vocab_size": VOCAB,
    "multiple_of": 4,
    "ffn_dim_multiplier": 1.2,
    "ffn_exp": 2.0,
    "rope_theta": 500.0,
    "use_qk_norm": True,
    "nope_layer_interval": 4,
    "attention_chunk_size": 37,
    "attn_temperature_tuning": True,
    "floor_scale": 30,
    "attn_scale": 0.3,
    "moe_args": {"num_experts": 5, "interleave_moe_layer_step": 2},
    "vision_args": {
        "image_size": {"height": VISION["side"], "width": VISION["side"]},
        "patch_size": {"height": VISION["patch"], "width": VISION["patch"]},
        "dim": VISION["width"],
        "n_layers": VISION["layers"],
        "n_heads": VISION["heads"],
        "mlp_ratio": 3.0,
        "output_dim": VISION["adapter"],
        "pixel_shuffle_ratio": 0.5,
    },
}


def _pictures() -> list[Image.Image]:
    """Noise of each size: every pixel counts."""
    generator = torch.Generator().manual_seed(6)
    drawn = [torch.randint(0, 256, (height, width, 3), generator=generator) for width, height in SIZES]
    return [Image.fromarray(pixels.to(torch.uint8).numpy()) for pixels in drawn]


def _messages() -> list[dict[str, Any]]:
    """Two pictures in the first question, between texts, and one in the second."""
    first, second, third = ({"type": "image", "image": picture} for picture in _pictures())
    between = {"type": "text", "text": " and "}
    return [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [first, between, second, {"type": "text", "text": "Which is wider?"}]},
        {"role": "assistant", "content": "The first."},
        {"role": "user", "content": [third, {"type": "text", "text": "And this?"}]},
    ]


def _prompt(model: llama4.Llama4) -> tuple[Tensor, Tensor]:
    """Ids `[1, S]` and tiles, through the package's own chat format and tiling."""
    prompt = llama4.chat.encode(llama4.Tokenizer.from_file(TOKENIZER), _messages(), vision=model.config.vision)
    assert len(prompt.tiles) > 20 and prompt.ids.count(PATCH) == 4 * len(prompt.tiles)
    return torch.tensor([prompt.ids]), prompt.tiles


def _save_meta_checkpoint(model: Any, folder: Path) -> None:
    (folder / "params.json").write_text(json.dumps(META))
    torch.save(model.state_dict(), folder / "consolidated.00.pth")


def _metas_prompt() -> tuple[Tensor, Tensor]:
    """The same messages through Meta's own chat format and tiling."""
    install()
    from llama_models.datatypes import RawMediaItem, RawMessage, RawTextItem
    from llama_models.llama4.args import VisionArgs
    from llama_models.llama4.chat_format import ChatFormat
    from llama_models.llama4.tokenizer import Tokenizer

    def item(part: dict[str, Any]) -> Any:
        if part["type"] == "text":
            return RawTextItem(text=part["text"])
        data = io.BytesIO()
        part["image"].save(data, format="png")
        return RawMediaItem(data=data.getvalue())

    def content(value: str | list[dict[str, Any]]) -> Any:
        return value if isinstance(value, str) else [item(part) for part in value]

    chat_format = ChatFormat(Tokenizer(TOKENIZER), VisionArgs(**META["vision_args"]))
    dialog = [RawMessage(role=message["role"], content=content(message["content"])) for message in _messages()]
    prompt = chat_format.encode_dialog_prompt(dialog)
    return torch.tensor([prompt.tokens]), torch.cat(prompt.images)


def test_a_checkpoint_by_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from reference_hf import hf_model

    hf_model(HF, seed=7).save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    ours = llama4.load_model(tmp_path)
    reference = transformers.Llama4ForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokens_BS, tiles = _prompt(ours)
    theirs = reference(input_ids=tokens_BS, pixel_values=tiles, use_cache=False).logits
    assert_close(ours(tokens_BS, images=tiles), theirs, "logits")


def test_a_checkpoint_by_meta(tmp_path: Path) -> None:
    pytest.importorskip("llama_models")
    from reference_meta import meta_logits, meta_model

    reference = meta_model(META, seed=7)
    _save_meta_checkpoint(reference, tmp_path)
    ours = llama4.load_model(tmp_path)
    tokens_BS, tiles = _prompt(ours)
    metas_tokens_BS, metas_tiles = _metas_prompt()
    assert torch.equal(tokens_BS, metas_tokens_BS)
    theirs = meta_logits(reference, metas_tokens_BS, [metas_tiles], PATCH)
    assert_close(ours(tokens_BS, images=tiles), theirs, "logits")


def test_transformers_reads_what_save_hf_writes(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from reference_hf import hf_model

    written = hf_model(HF, seed=8)
    written.save_pretrained(tmp_path / "theirs")
    ours = llama4.load_model(tmp_path / "theirs")
    llama4.checkpoint.save_hf(ours, tmp_path / "ours", max_shard_bytes=300_000)
    kind = transformers.Llama4ForConditionalGeneration
    read, problems = kind.from_pretrained(tmp_path / "ours", output_loading_info=True, dtype=torch.float32)
    assert not any(problems.values()), problems
    for name, weight in written.state_dict().items():
        assert_close(read.state_dict()[name], weight, name, EXACT)
    tokens_BS, tiles = _prompt(ours)
    theirs = read.eval()(input_ids=tokens_BS, pixel_values=tiles, use_cache=False).logits
    assert_close(ours(tokens_BS, images=tiles), theirs, "logits")


@pytest.mark.parametrize("names", ["load", "training"])
def test_meta_reads_what_save_meta_writes(names: str, tmp_path: Path) -> None:
    """Through Meta's own load hooks, strictly: the training names are those that its hooks translate."""
    pytest.importorskip("llama_models")
    from reference_meta import meta_model

    written = meta_model(META, seed=8)
    (tmp_path / "theirs").mkdir()
    _save_meta_checkpoint(written, tmp_path / "theirs")
    ours = llama4.load_model(tmp_path / "theirs")
    llama4.checkpoint.save_meta(ours, tmp_path / "ours", names=names)
    read = meta_model(json.loads((tmp_path / "ours" / "params.json").read_text()), seed=None)
    read.load_state_dict(torch.load(tmp_path / "ours" / "consolidated.00.pth", weights_only=True), strict=True)
    for name, weight in written.state_dict().items():
        assert_close(read.state_dict()[name], weight, name, EXACT)
