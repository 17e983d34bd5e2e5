"""Pins what is said of int4's answers: the same as asking both models, and drawn into a page; nothing is lost against itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from emoji_fixtures import write_dataset
from tiny_llm import CHUNK, tiny_llm, with_picture

import llama4
from llama4.cli import main as cli
from llama4.errors import InputError
from llama4.evaluation import report
from llama4.generate import LLM
from llama4.load import resolve_path
from llama4.model import Llama4
from llama4.quant.__main__ import BEGIN, comparable, main, table
from llama4.quant.quality import agreement, questions
from llama4.train.emoji import LEARNT_ARTISTS


def nudged(by: float) -> LLM:
    """The tests' model with every weight moved a little."""
    model = Llama4(tiny_llm().config).eval()
    model.load_state_dict(tiny_llm().model.state_dict())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1 + by * torch.randn(weight.shape, generator=generator))
    return LLM(model, tiny_llm().tokenizer)


def prompts() -> list:
    texts = ["a", "Good evening", "What is this, and what is it for?"]
    return [tiny_llm().encode(text) for text in texts] + [
        tiny_llm().encode(with_picture("What?", seed)) for seed in (1, 2)
    ]


@pytest.mark.parametrize("by", [0.0, 0.003, 0.02])
def test_it_counts_what_the_two_models_answer(by: float) -> None:
    """20 tokens from prompts of other lengths, none ended by a stop token; counted again by plain generation and one by one."""
    exact, other, budget = tiny_llm(), nudged(by), 20
    found = agreement(exact, other, prompts(), budget)
    done = [
        (exact.run(prompt, max_new_tokens=budget), other.run(prompt, max_new_tokens=budget)) for prompt in prompts()
    ]
    assert budget > CHUNK and found.questions == 5 and found.tokens == sum(len(one.ids) for one, _ in done)
    assert found.same_answers == sum(one.ids == two.ids for one, two in done)
    assert (found.same_answers == 5) == (by == 0.0) and (found.same_tokens == found.tokens) == (by == 0.0)
    assert found.same_answers < 5 or found.kl == pytest.approx(0, abs=1e-6)
    assert found.kl >= -1e-6 and (by == 0 or found.kl > 1e-5)


def test_the_end_of_an_answer_counts() -> None:
    """The default model ends its answers: one more token than an answer has ids."""
    llm = llama4.load("tiny", device="cpu")
    some = questions(llm)[:3]
    found = agreement(llm, llm, some)
    assert found.tokens == sum(len(llm.run(prompt).ids) + 1 for prompt in some)
    assert (found.same_answers, found.same_tokens) == (3, found.tokens) and abs(found.kl) < 1e-6


def test_every_picture_is_asked_for_in_every_language() -> None:
    llm = llama4.load("tiny", device="cpu")
    asked = questions(llm)
    assert len(asked) == 16 * len(list((Path(llama4.__file__).parent / "assets" / "pictures").glob("*.png"))) > 400


def result(files: dict, shares: dict[str, float], **more: object) -> dict:
    rows = [{"suite": "languages", "row": name, "n": 100, "share": share} for name, share in shares.items()]
    return {"format": report.FORMAT, "model": {"files": files}, "rows": rows, **more}


def test_the_table_compares_one_model_on_the_same_questions(tmp_path: Path) -> None:
    agreed = {"questions": 448, "tokens": 2000, "same_answers": 400, "same_tokens": 1950, "kl": 0.01234}
    exact = result({"w": "1"}, {"English": 0.52, "Thai": 0.4})
    narrow = result({"w": "1"}, {"English": 0.51, "Thai": 0.395}, agreement=agreed)
    drawn = table(narrow, exact)
    for words in (
        "52.0% | 51.0%",
        "of the 2 languages | 46.0% | 45.2%",
        "0.5 and 1.0",
        "448 | | 89.3%",
        "97.5%",
        "0.0123",
    ):
        assert words in drawn.replace(" %", "%"), words
    again = {"rows": result({}, {"English": 0.515, "Thai": 0.4})["rows"], "agreement": agreed | {"kl": 0.005}}
    both = table(narrow | {"calibrated": again}, exact)
    assert both.startswith("| | unquantised | int4 | int4, calibrated |\n|---|---|---|---|\n")
    for words in (
        "52.0% | 51.0% | 51.5% |",
        "| 0.5 and 1.0 | 0.0 and 0.5 |",
        "| 0.0123 | 0.0050 |",
        "448 | | 89.3% | 89.3% |",
    ):
        assert words in both, words
    for other in (result({"w": "2"}, {"English": 0.5, "Thai": 0.4}), result({"w": "1"}, {"English": 0.5})):
        with pytest.raises(InputError, match="not of one model"):
            table(narrow, other)
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- int4 -->\nold\n<!-- end -->\nb\n")
    assert report.replaced(page, BEGIN, drawn) == f"a\n<!-- int4 -->\n{drawn}\n<!-- end -->\nb\n"
    page.write_text("a\n")
    for absent in (page, tmp_path / "none.md"):
        with pytest.raises(InputError, match=r"has no lines|cannot be read"):
            report.replaced(absent, BEGIN, drawn)


def test_what_cannot_be_compared_is_said_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama4.quant.__main__.measured", lambda *_: pytest.fail("it was measured"))
    about = report.described("tiny", resolve_path("tiny"), 0)
    file = tmp_path / "exact.json"
    for files, limit, told in (
        ({"w": "1"}, None, "is of another model"),
        (about["files"], 5, "was made with --limit 5"),
    ):
        file.write_text(json.dumps(result(files, {}, settings={"limit": limit})))
        assert main(["--data", str(tmp_path), "--exact", str(file)]) == 2
        assert told in capsys.readouterr().err
    file.write_text(json.dumps(result(about["files"], {}, settings={"limit": None})))
    assert comparable(file, "tiny", None)["model"]["files"] == about["files"]
    assert main(["--data", str(tmp_path), "--exact", str(tmp_path / "none")]) == 2
    assert main(["--page", str(tmp_path / "none.md")]) == 2
    assert capsys.readouterr().err.count("cannot be read") == 2


def test_a_model_in_int4_is_not_compared_with_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["quantize", "tiny", "--into", str(tmp_path / "int4")]) == 0
    assert main(["--model", str(tmp_path / "int4")]) == 2
    assert "is in int4 already: name the unquantised" in capsys.readouterr().err


def test_data_without_an_artist_to_calibrate_on_is_said_before_anything_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama4.quant.__main__.comparable", lambda *_: {})
    monkeypatch.setattr("llama4.quant.__main__._names", lambda *_: pytest.fail("it was asked"))
    write_dataset(tmp_path, ["twemoji", *[artist for artist in LEARNT_ARTISTS if artist != "streamline"]])
    assert main(["--data", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "lacks the pictures of streamline: run `python -m llama4.train.emoji" in said and said.count("\n") == 1


def test_the_command_without_data_states_agreement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama4.quant.__main__.questions", lambda llm: questions(llm)[:32])
    assert main(["--json", str(tmp_path / "file.json")]) == 0
    written = json.loads((tmp_path / "file.json").read_text())
    assert written["agreement"]["questions"] == 32 and written["rows"] == []
    assert (
        0.8 < written["agreement"]["same_tokens"] / written["agreement"]["tokens"] <= 1
        and written["agreement"]["kl"] < 0.2
    )
    assert "greedy tokens" in capsys.readouterr().out
    assert main(["--model", str(tmp_path / "none")]) == 2
    assert "There is no checkpoint" in capsys.readouterr().err
