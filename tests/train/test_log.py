"""Pins the log: lines come back as written, a line cut by a kill is left out and takes no other with it, and a stage that goes on
drops its own lines past its step, nobody else's."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from llama4.errors import InputError
from llama4.train import log

LINES = [
    {"stage": "see", "step": 20, "seconds": 8.9, "which": 7.3955},
    {"stage": "see", "step": 40, "seconds": 17.5, "which": 7.1},
    {"stage": "see", "step": 40, "seconds": 19.0, "validation": {"blob": 0.25}},
    {"stage": "speak", "step": 20, "seconds": 4.0, "answers": 2.3},
    {"stage": "speak", "step": 40, "seconds": 8.0, "answers": 2.1},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for line in LINES:
        log.write(tmp_path / "run", line)
    return tmp_path / "run"


def test_lines_come_back_in_order(folder: Path) -> None:
    assert log.read(folder) == LINES
    assert log.read(folder / "elsewhere") == []


def cut_short(folder: Path) -> None:
    """As a kill in the middle of writing leaves it: without its end."""
    with (folder / log.NAME).open("a") as stream:
        stream.write('{"stage": "speak", "step": 60, "seco')


def test_a_line_that_was_cut_short_is_left_out(folder: Path) -> None:
    cut_short(folder)
    assert log.read(folder) == LINES


def test_the_line_after_a_cut_one_is_not_lost(folder: Path) -> None:
    """The run goes on: nothing lies past its step, and still the cut line must go, or the next is glued to it."""
    cut_short(folder)
    assert log.forget_after(folder, "speak", 40) == 8.0
    log.write(folder, LINES[0])
    assert log.read(folder) == [*LINES, LINES[0]]


def test_a_stage_forgets_its_lines_past_a_step_and_keeps_its_seconds(folder: Path) -> None:
    assert log.forget_after(folder, "see", 30) == 8.9
    assert log.read(folder) == [LINES[0], *LINES[3:]]
    assert log.forget_after(folder, "speak", 0) == 0.0
    assert log.read(folder) == [LINES[0]]
    assert [file.name for file in folder.iterdir()] == [log.NAME]


def test_lines_at_the_step_stay(folder: Path) -> None:
    """The seconds are the largest: those of the validation, which comes after the line of the same step."""
    before = (folder / log.NAME).read_bytes()
    assert log.forget_after(folder, "see", 40) == 19.0
    assert (folder / log.NAME).read_bytes() == before
    assert log.forget_after(folder / "elsewhere", "see", 40) == 0.0


def test_a_full_disk_is_told_in_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(
        InputError, match=r"log\.jsonl cannot be written \(No space left on device\): make room"
    ) as caught:
        log.write(folder, LINES[0])
    assert "\n" not in str(caught.value)
