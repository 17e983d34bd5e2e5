"""The pictures inside the package, by an artist whose drawings the small model was not trained on, and their CLDR names.

`llama4/assets/pictures/names.json` holds {"dog-face.png": {"emoji": "🐶", "names": {"en": "dog face", …}}, …}; the drawings are
Twemoji's (CC BY 4.0, README.md beside them).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from llama4.errors import InputError
from llama4.image import open_image

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "pictures"


@dataclass(frozen=True)
class Shown:
    """A picture on white, RGB, and its name by language."""

    picture: Image.Image
    names: dict[str, str]


def shown(name: str, folder: Path = FOLDER) -> Shown:
    """The picture `name`.png. Raises InputError where the package lacks it."""
    table = folder / "names.json"
    try:
        names = json.loads(table.read_text(encoding="utf-8"))[f"{name}.png"]["names"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{table} does not name {name}.png: install the package anew, its pictures are damaged."
        ) from error
    return Shown(open_image(folder / f"{name}.png"), names)


def every(folder: Path = FOLDER) -> list[Shown]:
    """All pictures of the package, in the order of their names."""
    return [shown(file.stem, folder) for file in sorted(folder.glob("*.png"))]
