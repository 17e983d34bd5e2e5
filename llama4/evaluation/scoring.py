"""When an answer is right. Strict: what a scorer forgives is written here, and nothing else is forgiven.

exact("dog face", "Dog face")                          no
listed("dog face, pizza, guitar", three names)         yes; also with "and", ";", line ends or a full stop at the end
some_of("pet, dog\nface", the dog's keywords, 3)         yes, if all three are keywords, in whatever order
chosen("It is on the left.", ("left", "right"))        "left"; None where both words occur, or neither
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# What may stand between two names of a list; spaces around it do not count.
BETWEEN = r"\s*(?:[,;、،]\s*and\s|[,;、،\n]|\sand\s)\s*"


def exact(answer: str, name: str) -> bool:
    """The name itself, and nothing beside it but white space at the ends."""
    return answer.strip() == name


def listed(answer: str, names: Sequence[str]) -> bool:
    """All names, each in full, in this order, with nothing but separators between them."""
    return re.fullmatch(BETWEEN.join(map(re.escape, names)) + r"\.?", answer.strip()) is not None


def some_of(answer: str, words: Sequence[str], count: int) -> bool:
    """So many different ones of `words`, in any order, with nothing but separators between them."""
    said = answer.strip()
    lists = (re.split(BETWEEN, text) for text in (said, said.removesuffix(".")))  # "..." is a keyword
    return any(len(parts) == len(set(parts)) == count and set(parts) <= set(words) for parts in lists)


def chosen(answer: str, words: Sequence[str]) -> str | None:
    """The only one of `words` (lower case) that the answer has as a whole word; None where several or none occur."""
    found = [word for word in words if re.search(rf"\b{re.escape(word)}\b", answer.lower())]
    return found[0] if len(found) == 1 else None
