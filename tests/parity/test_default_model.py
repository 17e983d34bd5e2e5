"""The model that ships in the package, read by transformers: the same logits, the same greedy answers, from the same files.

The pictures are the held-out artist's that the package carries; one is shown at four sizes, so that it becomes 1, 5, 10 and 17
tiles, and two of them meet in one prompt, which crosses the end of a chunk.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from compare import assert_close
from PIL import Image
from tolerances import FP32
from torch import Tensor

import llama4
from llama4.load import TINY
from llama4.messages import fill_images

transformers = pytest.importorskip("transformers")
PICTURES = Path(llama4.__file__).parent / "assets" / "pictures"
NAMES = {file: entry["names"] for file, entry in json.loads((PICTURES / "names.json").read_text("utf-8")).items()}
ANSWER = 24  # tokens at most; the longest name has fewer


@pytest.fixture(scope="module")
def ours() -> llama4.LLM:
    return llama4.load("tiny", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    loaded = transformers.Llama4ForConditionalGeneration.from_pretrained(TINY, dtype=torch.float32)
    return loaded.eval()


def _picture(name: str, side: int) -> Image.Image:
    with Image.open(PICTURES / name) as picture:
        flat = Image.new("RGBA", picture.size, "white")
        flat.alpha_composite(picture.convert("RGBA"))
    return flat.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def _prompt(llm: llama4.LLM, pictures: list[Image.Image], question: str) -> tuple[Tensor, Tensor]:
    messages = fill_images(question, pictures)
    prompt = llama4.chat.encode(llm.tokenizer, messages, vision=llm.config.vision)
    return torch.tensor([prompt.ids]), prompt.tiles


@pytest.mark.parametrize(
    ("sides", "question"),
    [
        ((64,), "What is this?"),
        ((72,), "Was ist das?"),
        ((160,), "これは何ですか?"),
        ((512, 400), "Qu'est-ce que c'est ?"),
    ],
)
@torch.no_grad()
def test_transformers_gives_the_same_logits(
    ours: llama4.LLM, theirs: torch.nn.Module, sides: tuple[int, ...], question: str
) -> None:
    pictures = [_picture(name, side) for name, side in zip(("dog-face.png", "guitar.png"), sides, strict=False)]
    ids, tiles = _prompt(ours, pictures, question)
    if len(sides) == 2:
        assert ids.shape[1] > ours.config.chunk, "the prompt crosses the end of a chunk"
    expected = theirs(input_ids=ids, pixel_values=tiles).logits
    assert_close(ours.model(ids, images=tiles), expected, f"logits for pictures of {sides} px", FP32)


@torch.no_grad()
def test_transformers_gives_the_same_answers(ours: llama4.LLM, theirs: torch.nn.Module) -> None:
    for name in sorted(NAMES)[::4]:
        picture = _picture(name, 64)
        ids, tiles = _prompt(ours, [picture], "What is this?")
        written = theirs.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=tiles,
            max_new_tokens=ANSWER,
            do_sample=False,
        )
        said = [token for token in written[0, ids.shape[1] :].tolist() if token not in ours.config.stop_ids]
        answer = ours.tokenizer.decode(said)
        assert ours.generate("What is this?", images=[picture], max_new_tokens=ANSWER) == answer, name


def test_the_shipped_files_are_small_and_of_the_announced_kind(ours: llama4.LLM) -> None:
    size = sum(path.stat().st_size for path in TINY.glob("*.safetensors"))
    assert size <= 16_000_000
    kinds = {(spec.position, spec.span) for spec in ours.config.layers}
    assert kinds == {("rope", "chunk"), ("nope", "all")} and {spec.ffn for spec in ours.config.layers} == {"moe"}
    tile = ours.config.vision.tokens_per_tile
    assert ours.config.chunk > 17 * (tile + 1) + 20, (
        "a picture of 16 tiles, the whole of it, and a question fit a chunk"
    )
