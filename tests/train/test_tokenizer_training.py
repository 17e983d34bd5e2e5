"""Pins the tokenizer command: the official format, the same file for the same data, names that are short in every language, and
one sentence for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from task_emoji import EMOJI, write_folder

from llama4.errors import InputError
from llama4.tokenizer import Tokenizer
from llama4.train.emoji.dataset import LANGUAGES
from llama4.train.prompts import PROMPTS
from llama4.train.tokenizer import WEIGHTS, corpus, main, make, tokens_per_name

RANKS = 1500


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data"))


def test_the_corpus_holds_all_that_is_read_and_written() -> None:
    texts = {text for text, _ in corpus(EMOJI)}
    for language, words in PROMPTS.items():
        assert {one.names[language] for one in EMOJI} | {f" {one.names[language]}" for one in EMOJI} <= texts
        assert {word for one in EMOJI for word in one.keywords[language]} <= texts
        assert {*words.questions["name"], words.no_picture, words.left, *words.categories.values()} <= texts
        assert words.questions["name_in"][0].replace("{language}", "") in texts
    assert not any("{" in text for text in texts)


def test_every_weight_counts() -> None:
    assert set(WEIGHTS) == set(LANGUAGES)
    assert all(weight > 0 for _, weight in corpus(EMOJI))


def test_the_command_writes_the_official_format_and_says_how_long_names_are(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "a" / "tokenizer.model", tmp_path / "b" / "tokenizer.model"]
    for file in files:
        assert main(["--data", str(data), "--into", str(file), "--ranks", str(RANKS)]) == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    tokenizer = Tokenizer.from_file(files[0])
    assert tokenizer.vocab_size == RANKS + 2048 and tokenizer.patch_id == RANKS + 92
    said = capsys.readouterr().out
    for language, mean in tokens_per_name(tokenizer, EMOJI).items():
        assert f"{language} {mean:.1f}" in said
        for one in EMOJI:
            assert tokenizer.decode(tokenizer.encode(one.names[language])) == one.names[language]


def test_merges_shorten_the_names_of_every_language(data: Path, tmp_path: Path) -> None:
    """Without merges a token is a byte; 1244 of them, shared by sixteen languages and all wordings, save a tenth at least."""
    bytes_alone = tokens_per_name(make(data, tmp_path / "256.model", 256), EMOJI)
    merged = tokens_per_name(make(data, tmp_path / "tokenizer.model", RANKS), EMOJI)
    for language in LANGUAGES:
        assert bytes_alone[language] == sum(len(one.names[language].encode()) for one in EMOJI) / len(EMOJI)
        assert merged[language] < bytes_alone[language] * 0.9, language


def test_what_is_wrong_is_one_sentence(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    into = tmp_path / "tokenizer.model"
    assert main(["--data", str(tmp_path / "nowhere"), "--into", str(into)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["--data", str(data), "--into", str(into), "--ranks", "60000"]) == 2
    assert "too small for 60000 ranks" in capsys.readouterr().err
    assert not into.exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written"):
        make(data, tmp_path / "file" / "tokenizer.model", 300)
