"""What the style tests look at: the tracked files, and the Python ones parsed."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "llama4"

# The files that are the architecture itself: single-device, pure, no files, no environment.
MODEL_CODE = tuple(
    PACKAGE / f"{name}.py"
    for name in (
        *("layers", "rope", "masks", "cache", "attention", "moe", "ops"),
        *("transformer", "vision", "fusion", "model"),
    )
)


@cache
def tracked(suffix: str = "") -> tuple[Path, ...]:
    """Every file that git tracks or would add, or, outside a checkout, every file that is there; no virtual environment's."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        files = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        files = [path for path in ROOT.rglob("*") if not {".git", "__pycache__"} & set(path.parts)]
    return tuple(sorted(path for path in own(files) if path.is_file() and path.name.endswith(suffix)))


def own(files: list[Path]) -> list[Path]:
    """The files that lie in no virtual environment: a reader may have made one here, under any name, and it has its own style."""
    environments = [path.parent for path in files if path.name == "pyvenv.cfg"]
    return [path for path in files if not any(path.is_relative_to(folder) for folder in environments)]


@cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a Python file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def python_files(*folders: str) -> list[Path]:
    """Tracked Python files below the given folders of the repository; all of them without any."""
    wanted = [ROOT / folder for folder in folders] or [ROOT]
    return [path for path in tracked(".py") if any(path.is_relative_to(folder) for folder in wanted)]


def relative(path: Path) -> str:
    """The path as messages show it."""
    return path.relative_to(ROOT).as_posix()


def definitions(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """(dotted name, node) of every class and function that is not inside a function."""
    waiting: list[tuple[str, ast.AST]] = [("", tree)]
    while waiting:
        prefix, node = waiting.pop()
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                name = f"{prefix}{child.name}"
                yield name, child
                if isinstance(child, ast.ClassDef):
                    waiting.append((f"{name}.", child))
            elif isinstance(child, ast.If | ast.Try | ast.With):
                waiting.append((prefix, child))
