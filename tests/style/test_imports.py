"""The direction of imports: config <- layers, rope, masks, cache <- attention, moe <- vision, transformer <- fusion, model <-
all that acts on a model from outside <- the command line. The tokenizer, chat and images are leaves: they know no model.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from source_tree import MODEL_CODE, PACKAGE, parsed, python_files, relative

LEVELS = (
    {"errors", "files"},
    {"config", "config_io", "special_tokens"},
    {"layers", "rope", "masks", "cache", "ops"},
    {"attention", "moe"},
    {"vision", "transformer"},
    {"fusion", "model"},
    set(),  # checkpoint, quant, parallel, generate, train, bench …: whatever is not named here acts on a model from outside
    {"cli", "commands", "__main__"},
)
OUTSIDE = LEVELS.index(set())
PATHS_TO_KERNELS = {"ops"}

# A leaf imports the levels of configuration, and the leaves named here.
LEAVES = {
    "tokenizer_files": set(),
    "tokenizer": {"tokenizer_files"},
    "image": set(),
    "video": {"image"},
    "tools": set(),
    "messages": {"image", "video", "tools", "tokenizer"},
    "chat": {"image", "video", "tools", "tokenizer", "messages"},
}
LIBRARIES_OF_MODEL_CODE = {"torch", "einops", "llama4", "llama4_kernels"}


def level(module: str) -> int:
    """Which level a module is on; unnamed ones act on a model from outside."""
    return next((index for index, names in enumerate(LEVELS) if module in names), OUTSIDE)


def imported(path: Path, top_only: bool = False) -> set[str]:
    """Names of the modules that a file imports, in full: `llama4.cache`, `torch.nn`."""
    nodes = parsed(path).body if top_only else ast.walk(parsed(path))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)} imports relatively: write llama4.… out"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def own(names: set[str]) -> set[str]:
    """The first part below llama4 of those names that are this package's modules."""
    parts = {name.split(".")[1] for name in names if name.startswith("llama4.")}
    return {part for part in parts if (PACKAGE / f"{part}.py").exists() or (PACKAGE / part).is_dir()}


def module_of(path: Path) -> str:
    """`llama4/checkpoint/names.py` belongs to `checkpoint`, `llama4/rope.py` is `rope`."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


SOURCES = [path for path in python_files("llama4") if path.name != "__init__.py" or path.parent != PACKAGE]


def test_imports_go_down() -> None:
    for path in SOURCES:
        module = module_of(path)
        if module in LEAVES or module == "assets":
            continue
        others = own(imported(path)) - {module}
        higher = {name for name in others if name not in LEAVES and level(name) > level(module)}
        assert not higher, f"{relative(path)} imports {sorted(higher)}, which stand above it"
        leaves = others & set(LEAVES) if level(module) < OUTSIDE else set()
        assert not leaves, f"{relative(path)} is model code and imports {sorted(leaves)}"


@pytest.mark.parametrize("module", sorted(LEAVES))
def test_leaves_know_no_model(module: str) -> None:
    path = PACKAGE / f"{module}.py"
    wrong = {name for name in own(imported(path)) if name not in LEAVES[module] and level(name) > 1}
    assert not wrong, f"{relative(path)} imports {sorted(wrong)}"


def test_no_import_cycles() -> None:
    """At the top of the files; inside functions a cycle is allowed (Config.from_dir reads through config_io)."""
    graph = {module_of(path): own(imported(path, top_only=True)) for path in PACKAGE.glob("*.py")}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"import cycle: {' -> '.join((*trail, module))}"
        if module not in done:
            for other in graph.get(module, set()):
                visit(other, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("path", MODEL_CODE, ids=relative)
def test_model_code_needs_torch_and_einops_only(path: Path) -> None:
    import sys

    roots = {name.split(".")[0] for name in imported(path)}
    assert roots - set(sys.stdlib_module_names) <= LIBRARIES_OF_MODEL_CODE


def test_kernels_are_imported_by_the_seam_alone_and_lazily() -> None:
    for path in SOURCES:
        names = {name.split(".")[0] for name in imported(path)}
        if "llama4_kernels" in names:
            assert module_of(path) in PATHS_TO_KERNELS, f"{relative(path)} imports the kernels past ops.py"
            assert "llama4_kernels" not in {name.split(".")[0] for name in imported(path, top_only=True)}


def test_kernels_import_no_llama4() -> None:
    for path in python_files("kernels"):
        roots = {name.split(".")[0] for name in imported(path)}
        assert "llama4" not in roots or "benchmarks" in path.parts, f"{relative(path)} imports llama4"
