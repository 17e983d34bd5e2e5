"""The benchmark of the whole shape without a GPU: it walks through, counts what it says it counts, and writes no figure."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import counting
import pytest
import scout
import torch
from kernel_machine import CUDA, KERNELS

from llama4.config import Config
from llama4.model import Llama4
from llama4.quant import is_quantised, quantise

SCOUT, MAVERICK = (replace(config, vision=None) for config in (Config.scout(), Config.maverick()))


@pytest.mark.skipif(CUDA, reason="without a GPU is what is tested here")
def test_it_walks_through_dry_and_says_that_nothing_was_measured(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(KERNELS / "benchmarks" / "scout.py"), "--into", str(tmp_path / "file.json")]
    dry = subprocess.run([*command, "--dry-run"], env=environment, capture_output=True, text=True, check=False)
    assert dry.returncode == 0, dry.stdout + dry.stderr
    first, *_, last = dry.stdout.splitlines()
    assert first == "no GPU: correctness and compile checks only" and last.endswith("nothing was measured.")
    assert int(last.split()[0]) == 2 * (2 * 3 + 2) and "ms" not in dry.stdout and "tokens/s" not in dry.stdout
    assert "| Scout, one token a row | 16 | 1,048,576 |" in dry.stdout
    plain = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert plain.returncode == 0 and plain.stdout.strip() == first and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["Scout", "Maverick"])
def test_bytes_are_those_of_a_quantised_model_and_its_cache(name: str) -> None:
    config = scout.shapes(small=True)[name]
    model = scout.built(config, torch.device("cpu"), torch.bfloat16)
    drawn = quantise(Llama4(config).bfloat16())
    sizes = {key: (tensor.shape, tensor.dtype) for key, tensor in drawn.state_dict().items()}
    assert {key: (tensor.shape, tensor.dtype) for key, tensor in model.state_dict().items()} == sizes and is_quantised(
        model
    )
    norms = sum(tensor.nbytes for key, tensor in model.state_dict().items() if "norm" in key)
    assert counting.model_bytes(config) == sum(tensor.nbytes for tensor in model.state_dict().values()) - norms
    for context in (5, 8, 9, 21):
        cache = model.new_cache(3, context)
        cache.reserve(context)
        assert counting.cache_bytes(config, 3, context) == cache.nbytes


@pytest.mark.parametrize("name", ["Scout", "Maverick"])
def test_flops_are_those_that_torch_counts(name: str) -> None:
    """Of the eager model, whose matmuls a counter sees; one token, and a prompt of five chunks."""
    from torch.utils.flop_counter import FlopCounterMode

    config = scout.shapes(small=True)[name]
    model = Llama4(config)
    for tokens in (1, 20):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, tokens, dtype=torch.int64), logits="last")
        attention = [4 * 64 * counting.pairs(config, spec, tokens) for spec in config.layers]
        found = counter.get_total_flops()
        square = (
            4 * 64 * sum((tokens**2 if s.span == "all" else 5 * 4**2 if tokens == 20 else 1) for s in config.layers)
        )
        matmuls = counting.prefill(config, tokens).flops - sum(attention)
        assert found in (
            matmuls,
            matmuls + square,
        )  # a counter that knows the fused attention counts it without causality


def test_a_chunk_is_whole_at_its_last_token() -> None:
    chunked, everything = SCOUT.layers[0], SCOUT.layers[3]
    assert [counting.seen(SCOUT, chunked, context) for context in (1, 8191, 8192, 8193, 2**20)] == [
        1,
        8191,
        8192,
        1,
        8192,
    ]
    assert counting.seen(SCOUT, everything, 2**20) == 2**20
    small = scout.shapes(small=True)["Scout"]
    mask = torch.ones(22, 22).tril() * (torch.arange(22)[:, None] // small.chunk == torch.arange(22) // small.chunk)
    assert counting.pairs(small, small.layers[0], 22) == int(mask.sum())


def test_scout_fits_and_what_does_not_is_said() -> None:
    """54.5 GB of layers and 4 GB of embedding and head; a million tokens in each of sixteen rows are 844 GB."""
    assert counting.model_bytes(SCOUT) == pytest.approx(58.6e9, rel=0.01)
    assert counting.cache_bytes(SCOUT, 16, 2**20) == 16 * (12 * 2**20 + 36 * 8192) * 4096
    assert scout.needs(SCOUT, 1, 2**20) < 140e9 < scout.needs(SCOUT, 16, 2**20)
    layers = scout.layers_that_fit(MAVERICK, 16, 2**16, 140e9)
    assert 0 < layers < 48 and layers % 4 == 0
    assert scout.needs(replace(MAVERICK, layers=MAVERICK.layers[: layers + 4]), 16, 2**16) > 140e9


def test_the_layers_that_are_left_out_are_scaled_and_marked() -> None:
    record = {"table": "decode", "shape": "Maverick", "batch": 1, "context": 1024, "ms": 2.0, "with_host_ms": 3.0}
    half = scout._scaled(record, replace(MAVERICK, layers=MAVERICK.layers[:24]), MAVERICK)
    assert 3.0 < half["ms"] < 4.0 and half["with_host_ms"] == pytest.approx(1.5 * half["ms"])
    assert half["scaled_from_layers"] == 24 and scout._scaled(record, MAVERICK, MAVERICK) == record


def test_a_made_up_result_becomes_tables() -> None:
    case = {"table": "decode", "shape": "Scout", "batch": 16, "context": 2**20, "bytes": 4e9, "flops": 1e9}
    kernels = [{"kernel": "_gate_up", "launches": 48, "ms": 0.9, "share": 0.45}]
    records = [
        case | {"batch": 1, "context": 1024, "ms": 2.0, "with_host_ms": 2.5, "kernels": kernels},
        case | {"ms": None, "needs_bytes": 9.2e11},
        {
            "table": "prefill",
            "shape": "Maverick",
            "tokens": 8192,
            "ms": 100.0,
            "bytes": 1e9,
            "flops": 7e13,
            "scaled_from_layers": 24,
        },
    ]
    drawn = scout.table({"ceilings": {"read_tb_s": 4.0, "product_tflops": 700.0}, "records": records})
    for words in (
        "| 1 | 1,024 | 1.00 ms | 2.00 ms | 500 | 400 tokens/s | 50% |",
        "left out: needs 920 GB",
        "scaled from 24 layers | 1 | 8,192 | 100.00 ms | 100.00 ms | 81920 |",
        "| `_gate_up` | 48 | 0.900 | 45% |",
    ):
        assert words in drawn, drawn
