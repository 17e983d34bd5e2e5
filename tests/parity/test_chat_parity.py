"""Pins the chat format to Meta's `llama_models.llama4.chat_format`: ids exactly, tiles within 1e-6, calls read alike.

Dialogs with all roles, tool calls in Meta's three forms, images of many sizes among the text, contents that begin with
line ends, and dialogs drawn at random. torchvision, which Meta's code imports, is the stand-in of the tests.
"""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from llama4 import chat
from llama4.config import VisionConfig
from llama4.tokenizer import Tokenizer
from llama4.tools import ToolCall, parse_tool_calls
from tests.torchvision_stand_in import install

meta_tokenizer = pytest.importorskip("llama_models.llama4.tokenizer")
install()
meta = pytest.importorskip("llama_models.datatypes")
meta_args = pytest.importorskip("llama_models.llama4.args")
meta_chat = pytest.importorskip("llama_models.llama4.chat_format")

OURS = Tokenizer.from_file(Path(meta_tokenizer.__file__).parent / "tokenizer.model")
META = meta_tokenizer.Tokenizer.get_instance()
VISION = VisionConfig()
SIZE = meta_args.Size(height=VISION.tile_side, width=VISION.tile_side)
PATCH = meta_args.Size(height=VISION.patch_side, width=VISION.patch_side)
FORMAT = meta_chat.ChatFormat(
    META,
    meta_args.VisionArgs(
        image_size=SIZE,
        patch_size=PATCH,
        dim=VISION.width,
        n_layers=VISION.layers,
        n_heads=VISION.heads,
        mlp_ratio=VISION.mlp_width / VISION.width,
        output_dim=4096,
        pixel_shuffle_ratio=1 / VISION.shuffle,
    ),
)


def _picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Noise: every pixel counts."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def _meta_content(content: Any) -> Any:
    if isinstance(content, str):
        return content
    items = []
    for part in content or []:
        if part["type"] == "text":
            items.append(meta.RawTextItem(text=part["text"]))
        else:
            data = io.BytesIO()
            part["image"].save(data, format="png")
            items.append(meta.RawMediaItem(data=data.getvalue()))
    return items


def _meta_message(message: dict) -> Any:
    calls = [
        meta.ToolCall(call_id="", tool_name=call["name"], arguments=call["arguments"])
        for call in message.get("tool_calls", [])
    ]
    return meta.RawMessage(role=message["role"], content=_meta_content(message.get("content", "")), tool_calls=calls)


def _compare(messages: list[dict], form: str = "json") -> None:
    theirs = FORMAT.encode_dialog_prompt([_meta_message(message) for message in messages], meta.ToolPromptFormat(form))
    messages = [message | {"tool_format": form} if message["role"] == "assistant" else message for message in messages]
    ours = chat.encode(OURS, messages, vision=VISION)
    assert ours.ids == theirs.tokens
    if theirs.images is None:
        assert ours.tiles is None
    else:
        expected = torch.cat(theirs.images)
        assert ours.tiles.shape == expected.shape
        assert (ours.tiles - expected).abs().max() <= 1e-6


CONVERSATION = [
    {"role": "system", "content": "Réponds en français; <|eot|> is text."},
    {"role": "user", "content": "\n\nWhat is 12345 × 2?\n"},
    {"role": "assistant", "content": " 24690 ✓"},
    {"role": "user", "content": [{"type": "text", "text": "And"}, {"type": "text", "text": " then 👩‍👩‍👧?"}]},
]


def test_roles_and_contents() -> None:
    _compare(CONVERSATION)
    _compare(CONVERSATION[1:2])


@pytest.mark.parametrize(
    "content", ["\n", "\n\n", "\n\n\n", "\nx", "\r\nx", " ", " x", "x\n", "\t", "\n\n  \n", "user", ""]
)
def test_contents_that_begin_with_white_space(content: str) -> None:
    _compare([*CONVERSATION[:1], {"role": "user", "content": content}])


WEATHER = {"name": "get_weather", "arguments": {"city": "São Paulo", "days": 3, "exact": True, "unit": None}}
NESTED = {"name": "plot", "arguments": {"points": [1, 2.5, -3], "title": "It's [here]"}}


@pytest.mark.parametrize("form", ["json", "function_tag", "python_list"])
@pytest.mark.parametrize("calls", [[WEATHER], [WEATHER, NESTED], [{"name": "now", "arguments": {}}]])
@pytest.mark.parametrize("content", ["", "Let me look.\n"])
def test_tool_calls_and_results(form: str, calls: list[dict], content: str) -> None:
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": content, "tool_calls": calls},
        {"role": "tool", "content": '{"sky": "bleu", "t": 31}'},
        {"role": "tool", "content": ""},
        {"role": "assistant", "content": "Blue."},
        {"role": "user", "content": "Thanks"},
    ]
    _compare(messages, form)


SIZES = [
    (336, 336),
    (100, 50),
    (337, 200),
    (700, 500),
    (500, 700),
    (1000, 60),
    (40, 2000),
    (1344, 1344),
    (1, 1),
    (5376, 80),
]


@pytest.mark.parametrize("size", SIZES)
def test_one_image(size: tuple[int, int]) -> None:
    _compare([{"role": "user", "content": [{"type": "image", "image": _picture(*size)}]}])


def test_images_among_the_text_of_several_messages() -> None:
    def image(width: int, height: int, seed: int) -> dict:
        return {"type": "image", "image": _picture(width, height, seed)}

    _compare(
        [
            {"role": "system", "content": "Look."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "\nA "},
                    image(400, 300, 1),
                    image(30, 30, 2),
                    {"type": "text", "text": " B"},
                ],
            },
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": [image(336, 700, 3), {"type": "text", "text": "\nand this?"}]},
            {"role": "tool", "content": [image(200, 200, 4)]},
        ]
    )


TEXTS = ["", "\n", " a", "b\n", "\n\nc", "<|eot|>", "日本語", "مرحبا", "x = {1: 2}", "👍🏽", "12345", "'s", "ipython"]


@pytest.mark.parametrize("seed", range(40))
def test_drawn_dialogs(seed: int) -> None:
    draw = random.Random(seed)

    def text() -> str:
        return "".join(draw.choices(TEXTS, k=draw.randint(0, 4)))

    def message() -> dict:
        role = draw.choice(["system", "user", "assistant", "tool"])
        content: Any = text()
        if draw.random() < 0.3:
            content = [{"type": "text", "text": text()} for _ in range(draw.randint(0, 3))]
        if role == "assistant" and draw.random() < 0.5:
            return {
                "role": role,
                "content": content,
                "tool_calls": draw.choices([WEATHER, NESTED], k=draw.randint(1, 3)),
            }
        return {"role": role, "content": content}

    messages = [{"role": "user", "content": "start"}, *(message() for _ in range(draw.randint(1, 8)))]
    _compare(messages, draw.choice(["json", "function_tag", "python_list"]))


@pytest.mark.parametrize(
    "answer",
    [
        '{"type": "function", "name": "f", "parameters": {"a": 1, "b": "é"}}',
        '<function=f>{"a": 1}</function>',
        '[f(a=1, b="x", c=[1, 2], d={"k": None}, e=-2.5)]',
        "<|python_start|>[f(a='x')]<|python_end|>",
        "[f()]",
        "An ordinary answer.",
        '{"answer": 42}',
        "[1, 2]",
        "[f(1)]",
    ],
)
def test_calls_are_read_as_meta_reads_them(answer: str) -> None:
    """Meta keeps the first call only, and takes any wrapped text for Python code: neither happens in these answers."""
    theirs = FORMAT.decode_assistant_message_from_content(answer, meta.StopReason.end_of_turn).tool_calls
    assert parse_tool_calls(answer) == [ToolCall(call.tool_name, call.arguments) for call in theirs]
