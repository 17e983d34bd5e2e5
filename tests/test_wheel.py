"""The wheel is complete: a wheel built from this tree, unpacked elsewhere, carries the default model and answers with it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's files and nothing else."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = out.glob("llama4-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out / "site")
    return out / "site"


def test_wheel_holds_the_default_model_and_no_tests(unpacked: Path) -> None:
    files = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    for name in ("config.json", "model.safetensors", "tokenizer.model"):
        assert f"llama4/assets/tiny/{name}" in files
    for name in ("py.typed", "train/prompts.json", "assets/pictures/names.json", "assets/pictures/dog-face.png"):
        assert f"llama4/{name}" in files
    assert ("llama4_kernels/moe.py" in files) == (ROOT / "kernels").is_dir()  # the kernels may be taken away
    assert not [name for name in files if name.startswith(("tests/", "kernels/"))]


def test_wheel_answers(unpacked: Path, tmp_path: Path) -> None:
    picture = unpacked / "llama4" / "assets" / "pictures" / "dog-face.png"
    asked = f"llama4.load('tiny').generate('What is this?', images=[{str(picture)!r}])"
    code = f"import llama4; print(llama4.__file__); print({asked})"
    environment = os.environ | {"PYTHONPATH": str(unpacked)}
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    where, answered = run.stdout.splitlines()
    assert Path(where).is_relative_to(unpacked)
    assert answered == "dog face"
