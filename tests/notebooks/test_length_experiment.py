"""The experiment of chapter 06 asks what it says it asks: every answer due is in the row, and no other place has it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "notebooks"))
import length_experiment as experiment


def test_what_is_due_in_training_was_read_before() -> None:
    """Each value due follows a key that came earlier with the same value; first mentions are not due."""
    generator = torch.Generator().manual_seed(0)
    count = 0
    for length in (32, 64):
        tokens_BS, due_BS = experiment.training_rows(length, generator)
        assert tokens_BS.shape == due_BS.shape == (experiment.ROWS, length)
        for tokens, due in zip(tokens_BS.tolist(), due_BS.tolist(), strict=True):
            known: dict[int, int] = {}
            for at in range(0, length, 2):
                key, value = tokens[at : at + 2]
                assert not due[at] and value >= experiment.KEYS
                assert due[at + 1] == (key < experiment.KEYS and key in known)
                if key < experiment.KEYS:
                    assert known.setdefault(key, value) == value
                count += due[at + 1]
    assert count > 100


@pytest.mark.parametrize("hay", experiment.HAYS)
@pytest.mark.parametrize("length", [48, 200])
def test_each_question_has_one_needle(hay: str, length: int) -> None:
    tokens_BS = experiment.test_rows(length, hay)
    assert torch.equal(tokens_BS, experiment.test_rows(length, hay)), "the same test for every model"
    end = length - 2 * experiment.NEEDLES
    for tokens in tokens_BS.tolist():
        asked = tokens[end::2]
        assert len(set(asked)) == experiment.NEEDLES
        for key, value in zip(asked, tokens[end + 1 :: 2], strict=True):
            assert tokens[:end].count(key) == 1 and tokens[tokens.index(key) + 1] == value
        others = sum(token < experiment.KEYS for token in tokens[:end]) - experiment.NEEDLES
        assert others == (end // 2 - experiment.NEEDLES if hay == "pairs" else 0)


def test_the_results_are_of_these_settings() -> None:
    results = json.loads(experiment.RESULTS.read_text(encoding="utf-8"))
    assert results["lengths"] == list(experiment.LENGTHS) and results["trained_on"] == experiment.TRAINED
    assert results["answers"] == experiment.TEST_ROWS * experiment.NEEDLES
    found = {(one["variant"], one["seed"], one["steps"], one["scale"]) for one in results["runs"]}
    assert found == {
        (variant, seed, steps, scale)
        for variant, (layers, _, seeds, steps) in experiment.VARIANTS.items()
        for seed in range(seeds)
        for scale in (experiment.SCALES if layers[-1] == experiment.FAR_NOPE else (0.0,))
    }
    assert all(0 <= hits <= results["answers"] for one in results["runs"] for hits in one["pairs"]["hits"])


def test_training_repeats_and_temperature_keeps_the_weights() -> None:
    first, loss = experiment.train("NoPE", seed=3, steps=2)
    again, same = experiment.train("NoPE", seed=3, steps=2)
    assert loss == same
    sharper = experiment.with_temperature(first, 0.1)
    assert sharper.config.temperature.floor == experiment.TRAINED
    for a, b, c in zip(first.parameters(), again.parameters(), sharper.parameters(), strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
    tokens_BS = experiment.test_rows(48, "words", rows=1)
    assert torch.equal(first(tokens_BS), sharper(tokens_BS)), "a factor of 1 below the floor"
