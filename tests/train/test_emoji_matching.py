"""Pins which picture shows which emoji: the list of emoji (names.py), the four steps of matching.py, and the SVG documents
made from iconify's bodies and aliases (iconify.py), flips and turns checked in rendered pixels.
"""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from emoji_world import NAMED, contents

from llama4.train.emoji.__main__ import parser
from llama4.train.emoji.artists import pixels_of
from llama4.train.emoji.dataset import ARTISTS, LANGUAGES, LEARNT_ARTISTS, REDRAWN
from llama4.train.emoji.fxemoji_names import FXEMOJI_NAMES
from llama4.train.emoji.iconify import document, icon_names, resolved
from llama4.train.emoji.licences import changes, notice, packages_of
from llama4.train.emoji.matching import drawn_again, match, name_book, own_codes, slug
from llama4.train.emoji.names import annotations_member, emoji_entries, from_code
from llama4.train.emoji.sources import SIDE, SOURCES


def entry(emoji: str, name: str, unicode_name: str = "", *short: str) -> dict[str, object]:
    return {"emoji": emoji, "names": {"en": name}, "unicode_name": unicode_name, "short_names": list(short)}


def test_the_list_keeps_order_and_drops_what_has_no_name() -> None:
    files = contents()
    annotations = {
        language: json.loads(files["cldr"][annotations_member(language).removeprefix("package/")])["annotations"][
            "annotations"
        ]
        for language in LANGUAGES
    }
    listed = json.loads(files["twitter"]["emoji.json"])
    entries = emoji_entries(listed, annotations)
    assert [item["emoji"] for item in entries] == list(NAMED), "the sun without U+FE0F, the flag not at all"
    assert entries[2]["code"] == "2600-fe0f"
    assert entries[0]["names"]["fil"] == "dog face fil" and entries[0]["keywords"]["th"] == ["dog face", "th"]
    listed[0]["has_img_twitter"] = False
    assert [item["emoji"] for item in emoji_entries(listed, annotations)] == list(NAMED[1:])


def test_code_points() -> None:
    assert from_code("1f9d1-200d-1f3a8") == "🧑\u200d🎨" and from_code("0023-FE0F-20E3") == "#\u20e3"
    for wrong in ("dog", "", "1f436-", "1f4361f4361f436"):
        with pytest.raises(ValueError):
            from_code(wrong)


def test_slugs_are_iconifys() -> None:
    assert slug("woman’s hat") == "womans-hat" and slug("piñata") == "pinata"
    assert slug("Japanese “free of charge” button") == "japanese-free-of-charge-button"
    assert slug("A button (blood type)") == "a-button-blood-type"


def test_code_points_come_before_names() -> None:
    """The name that CLDR gives to 🆙 today was 🔼's: a set that still has it so must not show 🔼 for 🆙."""
    entries = [entry("🆙", "UP! button"), entry("🔼", "upwards button")]
    chars = {"1f199": "up-text-button", "1f53c": "up-button"}
    own = own_codes(chars, ["up-button", "up-text-button"])
    assert match(entries, ["up-button", "up-text-button"], own, {}, {}) == {0: "up-text-button", 1: "up-button"}
    book = name_book(chars, {"upwards-button": {"parent": "up-button"}})
    assert match(entries, ["up-button"], {}, {}, book) == {1: "up-button"}, "another set's chars.json says so too"
    assert match(entries, ["up-button"], {}, {}, {}) == {0: "up-button"}, "without it, the name decides, and is wrong"


def test_aliases_that_turn_mean_something_else() -> None:
    chars = {"1f448": "hand-left"}
    aliases = {"hand-right": {"parent": "hand-left", "hFlip": True}, "left-hand": {"parent": "hand-left"}}
    assert name_book(chars, aliases) == {"handleft": "👈", "lefthand": "👈"}


def test_a_digit_at_the_end_tells_drawings_of_one_emoji_apart() -> None:
    icons = ["fox-2", "fox-1", "fire", "2", "input-1234", "clock-12", "key-0", "owl-9"]
    assert drawn_again(icons) == {
        **{"2": ["2"], "clock-12": ["clock-12"], "fire": ["fire"], "fox": ["fox-1", "fox-2"]},
        **{"input-1234": ["input-1234"], "key-0": ["key-0"], "owl": ["owl-9"]},
    }


def test_by_hand_comes_before_the_book_and_can_rule_out() -> None:
    entries = [entry("🐶", "dog face", "DOG FACE", "dog"), entry("🐕", "dog"), entry("🪟", "window")]
    icons = ["dog", "dogside", "window"]
    book = {"dog": "🐕", "window": "🪟"}
    by_hand = {"dog": "🐶", "dogside": "🐕", "window": ""}
    assert match(entries, icons, {}, by_hand, book) == {0: "dog", 1: "dogside"}
    assert match(entries, icons, {}, {}, {}) == {0: "dog", 2: "window"}, "an icon is used once"


def test_by_hand_comes_before_todays_name() -> None:
    entries = [entry("🌂", "closed umbrella")]
    assert match(entries, ["closed-umbrella", "umbrella"], {}, {"umbrella": "🌂"}, {"closedumbrella": "🌂"}) == {
        0: "umbrella"
    }


def test_todays_name_wins_among_several() -> None:
    entries = [entry("🐻", "bear", "BEAR FACE")]
    book = {"bearface": "🐻", "abear": "🐻", "bear": "🐻"}
    assert match(entries, ["a-bear", "bear-face", "bear"], {}, {}, book) == {0: "bear"}


def test_the_table_by_hand_is_one_to_one() -> None:
    shown = [emoji for emoji in FXEMOJI_NAMES.values() if emoji]
    assert len(set(shown)) == len(shown) > 200
    assert all("\ufe0f" not in emoji for emoji in shown) and FXEMOJI_NAMES["gpa"] == "👴"


def test_every_artist_has_a_source() -> None:
    assert tuple(SOURCES) == ARTISTS
    for source in SOURCES.values():
        assert (source.codes is not None) == (source.form == "iconify"), source.artist
        assert source.numbered == source.artist.startswith("streamline") and (
            source.form == "iconify" or not source.numbered
        )
        assert source.package.integrity.startswith("sha512-") and len(source.package.integrity) == 95
        assert source.side == (64 if source.artist == "twemoji" else SIDE), "the held-out pictures stay as they come"
        assert (source.artist == REDRAWN.get(source.redrawn_of)) == bool(source.redrawn_of)


def test_what_is_redrawn_is_drawn_by_artists_that_are_learnt_from() -> None:
    assert set(REDRAWN) < set(LEARNT_ARTISTS) and not set(REDRAWN.values()) & set(LEARNT_ARTISTS)
    for artist, name in REDRAWN.items():
        assert dataclasses.replace(SOURCES[name], artist=artist, redrawn_of="") == SOURCES[artist]


def test_the_help_says_how_much_is_fetched() -> None:
    megabytes = sum(package.size for package in packages_of(ARTISTS)) / 1e6
    said = parser().format_help().replace("\n", " ")
    assert f"About {round(megabytes, -1):.0f} MB to fetch" in said
    assert f"by {['ten', 'eleven', 'twelve'][len(set(ARTISTS) - set(REDRAWN.values())) - 10]} sets of artists" in said


def test_the_notice_says_what_was_done_to_the_pictures() -> None:
    done = {package.name: changes(package) for package in packages_of(ARTISTS)}
    redrawn = "drawings rendered at 128 pixels, as they are and with parts recoloured, outlined, moved or left out"
    assert done["@iconify-json/fluent-emoji"] == "drawings rendered at 128 pixels"
    assert done["@iconify-json/noto"] == done["@iconify-json/streamline-emojis"] == redrawn
    assert done["emoji-datasource-google"] == done["@lobehub/fluent-emoji-3d"] == "pictures scaled to 128 pixels"
    assert done["emoji-datasource-twitter"] == "none to the pictures"


def test_who_asks_for_attribution_gets_it() -> None:
    """Every package under CC BY has a line that names what it is of."""
    packages = packages_of(ARTISTS)
    text = notice(packages, {})
    asking = [package for package in packages if package.licence.startswith("CC-BY")]
    assert {package.author for package in asking} >= {"Emoji One", "Streamline"} and len(asking) == 3
    assert all(package.remark.startswith("Attribution: ") and package.remark in text for package in asking)


ICONS = {
    "width": 32,
    "height": 32,
    "icons": {
        "corner": {"body": '<path fill="red" d="M0 0h16v16H0z"/>'},
        "wide": {"body": '<path fill="#00f" d="M10 0h64v32H10z"/>', "width": 64, "left": 10},
        "line": {"body": '<path fill="currentColor" d="M0 0h32v32H0z"/>'},
    },
    "aliases": {
        "across": {"parent": "corner", "hFlip": True},
        "back": {"parent": "across", "hFlip": True},
        "down": {"parent": "corner", "vFlip": True},
        "turned": {"parent": "corner", "rotate": 1},
        "across-turned": {"parent": "across", "rotate": 1},
        "four": {"parent": "turned", "rotate": 3},
        "tall": {"parent": "wide", "rotate": 1},
        "a": {"parent": "b"},
        "b": {"parent": "a"},
    },
}


@pytest.mark.parametrize(
    ("name", "corner"),
    [
        ("corner", "left top"),
        ("across", "right top"),
        ("back", "left top"),
        ("down", "left bottom"),
        ("turned", "right top"),
        ("across-turned", "right bottom"),
        ("four", "left top"),
    ],
)
def test_flips_and_turns(name: str, corner: str) -> None:
    pytest.importorskip("resvg_py", reason="the renderer is not installed")
    pixels = pixels_of(document(ICONS, name).encode())
    assert pixels.shape == (SIDE, SIDE, 4) and pixels.dtype == np.uint8
    half = SIDE // 2
    red = {
        f"{x} {y}": pixels[half * (y == "bottom") :, half * (x == "right") :][:half, :half]
        for x in ("left", "right")
        for y in ("top", "bottom")
    }
    assert (red.pop(corner) == (255, 0, 0, 255)).all()
    assert all((quarter[..., 3] == 0).all() for quarter in red.values())


@pytest.mark.parametrize("name", ["wide", "tall"])
def test_a_frame_that_is_not_square_sits_in_the_middle(name: str) -> None:
    pytest.importorskip("resvg_py", reason="the renderer is not installed")
    pixels = pixels_of(document(ICONS, name).encode())
    covered = pixels[..., 3] > 0
    rows, columns = covered.any(1), covered.any(0)
    assert pixels.shape == (SIDE, SIDE, 4)
    short, long = (rows, columns) if name == "wide" else (columns, rows)
    assert long.all() and np.flatnonzero(short).tolist() == list(range(SIDE // 4, 3 * SIDE // 4))


def test_current_colour_is_black_and_a_bad_drawing_is_none() -> None:
    pytest.importorskip("resvg_py", reason="the renderer is not installed")
    assert (pixels_of(document(ICONS, "line").encode()) == (0, 0, 0, 255)).all()
    assert pixels_of(b"<svg") is None and pixels_of(b"no picture") is None
    assert pixels_of(b'<svg xmlns="http://www.w3.org/2000/svg" width="128" height="128"/>') is None, "it shows nothing"


def test_aliases_in_a_circle_are_an_error() -> None:
    with pytest.raises(KeyError, match="circle"):
        resolved(ICONS, "a")
    with pytest.raises(KeyError):
        resolved(ICONS, "nowhere")
    assert icon_names(ICONS)[:4] == ["corner", "wide", "line", "across"]
