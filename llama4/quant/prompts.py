"""What int4 is calibrated on: prompts from a file, and the answers that the model itself gives to them.

    {"prompt": "What is this?", "images": ["dog.png"]}        a line each; images beside the file, or none
    {"prompt": "Why is the sky blue?"}

What a layer gets while an answer is written is what int4 has to keep, so each prompt is read with its greedy answer behind it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from llama4.chat import Prompt
from llama4.engine import check_prompt
from llama4.errors import InputError
from llama4.generate import LLM

ANSWER = 64  # tokens of an answer, at most


def read_prompts(llm: LLM, file: Path) -> list[Prompt]:
    """The file's prompts. Raises InputError, naming the line, for what is no such file."""
    if not file.is_file():
        raise InputError(f"There is no file of prompts at {file}: give one with a JSON object a line.")
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return [_prompt(llm, file, number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _prompt(llm: LLM, file: Path, number: int, line: str) -> Prompt:
    try:
        told = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"Line {number} of {file} is no JSON ({error.msg}): write one object a line.") from error
    text, images = (told.get("prompt"), told.get("images", [])) if isinstance(told, dict) else (None, [])
    named = isinstance(images, list) and all(isinstance(image, str) for image in images)
    if not isinstance(text, str) or not named:
        raise InputError(
            f'Line {number} of {file} is not {{"prompt": "…", "images": ["…"]}}: a text, and paths or nothing.'
        )
    try:
        prompt = llm.encode(text, images=[file.parent / image for image in images] or None)
        check_prompt(prompt, llm.model, ANSWER)
    except InputError as error:
        raise InputError(f"Line {number} of {file}: {error}") from error
    return prompt


def answered(llm: LLM, prompts: Sequence[Prompt], budget: int = ANSWER) -> list[Prompt]:
    """Each prompt with the model's own greedy answer of at most `budget` tokens behind it."""
    asked = tqdm(prompts, desc="answering", unit="prompt", delay=2, leave=False, disable=None)
    return [Prompt(prompt.ids + llm.run(prompt, max_new_tokens=budget).ids, prompt.tiles) for prompt in asked]
