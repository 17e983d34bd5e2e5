"""What lies in the repository: the agreed top level, no path of one machine, no package index address, no unfinished business,
links that lead somewhere, and documents that name tests which exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from source_tree import ROOT, own, parsed, python_files, relative, tracked

TOP_LEVEL = {"README.md", "pyproject.toml", "LICENSE", "llama4", "kernels", "notebooks", "tests", "docs"}
TEXT = {".py", ".md", ".toml", ".yml", ".yaml", ".json", ".cff", ".txt", ".cfg", ".sh", ".ipynb", ""}
MACHINE_PATH = re.compile(r"(^|[^A-Za-z0-9_.])/(work|farm|root|opt)/", flags=re.MULTILINE)
INDEX_ADDRESS = re.compile(r"--(extra-)?index[-]url|--find[-]links")
UNFINISHED = re.compile(r"\b(TO[D]O|FIX[M]E|X[X]X)\b")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NODE = re.compile(r"\btests/[\w/]+\.py(?:::\w+)?")


def text_files() -> list[Path]:
    """Tracked files that people read: no weights, no tokenizer data, no test data."""
    return [path for path in tracked() if path.suffix in TEXT and path.stat().st_size < 400_000]


def documents() -> list[Path]:
    """Every Markdown file."""
    return list(tracked(".md"))


def test_top_level_is_the_agreed_one() -> None:
    first = {path.relative_to(ROOT).parts[0] for path in tracked()}
    assert {name for name in first if not name.startswith(".")} <= TOP_LEVEL


def test_an_environment_made_in_the_checkout_is_not_looked_at() -> None:
    """`python -m venv .v` here, and `pytest`: other people's modules are as long as they like."""
    theirs = [
        Path("x/.v/pyvenv.cfg"),
        Path("x/.v/lib/long.py"),
        Path("x/tools/env/pyvenv.cfg"),
        Path("x/tools/env/bin/python"),
    ]
    ours = [Path("x/README.md"), Path("x/.vimrc"), Path("x/tools/environment.py")]
    assert own(theirs + ours) == ours


@pytest.mark.parametrize("pattern", [MACHINE_PATH, INDEX_ADDRESS, UNFINISHED], ids=["path", "index", "unfinished"])
def test_no_file_holds(pattern: re.Pattern[str]) -> None:
    found = []
    for path in text_files():
        for match in pattern.finditer(path.read_text(encoding="utf-8", errors="replace")):
            found.append(f"{relative(path)}: {match.group(0).strip()}")
    assert not found, found


def test_the_patterns_find_what_they_are_for() -> None:
    assert MACHINE_PATH.search("see " + "/" + "work/x") and MACHINE_PATH.search("/" + "opt/x")
    assert not MACHINE_PATH.search("../work/x") and not MACHINE_PATH.search("a/work/x")
    assert INDEX_ADDRESS.search("pip install --index" + "-url https://x") and UNFINISHED.search("# TO" + "DO: x")


def test_no_skip_without_a_reason() -> None:
    """A test may be left out only where a reference package is absent (pytest.importorskip)."""
    for path in python_files("tests"):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Attribute) and node.attr in ("skip", "skipif", "xfail"):
                parent = next(p for p in ast.walk(parsed(path)) if node in list(ast.iter_child_nodes(p)))
                reasons = [k for k in getattr(parent, "keywords", []) if k.arg == "reason"]
                words = [a for a in getattr(parent, "args", []) if isinstance(a, ast.Constant)]
                assert reasons or words, f"{relative(path)}:{node.lineno} skips without saying why"


def taken_away(where: Path) -> bool:
    """Is it one of the kernels' files, in a tree without the kernels? Everything else works without them."""
    return not (ROOT / "kernels").is_dir() and (ROOT / "kernels") in where.parents


def test_relative_links_lead_somewhere() -> None:
    broken = []
    for path in documents():
        text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in LINK.findall(text):
            file, _, anchor = target.partition("#")
            where = (path.parent / file).resolve() if file else path
            if re.match(r"[a-z]+:", target) or taken_away(where):
                continue
            if not where.exists() or (anchor and where.suffix == ".md" and anchor not in anchors(where)):
                broken.append(f"{relative(path)} links to {target}")
    assert not broken, broken


@cache
def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives a document's headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings)
    return set(plain)


@cache
def named_tests(path: Path) -> set[str]:
    """Names of the test functions of a file."""
    return {node.name for node in parsed(path).body if isinstance(node, ast.FunctionDef)}


def test_tests_that_documents_name_exist() -> None:
    missing = []
    for path in documents():
        for node in NODE.findall(path.read_text(encoding="utf-8")):
            file, _, test = node.partition("::")
            if not (ROOT / file).exists() or (test and test not in named_tests(ROOT / file)):
                missing.append(f"{relative(path)} names {node}")
    assert not missing, missing


def test_divergences_are_pinned() -> None:
    """Every row of the tables in docs/divergences.md names at least one test."""
    text = (ROOT / "docs" / "divergences.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|") and not re.match(r"\|[\s:|-]+\|$", line)]
    bodies = [row for row in rows if "tests/" in row]
    assert len(bodies) >= 30
    headers = [row for row in rows if "tests/" not in row]
    assert all("test" in row.lower() for row in headers), [row for row in headers if "test" not in row.lower()]
