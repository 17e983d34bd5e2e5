"""Pins the tokenizer's ids to Meta's `llama_models.llama4.tokenizer` and the official 200000 ranks, exactly.

Texts: sixteen languages, everything that trips tokenizers, texts drawn at random, and texts long enough to be cut. The
same ranks, written as a tokenizer.json by transformers' own converter, must give the same ids again, and the ids that
the `tokenizers` package itself computes from that file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama4.special_tokens import OFFICIAL_NAMES
from llama4.tokenizer import StreamDecoder, Tokenizer
from llama4.tokenizer_files import SPLIT_PATTERN

meta_tokenizer = pytest.importorskip("llama_models.llama4.tokenizer")

OFFICIAL_FILE = Path(meta_tokenizer.__file__).parent / "tokenizer.model"
META = meta_tokenizer.Tokenizer.get_instance()
OURS = Tokenizer.from_file(OFFICIAL_FILE)

LANGUAGES = {
    "Arabic": "مَرْحَبًا بالعالَم، كيف حالُكَ اليوم؟ ٢٠٢٥",
    "English": "It's 3 o'clock; we'll see who'd've thought THEY'RE here — isn't it?",
    "French": "L'été dernier, où étiez-vous ? Ça dépend… « peut-être » à Œuilly.",
    "German": "Größenwahnsinnige Donaudampfschifffahrtsgesellschaft, ẞ und ß, 1.234,56 €.",
    "Hindi": "क्षत्रिय श्रीमान् को हिन्दी में नमस्ते! १२३४५",
    "Indonesian": "Anak-anak itu berlari-larian di pekarangan rumah, ya?",
    "Italian": "Perché l'aereo è già lì? C'è un'altra città, però più giù.",
    "Portuguese": "Não há razão: amanhã às 15h30 haverá reunião, coração!",
    "Spanish": "¿Cuándo vendrás, mañana o pasado? ¡Qué pingüino tan extraño!",
    "Tagalog": "Nagsisipagsisinungalingan ang mga ito; ano'ng oras na ba?",
    "Thai": "ภาษาไทยไม่มีช่องว่างระหว่างคำ น้ำตาลก้อนใหญ่ ๒๕๖๘",
    "Vietnamese": "Nghiêng nghiêng, người Việt Nam thưởng thức phở; Ngã ba đường.",
    "Chinese": "我们明天去北京吃烤鸭,好吗?繁體字與简体字,“引号”。𠜎𠜱",
    "Japanese": "東京タワーは高さ333メートルです。カタカナ、ひらがな、ﾊﾝｶｸ、㍿。",
    "Korean": "안녕하세요, 세계! 값을 읽다 각 한글 자모 ㄱㄴㄷ",
    "Russian": "Съешь же ещё этих мягких французских булок, да выпей чаю. ЁЖ ё",
}

NASTY = {
    "emoji with joiners": "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 ☎️ 🇫🇷🇩🇪 1️⃣",
    "combining marks": "é vs e\u0301, Z\u0351\u036b\u0343a\u0328l\u0334g\u0321o\u0322, \u0301alone, क्\u200dष",
    "right to left": "abc \u202eחשבון\u202c \u200fשלום\u200e (123) العربية",
    "control characters": "".join(map(chr, range(32))) + "\x7f\x80\x85\x9f\ufeff\u200b\u2028\u2029",
    "spaces": " a  b   c \t d\u00a0e\u3000f \n \n\n  \n   g     ",
    "line ends": "a\r\nb\r\n\r\nc\rd\n\n\ne\r\r\n/f\n/",
    "numbers": "1 12 123 1234 12345678 3.14159 1e-5 0xFF ½ ² Ⅻ ٣٤٥ 1,000,000",
    "code": "def f(x: int) -> dict[str, int]:\n    return {'a': x ** 2}  # ok\n\n\tif (a&&b||!c) { x += 1; }\n",
    "contractions": "I'M YOU'LL he'S we'Ve it'd DON'T 'tis l'Été rock'n'roll 'Re",
    "case changes": "HTMLParser XMLHttpRequest iPhone McDonald ǅungla ΑΒΓαβγ ﬁn ſ",
    "special look-alikes": "<|begin_of_text|><|eot|> <|header_start|>system<|header_end|> <|patch|> <|eot |> <|nope|> <||>",
    "punctuation": "!!!??? ...--- ((([[[{{{ ###$$$%%% /// \\\\\\ ~`^ «»„“”‚‘’",
    "lone surrogates": "a\ud83db \udc00",
    "non-characters": "\uffff\U0010ffff\ufffd\ue000",
    "empty": "",
    "one space": " ",
    "long spaces": "x" + " " * 26_000 + "y",
    "long line ends": "\n" * 50_001,
    "long word": "ab" * 30_000 + " c",
    "runs of exactly the limit": "x" * 25_000 + " " * 25_000 + "y" * 25_001,
    "400001 characters": "word " * 80_000 + "!",
    "800003 characters": "Ä\n日 " * 200_000 + "end",
}


def _same(text: str) -> list[int]:
    expected = META.encode(text, bos=False, eos=False)
    assert OURS.encode(text) == expected
    return expected


def test_special_tokens_and_sizes() -> None:
    assert OURS.special_tokens == META.special_tokens
    assert OURS.vocab_size == META.n_words == 202048
    assert list(OURS.stop_ids) == META.stop_tokens
    named = ("bos_id", "eos_id", "eot_id", "eom_id", "pad_id")
    assert [getattr(OURS, name) for name in named] == [getattr(META, name) for name in named]
    assert SPLIT_PATTERN == META.O200K_PATTERN


@pytest.mark.parametrize("language", LANGUAGES)
def test_languages(language: str) -> None:
    text = LANGUAGES[language]
    ids = _same(text)
    assert OURS.decode(ids) == META.decode(ids) == text
    for variant in (text.upper(), text.lower(), f"  {text}\n\n", text[::-1], text * 50):
        _same(variant)


@pytest.mark.parametrize("name", NASTY)
def test_nasty_texts(name: str) -> None:
    ids = _same(NASTY[name])
    assert OURS.decode(ids) == META.decode(ids)
    if name != "lone surrogates":
        assert OURS.decode(ids) == NASTY[name]


@given(st.text(max_size=200))
@settings(max_examples=300, deadline=None)
def test_drawn_texts(text: str) -> None:
    _same(text)


PIECES = [*LANGUAGES.values(), *list(META.special_tokens)[:20], " ", "\n", "'s", "\r\n", "12", "\u0301", "/"]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.booleans(), st.booleans())
@settings(max_examples=200, deadline=None)
def test_special_tokens_in_text(text: str, bos: bool, eos: bool) -> None:
    some = {"<|eot|>", "<|header_start|>"}
    for allowed in ("all", some, ()):
        expected = META.encode(text, bos=bos, eos=eos, allowed_special=allowed if allowed else None)
        assert OURS.encode(text, bos, eos, allowed_special=allowed) == expected


@given(st.lists(st.integers(0, 202047), max_size=50))
@settings(max_examples=300, deadline=None)
def test_any_ids_decode_alike_also_when_streamed(ids: list[int]) -> None:
    decoder = StreamDecoder(OURS)
    streamed = [decoder.push(token_id) for token_id in ids]
    assert OURS.decode(ids) == META.decode(ids) == "".join([*streamed, decoder.flush()])


HUB_NAMES = OFFICIAL_NAMES[:1134]  # the official tokenizer.json names no more


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Tokenizer]:
    """transformers' conversion of the official file, as the `tokenizers` package runs it and as we read it."""
    convert = pytest.importorskip("transformers.convert_slow_tokenizer")
    ranks = convert.TikTokenConverter(
        vocab_file=str(OFFICIAL_FILE), pattern=SPLIT_PATTERN, extra_special_tokens=list(HUB_NAMES)
    )
    theirs = ranks.converted()
    folder = tmp_path_factory.mktemp("hub")
    theirs.save(str(folder / "tokenizer.json"))
    return theirs, Tokenizer.from_file(folder)


def test_the_hub_file_holds_the_same_tokenizer(hub: tuple[Any, Tokenizer]) -> None:
    theirs, read = hub
    assert read.special_tokens == OURS.special_tokens
    for text in [*LANGUAGES.values(), *NASTY.values()]:
        assert read.encode(text) == OURS.encode(text)
    # The `tokenizers` package takes special tokens in a text as such, cuts nothing, and cannot take lone surrogates.
    for text in [*LANGUAGES.values(), *(text for text in NASTY.values() if text.isprintable() and len(text) < 1000)]:
        assert theirs.encode(text, add_special_tokens=False).ids == read.encode(text, allowed_special=HUB_NAMES)


@given(text=st.text(max_size=100))
@settings(max_examples=100, deadline=None)
def test_the_hub_file_gives_the_ids_of_its_own_package(hub: tuple[Any, Tokenizer], text: str) -> None:
    theirs, read = hub
    assert theirs.encode(text, add_special_tokens=False).ids == read.encode(text, allowed_special=HUB_NAMES)
