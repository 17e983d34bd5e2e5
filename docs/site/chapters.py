"""A chapter's notebook as Markdown: prose as it stands, code and what it printed as fences, figures as pictures.

Going through Markdown gives a chapter what every other page has: links that `mkdocs build --strict` checks, formulas, one
highlighting, the theme's light and dark colours, one search. HTML that a cell displays (tables in any script, sliders) is put in
after the Markdown, byte by byte, where `place` marks it.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Chapter:
    """The page's Markdown; its pictures by file name, relative to the notebook's folder; its cells' HTML."""

    text: str = ""
    pictures: dict[str, bytes] = field(default_factory=dict)
    markup: list[str] = field(default_factory=list)


def place(number: int) -> str:
    """What stands in the page for the HTML of that number."""
    return f'<div class="place-{number}"></div>'


def converted(path: Path) -> Chapter:
    """Read a notebook that has been run. Raises ValueError for an output that no page can show."""
    chapter, parts = Chapter(), []
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source.replace("<details>", '<details markdown="1">'))
        else:
            parts.append(fenced(source, "python"))
            for index, output in enumerate(cell["outputs"]):
                parts.append(_shown(output, f"{path.stem}/{number:02}-{index}.png", chapter))
    chapter.text = "\n\n".join(parts) + "\n"
    return chapter


def fenced(text: str, header: str) -> str:
    """A block of code, in a fence longer than any that it holds."""
    fence = "`" * (4 if "```" in text else 3)
    return f"{fence}{header}\n{text.rstrip()}\n{fence}"


def _shown(output: dict, picture: str, chapter: Chapter) -> str:
    if output["output_type"] == "stream":
        return fenced("".join(output["text"]), "{.text .output .no-copy}")
    data = output.get("data", {})
    plain = "".join(data.get("text/plain", []))
    if "image/png" in data:
        chapter.pictures[picture] = base64.b64decode("".join(data["image/png"]))
        return f"![{plain}]({picture})" + "{.figure}"
    if "text/html" in data:
        chapter.markup.append("".join(data["text/html"]))
        return place(len(chapter.markup) - 1)
    if plain:
        return fenced(plain, "{.text .output .no-copy}")
    raise ValueError(
        f"{picture.partition('/')[0]} holds an output of kind {output['output_type']} that no page can show."
    )
