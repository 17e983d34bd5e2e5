"""How people ask: the wordings of every question, in sixteen languages, and the words that answer those without a name.

They are data, in `prompts.json`, one entry a language:

    "de": {"questions": {"name_in": ["Was ist das auf {language}?", …], …},
           "languages": {"en": "Englisch", …}, "left": "links", "ordinals": ["erste", …], …}

A name is put in as it stands, with no article and no ending. So it stands in quotation marks or behind a colon wherever the
grammar would bend it, and in Korean a fixed noun takes the particle: '"{name}" 그림은 …'. The other insertions are kept in the
form that their sentence needs: "languages" are «по-английски» in Russian ("in English"), "ordinals" stand before "picture"
in a question ("zweite"), and "positions" are what answers "which picture?" ("das zweite").
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import Any

# What may be asked, and what each wording of it leaves open.
PLACEHOLDERS = MappingProxyType(
    {
        "name": (),
        "name_in": ("language",),
        "and_in": ("language",),  # only behind another question
        "left": (),
        "right": (),
        "side": ("name",),
        "same": (),
        "nth": ("ordinal",),
        "which": ("name",),
        "row": (),
        "column": (),
        "frames": (),
        "translate": ("name", "language"),
        "keywords": ("name",),
        "category": ("name",),
    }
)


@dataclass(frozen=True)
class Wordings:
    """One language's questions by kind (the keys of PLACEHOLDERS), what is put into them, and its fixed answers.

    `languages`: code → how this language says it where {language} stands. `ordinals`, `positions`: first, second, third.
    `categories`: Unicode's English name → this language's.
    """

    questions: dict[str, tuple[str, ...]]
    languages: dict[str, str]
    ordinals: tuple[str, ...]
    positions: tuple[str, ...]
    left: str
    right: str
    same: str
    different: str
    no_picture: str
    categories: dict[str, str]


def _wordings(entry: dict[str, Any]) -> Wordings:
    questions = {kind: tuple(texts) for kind, texts in entry["questions"].items()}
    lists = {key: tuple(entry[key]) for key in ("ordinals", "positions")}
    return Wordings(**entry | lists | {"questions": questions})


def _read() -> dict[str, Wordings]:
    text = resources.files("llama4.train").joinpath("prompts.json").read_text(encoding="utf-8")
    return {language: _wordings(entry) for language, entry in json.loads(text).items()}


PROMPTS = MappingProxyType(_read())
