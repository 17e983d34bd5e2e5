"""Model code is single-device and pure, and asks nothing of a layer's number: the config's table has the answer."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from source_tree import MODEL_CODE, PACKAGE, definitions, parsed, python_files, relative

FORBIDDEN_NAMES = {"open", "print", "input", "exec", "eval", "globals"}
FORBIDDEN_ATTRIBUTES = {"cuda", "environ", "getenv", "distributed", "read_text", "write_text", "register_buffer"}
ALLOWED = {("ops", "cuda")}  # torch.cuda.is_available: the seam's one question
# Where `%` belongs: a position in its chunk or period, a patch in its grid, a count that must be whole tiles.
MODULO = {"masks", "rope", "cache", "attention", "fusion", "ops"}
LAYER_NUMBERS = {"layer", "layers", "layer_id", "layer_idx", "layer_index", "index", "number", "depth"}


@pytest.mark.parametrize("path", MODEL_CODE, ids=relative)
def test_no_devices_files_or_environment(path: Path) -> None:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Name):
            assert node.id not in FORBIDDEN_NAMES, f"{relative(path)}:{node.lineno} uses {node.id}"
        if isinstance(node, ast.Attribute) and (path.stem, node.attr) not in ALLOWED:
            assert node.attr not in FORBIDDEN_ATTRIBUTES, f"{relative(path)}:{node.lineno} uses .{node.attr}"


@pytest.mark.parametrize("path", MODEL_CODE, ids=relative)
def test_no_modulo_on_layer_numbers(path: Path) -> None:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
            assert path.stem in MODULO, f"{relative(path)}:{node.lineno} takes a remainder"
            names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
            assert not names & LAYER_NUMBERS, f"{relative(path)}:{node.lineno} decides by a layer's number"


def test_the_layer_pattern_is_spelled_out_in_one_place() -> None:
    """`irope_layers` is the only function of config.py with a remainder of a layer's number."""
    holders = {
        name
        for name, node in definitions(parsed(PACKAGE / "config.py"))
        for part in ast.walk(node)
        if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Mod) and "number" in ast.unparse(part)
    }
    assert holders == {"irope_layers"}


@pytest.mark.parametrize("path", MODEL_CODE, ids=relative)
def test_reshapes_are_einops(path: Path) -> None:
    """`rearrange` says what the dimensions are; view, permute and reshape do not. One transpose for a kernel is allowed."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("view", "permute", "reshape", "swapaxes"), f"{relative(path)}:{node.lineno}"


def test_no_global_statements() -> None:
    for path in python_files("llama4"):
        for node in ast.walk(parsed(path)):
            assert not isinstance(node, ast.Global), f"{relative(path)}:{node.lineno} keeps state in the module"


@pytest.mark.parametrize("path", MODEL_CODE, ids=relative)
def test_input_is_never_checked_by_assert(path: Path) -> None:
    for node in ast.walk(parsed(path)):
        assert not isinstance(node, ast.Assert), f"{relative(path)}:{node.lineno}"
