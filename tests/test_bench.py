"""`llama4 bench` at toy size: the file's fields, the table drawn from it, and the gate: wrong logits are not timed.

No test looks at how long anything took.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from llama4 import bench, checkpoint
from llama4.attention import WithinChunk
from llama4.bench import TOY, Settings, phases, report
from llama4.errors import InputError
from llama4.model import Llama4
from llama4.moe import MoE

DOCS = Path(__file__).parent.parent / "docs"
QUICK = {"model": "toy", "threads": 1, "prompt": 40, "new": 3, "repeats": 2, "chunk": 8}


@pytest.fixture(scope="module")
def result() -> dict:
    """Everything, against transformers; memory in its own processes."""
    pytest.importorskip("transformers")
    return bench.run(Settings(**QUICK, against="transformers"))


def test_the_result_holds_what_a_reader_needs(result: dict) -> None:
    assert result["format"] == report.FORMAT
    assert result["machine"]["threads"] == 1
    assert {"processor", "cores", "system", "load_average"} <= result["machine"].keys()
    assert result["versions"]["torch"] == torch.__version__
    assert result["versions"]["transformers"].startswith("5")
    assert result["settings"]["parameters"] == sum(parameter.numel() for parameter in Llama4(TOY).parameters())
    assert result["settings"]["shapes"]["experts"] == TOY.experts
    names = [row["name"] for row in result["rows"]]
    assert names == [
        "loading",
        "loading, every weight read once",
        "prefill of 40 tokens",
        "decode of one token after 40 to 42",
        "peak memory, load",
        "peak memory, prefill",
        "peak memory, decode",
    ]
    for row in result["rows"]:
        repeats = 1 if row["unit"] == "B" else 2
        assert {side: len(values) for side, values in row["values"].items()} == {
            "llama4": repeats,
            "transformers": repeats,
        }
        assert all(value > 0 for values in row["values"].values() for value in values)
        assert row["ratio"] == row["medians"]["transformers"] / row["medians"]["llama4"]
    assert [(row["layer"], row["chunk"]) for row in result["chunks"]] == [("chunked", 8), ("global", 8)]


def test_the_gate_is_in_the_result(result: dict) -> None:
    assert len(result["gate"]) == 2
    for check in result["gate"]:
        assert 0 < check["error"] <= check["bound"] < 1e-4
        assert "against transformers" in check["what"]


def test_loading_takes_at_least_the_weights(result: dict) -> None:
    weights = 4 * result["settings"]["parameters"]
    peaks = {row["name"]: row["medians"]["llama4"] for row in result["rows"] if row["unit"] == "B"}
    assert all(weights <= peak < 1e9 for peak in peaks.values())


def test_the_table_shows_the_file(result: dict, tmp_path: Path) -> None:
    file, page = tmp_path / "result.json", tmp_path / "page.md"
    report.write(result, file)
    assert report.read(file) == result
    page.write_text("before\n<!-- bench: result.json -->\nold\n<!-- end -->\nafter\n")
    assert bench.main(["--render", str(file), "--into", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("<!-- end -->\nafter\n")
    assert "old" not in text
    for row in result["rows"]:
        assert f"{row['ratio']:.2f}×" in text
    assert bench.main(["--render", str(file), "--into", str(page)]) == 0
    assert page.read_text() == text


def test_a_score_that_is_left_out_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    routed = MoE.routed
    monkeypatch.setattr(MoE, "routed", lambda self, x, expert, score: routed(self, x, expert, torch.ones_like(score)))
    arguments = ["--model", "toy", "--threads", "1", "--prompt", "40", "--new", "3", "--repeats", "1"]
    assert bench.main([*arguments, "--against", "transformers"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "nothing was timed" in printed.err


def test_a_wrong_decode_step_is_refused_without_a_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    cached = WithinChunk.cached
    monkeypatch.setattr(
        WithinChunk, "cached", lambda self, q, k, v, step, cache: cached(self, q, k, 2 * v, step, cache)
    )
    with pytest.raises(phases.WrongAnswerError, match="cached decode steps against llama4"):
        bench.run(Settings(**QUICK, phases=("decode",)))


def test_chunks_that_see_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from llama4 import attention

    monkeypatch.setattr(WithinChunk, "fresh", lambda self, q, k, v: attention._causal(q, k, v))
    with pytest.raises(phases.WrongAnswerError, match="attention of the chunk at 8"):
        phases.time_chunks(TOY, chunk=8, repeats=1, target=None)


def test_a_checkpoint_folder_and_a_bare_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint.save_hf(Llama4(TOY), tmp_path)
    options = ["--threads", "1", "--prompt", "20", "--new", "2", "--repeats", "1", "--phases", "decode,load"]
    for model in (tmp_path, tmp_path / "config.json"):
        file = tmp_path / "result.json"
        assert bench.main(["--model", str(model), *options, "--json", str(file)]) == 0
        result = json.loads(file.read_text())
        assert result["settings"]["model"] == model.name  # no folder of this machine
        assert str(tmp_path.parent) not in file.read_text()
        assert len(result["rows"]) == 3
        assert all("ratio" not in row for row in result["rows"])
    assert "| loading |" in capsys.readouterr().out


def test_bad_options_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = [
        (["--repeats", "0"], "--repeats is 0"),
        (["--phases", "load,fly"], "no phase 'fly'"),
        (["--model", str(tmp_path / "absent")], "does not exist"),
        (["--render", str(tmp_path / "absent.json")], "cannot be read"),
    ]
    for options, message in cases:
        assert bench.main(options) == 2
        assert message in capsys.readouterr().err
    other = tmp_path / "other.json"
    other.write_text("{}")
    assert bench.main(["--render", str(other)]) == 2
    with pytest.raises(InputError, match="no lines <!-- bench"):
        report.insert({}, "x.json", other)


def test_the_documented_table_is_the_file() -> None:
    page = (DOCS / "benchmarks.md").read_text()
    for file in (DOCS / "benchmarks").glob("*.json"):
        assert f"<!-- bench: {file.name} -->\n{report.table(report.read(file))}\n<!-- end -->" in page
