"""What the tests of the command line share: running a command in this process, and the small models as folders.

A test module takes the fixtures over by name: `hf = cli_fixtures.hf`.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from random_weights import draw_weights
from tiny_llm import picture, tiny_config, tiny_tokenizer

from llama4.checkpoint import save_hf, save_meta
from llama4.cli import main
from llama4.model import Llama4

CONFIGS = Path(__file__).parent / "data" / "configs"
RUN_LINE = re.compile(r"llama4: \S+ on cpu, float32\n")


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def llama4_cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """Run a command in this process, with text on its stdin, on the CPU whatever the machine has."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def run(*arguments: object, stdin: str | bytes = "") -> Ended:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse's own way out
            code = end.code
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests' small model in float32 as a Hugging Face folder; Meta's layout can express it too."""
    model = Llama4(tiny_config())
    draw_weights(dict(model.named_parameters()), seed=5)
    folder = tmp_path_factory.mktemp("hf")
    save_hf(model, folder)
    tiny_tokenizer().save(folder / "tokenizer.model")
    return folder


@pytest.fixture(scope="module")
def text_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without vision, in Meta's layout."""
    folder = tmp_path_factory.mktemp("text")
    model = Llama4(tiny_config(vision=False))
    draw_weights(dict(model.named_parameters()), seed=6)
    save_meta(model, folder)
    tiny_tokenizer().save(folder / "tokenizer.model")
    return folder


@pytest.fixture
def cat(tmp_path: Path) -> Path:
    """A picture in a file."""
    picture().save(tmp_path / "cat.png")
    return tmp_path / "cat.png"


def one_sentence(text: str) -> bool:
    """Exactly one line that names the program and ends as a sentence does."""
    return bool(re.fullmatch(r"llama4( \w+)?: [^\n]+\.\n", text))
