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
    Mutation(
        "experts swapped in pairs, seen from the tour",
        "00-tour",
        (Edit("moe.py", "return expert_N, torch.sigmoid(logit_N)", "return expert_N ^ 1, torch.sigmoid(logit_N)"),),
    ),
    # 01
    Mutation(
        "special tokens that a user types are obeyed",
        "01-text-to-ids",
        (Edit("tokenizer.py", "piece, allowed_special=allowed,", 'piece, allowed_special="all",'),),
    ),
    Mutation(
        "digits are cut off one by one",
        "01-text-to-ids",
        (Edit("tokenizer_files.py", r'r"\p{N}{1,3}"', r'r"\p{N}"'),),
    ),
    Mutation(
        "a tool's result ends the turn",
        "01-text-to-ids",
        (Edit("chat.py", 'tool_result_end: str = "eom",', 'tool_result_end: str = "eot",'),),
    ),
    # 02
    Mutation(
        "pixel shuffle column by column",
        "02-pictures-to-patches",
        (Edit("vision.py", "r (y x) (i j c)", "r (y x) (j i c)"),),
    ),
    Mutation(
        "the global tile first",
        "02-pictures-to-patches",
        (Edit("image.py", "torch.cat([pieces, whole[None]])", "torch.cat([whole[None], pieces])"),),
    ),
    Mutation(
        "no separator after the last row",
        "02-pictures-to-patches",
        (Edit("chat.py", "grid = row * rows if", "grid = (row * rows)[:-1] if"),),
    ),
    Mutation(
        "vision RoPE with rows alone",
        "02-pictures-to-patches",
        (
            Edit(
                "rope.py",
                "(columns[:, None] * freqs, rows[:, None] * freqs)",
                "(rows[:, None] * freqs, rows[:, None] * freqs)",
            ),
        ),
    ),
    # 03
    Mutation(
        "tiles filled in backwards",
        "03-early-fusion",
        (Edit("fusion.py", "self.projection(encoded)", "self.projection(encoded.flip(0))"),),
    ),
    Mutation(
        "tokens see what comes after them",
        "03-early-fusion",
        (Edit("attention.py", "mask=None, is_causal=True)", "mask=None, is_causal=False)"),),
    ),
    Mutation(
        "a video's frames from its start, not from the middle of each stretch",
        "03-early-fusion",
        (Edit("video.py", "(2 * segment + 1) * total // (2 * count)", "segment * total // count"),),
    ),
    # 04
    Mutation(
        "NoPE layers turn their queries and keys too",
        "04-rope-and-nope",
        (
            Edit(
                "attention.py",
                'Rotary(config, spec) if spec.position == "rope" else',
                "Rotary(config, spec) if True else",
            ),
        ),
    ),
    Mutation(
        "Scout's scaling makes slow pairs faster",
        "04-rope-and-nope",
        (Edit("rope.py", "slow = freqs / scaling.factor", "slow = freqs * scaling.factor"),),
    ),
    # 05
    Mutation(
        "decode on a chunked layer reads its whole buffer",
        "05-chunks-and-cache",
        (
            Edit(
                "attention.py",
                "max(start % self.chunk for start in piece.starts) + piece.width",
                "cache.k_BTGK.shape[1]",
            ),
        ),
    ),
    Mutation(
        "a chunked layer's cache keeps every position",
        "05-chunks-and-cache",
        (
            Edit("cache.py", "self.limit = min(period, limit)", "self.limit = limit"),
            Edit(
                "cache.py", "slots += range(first % period, first % period + end - first)", "slots += range(first, end)"
            ),
        ),
    ),
    # 06
    Mutation(
        "the temperature counts positions from 0",
        "06-ten-million-tokens",
        (
            Edit(
                "attention.py",
                "(positions_BS.float() + 1.0) / temperature.floor",
                "positions_BS.float() / temperature.floor",
            ),
        ),
    ),
    Mutation(
        "a chunked layer's memory counted at the full context",
        "06-ten-million-tokens",
        (Edit("inspect.py", "chunked * min(context, config.chunk or context) * slot", "chunked * context * slot"),),
    ),
    # 07
    Mutation(
        "score on the expert's output instead of its input, seen from the chapter on experts",
        "07-mixture-of-experts",
        (
            Edit("moe.py", "scored_ND = (x_ND * score_N[:, None]).to(x_ND.dtype)", "scored_ND = x_ND"),
            Edit(
                "moe.py",
                "sorted_ND = self.experts(scored_ND[order_N], group_ends_E)",
                "sorted_ND = self.experts(scored_ND[order_N], group_ends_E) * score_N[order_N][:, None]",
            ),
        ),
    ),
    Mutation(
        "score by softmax over the experts instead of sigmoid, seen from the chapter on experts",
        "07-mixture-of-experts",
        (
            Edit(
                "moe.py",
                "return expert_N, torch.sigmoid(logit_N)",
                "return expert_N, self.router(x_ND).softmax(-1).amax(-1)",
            ),
        ),
    ),
    # 08
    Mutation(
        "RoPE scaling ignored, seen from the chapter on parity",
        "08-parity",
        (Edit("rope.py", "return freqs if scaling is None else scale_frequencies(freqs, scaling)", "return freqs"),),
    ),
    # 09
    Mutation(
        "gate and up swapped while Meta's experts are loaded, seen from the chapter on weights",
        "09-official-weights",
        (
            Edit(
                "checkpoint/names.py",
                'experts.w1", (_GATE_UP,), split=2, half=0',
                'experts.w1", (_GATE_UP,), split=2, half=1',
            ),
            Edit(
                "checkpoint/names.py",
                'experts.w3", (_GATE_UP,), split=2, half=1',
                'experts.w3", (_GATE_UP,), split=2, half=0',
            ),
        ),
    ),
    Mutation(
        "shards taken from the last to the first, seen from the chapter on weights",
        "09-official-weights",
        (
            Edit(
                "checkpoint/transforms.py",
                "    return parameter.narrow(row.split, shard * size, size)",
                "    return parameter.narrow(row.split, (shards - 1 - shard) * size, size)",
            ),
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
    """The package with its trained model, and the chapters, in an empty folder."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "llama4", folder / "llama4", ignore=ignore)
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns("__pycache__", "*.ipynb"))
    for name in ("tests", "docs"):  # stored results, which chapters read
        (folder / name).symlink_to(ROOT / name, target_is_directory=True)
    if (ROOT / "kernels").is_dir():
        (folder / "kernels").symlink_to(ROOT / "kernels", target_is_directory=True)


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
