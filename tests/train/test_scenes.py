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
from llama4.train.decoding import Decoding
from llama4.train.names import measure
from llama4.train.recipe import Pool, Recipe, Scene
from llama4.train.render import Renderer
from llama4.train.speak import Few, Speak
from llama4.train.tasks import Conversation

ALL = (*Recipe().scenes, Recipe().joint_scenes[-1])
SEVERAL = [scene for scene in ALL if scene.layout != "large"]  # one picture, named, is test_tasks.py's
EVERY_SCENE = pytest.mark.parametrize("scene", SEVERAL, ids=lambda scene: f"{scene.layout}{scene.count}")


def asked(scene: Scene, trunks: int) -> list[list[Conversation]]:
    """So many scenes, six questions each."""
    rng = Random(5)
    among = range(len(EMOJI))
    return [scenes.about(rng, EMOJI, scenes.shown(rng, EMOJI, among, scene), scene, 6) for _ in range(trunks)]


def stage_of(scene: Scene) -> Speak:
    """One kind of scene alone; weights, sums and gradients in float32, tokens enough for the widest picture."""
    recipe = replace(RECIPE, scenes=(scene,), balance_weight=0.0, speak=replace(RECIPE.speak, tokens=300))
    return Speak(small_model(), small_tokenizer(), Renderer(studio()), recipe)


def drawn(stage: Decoding, number: tuple[int, ...], trunks: int, few: int = len(EMOJI)) -> names.Tree:
    """A tree of the recipe's scenes."""
    return scenes.draw(stage, number, stage.recipe.scenes, few, trunks)


@EVERY_SCENE
def test_answers_are_what_the_pictures_show(scene: Scene) -> None:
    for trunk in asked(scene, 100):
        assert len({conversation.turns[0].pictures for conversation in trunk}) == 1
        for conversation in trunk:
            assert [turn.answer for turn in conversation.turns] == right_answers(conversation), conversation


def test_two_way_answers_are_balanced_and_every_question_is_asked() -> None:
    sameness, kinds = [], Counter()
    for trunk in asked(Scene("apart", 2, 1), 1500):
        for conversation in trunk:
            (turn,) = conversation.turns
            kind = meaning(turn.question).kind
            kinds[kind] += 1
            pictures = [picture.emoji for picture in turn.pictures]
            if kind == "same":
                sameness.append(pictures[0] == pictures[1])
    assert_even(sum(sameness), len(sameness))
    assert set(kinds) == {"left", "right", "same", "nth"}
    answers = [c.turns[0].answer for trunk in asked(Scene("side", 2, 1), 1500) for c in trunk if c.language == "en"]
    assert set(answers) == {"left", "right", "first", "second"}
    for one, other in (("left", "right"), ("first", "second")):
        assert_even(answers.count(one), answers.count(one) + answers.count(other))
    three = [meaning(c.turns[0].question).kind for trunk in asked(Scene("apart", 3, 1), 60) for c in trunk]
    assert set(three) == {"nth", "frames"}
    rows = [meaning(c.turns[0].question).kind for trunk in asked(Scene("row", 2, 1), 60) for c in trunk]
    assert set(rows) == {"left", "right", "row"}


def test_sameness_is_asked_alone_of_twins_as_often_as_of_others_and_of_near_ones() -> None:
    trunks = asked(Scene("same", 2, 1), 1500)
    assert {meaning(one.turns[0].question).kind for trunk in trunks for one in trunk} == {"same"}
    shown = [[picture.emoji[0] for picture in trunk[0].turns[0].pictures] for trunk in trunks]
    others = [(EMOJI[one].subcategory, EMOJI[other].subcategory) for one, other in shown if one != other]
    assert_even(len(others), len(shown))
    near = sum(one == other for one, other in others) / len(others)
    assert 0.05 < near < 0.13  # 8 %: half of those of a dog or a cat; without them 1 %
    few = Scene("same", 2, 1, few=True)
    assert {one for _ in range(200) for one in scenes.shown(Random(_), EMOJI, [3, 0, 8], few)} == {0, 3, 8}


@pytest.mark.parametrize(
    "scene", [Scene("large", 2, 1), Scene("row", 3, 1), Scene("column", 2, 1), Scene("apart", 2, 1)]
)
def test_loss_and_gradient_are_those_of_separate_conversations(scene: Scene) -> None:
    stage, plain = stage_of(scene), stage_of(scene)
    tree = drawn(stage, (6, 1, 0), 2)
    stage.learn(names.measure(stage.model, tree), tree.answer_tokens, 1)
    stage.masters.collect()
    measured = objective.measure(plain.model, *names.separate(tree, plain.pad_id))
    assert measured.answer_tokens == tree.answer_tokens
    (measured.answers / measured.answer_tokens).backward()
    plain.masters.collect()
    assert_near(gradients_of(stage), gradients_of(plain))


@pytest.mark.parametrize("across", [2, 3, 4])
def test_a_large_picture_has_the_tiles_of_its_scene_and_is_asked_about_in_english_too(across: int) -> None:
    stage = stage_of(Scene("large", across, 1))
    tree = drawn(stage, (6, 0, 0), 3)
    assert len(tree.tiles) == 3 * (across * across + 1) and len(tree.trunk_PS) == 3
    tokenizer, english = small_tokenizer(), {one.names["en"] for one in EMOJI}
    said: dict[int, set[str]] = {}
    for branches in tree.branches:
        for row, picture in enumerate(branches.picture_B.tolist()):
            ids = branches.part.tokens_BS[row][branches.part.answer_BS[row]].tolist()
            said.setdefault(picture, set()).add(tokenizer.decode(ids[:-1]))
    assert len(said) == 3 and all(answers & english for answers in said.values())


def test_a_scene_may_have_its_own_number_of_questions() -> None:
    for questions, branches in ((None, RECIPE.questions), (1, 1), (5, 5)):
        tree = drawn(stage_of(Scene("same", 2, 1, questions=questions)), (6, 0, 0), 2)
        assert sum(len(one.picture_B) for one in tree.branches) == 2 * branches


def test_a_tree_follows_from_its_number_and_scenes_come_by_their_weight() -> None:
    recipe = replace(RECIPE, scenes=(Scene("row", 2, 3), Scene("apart", 2, 1), Scene("large", 2, 0)))
    stage = Speak(small_model(), small_tokenizer(), Renderer(studio()), recipe)
    one, again = (drawn(stage, (6, 4, 1), 2) for _ in range(2))
    assert torch.equal(one.tiles, again.tiles) and torch.equal(one.trunk_PS, again.trunk_PS)
    lengths = Counter(drawn(stage, (6, step, 0), 1).trunk_PS.shape[1] for step in range(80))
    assert len(lengths) == 2 and 40 < max(lengths.values()) < 76


def test_few_emoji_become_twice_as_many_again_and_again() -> None:
    pool = Pool(first=8, doubling=350)
    sizes = [pool.size(step, 1585) for step in (0, 175, 350, 700, 2600, 2671, 5600, 10**6)]
    assert sizes == [8, 11, 16, 32, 1378, 1585, 1585, 1585]
    stage = stage_of(Scene("side", 2, 1))
    few, more = scenes.first(stage, 3), scenes.first(stage, 6)
    assert len(set(few)) == 3 and more[:3] == few and len(set(more)) == 6


def asked_of(stage: Decoding, tree: names.Tree) -> list[str]:
    """Question and answer of every branch."""
    tokenizer = small_tokenizer()
    return [tokenizer.decode(ids) for branches in tree.branches for ids in branches.part.tokens_BS.tolist()]


def named(stage: Decoding, trees: list[names.Tree]) -> set[int]:
    """The emoji whose English names occur in questions or answers; in "hot dog" that is not the dog."""
    tokenizer, found = small_tokenizer(), set()
    longest_first = sorted(range(len(EMOJI)), key=lambda number: -len(EMOJI[number].names["en"]))
    for tree in trees:
        for ids in (row for branches in tree.branches for row in branches.part.tokens_BS.tolist()):
            text = tokenizer.decode(ids)
            for number in longest_first:
                if EMOJI[number].names["en"] in text:
                    found.add(number)
                    text = text.replace(EMOJI[number].names["en"], "")
    return found


@pytest.mark.parametrize("scene", [Scene("side", 2, 1, english=1.0), Scene("row", 2, 1, english=1.0)])
def test_a_scene_of_few_names_the_few_alone(scene: Scene) -> None:
    stage = stage_of(replace(scene, few=True))
    few = scenes.first(stage, 3)
    assert named(stage, [drawn(stage, (6, step), 4, few=3) for step in range(6)]) == set(few)
    stage.recipe = replace(stage.recipe, scenes=(scene,))
    assert len(named(stage, [drawn(stage, (6, step), 4, few=3) for step in range(6)])) > 6


def test_stage_three_is_of_few_and_stage_four_of_as_many_as_its_step_has() -> None:
    side = Scene("side", 2, 1, trunks=8, english=1.0, few=True)
    recipe = replace(RECIPE, few_scenes=(side,), scenes=(side,), pool=Pool(first=2, doubling=3))
    few, speak = (kind(small_model(), small_tokenizer(), Renderer(studio()), recipe) for kind in (Few, Speak))
    learnt: list[names.Tree] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(names, "measure", lambda model, tree: learnt.append(tree) or measure(model, tree))
        for step in (0, 9):
            few.gradients(step)
    assert len(learnt) == 2 and named(few, learnt) == set(scenes.first(few, 2))
    assert named(speak, [speak.trees(0)[1]]) == set(scenes.first(speak, 2))
    assert len(named(speak, [speak.trees(9)[1]])) > 2
