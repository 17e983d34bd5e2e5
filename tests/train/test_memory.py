"""Pins the request to malloc: its three options where there is glibc, a plain no where there is not; and that to oneDNN."""

from __future__ import annotations

import ctypes
import os
from types import SimpleNamespace

import pytest

from llama4.train.memory import KEPT, KERNELS, keep_freed_memory, keep_kernels


def test_three_options_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[int, int] = {}
    library = SimpleNamespace(mallopt=lambda option, value: asked.update({option: value}) or 1)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    assert keep_freed_memory()
    assert asked == {-4: 0, -1: KEPT, -2: 64 << 20}  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD of malloc.h


def test_an_option_that_is_refused_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=lambda option, value: int(option != -1)))
    assert not keep_freed_memory()


@pytest.mark.parametrize("absent", [OSError("no library"), TypeError("no name"), None])
def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch, absent: Exception | None) -> None:
    def library(name: None) -> SimpleNamespace:
        if absent is not None:
            raise absent
        return SimpleNamespace()

    monkeypatch.setattr(ctypes, "CDLL", library)
    assert not keep_freed_memory()


def test_onednn_is_asked_to_keep_its_kernels_unless_the_environment_says_how_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    keep_kernels()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == str(KERNELS)
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    keep_kernels()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"
