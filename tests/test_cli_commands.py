"""Pins `llama4 chat`, `inspect`, `convert` and `parity`: what they print, write, refuse, and end with."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import cli_fixtures
import pytest
import torch
from cli_fixtures import CONFIGS
from random_weights import draw_weights

import llama4
from llama4.checkpoint import load_model, save_hf
from llama4.cli import main
from llama4.config import Config
from llama4.model import Llama4
from llama4.session import Session

llama4_cli, hf, text_only, cat = cli_fixtures.llama4_cli, cli_fixtures.hf, cli_fixtures.text_only, cli_fixtures.cat


# chat


def test_chat_goes_on_across_turns_pictures_and_mistakes(llama4_cli: Callable, hf: Path, cat: Path) -> None:
    lines = [
        "Hello",
        "",
        "/image",
        "/image no.png",
        f"/image {cat}",
        f"/image '{cat}' ",
        "And these?",
        "/frob",
        "Bye",
        "/quit",
        "x",
    ]
    ended = llama4_cli("chat", "--model", hf, "--max-new-tokens", 6, stdin="\n".join(lines))
    llm = llama4.load(hf)
    session = Session(llm)
    pictures = [{"type": "image", "image": cat}] * 2
    said = ["Hello", [*pictures, {"type": "text", "text": "And these?"}], "Bye"]
    assert ended.code == 0
    assert ended.out == "".join("".join(session.say(content, 6)) + "\n" for content in said)
    for text in (
        "wants a file",
        "There is no image file no.png",
        "message: 1 picture.",
        "2 pictures.",
        "no command /frob",
    ):
        assert text in ended.err


def test_chat_reset_begins_anew_and_drops_waiting_pictures(llama4_cli: Callable, hf: Path, cat: Path) -> None:
    lines = ["Hello", f"/image {cat}", "/reset", "Hello"]  # the input ends without /quit
    ended = llama4_cli("chat", "--model", hf, "--system", "Be brief.", "--max-new-tokens", 6, stdin="\n".join(lines))
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    answer = llama4.load(hf).generate(messages, max_new_tokens=6)
    assert ended.code == 0 and ended.out == f"{answer}\n{answer}\n"


def test_chat_says_when_the_context_is_full_and_goes_on(llama4_cli: Callable, hf: Path) -> None:
    ended = llama4_cli("chat", "--model", hf, "--max-new-tokens", 6, stdin="Hello " * 400 + "\nHello\n")
    assert ended.code == 0 and ended.err.count("leave no room in the context of 600: begin a new one (/reset).") == 1
    assert ended.out == llama4.load(hf).generate("Hello", max_new_tokens=6) + "\n"


def test_chat_with_a_text_model_refuses_pictures(llama4_cli: Callable, text_only: Path, cat: Path) -> None:
    ended = llama4_cli("chat", "--model", text_only, "--max-new-tokens", 2, stdin=f"/image {cat}\nHello\n")
    assert ended.code == 0 and "no vision encoder" in ended.err
    assert ended.out == llama4.load(text_only).generate("Hello", max_new_tokens=2) + "\n"


class Keyboard(io.StringIO):
    """A person at a terminal, or a pipe: each entry is a line, or Ctrl-C while `input` waits."""

    def __init__(self, entries: list[str | None], terminal: bool) -> None:
        super().__init__()
        self.entries, self.terminal = list(entries), terminal

    def isatty(self) -> bool:
        return self.terminal

    def input(self, prompt: str) -> str:
        if not self.entries:
            raise EOFError
        entry = self.entries.pop(0)
        if entry is None:
            raise KeyboardInterrupt
        return entry


def at_keyboard(monkeypatch: pytest.MonkeyPatch, hf: Path, keyboard: Keyboard) -> int:
    """`llama4 chat` with these entries; its exit code."""
    monkeypatch.setattr(sys, "stdin", keyboard)
    monkeypatch.setattr("builtins.input", keyboard.input)
    return main(["chat", "--model", str(hf), "--max-new-tokens", "9"])


@pytest.mark.parametrize("terminal", [True, False])
def test_ctrl_c_while_a_line_is_awaited(
    hf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool
) -> None:
    """A person is told how to leave, and stays; a pipe ends."""
    code = at_keyboard(monkeypatch, hf, Keyboard([None, "Hello"], terminal))
    out, err = capsys.readouterr()
    if terminal:
        assert code == 0 and "/quit or Ctrl-D leaves." in err
        assert out == llama4.load(hf).generate("Hello", max_new_tokens=9) + "\n\n"  # the last one after Ctrl-D
    else:
        assert code == 130 and out == "" and err.endswith("llama4: interrupted.\n")


@pytest.mark.parametrize("terminal", [True, False])
def test_ctrl_c_while_an_answer_streams(
    hf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool
) -> None:
    """A person's conversation goes on with what was said so far; a pipe ends."""
    rounds, heard = llama4.LLM.generate_rows, []

    def interrupted(*inputs: object) -> Iterator[list[str]]:
        for pieces in rounds(*inputs):
            yield pieces
            heard.append(pieces[0])
            if len(heard) == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(llama4.LLM, "generate_rows", interrupted)
    code = at_keyboard(monkeypatch, hf, Keyboard(["Hello", "Again"], terminal))
    out, err = capsys.readouterr()
    if terminal:
        assert code == 0 and len(heard) > 2
        assert out == heard[0] + "\n" + "".join(heard[1:]) + "\n\n"
    else:
        assert code == 130 and out == heard[0] + "\n" and err.endswith("llama4: interrupted.\n")


# inspect


@pytest.mark.parametrize(
    ("file", "total"),
    [
        ("scout.params.json", 108_641_793_536),
        ("scout-instruct.config.json", 108_641_793_536),
        ("maverick.params.json", 401_583_781_376),
        ("maverick.config.json", 401_583_781_376),
    ],
)
def test_inspect_counts_the_released_models_from_a_bare_config(llama4_cli: Callable, file: str, total: int) -> None:
    ended = llama4_cli("inspect", CONFIGS / file)
    assert ended.code == 0 and ended.err == "" and f"{total:,}" in ended.out
    as_json = llama4_cli("inspect", CONFIGS / file, "--json", "--context", 1000)
    found = json.loads(as_json.out)
    assert found["parameters"]["total"] == total and found["memory"]["context"] == 1000


def test_inspect_defaults_to_the_model_inside_the_package(llama4_cli: Callable) -> None:
    assert llama4_cli("inspect").out == llama4_cli("inspect", "tiny").out != ""


def test_inspect_check_looks_at_every_weight(llama4_cli: Callable, hf: Path, tmp_path: Path) -> None:
    ended = llama4_cli("inspect", hf, "--check")
    assert ended.code == 0 and ended.err.endswith("Every weight is a finite number.\n")
    model = load_model(hf, dtype=torch.float32)
    with torch.no_grad():
        model.decoder.layers[2].ffn.experts.down[1, 3, 5] = float("nan")
    save_hf(model, tmp_path / "bad")
    ended = llama4_cli("inspect", tmp_path / "bad", "--check")
    assert ended.code == 2 and re.search(r"NaN or infinite numbers in \S*layers\.2\.\S*down", ended.err)


# convert


def test_convert_goes_both_ways_and_keeps_every_bit(llama4_cli: Callable, hf: Path, tmp_path: Path) -> None:
    """Hugging Face to Meta (two shards, training names) and back: the same weights, the same answer; nothing is overwritten."""
    meta, back = tmp_path / "meta", tmp_path / "new" / "back"
    ended = llama4_cli("convert", hf, meta, "--shards", 2, "--names", "training")
    assert ended.code == 0 and ended.out == "" and "copied tokenizer.model" in ended.err
    assert sorted(path.name for path in meta.iterdir()) == [
        *("consolidated.00.pth", "consolidated.01.pth", "params.json", "tokenizer.model"),
    ]
    assert llama4_cli("convert", meta, back, "--max-shard-gb", 0.0002).code == 0
    assert len(list(back.glob("*.safetensors"))) > 3
    expected = load_model(hf).state_dict()
    for folder in (meta, back):
        found = load_model(folder).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    ask = ("generate", "Hello", "--max-new-tokens", 8, "--model")
    assert llama4_cli(*ask, back).out == llama4_cli(*ask, hf).out == llama4_cli(*ask, meta).out
    before = (back / "config.json").read_bytes()
    assert llama4_cli("convert", meta, back).code == 2
    assert (back / "config.json").read_bytes() == before


def test_convert_changes_the_dtype_where_asked(llama4_cli: Callable, hf: Path, tmp_path: Path) -> None:
    assert llama4_cli("convert", hf, tmp_path / "half", "--to", "hf", "--dtype", "bfloat16").code == 0
    found, expected = load_model(tmp_path / "half").state_dict(), load_model(hf).state_dict()
    assert all(torch.equal(found[name], weight.bfloat16()) for name, weight in expected.items())


def test_convert_says_that_the_disk_is_full_before_it_reads_the_weights(
    llama4_cli: Callable, hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = sum(weight.nbytes for weight in load_model(hf).state_dict().values())
    monkeypatch.setattr(llama4.checkpoint, "load_model", lambda *_, **__: pytest.fail("the weights were read"))
    free = (weights, weights // 2)  # too little for the headers too, and for half the weights' width alone
    for room, dtype in zip(free, ("auto", "bfloat16"), strict=True):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, room=room: SimpleNamespace(free=room))
        ended = llama4_cli("convert", hf, tmp_path / "full", "--dtype", dtype)
        assert ended.code == 2 and re.search(r"full needs .* and its disk has .* free: make room", ended.err)
        assert not (tmp_path / "full").exists()


# parity


def test_parity_records_and_compares(llama4_cli: Callable, tmp_path: Path) -> None:
    """0 where logits agree, 1 where they do not, and then the first layer at fault has a name."""
    pytest.importorskip("transformers")
    folder, file = tmp_path / "model", tmp_path / "reference.safetensors"
    model = Llama4(Config.tiny()).eval()
    draw_weights(dict(model.named_parameters()), seed=9)
    save_hf(model, folder)
    ended = llama4_cli("parity", folder, "--record", file, "--with", "transformers")
    assert ended.code == 0 and ended.err.endswith(f"Wrote {file}.\n"), ended
    same = llama4_cli("parity", folder, "--reference", file)
    assert same.code == 0 and "parity holds" in same.out
    with torch.no_grad():
        model.decoder.layers[1].attention_norm.weight[0] += 0.5
    save_hf(model, folder)
    other = llama4_cli("parity", folder, "--reference", file)
    assert other.code == 1 and "layer 1 is the first that diverges" in other.out
    as_json = llama4_cli("parity", folder, "--reference", file, "--json")
    assert as_json.code == 1 and json.loads(as_json.out)["first_divergent"] == "layer 1"
