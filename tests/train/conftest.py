"""One small run of two stages, on which the tests of what training teaches look: half a minute of a laptop would be too long."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import pytest
from small_training import NONE, RECIPE, see_stage, words_stage

from llama4.model import Llama4
from llama4.train import log, loop, validate
from llama4.train.recipe import Plan
from llama4.train.see import See
from llama4.train.speak import Words
from llama4.train.tasks import TASKS, Mixture

ONLY_NAMES = Mixture(**{task: float(task == "name_one") for task in TASKS}, english=1.0, mean_turns=1)
SEE = Plan(steps=70, rows=13, muon_lr=0.02, adam_lr=3e-3, warmup=5, evaluate_every=70, save_every=100)
WORDS = Plan(steps=140, rows=13, tokens=4000, muon_lr=0.03, adam_lr=1e-2, warmup=5, evaluate_every=140, save_every=200)
LEARN_BY_HEART = replace(
    RECIPE, first_words=ONLY_NAMES, augmentation=NONE, many_tiles=0.0, smoothing=0.0, see=SEE, words=WORDS
)


@dataclass(frozen=True)
class Taught:
    """`see` as it ended, `words` as it ended, the model while it knew some names and not others, and the log."""

    see: See
    words: Words
    half: Llama4
    lines: list[dict[str, Any]]

    def of(self, stage: str, name: str) -> list[Any]:
        """The log's values of one name, in order."""
        return [line[name] for line in self.lines if line["stage"] == stage and name in line]


def known(stage: Words, artist: str) -> float:
    """The share of an artist's pictures that the model names in English."""
    dataset, pad_id = stage.renderer.studio.dataset, stage.pad_id
    return validate.names(stage.model, dataset, stage.writer, artist, "en", list(range(13)), pad_id)


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Taught:
    """Thirteen emoji by two artists, their English names, learnt by heart in 210 steps."""
    folder = tmp_path_factory.mktemp("taught")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "LOG_EVERY", 5)
        see = see_stage(LEARN_BY_HEART)
        assert loop.train(see, folder)
        words = words_stage(LEARN_BY_HEART, see)
        for step in range(20, WORDS.steps, 5):
            loop.train(words, folder, until=step)
            if all(0.2 < known(words, artist) < 0.8 for artist in ("noto", "blob")):
                break
        half = copy.deepcopy(words.model).eval()
        assert loop.train(words, folder)
    words.model.eval()
    return Taught(see, words, half, log.read(folder))
