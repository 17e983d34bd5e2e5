"""Pins `llama4 demo`: it prints what the model says, marks an answer only when it is the CLDR name, shows the tiles and the
experts that the model has, writes its picture, and runs without matplotlib."""

from __future__ import annotations

import io
import json
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import cli_fixtures
import pytest
from cli_fixtures import one_sentence
from PIL import Image
from tiny_llm import tiny_llm

from llama4.demo import figure, pictures, tour
from llama4.demo.pictures import FOLDER, shown
from llama4.errors import InputError
from llama4.evaluation.routing import patch_experts
from llama4.evaluation.wordings import NAMING
from llama4.generate import LLM
from llama4.train.emoji.dataset import LANGUAGES

llama4_cli, hf, text_only = cli_fixtures.llama4_cli, cli_fixtures.hf, cli_fixtures.text_only


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """An untrained model never ends its answers."""
    monkeypatch.setattr(tour, "MAX_NEW_TOKENS", 3)
    monkeypatch.setattr(tour, "SPEED_TOKENS", 4)


def speak(monkeypatch: pytest.MonkeyPatch, answer: Callable[[str], str]) -> None:
    """Let every model answer a question by `answer(text)`, in two pieces."""

    def stream(self: LLM, text: str, images: list, **_: object) -> Iterator[str]:
        said = answer(text)
        return iter([said[:2], said[2:]])

    monkeypatch.setattr(LLM, "stream", stream)


def lines(llm: LLM) -> tuple[tour.Tour, list[str]]:
    said = io.StringIO()
    taken = tour.take(llm, said.write)
    return taken, said.getvalue().splitlines()


# the pictures


def test_every_picture_is_named_in_every_language() -> None:
    table = json.loads((FOLDER / "names.json").read_text(encoding="utf-8"))
    assert sorted(table) == sorted(path.name for path in FOLDER.glob("*.png"))
    for file, entry in table.items():
        assert list(entry["names"]) == list(LANGUAGES) and all(entry["names"].values())
        assert re.sub(r"\W+", "-", entry["names"]["en"]) == file.removesuffix(".png")
        assert unicodedata.category(entry["emoji"][0]) == "So"


def test_pictures_of_the_tour_are_there_on_white() -> None:
    for name in (*tour.NAMED, *tour.STRIP_OF, *tour.PAIR, tour.LARGE, tour.ROUTED):
        item = shown(name)
        assert item.picture.mode == "RGB" and item.names["en"] == name.replace("-", " ")
        drawing = Image.open(FOLDER / f"{name}.png").convert("RGBA")
        clear = [place for place in ((0, 0), (63, 0), (0, 63), (63, 63)) if drawing.getpixel(place)[3] == 0]
        assert all(item.picture.getpixel(place) == (255, 255, 255) for place in clear)


@pytest.mark.parametrize("damage", ["names.json", "names"])
def test_damaged_pictures_are_one_sentence(tmp_path: Path, damage: str) -> None:
    shutil.copy(FOLDER / "key.png", tmp_path)
    if damage == "names":
        (tmp_path / "names.json").write_text("{}")
    with pytest.raises(InputError, match=r"does not name key\.png"):
        pictures.shown("key", tmp_path)


# what it says


def test_right_answers_are_marked_and_counted_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that says "guitar" in whatever language: right once for each language asked, of four pictures."""
    names = shown("guitar").names
    spoken = {wording: names[language] for language, wording in NAMING.items()}
    speak(monkeypatch, lambda text: spoken.get(text, "left"))
    taken, said = lines(tiny_llm())
    marked = [line for line in said if line.endswith("✓")]
    assert [line.split("  ")[-2] for line in marked] == [names[language] for language in tour.SPOKEN]
    assert [[answer.right for answer in answers.values()] for _, answers in taken.named] == [
        [name == "guitar"] * len(tour.SPOKEN) for name in tour.NAMED
    ]
    assert f"  English     What is this?  guitar  (right: {shown('rocket').names['en']})" in said
    assert not taken.strip[1].right and not taken.pair[1].right and not taken.large[1].right


def test_strip_pair_and_large_are_marked_when_right(monkeypatch: pytest.MonkeyPatch) -> None:
    said_so = {"List": "red apple, airplane, cat face", "Is": "It is on the right.", "What": "sunflower"}
    speak(monkeypatch, lambda text: said_so.get(text.split()[0], "?"))
    taken, said = lines(tiny_llm())
    assert taken.strip[1].right and taken.pair[1].right and taken.large[1].right
    assert {"  red apple, airplane, cat face  ✓", "  It is on the right.  ✓", "  sunflower  ✓"} <= set(said)
    assert not any(answer.right for _, answers in taken.named for answer in answers.values())


def test_answers_stay_on_their_line_and_obeyed_by_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    speak(monkeypatch, lambda text: "\x1b[2Ja\nb\r")
    taken, said = lines(tiny_llm())
    assert not any(ord(letter) < 32 for line in said for letter in line)
    assert taken.large[1].said == "[2Ja, b" and not taken.large[1].right


def test_tiles_and_experts_are_the_models_own() -> None:
    llm = tiny_llm()
    taken, said = lines(llm)
    assert taken.strip[0].size == (3 * 28, 28) and taken.large[0].size == (70, 70)
    assert any(
        "70 x 70 px is cut into 3 x 3 tiles of 28 px, and the whole as one more: 40 patch tokens." in line
        for line in said
    )
    experts = patch_experts(llm, shown(tour.ROUTED).picture)
    assert {layer: grid.tolist() for layer, grid in taken.experts.items()} == {
        layer: grid.tolist() for layer, grid in experts.items()
    }
    start = said.index("  layer 0   layer 1   layer 2   layer 3")
    for row in range(2):
        shown_row = [int(number) for number in said[start + 1 + row].split()]
        assert shown_row == [number for grid in experts.values() for number in grid[row].tolist()]
    assert re.fullmatch(r"Speed: \d+ tokens read in \d+ ms, 4 written at \d+ tokens/s\.", said[-1])


# the command


def test_the_command_writes_its_picture(llama4_cli: Callable, hf: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    ended = llama4_cli("demo", "--model", hf, "--into", tmp_path / "new")
    assert ended.code == 0 and ended.out.endswith(f"The tour as a picture: {tmp_path / 'new' / 'llama4-demo.png'}\n")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["llama4-demo.png"]
    with Image.open(tmp_path / "new" / "llama4-demo.png") as drawn:
        assert drawn.width > 1000 and len(drawn.convert("RGB").getcolors(1 << 24)) > 500


def test_without_matplotlib_one_sentence_says_how_to_get_it(
    llama4_cli: Callable, hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figure, "find_spec", lambda name: None)
    ended = llama4_cli("demo", "--model", hf, "--into", tmp_path)
    assert ended.code == 0 and ended.out.endswith("install matplotlib: pip install matplotlib.\n")
    assert "Speed:" in ended.out and not list(tmp_path.iterdir())


def test_bad_input_is_one_sentence(llama4_cli: Callable, hf: Path, text_only: Path, tmp_path: Path) -> None:
    ended = llama4_cli("demo", "--model", text_only)
    assert ended.code == 2 and "no vision encoder" in ended.err
    (tmp_path / "file").write_text("")
    ended = llama4_cli("demo", "--model", hf, "--into", tmp_path / "file")
    assert ended.code == 2 and "is a file where a folder was expected" in ended.err and one_sentence(ended.err)


def test_the_figure_marks_right_and_wrong_apart() -> None:
    pytest.importorskip("matplotlib")
    right, wrong = tour.Answer("?", "guitar", "guitar", True), tour.Answer("?", "b" * 50, "guitar", False)
    assert figure._marked(right, 20) == ("guitar ✓", figure.RIGHT)
    assert figure._marked(wrong, 20) == ("b" * 19 + "… ✗", figure.WRONG)
    assert figure._marked(tour.Answer("?", "", "x", False), 20)[0] == "(nothing) ✗"
    assert figure._spread([1, 3]) == [1, 3] and figure._spread(list(range(12))) == [0, 2, 4, 7, 9, 11]
