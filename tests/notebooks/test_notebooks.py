"""Every chapter of notebooks/: its two files agree, it runs without an error in a minute, its cells are short, its links lead to
what they name, it ends in three exercises with answers, and what it shows carries no path of a machine and no missing letter."""

from __future__ import annotations

import json
import re
import resource
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "notebooks"))
import build  # noqa: E402

CHAPTERS = build.chapters()
CELL_LINES = 25
MOST_BYTES = 600_000
MACHINE_PATH = re.compile(r"(?<![\w.])/(work|tmp|home|Users|root|opt|usr|var|mnt)/")
LINK = re.compile(r"\]\(([^)\s]+)\)")

each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def prose(path: Path) -> list[str]:
    """The Markdown cells of a chapter."""
    return [cell.source for cell in build.read(path).cells if cell.cell_type == "markdown"]


def outputs(path: Path) -> list[dict]:
    """Everything under the cells of a chapter's .ipynb, pictures left out."""
    cells = json.loads(path.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]
    found = [output for cell in cells for output in cell.get("outputs", [])]
    for output in found:
        output.get("data", {}).pop("image/png", None)
    return found


@each_chapter
def test_the_chapter_runs_within_a_minute(path: Path) -> None:
    """In seconds of the CPU on one thread, so that a busy machine does not fail it: on an idle one it is no slower."""
    notebook = build.read(path)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    build.execute(notebook, threads=1)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert 0.1 < seconds < build.SECONDS
    said = [
        output.text for cell in notebook.cells for output in cell.get("outputs", []) if output.get("name") == "stderr"
    ]
    assert not said, f"warnings, such as of letters that the font lacks: {said}"


@each_chapter
def test_the_pair_agrees_and_the_links_into_the_source_hold(path: Path) -> None:
    build.check(path)


@each_chapter
def test_other_links_lead_somewhere(path: Path) -> None:
    for target in LINK.findall("\n".join(prose(path))):
        if not re.match(r"[a-z]+:|#", target):
            assert (path.parent / target.partition("#")[0]).exists(), f"{path.name} links to {target}"


@each_chapter
def test_cells_are_short(path: Path) -> None:
    for number, cell in enumerate(build.read(path).cells):
        lines = len(build.LIST.sub("", cell.source).splitlines())  # the list of chapters is as long as it is
        assert lines <= CELL_LINES, f"cell {number} of {path.name} has {lines} lines, over {CELL_LINES}"


@each_chapter
def test_it_ends_in_three_exercises_and_the_source(path: Path) -> None:
    text = "\n\n".join(prose(path))
    assert text.startswith(f"# {path.name[:2]} · "), "a chapter begins with its number and title"
    _, _, exercises = text.partition("\n## Exercises\n")
    exercises, _, source = exercises.partition("\n## Source\n")
    assert exercises.count("<details><summary>Answer</summary>\n\n") == exercises.count("</details>") == 3
    assert [number for number in "1234" if f"**{number}.**" in exercises] == ["1", "2", "3"]
    assert len(build.SOURCE_LINK.findall(source)) >= 3
    assert "\n## " not in source, "the links to the source are the last section"


@each_chapter
def test_it_checks_what_it_says(path: Path) -> None:
    code = [cell.source for cell in build.read(path).cells if cell.cell_type == "code"]
    assert sum(len(re.findall(r"^\s*assert ", source, flags=re.MULTILINE)) for source in code) >= 8


@each_chapter
def test_outputs_are_small_and_of_no_machine(path: Path) -> None:
    assert path.with_suffix(".ipynb").stat().st_size <= MOST_BYTES
    shown = json.dumps(outputs(path), ensure_ascii=False)
    assert not MACHINE_PATH.search(shown), MACHINE_PATH.search(shown)
    assert '"stderr"' not in shown and '"error"' not in shown


def test_the_readme_and_the_tour_list_every_chapter() -> None:
    text = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    assert build.contents(build.linked(text)) == text, "run python notebooks/build.py --links"
    for listing in (text, *prose(CHAPTERS[0])[-4:]):
        if "<!-- chapters -->" in listing:
            assert re.findall(r"\]\((\d\d-[a-z0-9-]+)\.ipynb\)", listing) == [path.stem for path in CHAPTERS]
    assert any("<!-- chapters -->" in cell for cell in prose(CHAPTERS[0]))
    assert "notebooks/README.md" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_link_to_what_is_gone_is_an_error() -> None:
    found = build.definitions(ROOT / "llama4" / "rope.py")["rotate"]
    assert build.linked("[`rope.rotate`](../llama4/rope.py#L1)") == f"[`rope.rotate`](../llama4/rope.py#L{found})"
    line = (ROOT / "llama4" / "rope.py").read_text(encoding="utf-8").splitlines()[found - 1]
    assert line.startswith("def rotate(")
    with pytest.raises(build.ChapterError, match="no such thing"):
        build.linked("[`rope.nowhere`](../llama4/rope.py)")
    with pytest.raises(build.ChapterError, match="no such thing"):
        build.linked("[`rope.rotate`](../llama4/gone.py)")


def test_a_changed_cell_is_noticed(tmp_path: Path) -> None:
    chapter = CHAPTERS[0]
    for suffix in (".py", ".ipynb"):
        (tmp_path / chapter.with_suffix(suffix).name).write_bytes(chapter.with_suffix(suffix).read_bytes())
    copy = tmp_path / chapter.name
    build.check(copy)
    copy.write_text(copy.read_text(encoding="utf-8") + "# one line more\n", encoding="utf-8")
    with pytest.raises(build.ChapterError, match="differ"):
        build.check(copy)
