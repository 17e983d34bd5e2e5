"""What is measured, phase by phase, and the gate before it: no timing of a program whose answers are wrong.

Repeats of the two sides take turns, so that a busy moment of the machine meets both, and medians are compared. Every phase is
run once before it is timed.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from llama4.attention import Attention
from llama4.bench.memory import peaks
from llama4.bench.sides import Side
from llama4.cache import Step
from llama4.config import Config, LayerSpec
from llama4.parity.comparing import BF16_BOUND, FP32_BOUND
from llama4.parity.recording import relative_rms
from llama4.parity.routing import Routing, forced, recorded, routers

Sides = dict[str, Side]
Models = dict[str, nn.Module]


class WrongAnswerError(RuntimeError):
    """Two programs, or two ways through one, do not give the same logits: there is nothing to time."""


def gate(sides: Sides, models: Models, tokens_BS: Tensor, new: int) -> list[dict[str, Any]]:
    """Logits of the whole prompt, and of decoding its last `new` tokens on a cache, must be the last side's logits.

    Alone, ours is held against itself: cached against uncached. Experts are the last side's choice (routing.py). Raises
    WrongAnswerError; returns the errors and their bounds.
    """
    name = list(sides)[-1]
    ours, model = sides["llama4"], models["llama4"]
    length = tokens_BS.shape[1]
    prompt = length - new
    taken: Routing = {}
    with torch.inference_mode():
        with recorded(routers(models[name]), taken):
            reference_BSV = sides[name].logits(models[name], tokens_BS)
        with forced(routers(model), taken):
            whole_BSV = ours.logits(model, tokens_BS)
        with forced(routers(model), {layer: expert_S[:prompt] for layer, expert_S in taken.items()}):
            _, cache = ours.prefill(model, tokens_BS[:, :prompt], length)
        steps = []
        for at in range(prompt, length):
            with forced(routers(model), {layer: expert_S[at : at + 1] for layer, expert_S in taken.items()}):
                steps.append(ours.decode(model, tokens_BS[:, at : at + 1], cache))
    dtype = next(model.parameters()).dtype
    decoded_BSV = torch.cat(steps, dim=1)
    return [
        _agree(f"prefill of {length} tokens against {name}", whole_BSV, reference_BSV, dtype),
        _agree(f"{new} cached decode steps against {name}", decoded_BSV, reference_BSV[:, prompt:], dtype, length),
    ]


def _agree(
    what: str, ours_BSV: Tensor, reference_BSV: Tensor, dtype: torch.dtype, length: int | None = None
) -> dict[str, Any]:
    """float32: 1e-5 as everywhere, and 2^-24 a position: transformers turns by absolute positions, whose angles lose as much."""
    if dtype == torch.float32:
        positions = length or ours_BSV.shape[1]
        measure, bound = "max abs", (FP32_BOUND + positions * 2.0**-24) * max(1.0, float(reference_BSV.abs().max()))
        error = float((ours_BSV - reference_BSV).abs().max())
    else:
        measure, bound, error = "relative RMS", BF16_BOUND, relative_rms(ours_BSV, reference_BSV)
    if not error <= bound:
        raise WrongAnswerError(f"{what}: {measure} error {error:.2e} is over {bound:.2e}, so nothing was timed.")
    return {"what": what, "measure": measure, "error": error, "bound": bound}


def time_load(
    sides: Sides, folder: Path, dtype: torch.dtype, repeats: int, target: float | None
) -> list[dict[str, Any]]:
    """Until the call returns; and until every weight has been read once, since a memory map defers the reading."""

    def load(name: str) -> None:
        sides[name].load(folder, dtype)

    def load_and_read(name: str) -> None:
        for parameter in sides[name].load(folder, dtype).parameters():
            parameter.sum()

    return [
        row("loading", "s", interleave(sides, load, repeats), target),
        row("loading, every weight read once", "s", interleave(sides, load_and_read, repeats), target),
    ]


def time_prefill(sides: Sides, models: Models, tokens_BS: Tensor, repeats: int, target: float | None) -> dict[str, Any]:
    """A prompt into a new cache, scores of its last position."""
    length = tokens_BS.shape[1]

    def prefill(name: str) -> None:
        sides[name].prefill(models[name], tokens_BS, length + 1)

    return row(f"prefill of {length} tokens", "s", interleave(sides, prefill, repeats), target)


def time_decode(
    sides: Sides, models: Models, tokens_BS: Tensor, new: int, repeats: int, target: float | None
) -> dict[str, Any]:
    """One token a call on a cache that holds the rest: seconds a token. The prefill before it is not timed."""
    prompt = tokens_BS.shape[1] - new
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in tqdm(range(repeats + 1), desc="decode", disable=None, leave=False):
        for name in _in_turn(sides, repeat):
            with torch.inference_mode():
                _, cache = sides[name].prefill(models[name], tokens_BS[:, :prompt], tokens_BS.shape[1])
                began = time.perf_counter()
                for at in range(prompt, tokens_BS.shape[1]):
                    sides[name].decode(models[name], tokens_BS[:, at : at + 1], cache)
                seconds[name].append((time.perf_counter() - began) / new)
    timed = {name: values[1:] for name, values in seconds.items()}
    return row(f"decode of one token after {prompt} to {tokens_BS.shape[1] - 1}", "s", timed, target)


def measure_memory(sides: Sides, folder: Path, dtype: str, prompt: int, new: int, threads: int) -> list[dict[str, Any]]:
    """Peak resident memory of each phase, above the imports, each side in a process of its own."""
    found = {
        name: peaks(name, folder, dtype, prompt, new, threads)
        for name in tqdm(sides, "memory", disable=None, leave=False)
    }
    phases = next(iter(found.values()))
    return [
        row(f"peak memory, {phase}", "B", {name: [found_bytes[phase]] for name, found_bytes in found.items()}, None)
        for phase in phases
    ]


def time_chunks(config: Config, chunk: int, repeats: int, target: float | None) -> list[dict[str, Any]]:
    """Attention alone, at 4 and at 8 chunks: a chunked layer's cost grows as the prompt does, a global layer's faster.

    target: at most so many times the cost of 4 chunks may 8 have, on the chunked layer; the global one is there to compare.
    """
    config = replace(config, chunk=chunk)
    chunked = Attention(config, LayerSpec("rope", "chunk", "dense")).eval()
    everything = Attention(config, LayerSpec("nope", "all", "dense")).eval()
    x_BSD = torch.randn(1, 8 * chunk, config.width, generator=torch.Generator().manual_seed(0))
    _check_chunks(chunked, x_BSD, chunk)
    return [
        _chunk_row("chunked", chunked, x_BSD, chunk, repeats, target),
        _chunk_row("global", everything, x_BSD, chunk, repeats, None),
    ]


def _chunk_row(
    name: str, layer: Attention, x_BSD: Tensor, chunk: int, repeats: int, target: float | None
) -> dict[str, Any]:
    spans = {"4 chunks": 4 * chunk, "8 chunks": 8 * chunk}
    seconds = interleave(spans, lambda span: _attend(layer, x_BSD[:, : spans[span]]), repeats)
    medians = {span: statistics.median(seconds[span]) for span in spans}
    ratio = medians["8 chunks"] / medians["4 chunks"]
    met = target is None or ratio <= target
    line = {"layer": name, "chunk": chunk, "seconds": seconds, "medians": medians}
    return line | {"cost_ratio": ratio, "target_at_most": target, "met": met}


def _attend(layer: Attention, x_BSD: Tensor) -> Tensor:
    with torch.inference_mode():
        return layer(x_BSD, Step((0,), (x_BSD.shape[1],), x_BSD.shape[1], x_BSD.device), None)


def _check_chunks(layer: Attention, x_BSD: Tensor, chunk: int) -> None:
    """Chunks do not see each other: one chunk by itself must give what it gives inside the prompt."""
    whole_BSD = _attend(layer, x_BSD)
    for first in range(0, x_BSD.shape[1], chunk):
        alone_BSD = _attend(layer, x_BSD[:, first : first + chunk])
        _agree(f"attention of the chunk at {first}", whole_BSD[:, first : first + chunk], alone_BSD, torch.float32)


def interleave(names: Iterable[str], run: Callable[[str], object], repeats: int) -> dict[str, list[float]]:
    """Seconds of `run(name)`, `repeats` times each, taking turns, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for repeat in tqdm(range(repeats + 1), desc="timing", disable=None, leave=False):
        for name in _in_turn(seconds, repeat):
            gc.collect()
            with torch.inference_mode():
                began = time.perf_counter()
                run(name)
                seconds[name].append(time.perf_counter() - began)
    return {name: values[1:] for name, values in seconds.items()}


def _in_turn(names: Iterable[str], repeat: int) -> list[str]:
    """Who goes first alternates."""
    return list(names) if repeat % 2 == 0 else list(names)[::-1]


def row(name: str, unit: str, values: dict[str, list[float]], target: float | None) -> dict[str, Any]:
    """One line of the table: all values, medians, and how many times less ours is than the other side's."""
    medians = {side: statistics.median(numbers) for side, numbers in values.items()}
    line: dict[str, Any] = {"name": name, "unit": unit, "values": values, "medians": medians}
    others = [side for side in medians if side != "llama4"]
    if others:
        line["ratio"] = medians[others[0]] / medians["llama4"]
        line["target"] = target
        line["met"] = target is None or line["ratio"] >= target
    return line
