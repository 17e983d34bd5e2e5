"""The hook that makes the site's pages. MkDocs reads one folder; this project's texts lie where they belong: README.md on top,
docs/, notebooks/, and docstrings in the source.

The site has the shape of the repository. A Markdown file is the page of the same path, a chapter's .ipynb becomes Markdown
(chapters.py), every module of the packages is a page of the API reference, made of its docstrings, and any other file that a text
links to is shown as a page of source. So a relative link keeps its meaning, and there is no address of a repository to go stale:
links.py only puts the page in the place of the file, and the function in the place of the line.

Everything is found, nothing is listed twice: a new chapter, document or module is in the navigation with the next build.
"""

from __future__ import annotations

import re
from pathlib import Path

import assets
import chapters
import markdown_dialect
from links import ROOT, Links, is_module, module_name, page_of
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from navigation import documents, modules, navigation

PICTURES = {".png", ".svg", ".jpg", ".gif", ".webp"}
TABLE = re.compile(r"<table>.*?</table>", flags=re.DOTALL)  # without a class: numbered lines of code have one
NUMBERED = re.compile(r'id="(__codelineno-0-\d+)"')
LANGUAGES = {".py": "python", ".toml": "toml", ".json": "json", ".yml": "yaml", ".cff": "yaml", ".sh": "bash"}

markup: dict[str, list[str]] = {}  # page -> what its cells show as HTML, put in after the Markdown


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The navigation, and GitHub's dialect of Markdown."""
    config.nav = navigation(ROOT)
    config.markdown_extensions.append(markdown_dialect.NAME)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for every document, chapter and module, for every other file that one of them links to, and the scripts."""
    links = Links()
    for path in documents(ROOT):
        text = (ROOT / path).read_text(encoding="utf-8")
        files.append(File.generated(config, path, content=links.rewritten(text, path)))
    for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]-*.ipynb")):
        add_chapter(path, links, files, config)
    for path in modules(ROOT):
        text = f"# {module_name(path)}\n\n::: {module_name(path)}\n"
        files.append(File.generated(config, page_of(path), content=text))
    for path in sorted(links.wanted):
        if (ROOT / path).suffix in PICTURES:
            files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
        elif not is_module(path):
            source = File.generated(config, page_of(path), content=source_page(path))
            source.inclusion = InclusionLevel.NOT_IN_NAV
            files.append(source)
    add_assets(files, config)
    return files


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Tables that scroll by themselves, what a chapter's cells show as HTML, and MkDocs told of the lines that links name."""
    page.present_anchor_ids = (page.present_anchor_ids or set()) | set(NUMBERED.findall(html))
    html = TABLE.sub(r'<div class="table">\g<0></div>', html)
    for number, content in enumerate(markup.get(page.file.src_uri, [])):
        html = html.replace(chapters.place(number), f'<div class="output markup">{content}</div>')
    return html


def add_chapter(path: Path, links: Links, files: Files, config: MkDocsConfig) -> None:
    """A chapter as a page, its pictures beside it, and the notebook itself to download."""
    name = path.relative_to(ROOT).as_posix()
    chapter = chapters.converted(path)
    text = (
        links.rewritten(chapter.text, name)
        + f"\n\n---\n\nThis page is the notebook [`{path.name}`]({path.name}), as it ran.\n"
    )
    files.append(File.generated(config, page_of(name), content=text))
    files.append(File.generated(config, name, abs_src_path=str(path)))
    for picture, data in chapter.pictures.items():
        files.append(File.generated(config, f"notebooks/{picture}", content=data))
    markup[page_of(name)] = chapter.markup


def source_page(path: str) -> str:
    """A file as a page: its path, and its text with numbered lines."""
    text = (ROOT / path).read_text(encoding="utf-8")
    fence = "`" * 5
    return f'# {path}\n\n{fence}{LANGUAGES.get(Path(path).suffix, "text")} linenums="1"\n{text.rstrip()}\n{fence}\n'


def add_assets(files: Files, config: MkDocsConfig) -> None:
    """KaTeX and mermaid, fetched if they are not there yet, served by the site itself below vendor/."""
    folder = Path(config.config_file_path).parent / config.extra["assets"]
    try:
        assets.fetch(folder)
    except assets.AssetError as error:
        raise PluginError(str(error)) from error
    for name, path in assets.files(folder).items():
        files.append(File.generated(config, f"vendor/{name}", abs_src_path=str(path)))
