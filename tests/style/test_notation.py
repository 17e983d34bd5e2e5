"""Shape suffixes: every letter of every suffix (`x_BSD`, `group_ends_E`) is in the legend of docs/notation.md, and einsum's
letters are those suffixes in lower case."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from source_tree import ROOT, parsed, python_files, relative

SUFFIX = re.compile(r"^[a-z][A-Za-z0-9_]*_([A-Z][A-Z0-9]*)$")
SOURCES = python_files("llama4", "kernels", "notebooks", "tests")


def legend() -> set[str]:
    """The letters of the table in docs/notation.md: rows `| `B` | … |`."""
    text = (ROOT / "docs" / "notation.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `([A-Z])` \|", text, flags=re.MULTILINE))


def identifiers(path: Path) -> set[str]:
    """Every name, argument, attribute and function that a file writes."""
    names: set[str] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
    return names


def test_the_legend_has_the_letters_of_the_project() -> None:
    assert legend() >= set("BSTNDHGKEFRPCV")


def test_suffix_letters_are_in_the_legend() -> None:
    known = legend() | set("0123456789")
    foreign = {
        f"{relative(path)}: {name}"
        for path in SOURCES
        for name in identifiers(path)
        if (match := SUFFIX.match(name)) and not set(match.group(1)) <= known
    }
    assert not foreign, f"letters that docs/notation.md lacks: {sorted(foreign)}"


def test_einsum_letters_are_the_suffixes() -> None:
    known = {letter.lower() for letter in legend()} | set(",->. ")
    for path in SOURCES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "einsum":
                formula = node.args[0]
                assert isinstance(formula, ast.Constant), f"{relative(path)}:{node.lineno}"
                assert set(formula.value) <= known, f"{relative(path)}:{node.lineno} {formula.value}"


def test_model_code_is_annotated() -> None:
    """The attention and the mixture of experts, at least, name the shape of what they pass on."""
    for file, expected in {
        "attention.py": {"x_BSD", "q_BSHK", "k_BSGK", "k_BTGK"},
        "moe.py": {"x_ND", "expert_N", "score_N", "group_ends_E"},
        "vision.py": {"x_RPC"},
        "cache.py": {"k_BTGK", "v_BTGK", "positions_BS"},
    }.items():
        assert expected <= identifiers(ROOT / "llama4" / file), file
