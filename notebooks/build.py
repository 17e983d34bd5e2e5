"""Pair and run the chapters. A chapter is two files with the same cells: `NN-slug.py` is written by people, `NN-slug.ipynb` by
this script, with what the cells print and draw. The .py is jupytext's percent format: `# %%` begins a cell of code,
`# %% [markdown]` one of prose.

    python notebooks/build.py                # run every chapter and write its .ipynb
    python notebooks/build.py 02 05          # these only
    python notebooks/build.py --check        # run nothing: do the pairs hold the same cells, and do the links hold?
    python notebooks/build.py --links        # run nothing: bring the links' line numbers and the lists of chapters up to date

The same code gives the same bytes: no times, no random cell ids, no version of the machine's Python.

Links into the source name what they mean, [`rope.rotate`](../llama4/rope.py), and this script adds the line: `#L63`. The name is
the function, class or method, with or without its module in front. Prose therefore never goes stale silently: a name that is
gone is an error, and a line that has moved is one command away. The lists of chapters, in README.md and in chapter 00, are
written from the chapters themselves: the title, and the sentence in italics below it.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import sys
import tempfile
from functools import cache
from pathlib import Path
from textwrap import wrap

import jupytext
import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SECONDS = 60  # of the CPU, for a whole chapter
PATIENCE = 600  # of the clock, for a kernel to start and for one cell, on a machine that does other work too
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "pygments_lexer": "ipython3",
    },
}
LIST = re.compile(r"((?:# )?)<!-- chapters -->\n.*?<!-- end -->", flags=re.DOTALL)
OPENING = re.compile(r"# %% \[markdown\]\n# # (\d\d · .+)\n#\n# \*(.+?)\*\n#?\n", flags=re.DOTALL)
SOURCE_LINK = re.compile(r"\[`([\w.]+)`\]\(\.\./([\w./-]+\.py)(?:#L\d+)?\)")


class ChapterError(Exception):
    """A chapter's two files disagree, or a link of it leads nowhere."""


def chapters(wanted: tuple[str, ...] = (), folder: Path = HERE) -> list[Path]:
    """The chapters' .py files in order; those whose name begins with one of `wanted`, or all."""
    return [path for path in sorted(folder.glob("[0-9][0-9]-*.py")) if not wanted or path.name.startswith(wanted)]


def read(path: Path) -> nbformat.NotebookNode:
    """A chapter's .py as a notebook without outputs, its cells numbered."""
    notebook = jupytext.reads(path.read_text(encoding="utf-8"), fmt="py:percent")
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number:02}", nbformat.from_dict({})
    return notebook


def execute(notebook: nbformat.NotebookNode, folder: Path = HERE, root: Path = ROOT, threads: int = 2) -> None:
    """Run the cells in a fresh kernel of this Python in `folder`, with the package at `root`; outputs go into the cells.

    Raises nbclient's CellExecutionError at the first cell that fails. Kernels talk over files, since two runs at once may draw
    the same ports.
    """
    with tempfile.TemporaryDirectory() as scratch:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(root), str(root / "kernels")]),
            "IPYTHONDIR": scratch,
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "passive",  # a thread without work sleeps: others may want its core
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }
        specs = KernelSpecManager(kernel_dirs=[])  # none of the machine's: "python3" is then the Python that runs this
        kernel = AsyncKernelManager(
            kernel_name="python3",
            kernel_spec_manager=specs,
            transport="ipc",
            ip=f"{scratch}/k",
            connection_file=f"{scratch}/k.json",
        )
        client = NotebookClient(
            notebook,
            km=kernel,
            timeout=PATIENCE,
            startup_timeout=PATIENCE,
            record_timing=False,
            coalesce_streams=True,
            shutdown_kernel="immediate",
            resources={"metadata": {"path": str(folder)}},
        )
        client.execute(env=environment, cleanup_kc=True)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
    notebook.metadata = nbformat.from_dict(METADATA)


def write(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write a notebook; the same cells and outputs give the same bytes."""
    nbformat.validate(notebook)
    text = nbformat.writes(notebook, version=4).rstrip("\n") + "\n"
    path.write_text(text, encoding="utf-8")


def check(path: Path) -> None:
    """Raise ChapterError unless the .ipynb beside `path` has the same cells, was run from top to bottom, and links hold."""
    source, pair = read(path), path.with_suffix(".ipynb")
    if not pair.exists():
        raise ChapterError(f"{pair.name} is missing: run python notebooks/build.py {path.name[:2]}")
    built = nbformat.read(pair, as_version=4)
    for number, (ours, theirs) in enumerate(zip(source.cells, built.cells, strict=False)):
        if (ours.cell_type, ours.source) != (theirs.cell_type, theirs.source):
            raise ChapterError(
                f"Cell {number} of {path.name} and {pair.name} differ: run python notebooks/build.py {path.name[:2]}"
            )
    if len(source.cells) != len(built.cells):
        raise ChapterError(f"{path.name} has {len(source.cells)} cells and {pair.name} {len(built.cells)}.")
    counts = [cell.execution_count for cell in built.cells if cell.cell_type == "code"]
    if counts != list(range(1, len(counts) + 1)):
        raise ChapterError(f"{pair.name} was not run from top to bottom: run python notebooks/build.py {path.name[:2]}")
    text = path.read_text(encoding="utf-8")
    opening(path)
    if contents(linked(text)) != text:
        raise ChapterError(f"Links of {path.name} are out of date: run python notebooks/build.py --links")


def linked(text: str, root: Path = ROOT) -> str:
    """`text` with the line number of every link into the source. ChapterError for a file or a name that is not there."""

    def filled(match: re.Match[str]) -> str:
        name, file = match.groups()
        if name == Path(file).name and (root / file).is_file():
            return f"[`{name}`](../{file})"
        module = file.removesuffix(".py").split("/")
        prefixes = ["", *(".".join(module[first:]) + "." for first in range(len(module)))]
        lines = definitions(root / file)
        line = next((lines[rest] for prefix in prefixes if (rest := name.removeprefix(prefix)) in lines), None)
        if line is None:
            raise ChapterError(f"A link names `{name}` of {file}, and there is no such thing: correct the link.")
        return f"[`{name}`](../{file}#L{line})"

    return SOURCE_LINK.sub(filled, text)


def contents(text: str) -> str:
    """`text` with the list of all chapters between the lines `<!-- chapters -->` and `<!-- end -->`, where it has them."""

    def filled(match: re.Match[str]) -> str:
        start = match.group(1)
        rows = []
        for path in chapters():
            title, summary = opening(path)
            item = f"- [{title}]({path.stem}.ipynb): {summary}"
            rows += wrap(item, 116, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        return "\n".join(start + row for row in ["<!-- chapters -->", *rows, "<!-- end -->"])

    return LIST.sub(filled, text)


def opening(path: Path) -> tuple[str, str]:
    """A chapter's title and the sentence in italics below it. ChapterError where it does not begin with them."""
    found = OPENING.match(path.read_text(encoding="utf-8"))
    if found is None or not found.group(1).startswith(path.name[:2]):
        raise ChapterError(
            f"{path.name} does not begin with its title, # {path.name[:2]} · …, and a sentence in *italics*."
        )
    return found.group(1), found.group(2).replace("\n# ", " ")


@cache
def definitions(path: Path) -> dict[str, int]:
    """The line of every function, class, method and assigned name of a file, methods and fields as `Class.name`."""
    if not path.is_file():
        return {}
    found: dict[str, int] = {}
    waiting: list[tuple[str, ast.Module | ast.ClassDef]] = [("", ast.parse(path.read_text(encoding="utf-8")))]
    while waiting:
        prefix, parent = waiting.pop()
        for node in parent.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found[prefix + node.name] = node.lineno
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            found |= {prefix + target.id: node.lineno for target in targets if isinstance(target, ast.Name)}
            if isinstance(node, ast.ClassDef):
                waiting.append((f"{node.name}.", node))
    return found


def update_links(path: Path) -> None:
    """Bring a chapter's links up to date in its .py and, outputs untouched, in its .ipynb; and the list in README.md."""
    for file in (path, HERE / "README.md"):
        file.write_text(contents(linked(file.read_text(encoding="utf-8"))), encoding="utf-8")
    pair = path.with_suffix(".ipynb")
    if pair.exists():
        built = nbformat.read(pair, as_version=4)
        for cell in built.cells:
            if cell.cell_type == "markdown":
                cell.source = contents(linked(cell.source))
        write(built, pair)


def build(path: Path) -> None:
    """Run a chapter and write its .ipynb."""
    update_links(path)
    notebook = read(path)
    execute(notebook)
    write(notebook, path.with_suffix(".ipynb"))


def main() -> int:
    """The command line; 1 when a check fails."""
    parser = argparse.ArgumentParser(description="Run the chapters, or check that their two files agree.")
    parser.add_argument("wanted", nargs="*", help="numbers of chapters, such as 02; all without any")
    parser.add_argument("--check", action="store_true", help="run nothing; compare .py and .ipynb, and test the links")
    parser.add_argument("--links", action="store_true", help="run nothing; update the line numbers of links")
    asked = parser.parse_args()
    act = check if asked.check else update_links if asked.links else build
    problems = 0
    for path in chapters(tuple(asked.wanted)):
        try:
            act(path)
            print(path.name, "ok", flush=True)
        except ChapterError as error:
            problems += 1
            print(error, flush=True)
    if not asked.check:
        update_links(chapters()[0])  # its list of chapters: a title may have changed
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
