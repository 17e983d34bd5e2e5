"""Messages as people write them, checked once and brought into one form for `chat.py`.

    {"role": "user", "content": [{"type": "image", "image": "cat.png"}, {"type": "text", "text": "What is this?"}]}

becomes `Message("user", (Picture("cat.png"), Text("What is this?")))`. Every mistake is one `InputError` that names the
message: "Message 2 (user) has a part of the unknown type 'audio': …". Messages count from 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from llama4.errors import InputError
from llama4.tools import TOOL_FORMATS, ToolCall, as_tool_call, describe_tools

ROLES = ("system", "user", "assistant", "tool")
VIDEO_FRAMES = 8  # how many frames of a video are shown where its part does not say


@dataclass(frozen=True)
class Text:
    """A stretch of text, tokenised by itself."""

    text: str


@dataclass(frozen=True)
class Picture:
    """An image: a path or a `PIL.Image`; None is a place that `fill_images` has yet to fill."""

    image: str | Path | Image.Image | None


@dataclass(frozen=True)
class Video:
    """A video file, a folder of frames, or a list of frames, of which `frames` are shown."""

    source: Any
    frames: int


@dataclass(frozen=True)
class Message:
    """One checked message; `calls` are an assistant's tool calls, written as `tool_format`."""

    role: str
    parts: tuple[Text | Picture | Video, ...]
    calls: tuple[ToolCall, ...] = ()
    tool_format: str = "json"


def fill_images(prompt: str | Sequence[dict[str, Any]], images: Sequence[Any] | None = None) -> list[dict[str, Any]]:
    """`prompt` as a list of messages, with `images` put into its image parts that carry no picture, in order.

    A str becomes one user message, images first. The messages passed in are not changed. Raises `InputError` for an empty
    prompt, for anything that is not an image, and when there are more or fewer images than places.
    """
    images = [] if images is None else images
    if not isinstance(images, list | tuple):
        raise InputError(f"images is a {type(images).__name__}: pass a list of paths or PIL images.")
    if isinstance(prompt, str):
        if not prompt and not images:
            raise InputError("The prompt is empty: write a question, or pass an image.")
        text = [{"type": "text", "text": prompt}] if prompt else []
        prompt = [{"role": "user", "content": [{"type": "image"} for _ in images] + text}]
    waiting = list(images)
    places = 0
    filled = []
    for message in _checked_list(prompt):
        content = message.get("content")
        if isinstance(content, list | tuple):
            places += sum(map(_is_open, content))
            content = [part | {"image": waiting.pop(0)} if _is_open(part) and waiting else part for part in content]
            message = message | {"content": content}
        filled.append(message)
    if places != len(images):
        raise InputError(
            f"The prompt has {places} open image parts and images= has {len(images)}: pass one for each part."
        )
    return filled


def _is_open(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "image" and part.get("image") is None


def check_messages(messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] | None = None) -> list[Message]:
    """The checked messages, the description of `tools` in front of the system message (which is added if need be)."""
    checked = [_message(message, number) for number, message in enumerate(_checked_list(messages), start=1)]
    if not any(message.parts or message.calls for message in checked):
        raise InputError("The prompt is empty: no message has any content.")
    if not tools:
        return checked
    description = describe_tools(tools)
    if checked[0].role != "system":
        return [Message("system", (Text(description.rstrip()),)), *checked]
    parts = checked[0].parts
    if parts and isinstance(parts[0], Text):
        parts = (Text(description + parts[0].text), *parts[1:])  # one text, tokenised as one
    else:
        parts = (Text(description), *parts)
    return [replace(checked[0], parts=parts), *checked[1:]]


def _checked_list(messages: Any) -> Sequence[dict[str, Any]]:
    if not isinstance(messages, list | tuple):
        raise InputError(f"The messages are a {type(messages).__name__}: pass a list of {{'role': …, 'content': …}}.")
    if not messages:
        raise InputError("The list of messages is empty: pass at least one message.")
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict):
            raise InputError(
                f"Message {number} is a {type(message).__name__}: write it as {{'role': 'user', 'content': 'Hello'}}."
            )
    return messages


def _message(message: dict[str, Any], number: int) -> Message:
    role = message.get("role")
    where = f"Message {number} ({role})"
    if role not in ROLES:
        raise InputError(f"Message {number} has the unknown role {role!r}: use one of {', '.join(ROLES)}.")
    calls = message.get("tool_calls") or ()
    if not isinstance(calls, list | tuple):
        raise InputError(f"{where} has tool_calls of the type {type(calls).__name__}: pass a list.")
    if calls and role != "assistant":
        raise InputError(f"{where} has tool_calls, which only an assistant message may have: remove them.")
    form = message.get("tool_format", "json")
    if form not in TOOL_FORMATS:
        raise InputError(f"{where} has the unknown tool_format {form!r}: choose one of {', '.join(TOOL_FORMATS)}.")
    content = message.get("content")
    if content is None and not calls:
        raise InputError(f"{where} has no content: give it a str or a list of parts.")
    return Message(role, _parts(content, where), tuple(map(as_tool_call, calls)), form)


def _parts(content: Any, where: str) -> tuple[Text | Picture | Video, ...]:
    if content is None or content == "":
        return ()
    if isinstance(content, str):
        return (Text(content),)
    if not isinstance(content, list | tuple):
        raise InputError(f"{where} has content of the type {type(content).__name__}: give it a str or a list of parts.")
    return tuple(_part(part, where) for part in content)


def _part(part: Any, where: str) -> Text | Picture | Video:
    if not isinstance(part, dict):
        raise InputError(
            f"{where} has a part that is a {type(part).__name__}: write it as {{'type': 'text', 'text': …}}."
        )
    kind = part.get("type")
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise InputError(f"{where} has a text part whose 'text' is not a str: write {{'type': 'text', 'text': …}}.")
        return Text(part["text"])
    if kind == "image":
        image = part.get("image")
        if image is not None and not isinstance(image, str | Path | Image.Image):
            raise InputError(f"{where} has an image of the type {type(image).__name__}: pass a path or a PIL image.")
        return Picture(image)
    if kind == "video":
        frames = part.get("frames", VIDEO_FRAMES)
        if part.get("video") is None:
            raise InputError(
                f"{where} has a video part without a 'video': give it a file, a folder or a list of frames."
            )
        if not isinstance(frames, int) or isinstance(frames, bool) or frames < 1:
            raise InputError(f"{where} asks for {frames!r} frames of a video: pass a whole number from 1.")
        return Video(part["video"], frames)
    raise InputError(f"{where} has a part of the unknown type {kind!r}: use text, image or video.")
