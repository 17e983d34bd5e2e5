"""Pins the trees of scenes: answers are what an independent reading gives, two-way answers are as often one as the other,
trees have the loss and the gradient of separate conversations, and the shipped model's chunk holds the longest."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
import torch
from small_training import RECIPE, small_model, small_tokenizer, studio
from task_emoji import EMOJI
from task_reading import meaning, right_answers
from test_speak import assert_near, gradients_of
from test_tasks import assert_even

from llama4.train import names, objective, scenes
from llama4.train.data import pad
from llama4.train.recipe import Recipe, Scene
from llama4.train.render import Renderer
from llama4.train.rows import Row
from llama4.train.speak import Speak
from llama4.train.tasks import Conversation

SEVERAL = [scene for scene in Recipe().scenes if scene.layout != "large"]  # one picture, named, is test_tasks.py's
EVERY_SCENE = pytest.mark.parametrize("scene", SEVERAL, ids=lambda scene: f"{scene.layout}{scene.count}")


def asked(scene: Scene, trunks: int) -> list[list[Conversation]]:
    """So many scenes, six questions each."""
    rng = Random(5)
    return [scenes.about(rng, EMOJI, scenes.shown(rng, EMOJI, scene), scene, 6, 0.4) for _ in range(trunks)]


def stage_of(scene: Scene) -> Speak:
    """One kind of scene alone; weights, sums and gradients in float32, tokens enough for the widest picture."""
    recipe = replace(RECIPE, scenes=(scene,), balance_weight=0.0, speak=replace(RECIPE.speak, tokens=300))
    return Speak(small_model(), small_tokenizer(), Renderer(studio()), recipe)


@EVERY_SCENE
def test_answers_are_what_the_pictures_show(scene: Scene) -> None:
    for trunk in asked(scene, 100):
        assert len({conversation.turns[0].pictures for conversation in trunk}) == 1
        for conversation in trunk:
            assert [turn.answer for turn in conversation.turns] == right_answers(conversation), conversation


def test_two_way_answers_are_balanced_and_every_question_is_asked() -> None:
    sides, sameness, kinds = [], [], Counter()
    for trunk in asked(Scene("apart", 2, 1), 1500):
        for conversation in trunk:
            (turn,) = conversation.turns
            kind = meaning(turn.question).kind
            kinds[kind] += 1
            pictures = [picture.emoji for picture in turn.pictures]
            if kind == "same":
                sameness.append(pictures[0] == pictures[1])
            elif kind == "side" and conversation.language == "en":
                sides.append(turn.answer)
    assert_even(sides.count("left"), len(sides))
    assert_even(sum(sameness), len(sameness))
    assert set(kinds) == {"left", "right", "side", "same", "nth", "which"}
    three = [meaning(c.turns[0].question).kind for trunk in asked(Scene("apart", 3, 1), 60) for c in trunk]
    assert set(three) == {"nth", "which", "frames"}
    rows = [meaning(c.turns[0].question).kind for trunk in asked(Scene("row", 2, 1), 60) for c in trunk]
    assert set(rows) == {"left", "right", "side", "row"}


@pytest.mark.parametrize(
    "scene", [Scene("large", 2, 1), Scene("row", 3, 1), Scene("column", 2, 1), Scene("apart", 2, 1)]
)
def test_loss_and_gradient_are_those_of_separate_conversations(scene: Scene) -> None:
    stage, plain = stage_of(scene), stage_of(scene)
    tree = scenes.draw(stage, (6, 1, 0), 2)
    stage.learn(names.measure(stage.model, tree), tree.answer_tokens, 1)
    stage.masters.collect()
    each = len(tree.tiles) // 2
    rows, tiles = [], []
    for branches in tree.branches:
        part = branches.part
        for row, picture in enumerate(branches.picture_B.tolist()):
            trunk, count = tree.trunk_PS[picture].tolist(), part.counts[row]
            said = part.answer_BS[row, :count].tolist()
            rows.append(Row(trunk + part.tokens_BS[row, :count].tolist(), [False] * len(trunk) + said))
            tiles.append(tree.tiles[picture * each : (picture + 1) * each])
    measured = objective.measure(plain.model, pad(rows, slice(0, 0), plain.pad_id), torch.cat(tiles))
    assert measured.answer_tokens == tree.answer_tokens
    (measured.answers / measured.answer_tokens).backward()
    plain.masters.collect()
    assert_near(gradients_of(stage), gradients_of(plain))


@pytest.mark.parametrize("across", [2, 3, 4])
def test_a_large_picture_has_the_tiles_of_its_scene_and_is_asked_about_in_english_too(across: int) -> None:
    stage = stage_of(Scene("large", across, 1))
    tree = scenes.draw(stage, (6, 0, 0), 3)
    assert len(tree.tiles) == 3 * (across * across + 1) and len(tree.trunk_PS) == 3
    tokenizer, english = small_tokenizer(), {one.names["en"] for one in EMOJI}
    said: dict[int, set[str]] = {}
    for branches in tree.branches:
        for row, picture in enumerate(branches.picture_B.tolist()):
            ids = branches.part.tokens_BS[row][branches.part.answer_BS[row]].tolist()
            said.setdefault(picture, set()).add(tokenizer.decode(ids[:-1]))
    assert len(said) == 3 and all(answers & english for answers in said.values())


def test_a_tree_follows_from_its_number_and_scenes_come_by_their_weight() -> None:
    recipe = replace(RECIPE, scenes=(Scene("row", 2, 3), Scene("apart", 2, 1), Scene("large", 2, 0)))
    stage = Speak(small_model(), small_tokenizer(), Renderer(studio()), recipe)
    one, again = (scenes.draw(stage, (6, 4, 1), 2) for _ in range(2))
    assert torch.equal(one.tiles, again.tiles) and torch.equal(one.trunk_PS, again.trunk_PS)
    lengths = Counter(scenes.draw(stage, (6, step, 0), 1).trunk_PS.shape[1] for step in range(80))
    assert len(lengths) == 2 and 40 < max(lengths.values()) < 76
