"""Break a kernel on purpose, one mistake at a time, and see a test fail:

    python tests/kernels/kernel_mutations.py                 # every mutation, a line each
    python tests/kernels/kernel_mutations.py "score"         # those whose name contains the word

A mutation is a few words of a kernel replaced by others, in a copy of the package; one small test runs on the copy, in a process
of its own, in Triton's interpreter. docs/kernels/ names each mistake and its test; test_kernel_mutations.py runs this list.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "kernels" / "llama4_kernels"
SECONDS = 180
GROUPED, MOE, DECODE, INT4 = "test_grouped.py", "test_moe_mlp.py", "test_decode.py", "test_int4_kernels.py"
CHUNKED, SLOTS, TURN = "test_attention_chunked.py", "test_attention_decode.py", "test_turn.py"


@dataclass(frozen=True)
class Mutation:
    """`old`, found once in `file`, becomes `new`; `test` (a pytest expression in `module`) must fail."""

    name: str
    file: str
    old: str
    new: str
    module: str
    test: str


NAIVE = (GROUPED, "test_naive_is_the_reference and exactly and fp32")
FAST = (GROUPED, "test_persistent_is_the_reference and exactly and multiples")
MANY = (GROUPED, "test_persistent_is_the_reference and more and multiples")  # a later tile hides it from fewer
APART = (GROUPED, "test_nan_of_one_group_stays_in_it")
LAYER = (MOE, "test_output_and_gradients_are_the_references and lot")
FEW = (DECODE, "test_decode_is_the_reference and lot")
BYTES = (INT4, "test_the_layer_is_that and lot")
CHUNKS = (CHUNKED, "test_output_and_gradients_are_the_references and short and fp32")  # five heads, chunks of 20 in 50
GROWN = (CHUNKED, "test_scores_that_grow_block_by_block")
SPLIT = (SLOTS, "test_decode_is_the_reference and unequal and 2")
TURNED = (TURN, "test_rotation_and_norm_are_the_references and one and fp32")
SEEN = "scores = tl.where(keys[None, :] <= positions[:, None]"
MANY_BYTES = (INT4, "test_many_tokens_on_few_experts and empty")
INSIDE = "inside = (rows[:, None] < end)"
ORDER = "tl.load(order_ptr + rows, mask=rows < end, other=0)"
SCORED = "gate, up = a * score[:, None], b * score[:, None]"
TAIL = "tl.where(ours[:, None], x_desc.load([whole, row]), 0.0)"
MUTATIONS = tuple(
    Mutation(name, file, old, new, *test)
    for name, file, old, new, test in (
        (
            "two experts swapped, naive",
            "naive.py",
            "expert.to(tl.int64) * w_",
            "(expert ^ 1).to(tl.int64) * w_",
            NAIVE,
        ),
        (
            "two experts swapped, fast",
            "persistent.py",
            "w_desc.load([expert, first,",
            "w_desc.load([expert ^ 1, first,",
            FAST,
        ),
        ("a group's last row dropped, naive", "naive.py", INSIDE, INSIDE.replace("end", "end - 1"), NAIVE),
        ("a group's last row dropped, fast", "persistent.py", INSIDE, INSIDE.replace("end", "end - 1"), FAST),
        (
            "stored past a group's end",
            "persistent.py",
            INSIDE,
            INSIDE.replace("end", "tl.load(ends_ptr + experts - 1)"),
            MANY,
        ),
        ("summed past a group's end", "persistent.py", f"x = {TAIL}", "x = x_desc.load([whole, row])", APART),
        ("a group's last rows not summed", "persistent.py", "if whole < end:", "if whole + 1 < end:", FAST),
        ("score skipped", "swiglu.py", SCORED, "gate, up = a, b", LAYER),
        ("score on the gate alone", "swiglu.py", SCORED, "gate, up = a * score[:, None], b", LAYER),
        (
            "gate and up exchanged",
            "swiglu.py",
            "h = gate * tl.sigmoid(gate) * up",
            "h = up * tl.sigmoid(up) * gate",
            LAYER,
        ),
        ("tokens not gathered", "swiglu.py", "tokens = tl.load(order_ptr + tokens)", "pass", LAYER),
        ("rows not put back", "down.py", f"tokens = {ORDER}", "tokens = rows", LAYER),
        ("routed rows stored, not added", "down.py", "(y + sums)", "sums", LAYER),
        ("score's gradient without s (1 - s)", "moe.py", " * score_N * (1 - score_N)", "", LAYER),
        ("score's gradient without the up half", "swiglu.py", "dgate * a + dup * b", "dgate * a", LAYER),
        (
            "two experts swapped, few tokens",
            "decode.py",
            "gate_up_desc.load([expert, first, column])",
            "gate_up_desc.load([expert ^ 1, first, column])",
            FEW,
        ),
        ("the score skipped, few tokens", "decode.py", "gated = a * score", "gated = a", FEW),
        (
            "the last row of a group dropped, few tokens",
            "decode.py",
            "return expert, named, rows < end",
            "return expert, named, rows < end - 1",
            FEW,
        ),
        ("a slice of the sum left out", "decode.py", "total += tl.load", "total = tl.load", FEW),
        (
            "two slices in one buffer",
            "decode.py",
            "            part += SLICES\n",
            "            part += SLICES - 1\n",
            FEW,
        ),
        (
            "the halves of a byte swapped",
            "int4.py",
            "numbers(q & 15, KIND), low_x",
            "numbers(q & 15, KIND), high_x",
            BYTES,
        ),
        ("the scale of a group skipped", "int4.py", " * tl.load(scale_at).to(tl.float32)[:, None]", "", BYTES),
        (
            "the next group's scale",
            "int4.py",
            "gate_scale_at + group, low_x",
            "gate_scale_at + group + 1, low_x",
            BYTES,
        ),
        ("two experts swapped, int4", "int4.py", "expert * width + rows", "(expert ^ 1) * width + rows", BYTES),
        (
            "the halves of a byte swapped, many tokens",
            "int4_prefill.py",
            "q & 15, KIND) * scale).to(KIND), low_x",
            "q & 15, KIND) * scale).to(KIND), high_x",
            MANY_BYTES,
        ),
        (
            "the scale skipped, many tokens",
            "int4_prefill.py",
            "(numbers(q >> 4, KIND) * scale)",
            "numbers(q >> 4, KIND)",
            MANY_BYTES,
        ),
        ("up from the gate's rows, many tokens", "int4_prefill.py", "first += up_row", "first += 0", MANY_BYTES),
        (
            "two experts swapped, many tokens",
            "int4_prefill.py",
            "expert.to(tl.int64) * width",
            "(expert ^ 1).to(tl.int64) * width",
            MANY_BYTES,
        ),
        ("routed rows stored, not added, many tokens", "int4_prefill.py", "(y + sums.T)", "sums.T", MANY_BYTES),
        (
            "an expert's last row dropped, many tokens",
            "int4_prefill.py",
            "inside = (rows[:, None] < end)",
            "inside = (rows[:, None] < end - 1)",
            MANY_BYTES,
        ),
        ("up from the gate's rows", "int4.py", "up_rows = gate_rows + hidden", "up_rows = gate_rows", BYTES),
        ("a query sees the next key", "attention_chunked.py", SEEN, SEEN.replace("<=", "<= 1 +"), CHUNKS),
        (
            "a block of a tile's own keys without a mask",
            "attention_chunked.py",
            "open_to_all = (earliest + 1)",
            "open_to_all = (latest + 1)",
            (CHUNKED, "test_output_and_gradients_are_the_references and several and fp32"),
        ),
        (
            "scores not divided by the root of K",
            "attention_chunked.py",
            "math.log2(math.e) / math.sqrt(width)",
            "math.log2(math.e)",
            CHUNKS,
        ),
        ("chunks overlap by a position", "attention_tiles.py", "% chunks * chunk", "% chunks * (chunk - 1)", CHUNKS),
        (
            "a chunk's last position left out",
            "attention_tiles.py",
            "tl.minimum(length - begin, chunk)",
            "tl.minimum(length - begin, chunk - 1)",
            CHUNKS,
        ),
        ("what was summed does not shrink", "attention_chunked.py", "v, sums * fade[:, None]", "v, sums", GROWN),
        (
            "dq without its mask",
            "attention_backward.py",
            "keys[None, :] <= positions[:, None]",
            "keys[None, :] >= 0",
            CHUNKS,
        ),
        (
            "dk, dv: the mask ends early",
            "attention_backward.py",
            "tl.cdiv((COLUMNS - 1) * SHARING, ROWS) * ROWS",
            "(COLUMNS - 1) * SHARING // ROWS // 2 * ROWS",
            (CHUNKED, "test_output_and_gradients_are_the_references and several and fp32"),
        ),
        (
            "dk without delta",
            "attention_backward.py",
            "(tl.dot(v, do.T, input_precision=PRECISION) - delta[None, :])",
            "tl.dot(v, do.T, input_precision=PRECISION)",
            CHUNKS,
        ),
        (
            "a slot that nobody sees is read",
            "attention_decode.py",
            "most = tl.max(seen, 0)",
            "most = tl.max(seen, 0) + 1",
            SPLIT,
        ),
        (
            "each query sees what the last one does",
            "attention_decode.py",
            "tl.minimum(seen, end)[None, :]",
            "(seen * 0 + end)[None, :]",
            (SLOTS, "test_decode_is_the_reference and own and 1"),
        ),
        ("splits added without their weights", "attention_decode.py", "weights[:, None] * parts", "parts", SPLIT),
        ("turned the other way", "turn.py", "even * sin + odd * cos", "odd * cos - even * sin", TURNED),
        ("the norm without eps", "turn.py", " / WIDTH + eps", " / WIDTH", TURNED),
    )
)


def caught(mutation: Mutation) -> bool:
    """Does the named test fail on the mutated copy, by its own assertion?"""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "llama4_kernels"
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        text = (copy / mutation.file).read_text(encoding="utf-8")
        if text.count(mutation.old) != 1:
            raise SystemExit(
                f"{mutation.name}: {mutation.file} no longer holds the text once: bring the list up to date."
            )
        (copy / mutation.file).write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
        path = os.pathsep.join([folder, str(ROOT), os.environ.get("PYTHONPATH", "")])
        test = ROOT / "tests" / "kernels" / mutation.module
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(test), "-k", mutation.test]
        run = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=SECONDS, cwd=folder
        )
    if run.returncode not in (0, 1):
        raise SystemExit(f"{mutation.name}: the test did not run.\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
    return run.returncode == 1 and "AssertionError" in run.stdout


def main(words: str = "") -> int:
    """1 where a mutation goes unseen."""
    unseen = 0
    for mutation in MUTATIONS:
        if words in mutation.name:
            seen = caught(mutation)
            unseen += not seen
            print(f"{'caught' if seen else 'UNSEEN':7} {mutation.name}", flush=True)
    return int(unseen > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
