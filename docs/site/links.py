"""Which page of the site stands for which file of the repository, and links rewritten to lead there.

docs/weights.md            docs/weights.md                     a document is its own page
notebooks/00-tour.ipynb    notebooks/00-tour.md                a chapter
llama4/rope.py#L58         llama4/rope.py.md#llama4.rope.rotate    a module: its API reference, at what the line is in
llama4/checkpoint          llama4/checkpoint/__init__.py.md    a package
tests/mutations.py#L12     tests/mutations.py.md#__codelineno-0-12     anything else: its source
"""

from __future__ import annotations

import ast
import posixpath
import re
from functools import cache
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"llama4/": "", "kernels/llama4_kernels/": "kernels/"}  # folder -> what stands before the package's name
LINK = re.compile(r"(\]\()([^)\s]+)(\))")
FENCE = re.compile(r"^( *)(`{3,}|~{3,}).*?^\1\2`*[ ]*$", flags=re.DOTALL | re.MULTILINE)


def is_module(path: str) -> bool:
    """Is the file a module of one of the packages?"""
    return path.endswith(".py") and path.startswith(tuple(PACKAGES))


def module_name(path: str) -> str:
    """`kernels/llama4_kernels/moe.py` -> `llama4_kernels.moe`; a package's `__init__.py` is the package."""
    before = next(before for folder, before in PACKAGES.items() if path.startswith(folder))
    return path.removeprefix(before).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def page_of(path: str) -> str:
    """The Markdown file of the site that shows a file of the repository."""
    pure = PurePosixPath(path)
    if pure.suffix == ".ipynb":
        return str(pure.with_suffix(".md"))
    return path if pure.suffix == ".md" else f"{path}.md"


@cache
def definitions(path: str) -> tuple[tuple[str, int, int], ...]:
    """(dotted name, first line, last line) of a file's public, documented classes, functions and methods, outer ones first."""
    found: list[tuple[str, int, int]] = []

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            public = isinstance(child, ast.ClassDef | ast.FunctionDef) and not child.name.startswith("_")
            if public and ast.get_docstring(child):
                first = min([child.lineno, *(line.lineno for line in child.decorator_list)])
                found.append((f"{prefix}{child.name}", first, child.end_lineno or child.lineno))
                if isinstance(child, ast.ClassDef):
                    visit(child, f"{prefix}{child.name}.")

    visit(ast.parse((ROOT / path).read_text(encoding="utf-8")), "")
    return tuple(found)


def anchor(path: str, fragment: str) -> str:
    """Where on its page a file's fragment is: `L58` becomes the innermost public thing around line 58, or the line itself."""
    if not re.fullmatch(r"L\d+", fragment):
        return fragment
    line = int(fragment[1:])
    if not is_module(path):
        return f"__codelineno-0-{line}"
    around = [name for name, first, last in definitions(path) if first <= line <= last]
    return f"{module_name(path)}.{around[-1]}" if around else ""


class Links:
    """Rewrites links, and remembers in `wanted` the files that are shown because something links to them."""

    def __init__(self) -> None:
        self.wanted: set[str] = set()

    def target(self, link: str, page: str) -> str:
        """A link of the file `page`, as the site needs it. Addresses stay, and so do links to what does not exist: MkDocs
        finds and reports those."""
        name, _, fragment = link.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), name))
        if not name or re.match(r"[a-z]+:", link) or path.startswith("..") or not (ROOT / path).exists():
            return link
        if (ROOT / path).is_dir():
            path = f"{path}/__init__.py"
        if path.endswith(".md"):
            return link
        if not path.endswith(".ipynb"):
            self.wanted.add(path)
        shown = path if path.endswith((".png", ".svg", ".jpg", ".gif", ".webp")) else page_of(path)
        relative = posixpath.relpath(shown, posixpath.dirname(page) or ".")
        place = anchor(path, fragment)
        return f"{relative}#{place}" if place else relative

    def rewritten(self, text: str, page: str) -> str:
        """Markdown with its links rewritten; what stands in fences stays as it is."""
        parts, end = [], 0
        for fence in FENCE.finditer(text):
            parts += [self._outside(text[end : fence.start()], page), fence.group()]
            end = fence.end()
        return "".join([*parts, self._outside(text[end:], page)])

    def _outside(self, text: str, page: str) -> str:
        return LINK.sub(lambda found: found[1] + self.target(found[2], page) + found[3], text)
