"""Pins the decoder's stages: the loss falls until the small model names its pictures, what it learnt is what the package's own
generation says, and the log's means are over what they are said to be."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from conftest import Taught
from PIL import Image
from small_training import (
    RECIPE,
    SHORT,
    VISION,
    assert_near,
    gradients_of,
    small_model,
    small_tokenizer,
    speak_stage,
    studio,
    together_stage,
    words_stage,
)
from task_emoji import EMOJI

from llama4.generate import LLM
from llama4.train import names, scenes
from llama4.train.emoji.dataset import LANGUAGES
from llama4.train.loop import update
from llama4.train.objective import measure
from llama4.train.pictures import plain
from llama4.train.recipe import Recipe, Scene
from llama4.train.render import Renderer
from llama4.train.speak import Few, Rehearse, Relate, Speak, Together, Words
from llama4.train.tasks import TASKS, Mixture, naming_question
from llama4.train.weights import optimisers


def picture(taught: Taught, artist: str, position: int) -> Image.Image:
    """The artist's drawing on white, one tile large, as a file would hold it."""
    pixels = taught.words.renderer.studio.dataset.artists[artist].pixels[position][None]
    tile = (plain(pixels, VISION.tile_side)[0] * 255).round().to(torch.uint8)
    return Image.fromarray(tile.permute(1, 2, 0).numpy())


def test_the_model_names_the_pictures_it_was_trained_on(taught: Taught) -> None:
    """Asked as a user asks, from files, without the trainer."""
    llm = LLM(taught.words.model, small_tokenizer())
    for artist in ("noto", "fluent"):
        index = taught.words.renderer.studio.dataset.artists[artist].index
        for position in (0, 3, 7, 12):
            said = llm.generate(naming_question("en"), images=[picture(taught, artist, position)], max_new_tokens=24)
            assert said == EMOJI[index[position]].names["en"]


def test_the_loss_falls_and_the_log_says_so(taught: Taught) -> None:
    losses, right = taught.of("words", "answers"), taught.of("words", "right_tokens")
    assert losses[0] > 5 and losses[-1] < losses[0] / 4
    assert right[0] < 0.3 and right[-1] > 0.95
    for layer in range(2):
        busiest = taught.of("words", f"busiest_{layer}")
        assert all(1 <= share <= 4 for share in busiest)
    (validation,) = taught.of("words", "validation")
    assert set(validation) == {f"blob {code}" for code in LANGUAGES}
    assert validation["blob en"] > 0.5 and validation["blob ja"] < 0.3  # it was taught English alone


def test_the_log_has_the_means_of_all_parts_and_steps() -> None:
    stage = words_stage(replace(RECIPE, first_words=Mixture()))
    optims = optimisers(stage.masters, stage.extra.parameters(), stage.plan)
    batches = [stage.batches.batch(step) for step in range(2)]
    assert max(len(batch.parts) for batch in batches) > 1
    sums: Counter[str] = Counter()
    for step in range(2):
        sums.update(update(stage, optims, step))
    assert sums["steps"] == 2
    assert sums["answer_tokens"] == sum(int(part.answer_BS.sum()) for batch in batches for part in batch.parts)
    line = stage.summary(sums)
    assert line["answers"] == sums["answers"] / sums["answer_tokens"]
    assert line["right_tokens"] == sums["right_tokens"] / sums["answer_tokens"]
    assert line["norm"] == sums["norm"] / 2
    assert set(line) == {"answers", "right_tokens", "norm", "busiest_0", "busiest_1"}
    assert all(1 <= line[f"busiest_{layer}"] <= 4 for layer in range(2))
    assert 6 < line["answers"] < 9  # ln 2648 = 7.9: nothing is learnt yet


def test_the_encoder_stays_and_all_else_learns() -> None:
    stage = speak_stage()
    before = {name: weight.clone() for name, weight in stage.model.state_dict().items()}
    optims = optimisers(stage.masters, stage.extra.parameters(), stage.plan)
    for step in range(3):
        update(stage, optims, step)
    same = {name for name, weight in stage.model.state_dict().items() if torch.equal(weight, before[name])}
    frozen = {name for name in before if name.startswith("vision.")}
    assert frozen and frozen <= same
    assert not [name for name in same - frozen if "norm" not in name]  # a norm's step may be less than bf16 holds


def test_rehearsing_goes_on_with_the_batches_that_come_after_the_last() -> None:
    """Same weights, same plan: step 1 of it is step 7 of a `speak` of six."""
    recipe = replace(RECIPE, rehearse=RECIPE.speak)
    again, spoken = (fp32_stage(recipe, kind) for kind in (Rehearse, Speak))
    assert again.gradients(1) == spoken.gradients(RECIPE.speak.steps + 1)
    before = gradients_of(spoken)
    assert all(torch.equal(gradient, before[name]) for name, gradient in gradients_of(again).items())


def test_relating_goes_on_behind_both_and_some_answers_weigh_more() -> None:
    """Of batch 13 behind two stages of six: a side's tokens three times, in the sum and in what it is divided by."""
    recipe = replace(RECIPE, related_scenes=RECIPE.related_scenes[:1], balance_weight=0.0)
    stage, plain = (fp32_stage(recipe, Relate) for _ in range(2))
    stage.gradients(1)
    batch, trees = plain.batches.batch(13), plain.trees(13)
    assert [tree.weight for tree in trees] == [1.0, 3.0, 1.0]
    parts = [measure(plain.model, part, batch.tiles[part.tiles]) for part in batch.parts]
    told = [names.measure(plain.model, tree) for tree in trees]
    answers = sum(part.answers for part in parts) + told[0].answers + 3 * told[1].answers + told[2].answers
    weighed = (
        sum(part.answer_tokens for part in parts) + sum(one.answer_tokens for one in told) + 2 * told[1].answer_tokens
    )
    (answers / weighed).backward()
    plain.masters.collect()
    assert_near(gradients_of(stage), gradients_of(plain))


def test_the_encoder_learns_along_from_every_tile() -> None:
    """Gradients of the encoder too are those of separate conversations; batch 22 comes behind stages of five, seven and nine."""
    before = {name: replace(SHORT, steps=steps) for name, steps in (("speak", 5), ("rehearse", 7), ("relate", 9))}
    recipe = replace(RECIPE, joint_scenes=RECIPE.joint_scenes[:1], balance_weight=0.0, **before)
    stage, plain = (fp32_stage(recipe, Together) for _ in range(2))
    stage.gradients(1)
    batch, trees = plain.batches.batch(22), plain.trees(22)
    assert [tree.weight for tree in trees] == [1.0, 2.0, 1.0]
    told = [measure(plain.model, part, batch.tiles[part.tiles]) for part in batch.parts]
    told += [measure(plain.model, *names.separate(tree, plain.pad_id)) for tree in trees]
    weights = [1.0] * len(batch.parts) + [tree.weight for tree in trees]
    tokens = sum(weight * one.answer_tokens for weight, one in zip(weights, told, strict=True))
    (sum(weight * one.answers for weight, one in zip(weights, told, strict=True)) / tokens).backward()
    plain.masters.collect()
    ours = gradients_of(stage)
    assert {name for name, _ in stage.model.vision.named_parameters(prefix="vision")} < set(ours)
    assert_near(ours, gradients_of(plain))


def test_a_step_of_the_encoder_is_its_share_of_a_step() -> None:
    moved: list[dict[str, torch.Tensor]] = []
    for share in (1.0, 0.5):
        stage = together_stage(replace(RECIPE, together=replace(RECIPE.together, encoder=share, weight_decay=0.0)))
        before = {name: weight.detach().clone() for name, weight in stage.masters.weights.items()}
        update(stage, optimisers(stage.masters, stage.extra.parameters(), stage.plan), 0)
        moved.append({name: weight.detach() - before[name] for name, weight in stage.masters.weights.items()})
    for name, whole in moved[0].items():
        share = 0.5 if name.startswith("vision.") else 1.0
        assert whole.any(), name
        torch.testing.assert_close(moved[1][name], share * whole, rtol=1e-3, atol=1e-7)


Stage = Words | Few | Speak | Relate | Together


def fp32_stage(recipe: Recipe, kind: type[Stage] = Words) -> Stage:
    """Weights, sums and gradients in float32."""
    return kind(small_model(), small_tokenizer(), Renderer(studio(many_tiles=0.2)), recipe)


def recipe_of(tokens: int = 400, balance_weight: float = 0.0) -> Recipe:
    """All tasks in all stages."""
    plan = replace(RECIPE.speak, rows=8, tokens=tokens)
    return replace(RECIPE, words=plan, few=plan, speak=plan, first_words=Mixture(), balance_weight=balance_weight)


@pytest.mark.parametrize("kind", [Words, Speak])
@pytest.mark.parametrize("balance_weight", [0.0, 0.3])
def test_the_gradient_is_that_of_the_whole_loss_in_one_go(
    balance_weight: float, kind: type[Words] | type[Speak]
) -> None:
    """answers / tokens + b · balance, mean over layers and parts, in one plain backward call; `speak` with its trees."""
    recipe = recipe_of(balance_weight=balance_weight)
    stage, plain = fp32_stage(recipe, kind), fp32_stage(recipe, kind)
    sums = stage.gradients(1)
    batch = plain.batches.batch(1)
    assert len(batch.parts) > 1
    measured = [measure(plain.model, part, batch.tiles[part.tiles]) for part in batch.parts]
    tokens = batch.answer_tokens
    if kind is Speak:
        trees = plain.trees(1)
        measured += [names.measure(plain.model, tree) for tree in trees]
        tokens += sum(tree.answer_tokens for tree in trees)
        assert len(trees) == 2 and len(trees[0].tiles) == 2
    answers = sum(one.answers for one in measured) / tokens
    balance = sum(one.balance for one in measured) / 2 / len(measured)
    (answers + balance_weight * balance).backward()
    plain.masters.collect()
    assert_near(gradients_of(stage), gradients_of(plain))
    assert sums["answers"] / sums["answer_tokens"] == pytest.approx(answers.item(), rel=1e-5)


def test_the_gradient_of_a_step_of_few_is_that_of_separate_conversations() -> None:
    stage, plain = (fp32_stage(recipe_of(), Few) for _ in range(2))
    sums = stage.gradients(1)
    tree = scenes.draw(plain, (Few.stream, 1), RECIPE.few_scenes, RECIPE.pool.first)
    measured = measure(plain.model, *names.separate(tree, plain.pad_id))
    assert sums["answer_tokens"] == measured.answer_tokens > 6
    (measured.answers / measured.answer_tokens).backward()
    plain.masters.collect()
    assert_near(gradients_of(stage), gradients_of(plain))


def test_parts_add_up_to_the_batch() -> None:
    """Cut into many parts or none, an answer token of the batch weighs the same."""
    stages = [fp32_stage(recipe_of(tokens)) for tokens in (100, 100_000)]
    many, one = (stage.gradients(1) for stage in stages)
    assert len(stages[0].batches.batch(1).parts) > len(stages[1].batches.batch(1).parts)
    assert_near(gradients_of(stages[0]), gradients_of(stages[1]))
    assert many["answer_tokens"] == one["answer_tokens"]


def test_first_words_are_drawn_from_their_own_mixture_and_numbers() -> None:
    recipe = replace(RECIPE, first_words=Mixture(**{name: float(name == "nth") for name in TASKS}))
    words, speak = words_stage(recipe), speak_stage(replace(recipe, mixture=recipe.first_words))
    assert words.batches.mixture.nth == 1.0 == speak.batches.mixture.nth
    first, other = (stage.batches.batch(0).parts[0].tokens_BS for stage in (words, speak))
    assert first.shape != other.shape or not torch.equal(first, other)


def test_a_step_has_a_tree_of_names_and_one_of_a_scene() -> None:
    recipe = replace(RECIPE, pictures=3, scenes=(Scene("large", 2, 1, trunks=2),))
    single, large = speak_stage(recipe).trees(0)
    assert len(single.tiles) == len(single.trunk_PS) == 3
    assert len(large.tiles) == 2 * 5 and len(large.trunk_PS) == 2


def test_a_batch_of_text_alone_runs() -> None:
    mixture = Mixture(**{name: float(name == "translate") for name in TASKS})
    assert words_stage(replace(RECIPE, first_words=mixture)).gradients(0)["answer_tokens"] > 0
