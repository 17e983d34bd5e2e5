"""The linter and the formatter, with the settings of pyproject.toml, have nothing to say about the Python files."""

from __future__ import annotations

import subprocess
import sys

import pytest
from source_tree import ROOT

pytest.importorskip("ruff")


FOLDERS = [name for name in ("llama4", "kernels", "notebooks", "tests", "docs") if (ROOT / name).is_dir()]


@pytest.mark.parametrize("command", [("check",), ("format", "--check")], ids="-".join)
def test_ruff_is_silent(command: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "--no-cache", *FOLDERS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
