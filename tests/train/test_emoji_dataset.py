"""Pins llama4.train.emoji.dataset, the reading side: what is opened, and that a folder that is missing, unfinished or damaged is
one sentence with the command that puts it right. And the pictures that the package ships."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import llama4
from llama4.errors import InputError
from llama4.train.emoji import ARTISTS, HELD_OUT_ARTIST, LANGUAGES, TRAIN_ARTISTS, VALIDATION_ARTIST, open_dataset
from llama4.train.emoji.dataset import LAST_ARTIST, LATE_ARTIST, LEARNT_ARTISTS, REDRAWN

PICTURES = Path(llama4.__file__).parent / "assets" / "pictures"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two emoji; noto draws both, twemoji the second."""
    entries = [
        {
            "emoji": emoji,
            "code": f"{ord(emoji):x}",
            "category": "Animals & Nature",
            "subcategory": "animal-mammal",
            "names": {language: f"{name} {language}" for language in LANGUAGES},
            "keywords": {language: [name, "animal"] for language in LANGUAGES},
        }
        for emoji, name in (("🐶", "dog"), ("🐱", "cat"))
    ]
    (tmp_path / "emoji.json").write_text(json.dumps(entries), encoding="utf-8")
    generator = np.random.default_rng(7)
    for name, side, index in (("noto", 128, [0, 1]), ("twemoji", 64, [1])):
        (tmp_path / name).mkdir()
        pixels = generator.integers(0, 256, (len(index), side, side, 4), dtype=np.uint8)
        np.save(tmp_path / name / "pixels.npy", pixels)
        np.save(tmp_path / name / "index.npy", np.array(index))
    return tmp_path


def test_the_roles() -> None:
    assert len(TRAIN_ARTISTS) == 7 and VALIDATION_ARTIST == "blob" and HELD_OUT_ARTIST == "twemoji"
    assert (
        set(LEARNT_ARTISTS) == {*TRAIN_ARTISTS, VALIDATION_ARTIST, LATE_ARTIST, LAST_ARTIST}
        and HELD_OUT_ARTIST not in LEARNT_ARTISTS
    )
    assert len(set(LEARNT_ARTISTS)) == len(LEARNT_ARTISTS) == 10
    assert set(ARTISTS) == {*LEARNT_ARTISTS, *REDRAWN.values(), HELD_OUT_ARTIST} and HELD_OUT_ARTIST not in REDRAWN
    assert " ".join(LANGUAGES) == "en ar zh fil fr de hi id it ja ko pt ru es th vi"
    assert LANGUAGES["fil"] == "Tagalog" and len(set(LANGUAGES.values())) == 16


def test_opens_what_is_there(folder: Path) -> None:
    data = open_dataset(str(folder))
    assert list(data.artists) == ["noto", "twemoji"]
    cat = data.emoji[1]
    assert (cat.emoji, cat.code, cat.names["fil"], cat.keywords["th"]) == ("🐱", "1f431", "cat fil", ("cat", "animal"))
    twemoji = data.artists["twemoji"]
    picture = twemoji.picture(0)
    assert picture.mode == "RGBA" and picture.size == (64, 64) and twemoji.index.tolist() == [1]
    assert np.array_equal(np.array(picture), twemoji.pixels[0])
    assert isinstance(twemoji.pixels, np.memmap), "mapped, not read"
    with pytest.raises(ValueError):
        twemoji.pixels[0, 0, 0, 0] = 1


def test_missing_folder_and_artists(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"nowhere holds no emoji data: run `python -m llama4\.train\.emoji --into .*nowhere`"
    ):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"lacks the pictures of fluent, blob: run .*--only fluent blob`"):
        open_dataset(folder, need=("blob", "noto", "fluent"))
    for name in ("noto", "twemoji"):
        (folder / name).rename(folder / f"old-{name}")
    with pytest.raises(InputError, match="lacks the pictures of every artist"):
        open_dataset(folder)


def test_an_unfinished_build_is_refused(folder: Path) -> None:
    manifest = {"asked_for": ["noto", "blob", "twemoji"], "parts": {"names": {}, "noto": {}, "twemoji": {}}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"lacks the pictures of blob"):
        open_dataset(folder)
    manifest["asked_for"] = ["noto"]
    del manifest["parts"]["twemoji"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert list(open_dataset(folder).artists) == ["noto"], "pictures of another list of emoji are not opened"
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(InputError, match="cannot be read: delete it and run"):
        open_dataset(folder)


@pytest.mark.parametrize(
    "damage", ["no pixels", "cut", "wrong type", "too few", "out of range", "negative", "not square"]
)
def test_a_damaged_artist(folder: Path, damage: str) -> None:
    place = folder / "noto"
    pixels, index = np.load(place / "pixels.npy"), np.load(place / "index.npy")
    if damage == "no pixels":
        (place / "pixels.npy").unlink()
    elif damage == "cut":
        (place / "pixels.npy").write_bytes((place / "pixels.npy").read_bytes()[:-9])
    elif damage == "wrong type":
        np.save(place / "pixels.npy", pixels.astype(np.float32))
    elif damage == "not square":
        np.save(place / "pixels.npy", pixels[:, :100])
    else:
        np.save(place / "index.npy", {"too few": index[:1], "out of range": index + 1, "negative": index - 1}[damage])
    with pytest.raises(
        InputError, match=r"noto (is damaged|does not fit emoji\.json): delete that folder and run .*--only noto"
    ):
        open_dataset(folder)


@pytest.mark.parametrize("content", ["{", "[{}]", '{"a": 1}', "[1]"])
def test_a_damaged_list(folder: Path, content: str) -> None:
    (folder / "emoji.json").write_text(content)
    with pytest.raises(InputError, match=r"emoji\.json is damaged: delete it and run"):
        open_dataset(folder)


def test_the_pictures_that_ship() -> None:
    """Small, 64-pixel RGBA, each with its row in the README, which gives the attribution."""
    files = sorted(PICTURES.glob("*.png"))
    notice = (PICTURES / "README.md").read_text(encoding="utf-8")
    assert len(files) >= 24 and sum(path.stat().st_size for path in files) < 120_000
    for path in files:
        with Image.open(path) as picture:
            assert picture.size == (64, 64) and picture.convert("RGBA").getextrema()[3] == (0, 255), path.name
        assert f"`{path.name}`" in notice
    assert "CC BY 4.0" in notice and "Twitter, Inc and other contributors" in notice and "Changes made: none" in notice
