"""One idea a file: at most 400 lines, functions at most 60; every module opens by saying what it is, and everything public
says what it does."""

from __future__ import annotations

import ast
from pathlib import Path

from source_tree import ROOT, definitions, parsed, python_files, relative

FILE_LINES, FUNCTION_LINES = 400, 60
SOURCES = python_files()
PACKAGE_FILES = [p for p in python_files("llama4", "kernels", "notebooks") if not p.name[:2].isdigit()]


def test_files_are_short() -> None:
    """A chapter of notebooks/ is prose for more than half: its lines of code count."""
    lines = {}
    for path in SOURCES:
        of_file = path.read_text(encoding="utf-8").splitlines()
        lines[relative(path)] = sum(not (is_chapter(path) and line.startswith("#")) for line in of_file)
    long = {name: count for name, count in lines.items() if count > FILE_LINES}
    assert not long, f"split by idea: {long}"


def test_functions_are_short() -> None:
    long = [
        f"{relative(path)}: {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for path in SOURCES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= FUNCTION_LINES
    ]
    assert not long, long


def test_modules_open_with_a_docstring() -> None:
    """A chapter of notebooks/ opens with a cell of prose instead."""
    modules = [path for path in SOURCES if path.read_text(encoding="utf-8").strip() and not is_chapter(path)]
    silent = [relative(path) for path in modules if not ast.get_docstring(parsed(path))]
    assert not silent, silent


def is_chapter(path: Path) -> bool:
    """`notebooks/02-pictures-to-patches.py` and the like."""
    return path.parent == ROOT / "notebooks" and path.name[:2].isdigit()


def documented_by_protocol(tree: ast.Module) -> set[str]:
    """Names of the methods that a `Protocol` of this file describes once for all classes that have them."""
    protocols = [n for n in tree.body if isinstance(n, ast.ClassDef) and "Protocol" in map(ast.unparse, n.bases)]
    return {node.name for protocol in protocols for node in protocol.body if isinstance(node, ast.FunctionDef)}


def test_public_things_have_docstrings() -> None:
    """`forward` may leave it to its class, whose docstring gives the shapes; a method, to the protocol it follows."""
    silent = []
    for path in PACKAGE_FILES:
        elsewhere = documented_by_protocol(parsed(path)) | {"forward"}
        for name, node in definitions(parsed(path)):
            public = not any(part.startswith("_") for part in name.split("."))
            excused = "." in name and node.name in elsewhere
            if public and not excused and not ast.get_docstring(node):
                silent.append(f"{relative(path)}: {name}")
    assert not silent, silent


def is_kernel(node: ast.AST) -> bool:
    """`@triton.jit`: the types of its arguments are those of the launch, and its letters are compile-time constants."""
    return any(ast.unparse(decorator) == "triton.jit" for decorator in getattr(node, "decorator_list", []))


def test_signatures_are_typed() -> None:
    untyped = []
    for path in PACKAGE_FILES:
        for name, node in definitions(parsed(path)):
            if isinstance(node, ast.ClassDef) or is_kernel(node):
                continue
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            bare = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
            untyped += [f"{relative(path)}: {name}({argument})" for argument in bare]
            untyped += [] if node.returns is not None else [f"{relative(path)}: {name}'s result"]
    assert not untyped, untyped
