"""Mistakes made on purpose, and the chapter that must turn red with each: prose that no mistake can contradict teaches nothing.

As in tests/mutations.py a mistake is a few words of the package replaced in a copy of it. The copy keeps the trained model, and
the chapter runs on it. It counts as caught when one of the chapter's own asserts fails, not by an error of another kind.

    python tests/notebooks/notebook_mutations.py           # every mutation, a line each
    python tests/notebooks/notebook_mutations.py 02        # those of one chapter
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "notebooks"), str(ROOT / "tests")]
import build  # noqa: E402
from mutation_list import Edit, Mutation  # noqa: E402
from mutations import StaleMutationError, SurvivedError, apply  # noqa: E402
from nbclient.exceptions import CellExecutionError  # noqa: E402

__all__ = ["MUTATIONS", "StaleMutationError", "SurvivedError", "caught_by"]

# `test` is the chapter's name. Each chapter's own list begins with a comment of its number.
MUTATIONS: tuple[Mutation, ...] = (
    # 00
    Mutation(
        "RoPE pairs (i, i + K/2) instead of neighbours, seen from the tour",
        "00-tour",
        (
            Edit(
                "rope.py",
                'rearrange(x.float(), "... (pair two) -> ... pair two", two=2)',
                'rearrange(x.float(), "... (two pair) -> ... pair two", two=2).contiguous()',
            ),
            Edit("rope.py", '"... pair two -> ... (pair two)"', '"... pair two -> ... (two pair)"'),
        ),
    ),
    # 10
    Mutation(
        "top-p leaves out the token that reaches p",
        "10-generation",
        (
            Edit(
                "sampling.py",
                "probs_V * (before_V < sampling.top_p)",
                "probs_V * (probs_V.cumsum(-1) < sampling.top_p)",
            ),
        ),
    ),
    Mutation(
        "A conversation's second turn reads all of it again, behind what the cache holds",
        "10-generation",
        (Edit("session.py", "read = int(self.cache.lengths_B[0])", "read = 0"),),
    ),
    # 11
    Mutation(
        "The loop over the groups takes the experts in reverse",
        "11-grouped-matmul",
        (Edit("ops.py", "zip(x_ND.split(sizes), w_EDF.unbind(),", "zip(x_ND.split(sizes), w_EDF.flip(0).unbind(),"),),
    ),
    # 12
    Mutation(
        "The end-of-turn marker is not learnt",
        "12-training",
        (Edit("train/rows.py", "[True] * len(said)", "[True] * (len(said) - 1) + [False]"),),
    ),
    Mutation(
        "No gradient flows from the branches into their trunk",
        "12-training",
        (
            Edit(
                "train/names.py",
                "self.kept = (k_BSGK, v_BSGK)",
                "self.kept = (k_BSGK.detach(), v_BSGK.detach())",
            ),
        ),
    ),
)


def make_copy(folder: Path) -> None:
    """The package with its trained model, and the chapters, in an empty folder; what they only read is linked."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "llama4", folder / "llama4", ignore=ignore)
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns("__pycache__", "*.ipynb"))
    for other in ("docs", "kernels"):
        if (ROOT / other).is_dir():
            (folder / other).symlink_to(ROOT / other, target_is_directory=True)


def run(folder: Path, chapter: str) -> str | None:
    """Run a chapter on the copy; None when it is green, else the message of the assert that failed.

    Raises CellExecutionError for a failure that is no assert: the mistake then broke the code, and shows nothing of the prose.
    """
    notebook = build.read(folder / "notebooks" / f"{chapter}.py")
    try:
        build.execute(notebook, folder / "notebooks", folder, threads=1)
    except CellExecutionError as error:
        if error.ename != "AssertionError":
            raise
        failed = next(cell for cell in notebook.cells if any(o.output_type == "error" for o in cell.get("outputs", [])))
        return f"{failed.source.strip().splitlines()[0]} … {error.evalue}"
    return None


def caught_by(mutation: Mutation) -> str:
    """What the chapter says to the mistake; `SurvivedError` when it says nothing."""
    with tempfile.TemporaryDirectory() as name:
        make_copy(Path(name))
        apply(mutation, Path(name))
        found = run(Path(name), mutation.test)
    if found is None:
        raise SurvivedError(f"Chapter {mutation.test} is green with this mistake: {mutation.name}")
    return found


def main(wanted: str = "") -> int:
    """Run the mutations of the chapters whose name begins with `wanted`; 0 when all are caught."""
    survivors = 0
    for mutation in (mutation for mutation in MUTATIONS if mutation.test.startswith(wanted)):
        try:
            print(f"{mutation.test} catches: {mutation.name}: {caught_by(mutation)}", flush=True)
        except SurvivedError as error:
            survivors += 1
            print(f"SURVIVED: {error}", flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
