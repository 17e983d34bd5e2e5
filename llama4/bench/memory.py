"""Peak memory of loading, prefill and decode, in a process of its own: `python -m llama4.bench.memory SIDE FOLDER …`.

Each side gets a fresh process, so that nothing of the other side or of earlier timings is counted, and each phase its own peak:
resident memory (anonymous pages, and file pages that are mapped in, as the weights of a memory-mapped checkpoint are) above
what the imports took.

    peak of a phase = VmHWM at its end - VmRSS after the imports           /proc/self/status; the peak is reset before the phase

macOS has `ru_maxrss` only, which is never reset: there a phase's peak is the largest so far. On Linux `ru_maxrss` would not do:
it survives fork and exec, so a child begins with its parent's peak.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from llama4.bench.sides import side
from llama4.errors import InputError

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peaks(name: str, folder: Path, dtype: str, prompt: int, new: int, threads: int) -> dict[str, int]:
    """Peak resident bytes above the imports, of a fresh process: "load", "prefill", "decode"."""
    command = [sys.executable, "-m", "llama4.bench.memory", name, str(folder), dtype]
    command += [str(number) for number in (prompt, new, threads)]
    package_parent = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(part for part in (package_parent, os.environ.get("PYTHONPATH", "")) if part)
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"The process that measures the memory of {name} failed ({last}): leave out the memory phase.")
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: list[str]) -> None:
    """The child: run, then print `{"load": bytes, …}`."""
    name, folder, dtype, prompt, new, threads = arguments
    torch.set_num_threads(int(threads))
    if name != "llama4":
        import transformers

        transformers.Llama4ForCausalLM  # noqa: B018  a lazy import, before the baseline
    _reset()
    before = _peak()
    found = {}
    with torch.inference_mode():
        for phase in run_phases(name, Path(folder), getattr(torch, dtype), int(prompt), int(new)):
            found[phase] = _peak() - before
            _reset()
    print(json.dumps(found))


def run_phases(name: str, folder: Path, dtype: torch.dtype, prompt: int, new: int) -> Iterator[str]:
    """Load (and read every weight, or a memory map would look free), prefill, decode: yields each phase's name at its end."""
    program = side(name)
    model = program.load(folder, dtype)
    for parameter in model.parameters():
        parameter.sum()
    yield "load"
    tokens_BS = torch.randint(0, 256, (1, prompt), generator=torch.Generator().manual_seed(0))
    _, cache = program.prefill(model, tokens_BS, prompt + new)
    yield "prefill"
    for _ in range(new):
        program.decode(model, tokens_BS[:, :1], cache)
    yield "decode"


def _reset() -> None:
    if STATUS.exists():
        RESET.write_text("5")  # the peak becomes what is resident now


def _peak() -> int:
    if not STATUS.exists():
        import resource  # absent on Windows, where importing this module must not fail

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(sys.argv[1:])
