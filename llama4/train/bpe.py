"""Training a byte-level BPE, in pure Python and in seconds.

Cut the text into pieces with the split pattern, spell each piece in bytes, and repeat: take the neighbouring pair that is
seen most often, join it everywhere, give the union the next free rank.

    "aaab" → (a,a) is seen twice → "aa" gets rank 256 → "aa a b"

Ties go to the pair that sorts first, so that equal data give an equal file on every machine. Counting all pairs anew for
every merge would take minutes; here a merge corrects only the counts of the pieces that hold the pair (an index says which
they are), and a heap offers the largest count. A count that changes is pushed again; the old entry is passed over when it
comes up, since it no longer agrees with the table. 3328 merges over 45000 distinct pieces visit each piece some ten times.

A union never comes up twice, as "ab" + "c" and later as "a" + "bc": no merge has crossed the ends of either "abc", so both were
spelled in bytes and joined alike, and are the same tokens. Every merge thus makes a new rank.

Source: Sennrich et al., arXiv 1508.07909.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise

import regex

from llama4.errors import InputError
from llama4.tokenizer_files import SPLIT_PATTERN, Ranks

Pair = tuple[bytes, bytes]
_PIECE = regex.compile(SPLIT_PATTERN)


def count_pieces(texts: Iterable[tuple[str, int]]) -> Counter[bytes]:
    """How often the split pattern cuts each piece from the texts, each text counted as often as its weight says."""
    pieces: Counter[bytes] = Counter()
    for text, weight in texts:
        for piece in _PIECE.findall(text):
            pieces[piece.encode()] += weight
    return pieces


def train(pieces: Mapping[bytes, int], ranks: int = 4096) -> Ranks:
    """`ranks` byte strings and their ranks: the bytes 0 … 255 in order, then the unions in the order they were made.

    pieces: how often each piece of the corpus is seen (`count_pieces`). Raises `InputError` for fewer than 256 ranks, and
    for a corpus that is all joined before there are enough.
    """
    if ranks < 256:
        raise InputError(f"A byte-level tokenizer of {ranks} ranks cannot spell every byte: ask for 256 or more.")
    words = _Words(pieces)
    table = {bytes([byte]): byte for byte in range(256)}
    while len(table) < ranks:
        pair = words.most_frequent()
        if pair is None:
            raise InputError(f"The corpus is too small for {ranks} ranks: ask for {len(table)} at most, or add text.")
        words.join(pair)
        table[pair[0] + pair[1]] = len(table)
    return table


class _Words:
    """The pieces as lists of tokens, how often each pair is seen in them, and in which of them."""

    def __init__(self, pieces: Mapping[bytes, int]) -> None:
        self.words = [[bytes([byte]) for byte in piece] for piece in pieces]
        self.weights = list(pieces.values())
        self.counts: Counter[Pair] = Counter()
        self.holders: defaultdict[Pair, set[int]] = defaultdict(set)
        for number in range(len(self.words)):
            self.count(number, +1)
        self.heap = [(-count, pair) for pair, count in self.counts.items()]
        heapq.heapify(self.heap)

    def count(self, number: int, sign: int) -> set[Pair]:
        """Add (+1) or take away (-1) the pairs of one word, and give them back."""
        pairs = list(pairwise(self.words[number]))
        for pair in pairs:
            self.counts[pair] += sign * self.weights[number]
            if sign > 0:
                self.holders[pair].add(number)
            else:
                self.holders[pair].discard(number)
        return set(pairs)

    def most_frequent(self) -> Pair | None:
        """The pair with the largest count, of equal ones that which sorts first; None when every word is one token."""
        while self.heap:
            negative, pair = self.heap[0]
            if negative < 0 and -negative == self.counts[pair]:
                return pair
            heapq.heappop(self.heap)
        return None

    def join(self, pair: Pair) -> None:
        """Make the pair one token in every word that holds it."""
        changed: set[Pair] = set()
        for number in list(self.holders[pair]):
            before = self.count(number, -1)
            self.words[number] = joined(self.words[number], pair)
            changed |= before | self.count(number, +1)
        for other in changed:
            heapq.heappush(self.heap, (-self.counts[other], other))


def joined(word: list[bytes], pair: Pair) -> list[bytes]:
    """`word` with each neighbouring `pair` made one token, from the left: "a a a" becomes "aa a"."""
    union = pair[0] + pair[1]
    tokens: list[bytes] = []
    position = 0
    while position < len(word):
        together = tuple(word[position : position + 2]) == pair
        tokens.append(union if together else word[position])
        position += 2 if together else 1
    return tokens
