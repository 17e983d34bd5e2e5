"""Every tuned kernel compiles for Hopper, without a GPU: tensor cores in use, nothing spilled, memory and registers in bounds.

The gate runs in a process of its own, since here kernels are interpreted. It runs twice: with the Triton that is installed, and
with the oldest that is supported, fetched from the package index into a folder that is thrown away.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from kernel_machine import KERNELS

OLDEST = "3.6.0"


def run_gate(path: str = "") -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (path, environment.get("PYTHONPATH", ""))))
    command = [sys.executable, str(KERNELS / "benchmarks" / "gate.py")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def assert_passed(run: subprocess.CompletedProcess[str]) -> None:
    rows = [line for line in run.stdout.splitlines() if line.endswith(" ok")]
    assert run.returncode == 0 and len(rows) > 10, run.stdout + run.stderr[-2000:]


def test_the_gate_is_green() -> None:
    assert_passed(run_gate())


def test_the_gate_is_green_with_the_oldest_triton(tmp_path: Path) -> None:
    fetch = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(tmp_path),
        f"triton=={OLDEST}",
    ]
    fetched = subprocess.run(fetch, capture_output=True, text=True, check=False)
    if fetched.returncode:
        pytest.skip("the oldest supported Triton cannot be fetched from the package index here")
    run = run_gate(str(tmp_path))
    assert f"Triton {OLDEST}" in run.stdout
    assert_passed(run)
