"""Which emoji there are, and what sixteen languages call them.

The list is emoji-datasource's, in its order, kept where Twemoji has a picture and where English has a name of its own:

    entry of cldr-annotations-full:  "🐶": {"default": ["animal", "dog", …], "tts": ["dog face"]}
                                             keywords                          the name ("text to speech")

That gives 1585 emoji. Flags of countries and skin tones are derived by rule in CLDR, live in another package, and are left out.
U+FE0F, which asks for colour, is dropped: CLDR writes "☀" where a keyboard writes "☀️".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llama4.train.emoji.dataset import LANGUAGES

COLOUR_SELECTOR = "\ufe0f"


def plain(emoji: str) -> str:
    """The emoji without U+FE0F: the form by which packages are compared."""
    return emoji.replace(COLOUR_SELECTOR, "")


def from_code(code: str) -> str:
    """`1f9d1-200d-1f3a8` → the emoji, without U+FE0F; ValueError for what is no list of code points."""
    try:
        return plain("".join(chr(int(point, 16)) for point in code.split("-")))
    except OverflowError as error:  # chr of a number beyond 32 bits
        raise ValueError(f"{code} is no list of code points") from error


def annotations_member(language: str) -> str:
    """Where cldr-annotations-full keeps a language."""
    return f"package/annotations/{language}/annotations.json"


def emoji_entries(
    listed: Sequence[Mapping[str, Any]], annotations: Mapping[str, Mapping[str, Mapping[str, Sequence[str]]]]
) -> list[dict[str, Any]]:
    """The entries of emoji.json.

    listed       emoji-datasource's emoji.json
    annotations  language → emoji → {"default": keywords, "tts": [name]}
    Raises KeyError where a language lacks the name of an emoji that English names.
    """
    entries = []
    for item in listed:
        emoji = from_code(item["unified"])
        if item["has_img_twitter"] and "tts" in annotations["en"].get(emoji, {}):
            entries.append(
                {
                    "emoji": emoji,
                    "code": item["unified"].lower(),
                    "category": item["category"],
                    "subcategory": item["subcategory"],
                    "unicode_name": item["name"] or "",
                    "short_names": list(item["short_names"]),
                    "names": {language: annotations[language][emoji]["tts"][0] for language in LANGUAGES},
                    "keywords": {
                        language: list(annotations[language][emoji].get("default", ())) for language in LANGUAGES
                    },
                }
            )
    return entries
