"""Pins `llama4 generate`, the help, exit codes, what goes to stdout and what to stderr, and one sentence for any bad input.

Most tests call `main` in this process; those about pipes, signals and odd terminals start a real one.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cli_fixtures
import pytest
import torch
from cli_fixtures import CONFIGS, RUN_LINE, Ended, one_sentence
from tiny_llm import picture

import llama4
from llama4 import commands
from llama4.cli import main, parser

llama4_cli, hf, text_only, cat = cli_fixtures.llama4_cli, cli_fixtures.hf, cli_fixtures.text_only, cli_fixtures.cat


def in_a_process(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
    """The same in a process of its own, on the CPU, its stdout buffered as a shell would start it."""
    command = [sys.executable, "-m", "llama4.cli", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    # Where the tests run in the background of a script, Ctrl-C is ignored, and a child would inherit that.
    heeded = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    return subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, **heeded, **options)


# generate


def test_generate_streams_the_answer_to_stdout_and_the_rest_to_stderr(
    llama4_cli: Callable, hf: Path, cat: Path
) -> None:
    options = ("--model", hf, "--max-new-tokens", 9)
    llm = llama4.load(hf)
    assert llama4_cli("generate", "Hello", *options) == Ended(
        0, llm.generate("Hello", max_new_tokens=9) + "\n", f"llama4: {hf} on cpu, float32\n"
    )
    seen = llama4_cli("generate", "What is this?", "--image", cat, "--image", cat, *options)
    assert seen.code == 0 and seen.out == llm.generate("What is this?", images=[cat, cat], max_new_tokens=9) + "\n"
    system = llama4_cli("generate", "Hello", "--system", "Be brief.", *options)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert system.out == llm.generate(messages, max_new_tokens=9) + "\n"


def test_generate_takes_every_sampling_option(llama4_cli: Callable, hf: Path) -> None:
    flags = "--max-new-tokens 12 --temperature 1.4 --top-p 0.9 --top-k 50 --min-p 0.01 --seed 7"
    options = {"max_new_tokens": 12, "temperature": 1.4, "top_p": 0.9, "top_k": 50, "min_p": 0.01, "seed": 7}
    ended = llama4_cli("generate", "Hello", "--model", hf, *flags.split())
    llm = llama4.load(hf)
    assert ended.out == llm.generate("Hello", **options) + "\n"
    assert llm.generate("Hello", **options) != llm.generate("Hello", **options | {"seed": 8})
    cut = llm.generate("Hello", max_new_tokens=12)
    stop = llama4_cli("generate", "Hello", "--model", hf, "--max-new-tokens", 12, "--stop", "zzz", "--stop", cut[5:8])
    assert stop.out == cut[: cut.index(cut[5:8])] + "\n"


def test_generate_as_json_is_the_completion(llama4_cli: Callable, hf: Path) -> None:
    ended = llama4_cli("generate", "Hello", "--json", "--model", hf, "--max-new-tokens", 4)
    assert ended.code == 0 and RUN_LINE.fullmatch(ended.err)
    assert json.loads(ended.out) == vars(llama4.load(hf).run("Hello", max_new_tokens=4))


def test_generate_reads_its_prompt_from_stdin(llama4_cli: Callable, hf: Path) -> None:
    """`echo` ends its line, which is no part of the prompt; a blank line more is."""
    llm, options = llama4.load(hf), ("--model", hf, "--max-new-tokens", 5)
    for stdin, prompt in (("Héllo\n", "Héllo"), ("Hello", "Hello"), ("a\r\nb\n\n", "a\nb\n")):
        assert llama4_cli("generate", "-", *options, stdin=stdin).out == llm.generate(prompt, max_new_tokens=5) + "\n"
    raw = llama4_cli("generate", "--raw", "-", *options, stdin="Once upon\n")
    assert raw.out == llm.complete("Once upon", max_new_tokens=5) + "\n"


def test_generate_samples_the_frames_of_a_video(llama4_cli: Callable, hf: Path, tmp_path: Path) -> None:
    stills = [picture(28, 28, seed=seed).quantize(64) for seed in range(6)]
    stills[0].save(tmp_path / "clip.gif", save_all=True, append_images=stills[1:], duration=40)
    ended = llama4_cli(
        *("generate", "--video", tmp_path / "clip.gif", "--frames", 3, "What happens?"),
        *("--model", hf, "--max-new-tokens", 5),
    )
    part = {"type": "video", "video": tmp_path / "clip.gif", "frames": 3}
    messages = [{"role": "user", "content": [part, {"type": "text", "text": "What happens?"}]}]
    assert ended.out == llama4.load(hf).generate(messages, max_new_tokens=5) + "\n"


def test_dtype_is_followed_and_printed(llama4_cli: Callable, hf: Path) -> None:
    ended = llama4_cli("generate", "Hello", "--model", hf, "--max-new-tokens", 2, "--dtype", "bfloat16")
    assert ended.code == 0 and ended.err == f"llama4: {hf} on cpu, bfloat16\n"


def test_the_model_inside_the_package_is_the_default(llama4_cli: Callable) -> None:
    ended = llama4_cli("generate", "Hello", "--max-new-tokens", 2)
    assert ended.code == 0 and ended.err.startswith("llama4: tiny on ")


BAD = {
    "no prompt": ("generate", "The prompt is empty"),
    "empty prompt": ("generate ''", "The prompt is empty"),
    "empty stdin": ("generate -", "The prompt is empty"),
    "raw with an image": ("generate --raw a --image CAT", "--raw continues plain text"),
    "raw with a system message": ("generate --raw a --system b", "--raw continues plain text"),
    "no such image": ("generate a --image no.png", "There is no image file no.png"),
    "not an image": ("generate a --image CONFIG", "is not an image"),
    "an image too large": ("generate a --image CAT --max-pixels 99", "over the limit of 99"),
    "no such video": ("generate a --video no.gif", "There is no video file or folder no.gif"),
    "no frames": ("generate a --video CAT --frames 0", "ask for at least 1"),
    "temperature nan": ("generate a --temperature nan", "temperature is nan"),
    "temperature below zero": ("generate a --temperature=-1", "temperature is -1.0"),
    "top-p": ("generate a --top-p 0", "top_p is 0.0"),
    "top-k": ("generate a --top-k 0", "top_k is 0"),
    "min-p": ("chat --min-p 1.5", "min_p is 1.5"),
    "seed": ("generate a --seed=-3", "seed is -3"),
    "a huge seed": ("generate a --seed 99999999999999999999", "seed is 99999999999999999999"),
    "no tokens": ("generate a --max-new-tokens 0", "max_new_tokens is 0"),
    "empty stop": ("generate a --model HF --stop ''", "non-empty strings"),
    "over the context": ("generate a --model HF --max-new-tokens 600", "exceed the context of 600"),
    "picture for a text model": ("generate a --model TEXT --image CAT", "reads text only"),
    "no such model": ("generate a --model no-such-folder", "There is no checkpoint at no-such-folder"),
    "no such dtype": ("generate a --dtype float99", "There is no dtype 'float99'"),
    "no such device": ("generate a --device gpu", "There is no device called 'gpu'"),
    "meta device": ("generate a --device meta", "There is no device called 'meta'"),
    "no such command": ("frobnicate", "invalid choice: 'frobnicate'"),
    "no command": ("", "required: COMMAND"),
    "no such option": ("generate a --frobnicate", "unrecognized arguments: --frobnicate"),
    "not a number": ("generate a --top-k many", "invalid int value: 'many'"),
    "inspect nothing": ("inspect no-such-folder", "There is no checkpoint at no-such-folder"),
    "inspect a context too long": ("inspect HF --context 601", "context of 601"),
    "inspect no rows": ("inspect HF --batch 0", "at least 1"),
    "inspect dtype": ("inspect HF --dtype float99", "float99"),
    "check a bare config": ("inspect CONFIG --check", "holds no weights"),
    "convert into a full folder": ("convert HF TEXT", "not an empty folder"),
    "convert onto a file": ("convert HF CAT", "not an empty folder"),
    "convert nothing": ("convert no-such-folder out", "There is no checkpoint at no-such-folder"),
    "convert to no shards": ("convert HF OUT --shards 0", "shards"),
    "convert to uneven shards": ("convert HF OUT --shards 7", "7"),
    "convert to huge files": ("convert HF OUT --to hf --max-shard-gb inf", "--max-shard-gb is inf"),
    "convert to no files": ("convert HF OUT --to hf --max-shard-gb 0", "--max-shard-gb is 0.0"),
    "compare with nothing": ("parity HF --reference no.safetensors", "no.safetensors"),
    "compare with weights": ("parity HF --reference HF/model.safetensors", "has no tensor"),
    "parity alone": ("parity HF", "one of the arguments --reference --record is required"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_with_2_and_one_sentence(
    llama4_cli: Callable, hf: Path, text_only: Path, cat: Path, tmp_path: Path, name: str
) -> None:
    line, says = BAD[name]
    places = {"HF": hf, "TEXT": text_only, "CAT": cat, "OUT": tmp_path / "out", "CONFIG": CONFIGS / "scout.params.json"}
    words = [re.sub(r"^[A-Z]+(?=$|/)", lambda match: str(places[match[0]]), word) for word in shlex.split(line)]
    ended = llama4_cli(*words)
    err = RUN_LINE.sub("", ended.err)
    assert ended.code == 2 and says in err and one_sentence(err), ended
    assert not (tmp_path / "out").exists()


def test_a_card_that_is_not_there_is_said(llama4_cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = llama4_cli("generate", "Hello", "--device", "cuda")
    assert ended.code == 2 and "torch sees no CUDA card" in ended.err and one_sentence(ended.err)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    ended = llama4_cli("generate", "Hello", "--device", "cuda:2")
    assert ended.code == 2 and "2 CUDA cards, counted from 0" in ended.err and one_sentence(ended.err)


def test_bytes_that_are_not_utf8_are_refused(llama4_cli: Callable, hf: Path) -> None:
    for command in (("generate", "-"), ("chat",)):
        ended = llama4_cli(*command, "--model", hf, stdin=b"caf\xe9\n")
        assert ended.code == 2 and "not UTF-8" in ended.err


def test_what_can_be_wrong_is_said_before_the_weights_load(
    llama4_cli: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "load", lambda *_, **__: pytest.fail("the weights were loaded"))
    for line in ("a --image no.png", "a --video no.gif", "a --seed -1", "a --max-new-tokens 0", "a --top-p 2", ""):
        assert llama4_cli("generate", *line.split()).code == 2


def test_an_error_of_the_system_is_a_sentence(llama4_cli: Callable, hf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/secret")

    monkeypatch.setattr(commands, "load", fail)
    ended = llama4_cli("generate", "Hello")
    assert ended.code == 2 and "Permission denied (/secret)" in ended.err and one_sentence(ended.err)


def test_ctrl_c_ends_with_130(llama4_cli: Callable, hf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> Iterator[str]:
        yield "So far"
        raise KeyboardInterrupt

    monkeypatch.setattr(llama4.LLM, "stream", interrupt)
    ended = llama4_cli("generate", "Hello", "--model", hf)
    assert (ended.code, ended.out) == (130, "So far\n") and ended.err.endswith("llama4: interrupted.\n")


# help


def helps() -> dict[str, str]:
    """The help of the whole and of every command."""
    commands_of = next(action.choices for action in parser()._actions if action.dest != "help" and action.choices)
    return {"": parser().format_help()} | {name: command.format_help() for name, command in commands_of.items()}


def test_every_example_in_the_help_parses(llama4_cli: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    examples = [line.strip() for text in helps().values() for line in text.split("examples:")[-1].splitlines()]
    examples = [example.split("| ")[-1] for example in examples if "llama4 " in example]
    assert len(examples) > 15
    for example in examples:
        words = shlex.split(re.split(r"\s{3,}", example)[0])
        assert words[0] == "llama4"
        assert callable(parser().parse_args(words[1:]).run), example


@pytest.mark.parametrize("command", helps())
def test_help_ends_with_0_and_has_examples(llama4_cli: Callable, command: str) -> None:
    ended = llama4_cli(*command.split(), "--help")
    assert ended.code == 0 and "examples:" in ended.out and ended.err == ""


def test_version(llama4_cli: Callable) -> None:
    assert llama4_cli("--version").out == f"llama4 {llama4.__version__}\n"


# terminals, pipes, signals


def test_a_terminal_without_utf8_gets_marks_and_no_traceback(hf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer, written = llama4.load(hf).generate("Hello", max_new_tokens=30), io.BytesIO()
    assert not answer.isascii()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert main(["generate", "Hello", "--model", str(hf), "--max-new-tokens", "30"]) == 0
    assert written.getvalue() == (answer + "\n").encode("ascii", errors="replace")


def test_a_terminal_is_shown_no_control_characters(
    hf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a person looks, an escape sequence of the model's is a mark; a file or a pipe gets the text as it is."""
    monkeypatch.setattr(llama4.LLM, "stream", lambda *_, **__: iter(["a\x1b[2J\n", "\tb\x9b\x07é"]))
    for terminal, shown in ((False, "a\x1b[2J\n\tb\x9b\x07é\n"), (True, "a\ufffd[2J\n\tb\ufffd\ufffdé\n")):
        monkeypatch.setattr(type(sys.stdout), "isatty", lambda _, terminal=terminal: terminal)
        assert main(["generate", "Hello", "--model", str(hf)]) == 0
        assert capsys.readouterr().out == shown


def test_a_pipe_that_nobody_reads_is_no_error(hf: Path) -> None:
    """As `head` leaves it: exit code 0 and nothing on stderr but the run, for one print and for a stream."""
    reader, writer = os.pipe()
    os.close(reader)
    inspect = in_a_process("inspect", hf, stdout=writer)
    stream = in_a_process("generate", "Hello", "--model", hf, "--max-new-tokens", 5, stdout=writer)
    os.close(writer)
    assert (inspect.communicate()[1], inspect.returncode) == (b"", 0)
    assert (stream.communicate()[1], stream.returncode) == (f"llama4: {hf} on cpu, float32\n".encode(), 0)


def test_a_process_that_is_interrupted_ends_with_130_without_a_traceback(hf: Path) -> None:
    chat = in_a_process("chat", "--model", hf, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    said = [chat.stderr.readline(), chat.stderr.readline()]  # the run, the help: it now waits for a line
    chat.send_signal(signal.SIGINT)
    out, err = chat.communicate()
    assert b"/quit" in said[1]
    assert (chat.returncode, out, err) == (130, b"", b"llama4: interrupted.\n")


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "llama4", "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("llama4 ")
