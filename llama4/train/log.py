"""The log of a run: one JSON object a line, in `RUN/log.jsonl`, from which the plot is drawn.

    {"stage": "speak", "step": 500, "seconds": 361.2, "answers": 2.31, …}          means since the line before
    {"stage": "speak", "step": 500, "seconds": 370.0, "validation": {"en": 0.41, …}}

A stage that goes on from step 500 first drops its lines past it: they belong to steps that it runs again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama4.errors import InputError
from llama4.files import replacing

NAME = "log.jsonl"


def write(folder: Path, line: Mapping[str, object]) -> None:
    """Add a line. InputError where the disk takes no more."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / NAME).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
    except OSError as error:
        raise InputError(f"{folder / NAME} cannot be written ({error.strerror}): make room, and run again.") from error


def read(folder: Path) -> list[dict[str, Any]]:
    """All lines; a line that was cut short by a kill is left out."""
    path = folder / NAME
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


def forget_after(folder: Path, stage: str, step: int) -> float:
    """Drop the stage's lines past `step`, and one that was cut short; returns the seconds that the stage had taken by then."""
    kept = [line for line in read(folder) if line["stage"] != stage or line["step"] <= step]
    text = "".join(json.dumps(line) + "\n" for line in kept)
    path = folder / NAME
    if path.exists() and path.read_text(encoding="utf-8") != text:  # the next line must not be glued to a cut one
        with replacing(folder) as part:
            part(NAME).write_text(text, encoding="utf-8")
    return max((float(line["seconds"]) for line in kept if line["stage"] == stage), default=0.0)
