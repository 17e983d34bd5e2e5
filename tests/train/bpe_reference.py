"""Byte-level BPE as its definition reads: before every merge, count all pairs of all pieces. Slow, and nothing to get wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise


def train(pieces: Mapping[bytes, int], ranks: int) -> dict[bytes, int]:
    """The same ranks as `llama4.train.bpe.train`."""
    words = {tuple(bytes([byte]) for byte in piece): count for piece, count in pieces.items()}
    table = {bytes([byte]): byte for byte in range(256)}
    while len(table) < ranks:
        pairs: Counter[tuple[bytes, bytes]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count
        left, right = min(pairs, key=lambda pair: (-pairs[pair], pair))
        table[left + right] = len(table)
        words = {_join(word, left, right): count for word, count in words.items()}
    return table


def _join(word: tuple[bytes, ...], left: bytes, right: bytes) -> tuple[bytes, ...]:
    if len(word) < 2:
        return word
    if word[:2] == (left, right):
        return (left + right, *_join(word[2:], left, right))
    return (word[0], *_join(word[1:], left, right))
