"""What is in the navigation, in which order. Only the order of what should be read first is written down; whatever else exists
follows by name."""

from __future__ import annotations

from pathlib import Path

from links import PACKAGES, page_of

DOCUMENTS = (
    "architecture",
    "notation",
    "weights",
    "parity",
    "divergences",
    "benchmarks",
    "default-model",
    "quantisation",
)
KERNELS = ("grouped-matmul", "moe-layer", "int4", "benchmarks", "log")
ABOUT = ("CONTRIBUTING", "CHANGELOG")
GROUPS = {
    "The model": (
        *("config", "layers", "rope", "masks", "cache", "attention", "moe", "ops"),
        *("transformer", "image", "video", "vision", "fusion", "model"),
    ),
    "Text": ("tokenizer", "tokenizer_files", "special_tokens", "messages", "chat", "tools"),
    "Answering": ("load", "generate", "engine", "sampling", "stopping", "session"),
}

Navigation = list[dict[str, object] | str]


def documents(root: Path) -> list[str]:
    """Every Markdown file that is a page: README.md, docs/, notebooks/, and what lies in the package beside its assets."""
    places = ["README.md", "docs/*.md", "docs/kernels/*.md", "notebooks/*.md", "llama4/**/*.md"]
    return sorted(path.relative_to(root).as_posix() for place in places for path in root.glob(place))


def modules(root: Path) -> list[str]:
    """Every module of the packages, the packages' own `__init__.py` first."""
    found = [path.relative_to(root).as_posix() for folder in PACKAGES for path in root.glob(f"{folder}**/*.py")]
    return sorted(found, key=lambda path: path.replace("__init__", ""))


def navigation(root: Path) -> Navigation:
    """The site's sections: the start page, the chapters, the documents, the kernels, the API reference."""
    chapters = sorted(path.relative_to(root).as_posix() for path in root.glob("notebooks/[0-9][0-9]-*.ipynb"))
    docs, kernels = _stems(root / "docs"), _stems(root / "docs" / "kernels")
    about = [name for name in ABOUT if name in docs]
    texts = [f"docs/{name}.md" for name in _ordered([name for name in docs if name not in about], DOCUMENTS)]
    assets = [path for path in documents(root) if path.startswith("llama4/")]
    return [
        {"Home": "README.md"},
        {"Chapters": ["notebooks/README.md", *map(page_of, chapters)]},
        {"Documentation": [*texts, {"In the package": assets}, {"The project": [f"docs/{name}.md" for name in about]}]},
        {"Kernels": [f"docs/kernels/{name}.md" for name in _ordered(kernels, KERNELS)]},
        {"API": _reference(modules(root))},
    ]


def _reference(paths: list[str]) -> Navigation:
    """The modules, grouped: those of the reading order, then the packages inside the package, the kernels, the rest."""
    top = {Path(path).stem: path for path in paths if path.startswith("llama4/") and path.count("/") == 1}
    sections: Navigation = [page_of(top.pop("__init__"))]
    for title, names in GROUPS.items():
        sections.append({title: [page_of(top.pop(name)) for name in names if name in top]})
    sections.append({"Around it": [page_of(path) for path in top.values()]})
    inner: dict[str, list[str]] = {}
    for path in paths:
        parts = path.split("/")
        if parts[0] == "kernels":
            inner.setdefault("llama4_kernels", []).append(page_of(path))
        elif len(parts) > 2:
            inner.setdefault(f"llama4.{parts[1]}", []).append(page_of(path))
    return [*sections, *({title: pages} for title, pages in inner.items())]


def _stems(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.md"))


def _ordered(names: list[str], first: tuple[str, ...]) -> list[str]:
    """Those of `first` that exist, in that order, and then the others."""
    return [name for name in first if name in names] + [name for name in names if name not in first]
