"""Messages to ids: Llama 4's chat format.

    <|begin_of_text|><|header_start|>user<|header_end|>\\n\\n What is this? <|eot|><|header_start|>assistant<|header_end|>\\n\\n

Every message is a header, its content and an end: `<|eot|>`, or `<|eom|>` after tool calls and tool results, where the
assistant has not finished. The tool's role is written `ipython`. An image among the content becomes

    one tile     <|image_start|><|image|> 144 x <|patch|> <|image_end|>
    2 x 2 tiles  <|image_start|> tile <|tile_x_separator|> tile <|tile_y_separator|>
                                 tile <|tile_x_separator|> tile <|tile_y_separator|> <|image|> tile <|image_end|>

where a tile is 144 `<|patch|>` tokens (for 336 px) and the last one is the whole image, shrunk. A video is a row of
one-tile images. The model puts the pixels' embeddings into the patch tokens, in this order (`fusion.py`).

Source: Meta's `llama_models/llama4/chat_format.py`, ids exact. The header's two line ends are tokenised apart from the
content, so a content that begins with one keeps it as its own token; Hugging Face's template joins them: "\\n\\n\\n" is one
token there. Its template also ends tool results with `<|eot|>`, which `tool_result_end="eot"` selects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from llama4.config import VisionConfig
from llama4.errors import InputError
from llama4.image import MAX_PIXELS, MAX_TILES
from llama4.image import tiles as image_tiles
from llama4.messages import Message, Picture, Text, Video, check_messages, fill_images
from llama4.tokenizer import Tokenizer
from llama4.tools import parse_tool_calls, write_tool_call
from llama4.video import frames as video_frames

__all__ = ["Prompt", "encode", "fill_images", "image_tokens", "parse_tool_calls"]


@dataclass(frozen=True)
class Prompt:
    """What the model reads: token ids, and float32 tiles `[R, 3, side, side]` of all images in order, or None."""

    ids: list[int]
    tiles: torch.Tensor | None


def encode(
    tokenizer: Tokenizer,
    messages: str | Sequence[dict[str, Any]],
    vision: VisionConfig | None = None,
    tools: Sequence[dict[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    *,
    tool_result_end: str = "eom",
    max_tiles: int = MAX_TILES,
    max_pixels: int = MAX_PIXELS,
) -> Prompt:
    """Encode a conversation, ending in the assistant's header where `add_generation_prompt` asks for an answer.

    messages: a list of `{"role": "system" | "user" | "assistant" | "tool", "content": str or parts}`, or a str, which is
    one user message. Parts are `{"type": "text", "text": …}`, `{"type": "image", "image": path or PIL image}` and
    `{"type": "video", "video": file, folder or frames, "frames": n}`. An assistant's `"tool_calls"` are
    `{"name": …, "arguments": {…}}`, written in its `"tool_format"` (see `tools.py`) behind its content.
    vision: the model's; None where it has no vision, and an image is then an error.
    tools: JSON-schema functions, described at the start of the system message (`describe_tools`).
    tool_result_end: "eom" (Meta) or "eot" (Hugging Face). max_tiles: of one image, before the whole one is added.
    max_pixels: the largest image or frame that is opened.

    Raises `InputError` for messages that are empty, of a wrong type or role, or hold what the model cannot read.
    """
    if tool_result_end not in ("eom", "eot"):
        raise InputError(f"tool_result_end is {tool_result_end!r}: choose 'eom' or 'eot'.")
    if isinstance(messages, str):
        messages = fill_images(messages)
    writer = _Writer(tokenizer, vision, max_tiles, max_pixels)
    writer.special("begin_of_text")
    for message in check_messages(messages, tools):
        writer.message(message, tool_result_end)
    if add_generation_prompt:
        writer.header("assistant")
    return Prompt(writer.ids, torch.cat(writer.tiles) if writer.tiles else None)


def image_tokens(tokenizer: Tokenizer, rows: int, columns: int, tokens_per_tile: int) -> list[int]:
    """Ids of an image of rows x columns tiles; 1 x 1 has no separators and no extra tile for the whole image."""
    start, end, whole, x_separator, y_separator = (
        tokenizer.special_id(f"<|{name}|>")
        for name in ("image_start", "image_end", "image", "tile_x_separator", "tile_y_separator")
    )
    tile = [tokenizer.patch_id] * tokens_per_tile
    row = [*tile, *([x_separator, *tile] * (columns - 1)), y_separator]
    grid = row * rows if rows * columns > 1 else []
    return [start, *grid, whole, *tile, end]


class _Writer:
    """The ids and tiles written so far."""

    def __init__(self, tokenizer: Tokenizer, vision: VisionConfig | None, max_tiles: int, max_pixels: int) -> None:
        self.tokenizer = tokenizer
        self.vision = vision
        self.max_tiles = max_tiles
        self.max_pixels = max_pixels
        self.ids: list[int] = []
        self.tiles: list[torch.Tensor] = []

    def special(self, name: str) -> None:
        self.ids.append(self.tokenizer.special_id(f"<|{name}|>"))

    def text(self, text: str) -> None:
        self.ids += self.tokenizer.encode(text)

    def header(self, role: str) -> None:
        self.special("header_start")
        self.text("ipython" if role == "tool" else role)
        self.special("header_end")
        self.text("\n\n")

    def message(self, message: Message, tool_result_end: str) -> None:
        self.header(message.role)
        if message.calls and message.tool_format == "hf":
            self.hf_calls(message)
            return
        self.parts(message)
        for call in message.calls:
            self.text(write_tool_call(call, message.tool_format))  # each tokenised by itself, as Meta does
        unfinished = tool_result_end if message.role == "tool" else "eom"
        self.special(unfinished if message.calls or message.role == "tool" else "eot")

    def hf_calls(self, message: Message) -> None:
        """Hugging Face's template wraps the content in the python tokens, lets the calls follow, and ends the turn."""
        self.special("python_start")
        self.parts(message)
        self.special("python_end")
        self.text("".join(write_tool_call(call, "hf") for call in message.calls))
        self.special("eot")

    def parts(self, message: Message) -> None:
        for part in message.parts:
            match part:
                case Text(text):
                    self.text(text)
                case Picture(image):
                    self.image(image, self.max_tiles)
                case Video(source, frames):
                    self.needs_vision("a video")
                    for frame in video_frames(source, frames, self.max_pixels):
                        self.image(frame, max_tiles=1)

    def image(self, image: Any, max_tiles: int) -> None:
        vision = self.needs_vision("an image")
        if image is None:
            raise InputError("An image part carries no picture: give it an 'image', or pass the pictures as images=.")
        tiles, (rows, columns) = image_tiles(image, vision, max_tiles, self.max_pixels)
        self.ids += image_tokens(self.tokenizer, rows, columns, vision.tokens_per_tile)
        self.tiles.append(tiles)

    def needs_vision(self, what: str) -> VisionConfig:
        if self.vision is None:
            raise InputError(
                f"The prompt holds {what} and this model reads text only: remove it, or load a model with vision."
            )
        return self.vision
