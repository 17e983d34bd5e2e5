"""LICENCES.md of a built folder: for every package, who made it, under which licence, what it is for and what was changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from llama4.train.emoji.artists import members
from llama4.train.emoji.dataset import HELD_OUT_ARTIST, LAST_ARTIST, LATE_ARTIST, REDRAWN, VALIDATION_ARTIST
from llama4.train.emoji.sources import CLDR, NAME_PACKAGES, SIDE, SOURCES, TWEMOJI, Package

_INTRODUCTION = """# Licences of the emoji data

Built by `python -m llama4.train.emoji` from the packages of the npm registry below. The pictures and names are the work of those
named here; they keep their own licences, and this notice goes with the data wherever it goes.
"""

ROLES = {
    HELD_OUT_ARTIST: "held out: evaluation only",
    VALIDATION_ARTIST: "validation",
    LATE_ARTIST: "training, in `vary` and the stages behind it",
    LAST_ARTIST: "training, in `settle` and the stages behind it",
    **dict.fromkeys(REDRAWN.values(), "training, in `redraw`"),
}


def carried_texts(archive: Path) -> dict[str, str]:
    """The licence files that a package carries: name in the archive → text."""
    files = members(archive, lambda name: name.count("/") == 1 and "LICEN" in name.upper())
    return {name.removeprefix("package/"): text.decode("utf-8", errors="replace") for name, text in files.items()}


def packages_of(artists: Iterable[str]) -> tuple[Package, ...]:
    """Every package that the names and these artists need, each once, the names' first."""
    wanted = list(NAME_PACKAGES)
    for artist in artists:
        source = SOURCES[artist]
        wanted += [source.package] + ([source.codes] if source.codes else [])
    return tuple(dict.fromkeys(wanted))


def purposes(package: Package) -> list[str]:
    """What a package is used for, in words."""
    found = ["names and keywords in sixteen languages"] if package == CLDR else []
    found += ["the list of emoji, their order and their categories"] if package == TWEMOJI else []
    for artist, source in SOURCES.items():
        if source.package == package:
            role = ROLES.get(artist, "training")
            found.append(f"pictures by the artist `{artist}` ({role})")
        elif source.codes == package:
            found.append(f"names of the pictures of `{artist}`")
    return found


def changes(package: Package) -> str:
    """What was done to a package's pictures."""
    forms = {source.form for source in SOURCES.values() if source.package == package}
    if any(source.redrawn_of for source in SOURCES.values() if source.package == package):
        return f"drawings rendered at {SIDE} pixels, as they are and with parts recoloured, outlined, moved or left out"
    if "iconify" in forms:
        return f"drawings rendered at {SIDE} pixels"
    if any(source.side == SIDE for source in SOURCES.values() if source.package == package):
        return f"pictures scaled to {SIDE} pixels"
    return "none to the pictures" if forms else "names and keywords of the listed emoji taken out"


def notice(packages: Iterable[Package], texts: Mapping[str, Mapping[str, str]]) -> str:
    """The whole document. `texts`: package label → the licence files that it carries."""
    parts = [_INTRODUCTION]
    for package in packages:
        lines = [
            f"## {package.name} {package.version}\n",
            f"- Made by: {package.author} (<{package.origin}>)",
            f"- Licence: {package.licence} (<{package.licence_link}>)",
            f"- Used for: {'; '.join(purposes(package))}",
            f"- Changes: {changes(package)}",
        ]
        lines += [f"- {package.remark}"] if package.remark else []
        for name, text in texts.get(package.label, {}).items():
            lines += [f"\nThe package's own {name}:\n", "```text", text.strip().replace("```", "'''"), "```"]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)
