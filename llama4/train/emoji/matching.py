"""Which icon of a set shows which emoji.

A set is a dictionary of names. Those names are CLDR's English names of the day the set was packed, and names move: "up-button"
was 🔼 and is now what 🆙 ("UP! button") would be called. So code points decide where they can:

    1. the set's own chars.json            "1f53c" → "upwards-button"
    2. a table by hand (fxemoji_names.py)  "gpa" → 👴
    3. another set's chars.json and aliases, as a dictionary of names old and new: emojione's "up-button" is noto's 🔼
    4. today's English name, the Unicode name, the short names; but no name that 1–3 know as another emoji's

and an icon is used once. By names alone emojione gives 1082 pictures, 🆙 shown as 🔼 among them; so it gives 1098.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llama4.train.emoji.names import from_code


def slug(name: str) -> str:
    """`Piñata, the “best”` → `pinata-the-best`: the spelling of iconify's names."""
    decomposed = unicodedata.normalize("NFKD", re.sub("[’']", "", name))
    letters = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    return re.sub(r"[^a-z0-9]+", "-", letters.lower()).strip("-")


def squeezed(name: str) -> str:
    """`dog-face` → `dogface`: fxemoji writes its names without a break, so all are compared so."""
    return name.replace("-", "")


def drawn_again(icons: Iterable[str]) -> dict[str, list[str]]:
    """Name → its drawings, of a set that numbers them: "fox-face" → ["fox-face-1", "fox-face-2"], "fire" → ["fire"]."""
    found: dict[str, list[str]] = {}
    for icon in sorted(icons):
        found.setdefault(re.sub(r"-[1-9]$", "", icon), []).append(icon)
    return found


def own_codes(chars: Mapping[str, str], icons: Iterable[str]) -> dict[str, str]:
    """Emoji → icon, from a set's own chars.json (code points → name)."""
    have = set(icons)
    return {from_code(code): name for code, name in chars.items() if name in have}


def name_book(chars: Mapping[str, str], aliases: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Squeezed name → emoji, from a set's chars.json; an alias that turns nothing means what its parent means."""
    book: dict[str, str] = {}
    for code, name in chars.items():
        book.setdefault(squeezed(name), from_code(code))
    for alias, entry in aliases.items():
        if set(entry) == {"parent"} and squeezed(entry["parent"]) in book:
            book.setdefault(squeezed(alias), book[squeezed(entry["parent"])])
    return book


def _spellings(entry: Mapping[str, Any]) -> list[str]:
    """What an emoji may be called, best first, squeezed."""
    names = [entry["names"]["en"], entry["unicode_name"], *entry["short_names"]]
    return list(dict.fromkeys(squeezed(slug(name)) for name in names if name))


def match(
    entries: Sequence[Mapping[str, Any]],
    icons: Iterable[str],
    own: Mapping[str, str],
    by_hand: Mapping[str, str],
    book: Mapping[str, str],
) -> dict[int, str]:
    """Position in emoji.json → icon, in ascending order of position.

    own      emoji → icon (1); by_hand: icon → emoji, "" for an icon that shows none (2); book: squeezed name → emoji (3).
    """
    icons = list(icons)
    positions = {entry["emoji"]: position for position, entry in enumerate(entries)}
    found = {positions[emoji]: icon for emoji, icon in own.items() if emoji in positions}
    shows = {icon: book[squeezed(icon)] for icon in icons if squeezed(icon) in book} | dict(by_hand)
    shows |= {icon: emoji for emoji, icon in own.items()}
    known = [icon for icon in icons if icon in shows]
    # By hand before by book, and today's name before an older one: what is met first stays.
    for icon in sorted(known, key=lambda icon: (icon not in by_hand, not _is_current(icon, entries, positions, shows))):
        if shows[icon] in positions:
            found.setdefault(positions[shows[icon]], icon)
    free = {squeezed(icon): icon for icon in icons if icon not in shows}
    for position, entry in enumerate(entries):
        if position not in found:
            icon = next((free.pop(name) for name in _spellings(entry) if name in free), None)
            if icon is not None:
                found[position] = icon
    return dict(sorted(found.items()))


def _is_current(
    icon: str, entries: Sequence[Mapping[str, Any]], positions: Mapping[str, int], shows: Mapping[str, str]
) -> bool:
    """Whether the icon is called by today's English name of what it shows."""
    position = positions.get(shows[icon])
    return position is not None and squeezed(slug(entries[position]["names"]["en"])) == squeezed(icon)
