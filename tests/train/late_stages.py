"""What the tests of the last stages (`broaden`, `vary`, `settle`, `scatter`, `follow`, `again`, `redraw`) share: who drew a tile,
what a step shows, what a tree asks, and that a step learns the mean of the batch that its number says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache

import torch
from small_training import DRAWN, NONE, TILE, assert_near, dataset, gradients_of, small_tokenizer
from task_emoji import EMOJI

from llama4.train import names, objective
from llama4.train.pictures import views
from llama4.train.render import eight_bit
from llama4.train.speak import Speak


@cache
def looks() -> dict[str, torch.Tensor]:
    """Each artist's drawings as tiles, as they were drawn."""
    data = dataset(*DRAWN)
    return {name: eight_bit(views(data.artists[name].pixels, TILE, NONE, torch.Generator())) for name in DRAWN[:-1]}


def drawer(tile: torch.Tensor) -> tuple[str, int] | None:
    """Whose drawing a tile is, and of which emoji; None where it is nobody's as it was drawn."""
    found = [(name, e) for name, look in looks().items() for e in range(len(EMOJI)) if torch.equal(tile, look[e])]
    assert len(found) <= 1, "two drawings are alike"
    return found[0] if found else None


def shown(stage: Speak, number: int) -> dict[str, torch.Tensor]:
    """The tiles of a step, by what they are for: names, a scene, conversations."""
    named, scene, _ = stage.trees(number)
    return {"names": named.tiles, "scene": scene.tiles, "conversations": stage.batches.batch(number).tiles}


def who_draws(stage: Speak, numbers: range) -> dict[str, set[str | None]]:
    """The artists of all that some steps show, by what it is for; None: a strip squeezed into one tile."""
    seen: dict[str, set[str | None]] = {}
    for number in numbers:
        for where, tiles in shown(stage, number).items():
            seen.setdefault(where, set()).update(found and found[0] for found in map(drawer, tiles))
    return seen


def assert_same(first: dict[str, torch.Tensor], again: dict[str, torch.Tensor]) -> None:
    """Two steps show the same, tile for tile."""
    assert set(first) == set(again) and all(torch.equal(first[where], again[where]) for where in first)


def assert_names(tree: names.Tree, pictures: int, questions: int) -> None:
    """A tree of single pictures: each asked about so often, always for a name that it has, English among them."""
    assert len(tree.trunk_PS) == len(tree.tiles) == pictures
    tokenizer, asked, english = small_tokenizer(), Counter(), Counter()
    for one in tree.branches:
        for number, ids in zip(one.picture_B.tolist(), one.part.tokens_BS.tolist(), strict=True):
            said = tokenizer.decode([token for token in ids if token != tokenizer.pad_id])
            asked[number] += 1
            _, emoji = drawer(tree.tiles[number])
            assert any(name in said for name in EMOJI[emoji].names.values()), said
            english[number] += EMOJI[emoji].names["en"] in said
    assert asked == dict.fromkeys(range(pictures), questions)
    assert all(english[number] >= 1 for number in range(pictures))


def assert_goes_on(make: Callable[..., Speak], before: int, trunks: list[int]) -> None:
    """Step 1 is batch `before` + 1, whose tokens are learnt with the gradient of their mean; `trunks`: of its trees."""
    stage, plain = make(balance_weight=0.0), make(balance_weight=0.0)
    assert plain.before() == before
    batch, trees = plain.batches.batch(before + 1), plain.trees(before + 1)
    assert [len(tree.trunk_PS) for tree in trees] == trunks
    sums = stage.gradients(1)
    told = [objective.measure(plain.model, part, batch.tiles[part.tiles]) for part in batch.parts]
    told += [names.measure(plain.model, tree) for tree in trees]
    tokens = sum(one.answer_tokens for one in told)
    answers = sum(one.answers for one in told)
    assert sums["answer_tokens"] == tokens
    assert abs(sums["answers"] - float(answers.detach())) <= 1e-5 * float(answers.detach())  # sums in another order
    (answers / tokens).backward()
    plain.masters.collect()
    ours = gradients_of(stage)
    assert set(ours) == set(stage.masters.weights), "the encoder's among them"
    assert_near(ours, gradients_of(plain))
