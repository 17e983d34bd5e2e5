"""Pins what loading costs: resident memory within 1.15x the weights held (Meta's shards: plus one tensor), measured in a process
of its own; and that too little memory or disk is said before anything is loaded or written.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoint_files import drawn_model, files_of
from random_configs import random_config

from llama4.checkpoint import load_model, save_hf, save_meta
from llama4.checkpoint.memory import available_memory, free_disk, in_units
from llama4.config import Config, irope_layers
from llama4.errors import InputError
from llama4.model import Llama4

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")

# Counted from after the imports and a first, tiny load (which pulls in what torch imports late).
MEASURE = """
import json, sys, torch
from llama4.checkpoint import load_model
def status():
    lines = (line.split() for line in open("/proc/self/status"))
    return {words[0]: int(words[1]) * 1024 for words in lines if words[0] in ("VmHWM:", "VmRSS:")}
tiny, folder, dtype, touch = sys.argv[1:]
dtype = {"own": None, "float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
load_model(tiny, dtype=dtype, check=True)
open("/proc/self/clear_refs", "w").write("5")
before = status()["VmRSS:"]
model = load_model(folder, dtype=dtype, check=touch == "touch")
held = {name: tensor.nbytes for name, tensor in model.state_dict().items()}
print(json.dumps({"peak": status()["VmHWM:"] - before, "held": sum(held.values()), "largest": max(held.values())}))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model of 116 MB in bfloat16 in three layouts, and a tiny one in each."""
    root = tmp_path_factory.mktemp("memory")
    big = Config(4000, 512, irope_layers(4, 1), 8, 4, 64, 16, 512, 1024, 64, True)
    for name, model in (
        ("big", Llama4(big).to(torch.bfloat16)),
        ("tiny", drawn_model(random_config(4, True, shards=4))),
    ):
        save_hf(model, root / name / "single")
        save_hf(model, root / name / "sharded", max_shard_bytes=model.decoder.embedding.weight.nbytes * 10)
        save_meta(model, root / name / "meta", shards=4, names="training")
    return root


def _measure(folders: Path, layout: str, dtype: str, touch: str) -> dict[str, int]:
    command = [sys.executable, "-c", MEASURE, folders / "tiny" / layout, folders / "big" / layout, dtype, touch]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@linux
@pytest.mark.parametrize(
    ("layout", "dtype", "touch"),
    [
        ("single", "own", "touch"),  # every page of the map is read: the map must be all there is
        ("sharded", "own", "touch"),
        ("single", "float32", ""),
        ("sharded", "float32", ""),
    ],
)
def test_peak_memory_of_hf_loading(folders: Path, layout: str, dtype: str, touch: str) -> None:
    measured = _measure(folders, layout, dtype, touch)
    # A dtype conversion has one tensor of the file resident beside what is held; an aliased one nothing but the check's buffer.
    spare = measured["largest"] // 2 if dtype == "float32" else 0
    assert measured["peak"] <= 1.15 * measured["held"] + spare


@linux
@pytest.mark.parametrize(("dtype", "touch"), [("own", ""), ("own", "touch"), ("float32", "")])
def test_peak_memory_of_meta_loading(folders: Path, dtype: str, touch: str) -> None:
    measured = _measure(folders, "meta", dtype, touch)
    assert measured["peak"] <= 1.15 * measured["held"] + measured["largest"]


@linux
def test_loading_without_looking_reads_no_weights(folders: Path) -> None:
    measured = _measure(folders, "single", "own", "")
    assert measured["peak"] <= 0.1 * measured["held"]


# Said before it is too late


@pytest.mark.parametrize("layout", ["hf", "meta"])
def test_too_little_memory_is_said_before_loading(tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import llama4.checkpoint.load as load

    model = drawn_model(random_config(3, regular=True))
    (save_hf if layout == "hf" else save_meta)(model, tmp_path)
    need = sum(parameter.nbytes for parameter in model.parameters())
    assert load_model(tmp_path, available=lambda device: need)
    assert load_model(tmp_path, dtype=torch.bfloat16, available=lambda device: need // 2)
    assert load_model(tmp_path, available=lambda device: None)
    monkeypatch.setattr(load, "Llama4", None)  # building the model would be loading
    with pytest.raises(InputError, match=rf"needs {in_units(need)} on cpu and {in_units(need - 1)} are free"):
        load_model(tmp_path, available=lambda device: need - 1)


@pytest.mark.parametrize("save", [save_hf, save_meta])
def test_too_little_disk_is_said_before_writing(tmp_path: Path, save: object) -> None:
    model = drawn_model(random_config(3, regular=True))
    save(model, tmp_path)
    before = files_of(tmp_path)
    with pytest.raises(InputError, match=r"its disk has 1\.0 kB free"):
        save(model, tmp_path, free=lambda folder: 1000)
    assert files_of(tmp_path) == before


def test_the_probes_answer(tmp_path: Path) -> None:
    memory = available_memory(torch.device("cpu"))
    assert memory is None or memory > 0
    assert available_memory(torch.device("meta")) is None
    assert free_disk(tmp_path / "not" / "yet" / "there") == pytest.approx(free_disk(tmp_path), rel=0.1)


def test_sizes_are_written_for_people() -> None:
    assert [in_units(size) for size in (0, 999, 1536, 217_283_587_072)] == ["0 B", "999 B", "1.5 kB", "217.3 GB"]


def _read(terminal: int) -> str:
    try:
        return os.read(terminal, 4096).decode()
    except OSError:  # the other side is closed
        return ""


def test_a_progress_bar_counts_bytes_on_a_terminal_only(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import pty
    import termios

    save_hf(drawn_model(random_config(3)), tmp_path)
    load_model(tmp_path)
    assert capfd.readouterr() == ("", "")
    code = f"from llama4.checkpoint import load; load.BAR_DELAY = 0; load.load_model({str(tmp_path)!r})"
    command = [sys.executable, "-c", code]
    terminal, side = pty.openpty()
    termios.tcsetwinsize(side, (24, 120))
    done = subprocess.run(command, stderr=side, stdout=subprocess.PIPE, check=True)
    os.close(side)
    shown = "".join(iter(lambda: _read(terminal), ""))
    os.close(terminal)
    assert done.stdout == b""
    assert "loading: 100%" in shown
    assert "B/s" in shown
