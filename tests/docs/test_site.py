"""The documentation site: links into the source become links to its pages, every document, chapter and module is in the
navigation once, chapters become Markdown with all that they show, and, where MkDocs is installed, the site builds strictly."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "docs" / "site"))
import assets  # noqa: E402
import chapters  # noqa: E402
from links import Links, module_name, page_of  # noqa: E402
from navigation import documents, modules, navigation  # noqa: E402


def line_of(path: str, start: str) -> int:
    """The number of the first line of a file that begins so."""
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.startswith(start))


def pages(items: object) -> list[str]:
    """The pages below an entry of the navigation, in order."""
    if isinstance(items, str):
        return [items]
    parts = items.values() if isinstance(items, dict) else items
    return [page for part in parts for page in pages(part)]


def test_a_line_becomes_the_innermost_documented_thing_around_it() -> None:
    inside = line_of("llama4/rope.py", "def rotate(") + 2
    target = Links().target(f"../llama4/rope.py#L{inside}", "notebooks/04-rope-and-nope.ipynb")
    assert target == "../llama4/rope.py.md#llama4.rope.rotate"
    method = line_of("llama4/cache.py", "    def once(") + 1
    assert Links().target(f"../llama4/cache.py#L{method}", "docs/x.md").endswith("#llama4.cache.Shared.once")
    undocumented = line_of("llama4/moe.py", "    def forward(")
    assert Links().target(f"llama4/moe.py#L{undocumented}", "README.md") == "llama4/moe.py.md#llama4.moe.Router"
    assert Links().target("llama4/moe.py#L1", "README.md") == "llama4/moe.py.md"


@pytest.mark.parametrize(
    ("link", "page", "expected"),
    [
        ("notation.md#rules", "docs/weights.md", "notation.md#rules"),
        ("../notebooks/00-tour.ipynb", "docs/weights.md", "../notebooks/00-tour.md"),
        ("../llama4/checkpoint", "docs/weights.md", "../llama4/checkpoint/__init__.py.md"),
        ("../../kernels/llama4_kernels/moe.py", "docs/kernels/log.md", "../../kernels/llama4_kernels/moe.py.md"),
        ("../tests/mutations.py#L12", "docs/parity.md", "../tests/mutations.py.md#__codelineno-0-12"),
        ("pictures/demo.png", "docs/x.md", "pictures/demo.png"),
        ("LICENSE", "README.md", "LICENSE.md"),
        ("https://example.org/a.py#L1", "README.md", "https://example.org/a.py#L1"),
        ("#limits", "README.md", "#limits"),
        ("docs/gone.py", "README.md", "docs/gone.py"),  # stays, so that MkDocs reports it
    ],
)
def test_links_lead_to_pages(link: str, page: str, expected: str) -> None:
    assert Links().target(link, page) == expected


def test_fences_keep_their_text_and_linked_files_are_remembered() -> None:
    links = Links()
    text = "[a](LICENSE)\n\n```\n[b](LICENSE)\n```\n\n![c](docs/pictures/demo.png) [d](README.md)\n"
    expected = "[a](LICENSE.md)\n\n```\n[b](LICENSE)\n```\n\n![c](docs/pictures/demo.png) [d](README.md)\n"
    assert links.rewritten(text, "README.md") == expected
    assert links.wanted == {"LICENSE", "docs/pictures/demo.png"}


def test_everything_is_in_the_navigation_once() -> None:
    shown = pages(navigation(ROOT))
    assert len(shown) == len(set(shown))
    notebooks = [f"notebooks/{path.name}" for path in ROOT.glob("notebooks/[0-9][0-9]-*.ipynb")]
    assert set(shown) == {*documents(ROOT), *map(page_of, notebooks), *map(page_of, modules(ROOT))}
    assert {f"docs/{path.name}" for path in ROOT.glob("docs/*.md")} < set(shown)
    assert {"llama4/rope.py.md", "llama4/quant/__init__.py.md", "kernels/llama4_kernels/moe.py.md"} < set(shown)
    assert [page for page in shown if page.startswith("notebooks/")][:2] == [
        "notebooks/README.md",
        "notebooks/00-tour.md",
    ]


def test_a_new_document_and_a_new_chapter_are_found(tmp_path: Path) -> None:
    for name in (
        "docs/zebra.md",
        "docs/notation.md",
        "notebooks/README.md",
        "notebooks/13-more.ipynb",
        "llama4/__init__.py",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    shown = pages(navigation(tmp_path))
    assert shown.index("docs/notation.md") < shown.index("docs/zebra.md") and "notebooks/13-more.md" in shown


def test_modules_have_the_names_they_are_imported_by() -> None:
    assert module_name("llama4/checkpoint/names.py") == "llama4.checkpoint.names"
    assert module_name("llama4/checkpoint/__init__.py") == "llama4.checkpoint"
    assert module_name("kernels/llama4_kernels/moe.py") == "llama4_kernels.moe"


@pytest.mark.parametrize("path", sorted(ROOT.glob("notebooks/[0-9][0-9]-*.ipynb")), ids=lambda path: path.stem)
def test_a_page_has_all_that_its_chapter_shows(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    chapter = chapters.converted(path)
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    pictures = ["".join(output["data"]["image/png"]) for output in outputs if "image/png" in output.get("data", {})]
    assert [base64.b64encode(data).decode() for data in chapter.pictures.values()] == [
        p.replace("\n", "") for p in pictures
    ]
    assert all(f"]({name})" in chapter.text for name in chapter.pictures)
    assert chapter.markup == ["".join(o["data"]["text/html"]) for o in outputs if "text/html" in o.get("data", {})]
    assert all(chapters.place(number) in chapter.text for number in range(len(chapter.markup)))
    for output in outputs:
        if output["output_type"] == "stream":
            assert "".join(output["text"]).rstrip() in chapter.text
    for cell in cells:
        if cell["cell_type"] == "code":
            assert "".join(cell["source"]) in chapter.text


def test_what_no_page_can_show_is_an_error(tmp_path: Path) -> None:
    output = {"output_type": "display_data", "data": {"application/pdf": "x"}}
    cell = {"cell_type": "code", "source": ["1"], "outputs": [output]}
    (tmp_path / "20-x.ipynb").write_text(json.dumps({"cells": [cell]}), encoding="utf-8")
    with pytest.raises(ValueError, match="20-x holds an output of kind display_data"):
        chapters.converted(tmp_path / "20-x.ipynb")


def packed(folder: Path, text: str) -> tuple[Path, assets.Package]:
    """An npm archive with one wanted file and one that is not, and its description."""
    (folder / "a.js").write_text(text, encoding="utf-8")
    with tarfile.open(folder / "a.tgz", "w:gz") as archive:
        archive.add(folder / "a.js", "package/dist/a.js")
        archive.add(folder / "a.js", "package/dist/../../evil.js")
    digest = base64.b64encode(hashlib.sha512((folder / "a.tgz").read_bytes()).digest()).decode()
    return folder / "a.tgz", assets.Package("a", "1", f"sha512-{digest}", r"package/dist/(a\.js)")


def test_only_the_pinned_archive_is_unpacked_and_only_the_wanted_files(tmp_path: Path) -> None:
    archive, package = packed(tmp_path, "1")
    assets.unpack(package, archive, tmp_path / "site")
    assert [path.name for path in (tmp_path / "site").rglob("*") if path.is_file()] == ["a.js"]
    archive.write_bytes(archive.read_bytes() + b"0")
    with pytest.raises(assets.AssetError, match="not the pinned one"):
        assets.unpack(package, archive, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def stand_ins(folder: Path) -> Path:
    """Empty files where KaTeX and mermaid would lie: what they hold makes no difference to the build."""
    for package in assets.PACKAGES:
        (folder / package.folder).mkdir(parents=True)
        (folder / package.folder / f"{package.name}.min.js").touch()
    return folder


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings_handlers.python")
    pytest.importorskip("material")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    settings = {"assets": str(stand_ins(tmp_path / "assets")), "generator": False}
    site = tmp_path / "site"
    build(load_config(str(ROOT / "docs" / "mkdocs.yml"), strict=True, site_dir=str(site), extra=settings))
    tour = (site / "notebooks" / "00-tour" / "index.html").read_text(encoding="utf-8")
    assert "#llama4.model.Llama4.forward" in tour or "../../llama4/model.py/#" in tour
    assert re.search(r'<img alt="[^"]+" class="figure" src="\d\d-\d\.png"', tour) and "place-0" not in tour
    reference = (site / "llama4" / "rope.py" / "index.html").read_text(encoding="utf-8")
    assert 'id="llama4.rope.rotate"' in reference and "Turn the neighbouring pairs" in reference
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|link|img|iframe)\b[^>]*?(?:src|href)="([^"]+)"', page.read_text(encoding="utf-8")
        )
        assert not [address for address in loaded if re.match(r"(https?:)?//", address)], page
