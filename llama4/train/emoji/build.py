"""Build the data folder, part by part, so that a run that is ended at any moment goes on where it stopped.

    downloads/            the archives, as fetched; may be deleted once the folder is built
    emoji.json            part "names"
    <artist>/             one part each: written as .<artist>.part beside it and renamed
    manifest.json         {"asked_for": [artists], "parts": {part: {"recipe", "pictures", "unreadable"}}, "licences": …}
    LICENCES.md           of all packages that the finished parts come from

A part's recipe is a hash of all that decides its content: the packages' SHA-512, the tables, the form, SIDE, the hash of
emoji.json (into which an artist's index points) and RECIPE below. A part is done while manifest.json knows its present recipe and
its files are there; everything else is built again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from llama4.errors import InputError
from llama4.files import replacing
from llama4.train.emoji import artists as art
from llama4.train.emoji.dataset import ARTISTS, LANGUAGES, open_dataset
from llama4.train.emoji.download import AGAIN, fetch
from llama4.train.emoji.licences import carried_texts, notice, packages_of
from llama4.train.emoji.names import annotations_member, emoji_entries
from llama4.train.emoji.redrawn import SEED, VERSIONS
from llama4.train.emoji.sources import CLDR, NAME_PACKAGES, SIDE, SOURCES, TWEMOJI, Package

RECIPE = 1  # count up when the code changes what it writes


class Bar(Protocol):
    """What this module asks of a progress bar; tqdm's has it."""

    def update(self, amount: int, /) -> object:
        """Go on by `amount`."""


Progress = Callable[[str, int, str], AbstractContextManager[Bar]]  # (what, total, unit) → a bar


class _NoBar:
    def update(self, amount: int, /) -> None:
        """Show nothing."""


def no_progress(what: str, total: int, unit: str) -> AbstractContextManager[Bar]:
    """A Progress that shows nothing."""
    return nullcontext(_NoBar())


def build(
    folder: Path,
    artists: Sequence[str] = ARTISTS,
    registry: str | None = None,
    workers: int = 1,
    progress: Progress = no_progress,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Build the names and these artists in `folder`; finished parts stay as they are.

    registry  an npm registry's address to fetch from over HTTP; None: npm does it
    say       gets a line on each part that was built
    Raises InputError in one sentence for whatever the user can put right.
    """
    artists = [name for name in ARTISTS if name in artists]
    manifest = _read_manifest(folder)
    done = [part for part in ("names", *ARTISTS) if _done(folder, manifest, part, _recipe_of(folder, part))]
    # Without names, nothing says what emoji.json will hash to: every artist is built once they are there.
    done = done if "names" in done else []
    todo = [part for part in ("names", *artists) if part not in done]
    manifest["asked_for"] = [name for name in ARTISTS if name in artists or name in done]
    if any(SOURCES[name].form == "iconify" for name in todo if name in SOURCES):
        art.require_renderer()
    _write(folder, "manifest.json", _dump(manifest))
    archives = _fetch_all(folder, todo, registry, progress, manifest) if todo else {}
    if "names" in todo:
        say(_build_names(folder, archives, manifest))
    for name in todo:
        if name in SOURCES:
            say(_build_artist(folder, name, archives, manifest, workers, progress))
    _write(folder, "LICENCES.md", notice(packages_of(_there(manifest)), manifest["licences"]))
    open_dataset(folder, need=artists)
    if not todo:
        say(f"{folder} is complete: nothing to do.")


def _there(manifest: dict[str, Any]) -> list[str]:
    """The artists whose pictures lie in the folder, those too that were built by an older recipe and not asked for again."""
    return [name for name in ARTISTS if name in manifest["parts"]]


def _fetch_all(
    folder: Path, todo: Sequence[str], registry: str | None, progress: Progress, manifest: dict[str, Any]
) -> dict[str, Path]:
    """Fetch what the parts to build need: package name → archive; keep the licence texts that they carry."""
    needed: list[Package] = list(NAME_PACKAGES) if "names" in todo else []
    for name in todo:
        if name in SOURCES:
            needed += [package for package in (SOURCES[name].package, SOURCES[name].codes) if package]
    packages = tuple(dict.fromkeys(needed))
    archives = {}
    with progress("fetching", sum(package.size for package in packages), "B") as bar:
        for package in packages:
            archives[package.name] = fetch(package, folder / "downloads", registry, bar.update)
    for package in packages:
        if package.label not in manifest["licences"]:
            manifest["licences"][package.label] = carried_texts(archives[package.name])
    _write(folder, "manifest.json", _dump(manifest))
    return archives


def _read_names(archives: dict[str, Path]) -> list[dict[str, Any]]:
    """The entries of emoji.json, out of the two packages that they are made of."""
    files = {annotations_member(language): language for language in LANGUAGES}
    archive = archives[CLDR.name]
    found = art.members(archive, files.__contains__)
    try:
        annotations = {files[name]: json.loads(text)["annotations"]["annotations"] for name, text in found.items()}
        entries = emoji_entries(art.json_member(archives[TWEMOJI.name], "package/emoji.json"), annotations)
    except (KeyError, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{archive} or {archives[TWEMOJI.name]} is laid out otherwise than expected ({error!r}): delete both and {AGAIN}."
        ) from error
    return entries


def _build_names(folder: Path, archives: dict[str, Path], manifest: dict[str, Any]) -> str:
    """Write emoji.json; returns the line that says so."""
    entries = _read_names(archives)
    # Another emoji.json makes every index void: first nothing counts as finished, then it is written.
    manifest["parts"].clear()
    _write(folder, "manifest.json", _dump(manifest))
    _write(folder, "emoji.json", json.dumps(entries, ensure_ascii=False, indent=0))
    manifest["parts"]["names"] = {"recipe": _recipe_of(folder, "names")}
    _write(folder, "manifest.json", _dump(manifest))
    return f"names: {len(entries)} emoji in {len(LANGUAGES)} languages"


def _build_artist(
    folder: Path, name: str, archives: dict[str, Path], manifest: dict[str, Any], workers: int, progress: Progress
) -> str:
    """Render and write one artist's folder; returns the line that says so, with the drawings that could not be rendered."""
    entries = json.loads((folder / "emoji.json").read_text(encoding="utf-8"))
    package = SOURCES[name].package
    try:
        drawn = art.drawings(SOURCES[name], entries, archives)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{package.label} is laid out otherwise than expected ({error!r}): leave {name} out with --only."
        ) from error
    pictures, index = [], []
    with progress(name, len(drawn), "pictures") as bar:
        rendered = art.render([content for _, content in drawn], workers, SOURCES[name].side)
        for (position, _), pixels in zip(drawn, rendered, strict=True):
            bar.update(1)
            if pixels is not None:
                pictures.append(pixels)
                index.append(position)
    if not pictures or len({pixels.shape for pixels in pictures}) != 1:
        raise InputError(f"{package.label} has no usable set of pictures: leave {name} out with --only.")
    _write_arrays(folder, name, np.stack(pictures), np.array(index, dtype=np.int64))
    lost = len(drawn) - len(pictures)
    manifest["parts"][name] = {"recipe": _recipe_of(folder, name), "pictures": len(pictures), "unreadable": lost}
    _write(folder, "manifest.json", _dump(manifest))
    return f"{name}: {len(pictures)} pictures" + (f" ({lost} could not be rendered and are left out)" if lost else "")


def _write_arrays(folder: Path, name: str, pixels: np.ndarray, index: np.ndarray) -> None:
    """The artist's folder, whole or not at all."""
    part, target = folder / f".{name}.part", folder / name
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        np.save(part / "pixels.npy", pixels)
        np.save(part / "index.npy", index)
        if target.exists():
            shutil.rmtree(target)
        part.rename(target)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        full = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise InputError(f"{target} cannot be written ({full}): make room and {AGAIN}.") from error


def _write(folder: Path, name: str, text: str) -> None:
    with replacing(folder) as part:
        part(name).write_text(text, encoding="utf-8")


def _dump(manifest: dict[str, Any]) -> str:
    return json.dumps(manifest, ensure_ascii=False, indent=1)


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The folder's manifest; an empty one where there is none or it is damaged, so that everything is built anew."""
    empty: dict[str, Any] = {"asked_for": [], "parts": {}, "licences": {}}
    try:
        found = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return empty
    whole = isinstance(found, dict) and all(isinstance(found.get(key), type(value)) for key, value in empty.items())
    return found if whole else empty


def _recipe(part: str, packages: Sequence[Package], **more: object) -> str:
    facts = [RECIPE, part, SIDE, [(package.label, package.integrity) for package in packages], more]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _recipe_of(folder: Path, part: str) -> str:
    """The present recipe of "names" or of an artist."""
    if part == "names":
        return _recipe(part, NAME_PACKAGES, languages=list(LANGUAGES))
    source, emoji = SOURCES[part], folder / "emoji.json"
    # These came later: what was built without them stays, but for Twemoji, which is built again for its `side`.
    later = {"numbered": False, "side": SIDE, "redrawn_of": ""}
    fields = {name: value for name, value in asdict(source).items() if name not in later or value != later[name]}
    if source.redrawn_of:
        fields |= {"seed": SEED, "versions": VERSIONS}
    return _recipe(
        part,
        [package for package in (source.package, source.codes) if package],
        source=fields,
        by_hand=art.BY_HAND.get(source.redrawn_of or part, {}),
        emoji=hashlib.sha256(emoji.read_bytes()).hexdigest() if emoji.exists() else "",
    )


def _done(folder: Path, manifest: dict[str, Any], part: str, recipe: str) -> bool:
    """Whether a part is there and was built by this recipe."""
    files = ["emoji.json"] if part == "names" else [f"{part}/pixels.npy", f"{part}/index.npy"]
    known = manifest["parts"].get(part)
    return (
        isinstance(known, dict) and known.get("recipe") == recipe and all((folder / file).is_file() for file in files)
    )
