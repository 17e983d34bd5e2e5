"""Pins the state on disk: it is refused, in one sentence, where it belongs to another run or is damaged, and a full disk leaves
the state before as it was."""

from __future__ import annotations

import errno
import resource
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from small_training import (
    DRAWN,
    RECIPE,
    again_stage,
    broaden_stage,
    discern_stage,
    few_stage,
    follow_stage,
    gather_stage,
    redraw_stage,
    rehearse_stage,
    relate_stage,
    scatter_stage,
    see_stage,
    settle_stage,
    speak_stage,
    together_stage,
    vary_stage,
    words_stage,
)
from toy_stage import PLAN, Toy

from llama4.errors import InputError
from llama4.train import log, state
from llama4.train.loop import train, update
from llama4.train.pictures import Augmentation
from llama4.train.recipe import Plan, Pool
from llama4.train.tasks import Mixture
from llama4.train.weights import optimisers


def optims_of(stage: Toy) -> list[torch.optim.Optimizer]:
    return optimisers(stage.masters, stage.extra.parameters(), stage.plan)


def begun(folder: Path, steps: int = 2) -> Path:
    """A run of a few steps; its state's file."""
    train(Toy(), folder, until=steps)
    return folder / "toy.pt"


# What all of the stages that change tokens depend on.
CHANGED_TOKENS = [
    ("scattered", Augmentation(untouched=0.1)),
    *[("astray", 0.1), ("left_out", 0.1), ("averaged", ("broaden", "vary", "settle")), ("settle", PLAN), ("seed", 8)],
]


def one_sentence(message: str) -> bool:
    return message.endswith(".") and "\n" not in message and message.count(". ") == 0


def test_without_a_state_a_stage_begins(tmp_path: Path) -> None:
    stage = Toy()
    before = {name: weight.clone() for name, weight in stage.masters.weights.items()}
    assert state.load(tmp_path, stage, optims_of(stage)) == (0, {})
    assert all(torch.equal(weight, stage.masters.weights[name]) for name, weight in before.items())


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    begun(tmp_path, 3)
    stage, same = Toy(), Toy()
    same_optims, optims = optims_of(same), optims_of(stage)
    for step in range(3):
        update(same, same_optims, step)
    step, sums = state.load(tmp_path, stage, optims)
    assert step == 3 and sums["steps"] == 3  # no line of the log has been written yet
    for name, weight in same.masters.weights.items():
        assert torch.equal(stage.masters.weights[name], weight)
        assert torch.equal(stage.masters.working[name], weight.bfloat16())
        assert not torch.equal(weight, weight.bfloat16().float())  # the fp32 copy holds more than the model
    update(same, same_optims, 3)
    update(stage, optims, 3)
    assert all(torch.equal(stage.masters.weights[name], weight) for name, weight in same.masters.weights.items())


@pytest.mark.parametrize("field", [field.name for field in fields(Plan)])
def test_a_state_of_another_plan_is_refused(field: str, tmp_path: Path) -> None:
    begun(tmp_path)
    other = Toy(replace(PLAN, **{field: getattr(PLAN, field) + 1}))
    with pytest.raises(InputError, match=rf"toy\.pt belongs to a run with other numbers \({field}\)") as caught:
        train(other, tmp_path)
    assert one_sentence(str(caught.value))


@pytest.mark.parametrize(
    ("stage", "field", "value"),
    [
        *[("see", "smoothing", 0.3), ("see", "seed", 8), ("see", "all_artists", True), ("speak", "seed", 8)],
        *[("rehearse", "speak", PLAN), ("rehearse", "scenes", ()), ("rehearse", "seed", 8)],
        *[("relate", "related_scenes", ()), ("relate", "texts", 3), ("relate", "text_mixture", Mixture(strip=9))],
        *[("relate", "rehearse", PLAN), ("relate", "speak", PLAN), ("relate", "seed", 8)],
        *[("together", "joint_scenes", ()), ("together", "relate", PLAN), ("together", "rehearse", PLAN)],
        *[("together", "speak", PLAN), ("together", "texts", 3), ("together", "text_mixture", Mixture(strip=9))],
        *[("discern", "discerning_scenes", ()), ("discern", "together", PLAN), ("discern", "relate", PLAN)],
        *[("discern", "rehearse", PLAN), ("discern", "speak", PLAN), ("discern", "texts", 3), ("discern", "seed", 8)],
        *[("discern", "memory", 2.0), ("discern", "alike", 0.1), ("discern", "text_mixture", Mixture(strip=9))],
        *[("broaden", "broad_scenes", ()), ("broaden", "broad_pictures", 2), ("broaden", "broad_questions", 3)],
        *[
            ("broaden", "shares", {"noto": 1.0, "fluent": 2.0}),
            ("broaden", "discern", PLAN),
            ("broaden", "memory", 2.0),
        ],
        *[("broaden", "alike", 0.1), ("broaden", "together", PLAN), ("broaden", "seed", 8), ("broaden", "texts", 3)],
        *[("broaden", "speak", PLAN), ("broaden", "rehearse", PLAN), ("broaden", "relate", PLAN)],
        *[("broaden", "mixture", Mixture(strip=9)), ("broaden", "text_mixture", Mixture(strip=9))],
        *[("broaden", "questions", 2), ("broaden", "many_tiles", 0.5), ("broaden", "balance_weight", 0.5)],
        *[
            ("vary", "varied", Augmentation(tinged=0.1)),
            ("vary", "varied_pictures", 2),
            ("vary", "varied_questions", 3),
        ],
        *[("vary", "shares", {"noto": 1.0, "fluent": 2.0, "streamline": 1.0}), ("vary", "broad_scenes", ())],
        *[("vary", "broaden", PLAN), ("vary", "discern", PLAN), ("vary", "together", PLAN), ("vary", "relate", PLAN)],
        *[("vary", "rehearse", PLAN), ("vary", "speak", PLAN), ("vary", "seed", 8), ("vary", "memory", 2.0)],
        *[("vary", "alike", 0.1), ("vary", "texts", 3), ("vary", "text_mixture", Mixture(strip=9))],
        *[("vary", "mixture", Mixture(strip=9)), ("vary", "questions", 2), ("vary", "many_tiles", 0.5)],
        *[
            ("vary", "balance_weight", 0.5),
            ("settle", "settled_pictures", 2),
            ("settle", "settled_questions", 2),
            ("settle", "settled_shares", dict.fromkeys(("noto", "fluent", "streamline", "noto-2017"), 1.0)),
            ("settle", "varied", Augmentation(tinged=0.1)),
            ("settle", "broad_scenes", ()),
            ("settle", "vary", PLAN),
            ("settle", "broaden", PLAN),
            ("settle", "seed", 8),
            ("scatter", "vary", PLAN),
            ("scatter", "settled_pictures", 2),
            ("scatter", "settled_shares", dict.fromkeys(("noto", "fluent", "streamline", "noto-2017"), 1.0)),
            ("follow", "scatter", PLAN),
            ("follow", "followed_pictures", 2),
            ("follow", "followed_questions", 3),
            ("follow", "followed_shares", dict.fromkeys(("noto", "fluent", "streamline", "noto-2017"), 1.0)),
            ("follow", "listing_scenes", ()),
            ("follow", "listing_from", 2),
            ("follow", "broad_scenes", ()),
            ("gather", "pull", 1.0),
            ("gather", "smoothing", 0.3),
            ("gather", "seed", 8),
        ],
        *[
            *[("redraw", "follow", PLAN), ("redraw", "scatter", PLAN), ("redraw", "listing_scenes", ())],
            *[("redraw", "followed_pictures", 2), ("redraw", "followed_questions", 3)],
            ("redraw", "redrawn_shares", dict.fromkeys(DRAWN[:-1], 1.0)),
            *[("again", "follow", PLAN), ("again", "listing_scenes", ()), ("again", "followed_pictures", 2)],
            ("again", "followed_shares", dict.fromkeys(("noto", "fluent", "streamline", "noto-2017"), 1.0)),
        ],
        *[(stage, name, other) for stage in ("scatter", "follow", "again", "redraw") for name, other in CHANGED_TOKENS],
        *[("see", "augmentation", Augmentation(turn=3.0)), ("speak", "augmentation", Augmentation(turn=3.0))],
        *[
            ("speak", "mixture", Mixture(strip=9)),
            ("speak", "questions", 2),
            ("speak", "scenes", ()),
        ],
        *[
            ("speak", "pool", Pool(2, 3)),
            ("speak", "pictures", 1),
            ("words", "many_tiles", 0.5),
            ("speak", "balance_weight", 0.5),
            ("speak", "all_artists", True),
        ],
        *[("words", "first_words", Mixture(nth=1)), ("words", "balance_weight", 0.5), ("words", "seed", 8)],
        *[
            ("few", "few_scenes", RECIPE.scenes),
            ("few", "questions", 2),
            ("few", "pool", Pool(2, 3)),
            ("few", "seed", 8),
        ],
        ("few", "balance_weight", 0.5),
    ],
)
def test_a_state_of_another_recipe_is_refused(stage: str, field: str, value: object, tmp_path: Path) -> None:
    """Whatever a stage's weights depend on; what only other stages depend on may change."""
    encoder = {"see": see_stage, "gather": gather_stage}
    decoder = {"words": words_stage, "few": few_stage, "speak": speak_stage, "rehearse": rehearse_stage}
    decoder |= {"relate": relate_stage, "together": together_stage, "discern": discern_stage, "broaden": broaden_stage}
    decoder |= {"vary": vary_stage, "settle": settle_stage}
    decoder |= {"scatter": scatter_stage, "follow": follow_stage}
    decoder |= {"again": again_stage, "redraw": redraw_stage}
    build = (encoder | decoder)[stage]
    train(build(), tmp_path, until=1)
    with pytest.raises(InputError, match=rf"{stage}\.pt belongs to a run with other numbers \({field}\)"):
        train(build(replace(RECIPE, **{field: value})), tmp_path, until=2)


def test_a_change_to_later_stages_leaves_see_as_it_is(tmp_path: Path) -> None:
    train(see_stage(), tmp_path, until=1)
    assert train(
        see_stage(replace(RECIPE, mixture=Mixture(nth=9), balance_weight=1.0, questions=2, pull=0.0)), tmp_path
    )


def test_a_change_to_later_stages_leaves_words_as_it_is(tmp_path: Path) -> None:
    train(words_stage(), tmp_path, until=1)
    assert train(words_stage(replace(RECIPE, mixture=Mixture(nth=9), speak=PLAN, questions=2)), tmp_path)


def test_a_change_to_the_last_stage_leaves_few_as_it_is(tmp_path: Path) -> None:
    train(few_stage(), tmp_path, until=1)
    assert train(few_stage(replace(RECIPE, mixture=Mixture(nth=9), speak=PLAN, scenes=())), tmp_path)


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    begun(tmp_path)
    with pytest.raises(InputError, match="belongs to another model") as caught:
        train(Toy(width=7), tmp_path)
    assert one_sentence(str(caught.value))


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "flipped", "other"])
def test_a_damaged_state_is_told_and_kept(damage: str, tmp_path: Path) -> None:
    path = begun(tmp_path)
    whole = path.read_bytes()
    middle = len(whole) // 3
    flipped = whole[:middle] + bytes(byte ^ 255 for byte in whole[middle : middle + 900]) + whole[middle + 900 :]
    spoilt = {"cut": whole[: len(whole) // 2], "empty": b"", "text": b"not a state", "flipped": flipped}.get(
        damage, b""
    )
    path.write_bytes(spoilt) if damage != "other" else torch.save({"weights": {}}, path)
    spoilt = path.read_bytes()
    with pytest.raises(InputError, match=r"toy\.pt is damaged: delete it to begin this stage again") as caught:
        train(Toy(), tmp_path)
    assert one_sentence(str(caught.value))
    assert path.read_bytes() == spoilt


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("unexpected pos 64")])
def test_a_full_disk_leaves_the_state_before(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = begun(tmp_path)
    before = path.read_bytes()

    def full(saved: object, part: Path) -> None:
        part.write_bytes(b"half of it")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(InputError, match="make room") as caught:
            train(Toy(), tmp_path)
    assert one_sentence(str(caught.value))
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["toy.pt"]
    assert train(Toy(), tmp_path)


def test_a_disk_that_takes_no_more_bytes(tmp_path: Path) -> None:
    """A real one: the system refuses to let a file of this process grow past a kilobyte."""
    path = begun(tmp_path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    stage = Toy()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        with pytest.raises(InputError, match="make room"):
            state.save(tmp_path, stage, optims_of(stage), 1, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["toy.pt"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written") as caught:
        train(Toy(), tmp_path / "file")
    assert one_sentence(str(caught.value)) and not log.read(tmp_path / "none")
