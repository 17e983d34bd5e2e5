"""Pins trees of text: no picture, right answers, the loss and the gradient of separate conversations."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from small_training import RECIPE, dataset, small_model, small_tokenizer, studio
from task_reading import meaning
from test_speak import assert_near, gradients_of

from llama4.train import names, objective, tasks, texts
from llama4.train.gather import Gather
from llama4.train.recipe import Recipe
from llama4.train.render import Renderer
from llama4.train.see import See
from llama4.train.speak import NAMES, SCENES, TEXTS, Few, Relate, Speak, Words
from llama4.train.tasks import TEXT_ONLY


def stage_of(tokens: int = 300) -> Relate:
    """Weights, sums and gradients in float32."""
    recipe = replace(RECIPE, texts=9, relate=replace(RECIPE.relate, tokens=tokens))
    return Relate(small_model(), small_tokenizer(), Renderer(studio()), recipe)


def said(tree: names.Tree) -> list[str]:
    """Question and answer of every branch."""
    tokenizer = small_tokenizer()
    rows = [row for branches in tree.branches for row in branches.part.tokens_BS.tolist()]
    return [tokenizer.decode([one for one in row if one != tokenizer.pad_id]) for row in rows]


@pytest.mark.parametrize("tokens", [120, 4000])
def test_loss_and_gradient_are_those_of_separate_conversations(tokens: int) -> None:
    """In many parts and in one; balance over words alone, since there is no patch."""
    stage, plain = stage_of(tokens), stage_of(tokens)
    tree = texts.draw(stage, (8, 1))
    assert (len(tree.branches) > 1) == (tokens == 120)
    measured = names.measure(stage.model, tree)
    assert measured.balance.isfinite() and all(1 <= share <= 4 for share in measured.busiest)
    stage.recipe = plain.recipe = replace(stage.recipe, balance_weight=0.0)
    stage.learn(measured, tree.answer_tokens, 1)
    expected = objective.measure(plain.model, *names.separate(tree, plain.pad_id))
    plain.learn(expected, tree.answer_tokens, 1)
    for one in (stage, plain):
        one.masters.collect()
    assert expected.answer_tokens == measured.answer_tokens == tree.answer_tokens
    assert_near(gradients_of(stage), gradients_of(plain))


def test_a_tree_is_text_from_one_beginning_and_follows_from_its_number() -> None:
    stage = stage_of()
    tree, again, other = (texts.draw(stage, (8, number)) for number in (3, 3, 4))
    assert len(tree.tiles) == 0 and tree.trunk_PS.tolist() == [stage.writer.opening([])]
    assert stage.model.config.patch_id not in tree.trunk_PS
    assert len(said(tree)) == 9 and sum(len(branches.picture_B) for branches in tree.branches) == 9
    assert said(tree) == said(again) != said(other)


def test_the_recipe_asks_for_translations_first_of_all_and_mostly_from_english() -> None:
    rng, made_up, mixture = Random(3), dataset("noto"), Recipe().text_mixture
    drawn = [tasks.draw(rng, made_up, mixture) for _ in range(3000)]
    kinds = Counter(one.task for one in drawn)
    assert set(kinds) == set(TEXT_ONLY) and not [turn for one in drawn for turn in one.turns if turn.pictures]
    assert 0.8 < kinds["translate"] / len(drawn) < 0.87  # 10 of 12
    wanted = [one for one in drawn if one.task == "translate"]
    english = {one.names["en"] for one in made_up.emoji}
    given = [meaning(one.turns[0].question).name in english for one in wanted]
    assert 0.5 < sum(given) / len(wanted) < 0.7
    assert {len(one.turns[0].answer.split("\n")) for one in wanted} == {1, 2}


def test_the_whole_stage_has_a_tree_of_each_kind() -> None:
    stage = stage_of()
    named, scene, text = stage.trees(2)
    assert len(named.tiles) == RECIPE.pictures and len(scene.tiles) > 0 and len(text.tiles) == 0
    assert scene.weight in {one.stress for one in RECIPE.related_scenes} and named.weight == text.weight == 1.0
    assert said(text) == said(texts.draw(stage, (TEXTS, 2))) and said(text) != said(texts.draw(stage, (SCENES, 2)))
    streams = [NAMES, SCENES, TEXTS, *(kind.stream for kind in (See, Gather, Words, Few, Speak))]
    assert len(set(streams)) == len(streams), "or two of them draw the same numbers"
