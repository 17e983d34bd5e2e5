"""Pins the BPE trainer: its ranks are those of counting everything anew for each merge, ties and repeats of a pair included."""

from __future__ import annotations

import random
from collections import Counter

import bpe_reference
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama4.errors import InputError
from llama4.tokenizer import Tokenizer
from llama4.train.bpe import count_pieces, joined, train

TEXT = """The little model reads the words of a question, and then it writes an answer, one piece at a time.
Das kleine Modell liest die Wörter der Frage und schreibt dann eine Antwort. Links ist ein rotes Quadrat.
يقرأ النموذج الصغير كلمات السؤال ثم يكتب الجواب. 小さなモデルは質問の言葉を読んで、それから答えを書きます。
छोटा मॉडल सवाल के शब्द पढ़ता है और फिर जवाब लिखता है। aaaa aaaaa aaaaaaa abababa bababab 1 12 123 1234 12345
"""


def test_the_most_frequent_pair_is_joined_first() -> None:
    ranks = train(count_pieces([("aaab aaab zz", 1)]), ranks=259)
    # (a, a) is seen four times; then "aa a b" has (a, b) and (aa, a) twice, of which the former sorts first.
    assert {token: rank for token, rank in ranks.items() if rank >= 256} == {b"aa": 256, b"ab": 257, b"aaab": 258}


def test_ranks_are_those_of_counting_anew() -> None:
    pieces = count_pieces([(TEXT, 3), (TEXT.upper(), 2), (TEXT[40:], 1)])
    ranks = train(pieces, 256 + 150)
    assert list(ranks.items()) == list(bpe_reference.train(pieces, 256 + 150).items())
    assert sorted(ranks.values()) == list(range(256 + 150))


@given(st.dictionaries(st.text("ab", min_size=6, max_size=12).map(str.encode), st.integers(1, 4), min_size=6))
def test_few_letters_with_many_ties_are_no_different(pieces: dict[bytes, int]) -> None:
    """Runs of one letter, overlapping pairs, equal counts."""
    try:
        ranks = train(pieces, 264)
    except InputError:  # fewer than eight different unions
        return
    assert ranks == bpe_reference.train(pieces, 264)


def test_every_merge_makes_a_new_rank() -> None:
    """A union that came up twice would leave a gap in the ranks, which `Tokenizer.from_file` refuses."""
    rng = random.Random(4)
    for letters in ("a", "ab", "ab", "abc"):
        pieces = {bytes(rng.choices(letters.encode(), k=rng.randint(20, 40))): rng.randint(1, 9) for _ in range(6)}
        ranks = train(pieces, 260)
        assert sorted(ranks.values()) == list(range(260)) and ranks == bpe_reference.train(pieces, 260)


def test_the_order_of_the_texts_does_not_matter() -> None:
    texts = [(line, number) for number, line in enumerate(TEXT.split(" "), start=1)]
    shuffled = random.Random(0).sample(texts, len(texts))
    assert list(train(count_pieces(texts), 330).items()) == list(train(count_pieces(shuffled), 330).items())


def test_weights_count_a_text_several_times() -> None:
    assert count_pieces([("red car", 2), ("red", 3)]) == Counter({b"red": 5, b" car": 2})
    assert b"zq" in train(count_pieces([("abab", 3), ("zq", 7)]), 257)
    assert b"ab" in train(count_pieces([("abab", 4), ("zq", 7)]), 257)


def test_pairs_are_joined_from_the_left() -> None:
    letters = [bytes([letter]) for letter in b"aaabaa"]
    assert joined(letters, (b"a", b"a")) == [b"aa", b"a", b"b", b"aa"]
    assert joined([b"a"], (b"a", b"a")) == [b"a"]


def test_the_ranks_make_a_tokenizer() -> None:
    tokenizer = Tokenizer(train(count_pieces([(TEXT, 1)]), 400))
    assert tokenizer.vocab_size == 400 + 2048
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert len(tokenizer.encode(TEXT)) < 0.6 * len(TEXT.encode())


def test_too_little_text_is_one_clear_sentence() -> None:
    with pytest.raises(InputError, match="too small for 300 ranks: ask for 258 at most"):
        train(count_pieces([("abc", 1)]), 300)
    with pytest.raises(InputError, match="cannot spell every byte"):
        train(count_pieces([("abc", 1)]), 255)
