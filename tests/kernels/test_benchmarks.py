"""The benchmarks without a GPU: each walks through at a small size and writes no figure; the picture of the grid is the kernels'
own order; a made-up result becomes a table and plots."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import grid
import plot
import pytest
import shapes
import torch
import traffic
import triton
import triton.language as tl
from kernel_machine import CUDA, DEVICE, KERNELS
from llama4_kernels.tiles import groups, in_bands, rows_of, slots

BENCHMARKS = KERNELS / "benchmarks"
DOCS = KERNELS.parent / "docs" / "kernels"


def run(*options: str, script: str = "run.py") -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(BENCHMARKS / script), *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(CUDA, reason="without a GPU is what is tested here")
def test_every_benchmark_walks_through_dry_and_says_that_nothing_was_measured(tmp_path: Path) -> None:
    dry = run("--dry-run", "--into", str(tmp_path / "file.json"))
    assert dry.returncode == 0, dry.stdout + dry.stderr
    first, *_, last = dry.stdout.splitlines()
    assert first == "no GPU: correctness and compile checks only" and last.endswith("every result is right.")
    assert int(last.split()[0]) > 70 and last.split()[4] == "0" and "ms" not in dry.stdout and "TFLOP" not in dry.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(CUDA, reason="without a GPU is what is tested here")
def test_every_benchmark_of_attention_walks_through_dry(tmp_path: Path) -> None:
    """What only a card has is told: varlen, two fused kernels by name, and FlexAttention's gradients."""
    dry = run("--dry-run", "--into", str(tmp_path / "file.json"), script="attention.py")
    assert dry.returncode == 0, dry.stdout + dry.stderr
    first, *_, last = dry.stdout.splitlines()
    assert first == "no GPU: correctness and compile checks only" and last.endswith("every result of ours is right.")
    assert int(last.split()[0]) > 30 and " ms" not in dry.stdout and "TFLOP" not in dry.stdout
    refused = {line.split(" (")[0] for line in dry.stdout.splitlines() if line.endswith(")")}
    assert refused <= {"varlen", "causal, flash", "causal, cudnn", "flex"}
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(CUDA, reason="without a GPU is what is tested here")
def test_without_a_gpu_nothing_is_timed_and_nothing_written(tmp_path: Path) -> None:
    for script in ("run.py", "attention.py"):
        plain = run("--into", str(tmp_path / "file.json"), script=script)
        assert plain.returncode == 0 and plain.stdout.strip() == "no GPU: correctness and compile checks only"
    assert not list(tmp_path.iterdir())


@triton.jit
def _tell(told_ptr, ends_ptr, experts, columns, ROWS: tl.constexpr, BAND: tl.constexpr, SLOTS: tl.constexpr):
    begins, ends, tiles, after = groups(ends_ptr, experts, ROWS, SLOTS)
    row_tiles = tl.sum(tiles, 0)
    for number in tl.range(tl.program_id(0), row_tiles * columns, tl.num_programs(0)):
        row_tile, column = in_bands(number, row_tiles, columns, BAND)
        expert, row, end = rows_of(row_tile, begins, ends, tiles, after, ROWS, SLOTS)
        tl.store(told_ptr + 5 * number, row_tile)
        tl.store(told_ptr + 5 * number + 1, column)
        tl.store(told_ptr + 5 * number + 2, expert)
        tl.store(told_ptr + 5 * number + 3, row)
        tl.store(told_ptr + 5 * number + 4, tl.minimum(end - row, ROWS))


def test_the_picture_shows_the_order_that_the_kernels_take() -> None:
    ends_E = torch.tensor(grid.SIZES, device=DEVICE).cumsum(0)
    expected = [(tile, column, *grid.row_tiles()[tile]) for tile, column in grid.order()]
    told = torch.full((len(expected), 5), -1, dtype=torch.int32, device=DEVICE)
    _tell[(grid.PROGRAMS,)](
        told, ends_E, len(grid.SIZES), grid.COLUMN_TILES, ROWS=grid.ROWS, BAND=grid.BAND, SLOTS=slots(len(grid.SIZES))
    )
    assert told.tolist() == [list(row) for row in expected]


def test_the_committed_picture_is_the_one_that_is_drawn() -> None:
    assert (DOCS / "grid.svg").read_text(encoding="utf-8") == grid.svg()


def test_the_picture_of_bytes_is_the_one_that_is_drawn_and_agrees_with_the_pages_table() -> None:
    assert (DOCS / "traffic.svg").read_text(encoding="utf-8") == traffic.svg()
    last = next(line for line in (DOCS / "moe-layer.md").read_text(encoding="utf-8").splitlines() if "together" in line)
    told = [float(cell.split()[0]) for cell in last.split("|")[2:4]]
    assert told == [pytest.approx(traffic.together(steps), abs=0.5) for steps in (traffic.COMPOSED, traffic.FUSED)]


def made_up() -> dict:
    """A result of a machine that there is not."""
    named = {"table": "grouped matmul", "shape": "Scout", "routing": "uniform"}
    records = [
        {**named, "tokens": tokens, "flops": tokens * 1e9, "side": side, "ms": ms, "error": 0.003}
        for tokens in (16, 1024)
        for side, ms in (("ours", tokens / 500), ("grouped_mm", tokens / 400))
    ]
    records.append({**records[0], "tokens": 1, "side": "grouped_mm", "ms": None, "error": None, "refused": "too small"})
    versions = {"python": "3.11", "torch": "2.11", "triton": "3.6"}
    ceilings = {"product_side": 8192, "product_tflops": 700.0, "copy_bytes": 2**31, "copy_tb_s": 4.2, "read_tb_s": 4.0}
    return {
        "date": "2026-01-01",
        "commit": "c" * 40,
        "device": "a card",
        "dtype": "torch.bfloat16",
        "versions": versions,
    } | {
        "ceilings": ceilings,
        "records": records,
    }


def test_a_result_becomes_a_table_in_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- kernels -->\nold\n<!-- end -->\nafter\n", encoding="utf-8")
    plot.put(plot.table(made_up()), page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("<!-- end -->\nafter\n") and "old" not in text
    assert "| grouped matmul | Scout | 1024 | uniform | 1.463 ms | 2.048 ms (500) | 2.560 ms (400) |" in text
    assert "| grouped matmul | Scout | 1 | uniform | 0.023 ms |  | refused |" in text and "700 TFLOP/s" in text
    with pytest.raises(SystemExit, match="has no lines"):
        plot.put("x", DOCS / "log.md")


def test_a_result_of_attention_becomes_tables_and_says_what_a_token_costs() -> None:
    """2 µs a token at both lengths, and 1.5 and 3 times that for the better of two full causal kernels."""
    named = {"shape": "Scout", "routing": "", "flops": 1e12, "error": 0.003}
    of = {"chunked attention": {"ours": 2.0, "folded": 2.5}, "full causal attention": {"flash": 4.0, "cudnn": 3.0}}
    records = [
        {**named, "table": name, "tokens": tokens, "side": side, "ms": ms * (tokens / 1000) ** (1 + ("full" in name))}
        for tokens in (1000, 2000)
        for name, sides in of.items()
        for side, ms in sides.items()
    ]
    records.append({**records[0], "side": "varlen", "ms": None, "error": None, "refused": "no"})
    text = plot.attention_tables({**made_up(), "records": records})
    assert "| chunked attention | Scout | 1000 |  | 1.429 ms | 2.000 ms (500) | 2.500 ms (400) | refused |" in text
    assert "| 1000 | 2.000 ms | 2.000 µs | 3.000 ms | 1.5 |" in text
    assert "| 2000 | 4.000 ms | 2.000 µs | 12.000 ms | 3.0 |" in text


def test_what_attention_computes_and_reads() -> None:
    """Counted by hand: chunks of 3 in 8 positions are 6 + 6 + 3 pairs; Scout's cache is 4096 bytes a slot."""
    assert shapes.SCOUT_HEADS.pairs(8, 3) == 15 and shapes.SCOUT_HEADS.pairs(8, 8) == 36
    assert shapes.SCOUT_HEADS.flops(1) == 4 * 40 * 128 and shapes.SCOUT_HEADS.cache_bytes(1) == 4096
    assert shapes.SCOUT_HEADS.prefill_bytes(1) == 2 * 2 * 128 * (40 + 8)


def test_the_page_of_attention_counts_as_the_benchmark_does() -> None:
    scout, page = shapes.SCOUT_HEADS, (DOCS / "attention.md").read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("|")}
    for tokens, column in ((8192, 2), (65536, 3)):
        pairs, full = scout.pairs(tokens, scout.chunk), scout.pairs(tokens, tokens)
        told = {
            "pairs of query and key, chunked": pairs / 1e6,
            "the same, full causal": full / 1e6,
            "FLOPs, 4 · pairs · H · K": scout.flops(pairs) / 1e12,
            "bytes of q, k, v, o in bf16": scout.prefill_bytes(tokens) / 1e9,
            "FLOPs a byte": scout.flops(pairs) / scout.prefill_bytes(tokens),
        }
        for name, number in told.items():
            assert float(rows[name].split("|")[column].split()[0]) == pytest.approx(number, rel=0.03), name
    for seen in (8192, 65536, 1048576):
        read, computed = (
            cell.split() for cell in rows[f"{seen:,}".replace(",", " ").replace("8 192", "8192")].split("|")[2:4]
        )
        units = {"MB": 1e6, "GB": 1e9}
        assert float(read[0]) * units[read[1]] == pytest.approx(scout.cache_bytes(seen), rel=0.01)
        assert float(computed[0]) * 1e9 == pytest.approx(scout.flops(seen), rel=0.04)


def test_the_floor_is_of_what_takes_longer() -> None:
    """7e11 FLOPs at 700 TFLOP/s take 1 ms, 8e9 bytes at 4 TB/s 2 ms."""
    ceilings = {"product_tflops": 700.0, "read_tb_s": 4.0}
    assert plot.floor_ms({"flops": 7e11}, ceilings) == pytest.approx(1.0)
    assert plot.floor_ms({"flops": 7e11, "bytes": 8e9}, ceilings) == pytest.approx(2.0)
    assert plot.floor_ms({"flops": 2.8e12, "bytes": 8e9}, ceilings) == pytest.approx(4.0)


def test_a_result_becomes_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = plot.draw(made_up(), tmp_path)
    assert [file.name for file in files] == ["grouped-matmul.png"] and files[0].stat().st_size > 5000


def test_committed_results_are_whole() -> None:
    """Each has its ceilings, a commit, and errors that were checked."""
    files = list((BENCHMARKS / "results").glob("*.json"))
    if not files:
        pytest.skip("no run on a GPU is committed yet")
    for file in files:
        result = json.loads(file.read_text(encoding="utf-8"))
        assert result["ceilings"]["product_tflops"] and result["commit"]
        assert all(r["error"] < 0.02 for r in result["records"] if r["side"] == "ours")
