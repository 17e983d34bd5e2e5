"""Pins the command: from data to a checkpoint that the package opens; stopped by Ctrl-C, it goes on to the very same files; and
one sentence for what it cannot use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_run
import small_training
import torch
from PIL import Image
from safetensors.torch import load_file

import llama4
from llama4.errors import InputError
from llama4.train import log, pretrain
from llama4.train.emoji.dataset import (
    HELD_OUT_ARTIST,
    LAST_ARTIST,
    LATE_ARTIST,
    LEARNT_ARTISTS,
    REDRAWN,
    TRAIN_ARTISTS,
    VALIDATION_ARTIST,
)
from llama4.train.recipe import STAGES
from llama4.train.tokenizer import RANKS

LEARNT = (*LEARNT_ARTISTS, *REDRAWN.values())
BUILT = (*LEARNT, HELD_OUT_ARTIST)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_training.write_folder(tmp_path_factory.mktemp("built") / "data", BUILT)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_run.shrink(monkeypatch)


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped."""
    folder = tmp_path_factory.mktemp("run")
    process = begun(data, folder)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return folder


def begun(data: Path, folder: Path, *more: str) -> subprocess.Popen[str]:
    """The command in a process of its own, with one thread.

    Two threads round their sums otherwise than one, and oneDNN keeps the kernels that a process has built for two: runs that are
    compared bit for bit must not follow other tests.
    """
    path = os.pathsep.join([str(Path(small_run.__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    whole = [sys.executable, small_run.__file__, *command(data, folder), *more]
    return subprocess.Popen(whole, env=environment, stderr=subprocess.PIPE, text=True)


def command(data: Path, folder: Path) -> list[str]:
    """The command's options."""
    return ["--data", str(data), "--into", str(folder), "--threads", "1"]


def test_the_checkpoint_opens_and_answers(finished: Path) -> None:
    llm = llama4.load(finished / "model", device="cpu")
    assert llm.model.config.width == 32 and llm.tokenizer.vocab_size == RANKS + 2048
    assert {p.dtype for p in llm.model.parameters()} == {torch.bfloat16}
    assert not [name for name, p in llm.model.named_parameters() if not torch.isfinite(p).all()]
    answer = llm.run("What is this?", images=[Image.new("RGB", (40, 90), "red")], max_new_tokens=3)
    assert len(answer.ids) <= 3


def test_the_checkpoint_is_the_mean_of_what_the_last_three_stages_left(finished: Path) -> None:
    """The weights of the states on disk; nothing of what is thrown away."""
    states = [torch.load(finished / f"{stage}.pt", weights_only=True) for stage in STAGES[-3:]]
    assert [held["step"] for held in states] == [3, 2, 2]
    left = [held["weights"] for held in states]
    shipped = dict(llama4.load_model(finished / "model", device="cpu").named_parameters())
    assert all(set(weights) == set(shipped) for weights in left)
    assert len({float(weights["vision.class_embedding"].abs().sum()) for weights in left}) == 3, "they differ"
    for name, weight in shipped.items():
        assert torch.equal(weight.float(), rounded(sum(weights[name] for weights in left) / 3)), name
    gathered = torch.load(finished / "gather.pt", weights_only=True)["weights"]
    resting = {f"vision.{name}" for name, weight in gathered.items() if torch.equal(weight, left[1][f"vision.{name}"])}
    assert not resting, "the encoder's weights have learnt along"
    numbers = sum(tensor.numel() for tensor in load_file(finished / "model" / "model.safetensors").values())
    assert numbers == sum(weight.numel() for weight in shipped.values())


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """To bf16's numbers."""
    return weight.bfloat16().float()


def test_all_stages_are_logged_and_validated_on_the_right_artist(finished: Path) -> None:
    lines = log.read(finished)
    steps = {stage: [line["step"] for line in lines if line["stage"] == stage] for stage in STAGES}
    assert set(steps["see"]) == set(range(1, 31))
    assert [set(steps[stage]) for stage in STAGES[1:]] == [
        {1, 2, 3},
        {1, 2},
        {1, 2, 3, 4},
        {1, 2, 3},
        {1, 2},
        {1, 2},
        *([{1, 2, 3}] * 4),
        {1, 2, 3, 4},
        *([{1, 2, 3}] * 2),
        *([{1, 2}] * 2),
    ]
    validated = [line["validation"] for line in lines if "validation" in line]
    assert [set(shares) for shares in validated[:2]] == [{"blob"}, {"blob"}]
    assert {name.split()[0] for name in validated[-1]} == {"blob"} and len(validated[-1]) == 16


def test_ctrl_c_saves_and_the_same_command_ends_with_the_same_files(data: Path, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = begun(data, folder)
    while process.poll() is None and not log.read(folder):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert f"Stopped; the state is in {folder}. The same command goes on from there." in said
    assert "Traceback" not in said
    step = torch.load(folder / "see.pt", weights_only=True)["step"]
    assert 1 <= step < 30 and not (folder / "model").exists()
    process = begun(data, folder)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    for name in ("config.json", "model.safetensors", "tokenizer.model"):
        assert (folder / "model" / name).read_bytes() == (finished / "model" / name).read_bytes(), name


def test_a_finished_run_is_exported_again_without_a_step(data: Path, finished: Path) -> None:
    before = (finished / "model" / "model.safetensors").read_bytes()
    lines = (finished / "log.jsonl").read_bytes()
    (finished / "model" / "model.safetensors").unlink()
    assert pretrain.main(command(data, finished)) == 0
    assert (finished / "model" / "model.safetensors").read_bytes() == before
    assert (finished / "log.jsonl").read_bytes() == lines


def test_missing_data_end_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrain.main(command(tmp_path / "none", tmp_path / "run")) == 2
    said = capsys.readouterr().err
    assert said.startswith("pretrain: ") and said.count("\n") == 1
    assert "holds no emoji data" in said and "python -m llama4.train.emoji" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("missing", [TRAIN_ARTISTS[0], LATE_ARTIST, LAST_ARTIST, REDRAWN["fxemoji"]])
def test_an_artist_that_is_missing_is_named(missing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is learnt, though only the last stages need some of them."""
    others = [artist for artist in LEARNT if artist != missing]
    folder = small_training.write_folder(tmp_path / "data", others)
    assert pretrain.main(command(folder, tmp_path / "run")) == 2
    assert f"lacks the pictures of {missing}" in capsys.readouterr().err


def test_a_run_with_other_numbers_is_refused(
    data: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = replace(small_run.RECIPE, see=replace(small_run.RECIPE.see, rows=6))
    small_run.shrink(monkeypatch, other)
    assert pretrain.main(command(data, finished)) == 2
    assert "see.pt belongs to a run with other numbers (rows)" in capsys.readouterr().err


def test_ctrl_c_before_the_first_step_is_no_traceback(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrain, "make_tokenizer", interrupted)
    assert pretrain.main(command(data, tmp_path)) == 130
    assert "The same command goes on" in capsys.readouterr().err


def test_a_run_may_end_behind_an_earlier_stage_and_goes_on_from_there(
    data: Path, finished: Path, tmp_path: Path
) -> None:
    """The checkpoint is that stage's, beside the last one's place; going on gives the very file of a run in one go."""
    folder = tmp_path / "run"
    process = begun(data, folder, "--until", "speak")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert not (folder / "gather.pt").exists() and not (folder / "model").exists()
    spoken = dict(llama4.load_model(folder / "model-speak", device="cpu").named_parameters())
    held = torch.load(folder / "speak.pt", weights_only=True)["weights"]
    assert held and all(torch.equal(weight.bfloat16(), spoken[name]) for name, weight in held.items())
    process = begun(data, folder)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    once, twice = (run / "model" / "model.safetensors" for run in (finished, folder))
    assert once.read_bytes() == twice.read_bytes()
    with pytest.raises(SystemExit):
        pretrain.main([*command(data, folder), "--until", "sleep"])


@pytest.mark.parametrize("all_artists", [False, True])
def test_who_is_learnt_from_and_who_is_not(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, all_artists: bool
) -> None:
    """The held-out artist never is, though its pictures lie in the folder; the artist to validate on, as drawn or redrawn, in
    the last run only. `vary` and the stages behind it alone learn from the late one, `settle` and those behind it alone from the
    last one, `redraw` alone from what is redrawn."""
    stages: list[object] = []
    monkeypatch.setattr(pretrain, "average", lambda model, *_: model)
    monkeypatch.setattr(pretrain, "halfway", lambda model, *_: model)
    monkeypatch.setattr(pretrain, "train", lambda stage, folder: stages.append(stage) or len(stages) < len(STAGES))
    assert pretrain.main([*command(data, tmp_path), *(["--all-artists"] if all_artists else [])]) == 130
    assert [stage.name for stage in stages] == list(STAGES)
    for stage in stages:
        learnt, validated = stage.renderer.studio.artists, stage.renderer.studio.validation
        more = [VALIDATION_ARTIST] if all_artists else []
        more += [LATE_ARTIST] if stage.name in STAGES[-6:] else []
        more += [LAST_ARTIST] if stage.name in STAGES[-5:] else []
        more += [REDRAWN[one] for one in (*TRAIN_ARTISTS, *more) if one in REDRAWN and stage.name == "redraw"]
        assert sorted(learnt) == sorted([*TRAIN_ARTISTS, *more])
        assert set(validated) == (set() if all_artists else {VALIDATION_ARTIST})
        assert HELD_OUT_ARTIST not in {name for drawn in stage.renderer.drawn_by.values() for name, _ in drawn}
    assert len({id(stage.model) for stage in stages}) == 1


def test_a_stage_begins_with_the_weights_that_the_one_before_left(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: dict[str, float] = {}

    def meet(model: llama4.model.Llama4, folder: Path, stages: tuple[str, ...]) -> llama4.model.Llama4:
        assert folder == tmp_path / "run" and stages == small_run.RECIPE.averaged
        model.decoder.embedding.weight.data.fill_(0.5)
        return model

    def half(model: llama4.model.Llama4, folder: Path, stage: str) -> llama4.model.Llama4:
        assert folder == tmp_path / "run"
        before, after = {"scatter": (0.5, 0.25), "follow": (0.25, 0.125)}[stage]
        assert float(model.decoder.embedding.weight.detach().max()) == before, "from the mean, and from there"
        model.decoder.embedding.weight.data.fill_(after)
        return model

    def mark(stage: Any, folder: Path) -> bool:
        weight = stage.model.decoder.embedding.weight
        begun[stage.name] = float(stage.masters.weights.get("decoder.embedding.weight", weight).detach().max())
        weight.data.fill_(float(len(begun)))
        return stage.name != STAGES[-1]

    monkeypatch.setattr(pretrain, "train", mark)

    monkeypatch.setattr(pretrain, "average", meet)
    monkeypatch.setattr(pretrain, "halfway", half)
    assert pretrain.main(command(data, tmp_path / "run")) == 130
    decoders = ("words", "few", "speak", "rehearse", "relate", "together", "discern", "broaden", "vary", "settle")
    assert [begun[stage] for stage in decoders] == [1.0, 2.0, 3.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]
    assert begun["scatter"] == 0.5, "with a mean"
    assert begun["follow"] == 0.25, "half-way from it to what that stage left"
    assert begun["again"] == begun["redraw"] == 0.125, "both half-way from there"


def test_a_tokenizer_is_trained_once(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokenizer.model"
    small_training.small_tokenizer().save(path)
    monkeypatch.setattr(pretrain.tokenizer_training, "make", lambda *_: pytest.fail("it was trained again"))
    assert pretrain.make_tokenizer(data, path).vocab_size == 2648
    path.write_bytes(b"cut")
    with pytest.raises(InputError):
        pretrain.make_tokenizer(data, path)
