"""Break the code on purpose, one mistake at a time, and see the named test fail: a test that cannot fail pins nothing.

    python tests/mutations.py                # every mutation, a line each
    python tests/mutations.py "RoPE pairs"   # those whose name contains the words

A mutation is a few words of the package replaced by others, in a copy of it. The copy runs one small test in a process of its
own; the tests are the golden ones, which need neither reference. A mutation counts as caught when that test fails by its own
assertion, and the difference it reports is at least 100 times the tolerance: a mistake that only just shows would go unseen
with other weights. Text that is not found exactly once means that the list is stale, and is an error.

The list is in mutation_list.py, and in docs/parity.md with a reason each; tests/test_mutations.py runs it under pytest.
"""

from __future__ import annotations

import importlib
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mutation_list import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parents[1]
TESTS = Path("tests") / "parity"
sys.path.append(str(ROOT / TESTS))
from tolerances import MUTATION_FACTOR  # noqa: E402

# Besides the package, what the copy needs to run the golden tests.
NEEDED = ("conftest.py", "compare.py", "tolerances.py", "test_goldens.py", "test_ops_order.py", "goldens")
SECONDS = 120


class StaleMutationError(Exception):
    """The text to replace is not in the package exactly once: bring the list up to date."""


class SurvivedError(Exception):
    """The named test does not catch the mistake, or not clearly enough."""


def make_copy(folder: Path) -> None:
    """The package and the tests that mutations run, in an empty folder."""
    shutil.copytree(ROOT / "llama4", folder / "llama4", ignore=shutil.ignore_patterns("__pycache__", "assets"))
    (folder / TESTS).mkdir(parents=True)
    for name in NEEDED:
        source = ROOT / TESTS / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / TESTS / name)
    (folder / "pytest.ini").write_text("[pytest]\n")


def apply(mutation: Mutation, folder: Path) -> None:
    """Make the mistake in the copy at `folder`; `StaleMutationError` when its text is not there exactly once."""
    for edit in mutation.edits:
        file = folder / "llama4" / edit.file
        text = file.read_text(encoding="utf-8")
        if text.count(edit.old) != 1:
            raise StaleMutationError(
                f"{mutation.name}: {edit.file} has {text.count(edit.old)} times {edit.old!r}, not once"
            )
        file.write_text(text.replace(edit.old, edit.new), encoding="utf-8")


@contextmanager
def imported(folder: Path) -> Iterator[None]:
    """Within the block, `import llama4` means the copy at `folder`, in this process; afterwards what it meant before."""
    mine = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "llama4"}
    for name in mine:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.partition(".")[0] == "llama4"]:
            del sys.modules[name]
        sys.modules.update(mine)


def run(folder: Path, tests: list[str]) -> subprocess.CompletedProcess[str]:
    """Run tests in the copy, which goes before whatever else is called llama4."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # a third of the time of a run of one small test
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    nodes = [str(TESTS / test) for test in tests]
    return subprocess.run(
        [*command, *nodes], cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )


def caught_at(mutation: Mutation) -> float:
    """By how many times the tolerance the named test fails with this mistake; `SurvivedError` unless it does by 100."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_copy(folder)
        apply(mutation, folder)
        result = run(folder, [mutation.test])
    output = result.stdout + result.stderr
    if result.returncode == 0:
        raise SurvivedError(f"{mutation.test} passes with this mistake: {mutation.name}")
    reported = re.search(r"^E +AssertionError: .* differs by (\S+); the limit is (\S+) ", output, re.MULTILINE)
    if result.returncode != 1 or f"FAILED {TESTS / mutation.test}" not in output or reported is None:
        problem = f"{mutation.test} does not fail by its comparison with this mistake: {mutation.name}"
        raise SurvivedError(f"{problem}\n{output[-3000:]}")
    found, limit = float(reported[1]), float(reported[2])
    factor = found / limit if limit else math.inf
    if factor < MUTATION_FACTOR:
        raise SurvivedError(f"{mutation.test} sees this mistake at {factor:.1f} times the tolerance: {mutation.name}")
    return factor


def green_without_mutation() -> str | None:
    """None when every named test passes on the unbroken copy, else the output."""
    with tempfile.TemporaryDirectory() as name:
        make_copy(Path(name))
        result = run(Path(name), sorted({mutation.test for mutation in MUTATIONS}))
    return None if result.returncode == 0 else result.stdout + result.stderr


def main(words: str = "") -> int:
    """Run what `words` select; 0 when all of it is caught."""
    if (problem := green_without_mutation()) is not None:
        print(problem)
        return 1
    survivors = 0
    for mutation in (mutation for mutation in MUTATIONS if words.lower() in mutation.name.lower()):
        try:
            print(f"caught at {caught_at(mutation):>9.3g} x the tolerance: {mutation.name}", flush=True)
        except SurvivedError as error:
            survivors += 1
            print(f"SURVIVED: {error}", flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:])))
