"""Pins the plot: which numbers of the log become which curve, on one axis of steps, and one sentence where there is none."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llama4.train import log
from llama4.train.plot import broken, curves, draw, main, shares

LINES: list[dict[str, Any]] = [
    {"stage": "see", "step": 20, "seconds": 1.0, "which": 7.0, "right": 0.1, "norm": 2.0},
    {"stage": "see", "step": 40, "seconds": 2.0, "which": 5.0, "right": 0.2, "norm": 2.0},
    {"stage": "see", "step": 40, "seconds": 2.5, "validation": {"blob": 0.25}},
    {
        **{"stage": "words", "step": 20, "seconds": 1.0, "answers": 4.0, "right_tokens": 0.05},
        **{"norm": 1.0, "busiest_0": 3.5, "busiest_1": 3.0},
    },
    *(
        {
            **{"stage": "speak", "step": step, "seconds": 1.0, "answers": 3 - step / 50, "right_tokens": step / 100},
            **{"norm": 1.0, "busiest_0": 1.5, "busiest_1": 2.0 + step / 100},
        }
        for step in (20, 40, 60)
    ),
    {"stage": "speak", "step": 60, "seconds": 9.0, "validation": {"blob en": 0.6, "blob fr": 0.5, "blob ja": 0.1}},
]


def drawn(lines: list[dict[str, Any]]) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    """Panel's title → label → the curve's steps and values, as matplotlib holds them."""
    return {
        axes.get_title(loc="left"): {
            line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
            for line in axes.get_lines()
            if not line.get_label().startswith("_")
        }
        for axes in draw(lines).axes
    }


def test_the_steps_of_a_stage_follow_those_of_the_one_before() -> None:
    found = curves(LINES)
    assert found["see", "which"] == ([20, 40], [7.0, 5.0])
    assert found["words", "answers"] == ([60], [4.0])
    assert found["speak", "answers"] == ([80, 100, 120], [2.6, 2.2, 1.8])
    assert not {name for _, name in found} & {"stage", "step", "seconds", "validation"}


def test_validation_is_english_and_the_mean_of_the_others() -> None:
    assert shares({"blob": 0.25}) == {"blob: tiles told apart": 0.25}
    found = shares({"blob en": 0.6, "blob fr": 0.5, "blob ja": 0.1, "noto en": 0.9, "noto fr": 0.8})
    assert found["blob: English names"] == 0.6 and found["noto: English names"] == 0.9
    assert found["blob: names, mean of 2 other languages"] == pytest.approx(0.3)
    assert found["noto: names, mean of 1 other languages"] == 0.8


def test_no_line_is_drawn_across_stages_that_lack_the_curve() -> None:
    steps, values = broken(([20, 40, 60, 2060, 2080], [5.0, 4.0, 3.0, 3.5, 2.0]))
    assert steps[:3] == [20, 40, 60] and steps[4:] == [2060, 2080] and math.isnan(steps[3]) and math.isnan(values[3])
    assert values[:3] + values[4:] == [5.0, 4.0, 3.0, 3.5, 2.0]
    assert broken(([20, 40, 80], [1.0, 2.0, 3.0])) == ([20, 40, 80], [1.0, 2.0, 3.0]) and broken(([20], [1.0])) == (
        [20],
        [1.0],
    )


def test_every_panel_has_its_curves() -> None:
    panels = drawn(LINES)
    assert [len(curves) for curves in panels.values()] == [2, 2, 3, 2]
    losses, right, validation, experts = panels.values()
    assert losses["decoder: a token of an answer"] == ([60, 80, 100, 120], [4.0, 2.6, 2.2, 1.8])
    assert losses["encoder: which emoji is this tile?"] == ([20, 40], [7.0, 5.0])
    assert right["decoder: tokens of answers"] == ([60, 80, 100, 120], [0.05, 0.2, 0.4, 0.6])
    assert validation["blob: tiles told apart"] == ([40], [0.25])
    assert validation["blob: English names"] == ([120], [0.6])
    assert experts["MoE layer 2"] == ([60, 80, 100, 120], [3.0, 2.2, 2.4, 2.6])


def test_what_several_stages_validate_is_one_curve() -> None:
    later = {"stage": "gather", "step": 40, "seconds": 3.0, "validation": {"blob": 0.5}}
    validation = drawn([*LINES, later])["Right on an artist not learnt from"]
    assert validation["blob: tiles told apart"] == ([40, 160], [0.25, 0.5])


def test_a_run_that_has_come_to_see_only_is_drawn_too() -> None:
    assert [len(curves) for curves in drawn(LINES[:2]).values()] == [1, 1, 0, 0]
    said = [[text.get_text() for text in axes.texts] for axes in draw(LINES[:2]).axes]
    assert ["nothing was measured" in texts for texts in said] == [False, False, True, True]


def test_lines_of_one_panel_differ_in_colour_and_dashes() -> None:
    for axes in draw(LINES).axes:
        lines = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
        assert len({line.get_color() for line in lines}) == len({line.get_linestyle() for line in lines}) == len(lines)


def test_the_command_writes_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in LINES:
        log.write(tmp_path, line)
    file = tmp_path / "pictures" / "training.png"
    assert main([str(tmp_path), "--into", str(file)]) == 0
    assert capsys.readouterr().out.strip() == str(file)
    assert Image.open(file).size == (1500, 1020)
    assert [path.name for path in file.parent.iterdir()] == ["training.png"]


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("plot: ") and said.count("\n") == 1 and said.endswith(".\n")
    return said


def test_what_cannot_be_drawn_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "training.png")
    assert "no log.jsonl" in refused([str(tmp_path / "none"), "--into", file], capsys)
    log.write(tmp_path, LINES[0])
    assert "ending" in refused([str(tmp_path), "--into", str(tmp_path / "training.xyz")], capsys)
    monkeypatch.setitem(sys.modules, "matplotlib.backend_bases", None)
    assert "pip install matplotlib" in refused([str(tmp_path), "--into", file], capsys)
    assert not Path(file).exists()
