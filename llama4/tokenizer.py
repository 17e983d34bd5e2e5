"""Text to ids and back: byte-level BPE over o200k's split pattern, and 2048 special tokens behind the base ranks.

    >>> tokenizer = Tokenizer.from_file("tokenizer.model")       # the official one has 200000 base ranks
    >>> tokenizer.encode("Hello", bos=True)
    [200000, 19873]

BPE starts from the bytes of a piece of text and joins, again and again, the neighbouring pair whose union has the lowest
rank; the ranks left are the ids. Any number of base ranks n will do: the special ids are n … n + 2047, so the tiny model's
tokenizer of 512 ranks puts `<|patch|>` at 604 where the official one puts it at 200092.

Two things differ from the obvious. Special tokens inside a text stay text unless the caller allows them, so that a user
cannot write a header. And very long texts are cut before they are encoded, at 400000 characters and inside runs of more
than 25000 (non-)spaces, because tiktoken is quadratic or fails there; the cuts are Meta's, and so are the ids.

Source: Meta's `llama_models/llama4/tokenizer.py`; the merging itself is tiktoken's.
"""

from __future__ import annotations

import base64
import codecs
import operator
import os
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import tiktoken

from llama4.errors import InputError
from llama4.files import replacing
from llama4.special_tokens import OFFICIAL_NAMES
from llama4.tokenizer_files import SPLIT_PATTERN, Ranks, read_tokenizer

MAX_CHARACTERS = 400_000
MAX_RUN = 25_000

# The lookbehind lets a run be tried at its first character only, which keeps the search linear.
_LONG_RUN = re.compile(rf"(?<!\s)\s{{{MAX_RUN + 1},}}|(?<!\S)\S{{{MAX_RUN + 1},}}")


class Tokenizer:
    """The tokenizer of a checkpoint. Use `from_file`.

    Attributes: `vocab_size`; `special_tokens`, name → id; `bos_id`, `eos_id`, `eot_id`, `eom_id`, `pad_id`, `patch_id`;
    `stop_ids`, the three ids at which generation ends.
    """

    def __init__(self, ranks: Ranks, special_names: tuple[str, ...] = OFFICIAL_NAMES) -> None:
        """`ranks` maps every base token's bytes to 0 … n-1; the special tokens get the ids n, n + 1, …"""
        self._ranks = ranks
        self.special_tokens = {name: len(ranks) + number for number, name in enumerate(special_names)}
        self.vocab_size = len(ranks) + len(special_names)
        self.bos_id = self.special_id("<|begin_of_text|>")
        self.eos_id = self.special_id("<|end_of_text|>")
        self.eot_id = self.special_id("<|eot|>")
        self.eom_id = self.special_id("<|eom|>")
        self.pad_id = self.special_id("<|finetune_right_pad|>")
        self.patch_id = self.special_id("<|patch|>")
        self.stop_ids = (self.eos_id, self.eom_id, self.eot_id)
        self._bpe = tiktoken.Encoding(
            name="llama4", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens=self.special_tokens
        )

    @staticmethod
    def from_file(path: str | os.PathLike[str]) -> Tokenizer:
        """Read a `tokenizer.model`, a Hugging Face `tokenizer.json`, or a folder with one of them (the former first).

        Raises `InputError` when there is none, or when the file is damaged or not a Llama 4 tokenizer.
        """
        return Tokenizer(*read_tokenizer(Path(path)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the base ranks as a `tokenizer.model`; that format holds no special tokens, which follow from n."""
        path = Path(path)
        lines = (b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in self._ranks.items())
        with replacing(path.parent) as part:
            part(path.name).write_bytes(b"".join(lines))

    def special_id(self, name: str) -> int:
        """The id of a special token, such as `<|header_start|>`. Raises `InputError` for an unknown name."""
        if name not in self.special_tokens:
            raise InputError(f"There is no special token {name!r} in this tokenizer: see Tokenizer.special_tokens.")
        return self.special_tokens[name]

    def encode(
        self, text: str, bos: bool = False, eos: bool = False, allowed_special: str | Collection[str] = ()
    ) -> list[int]:
        """Ids of `text`, with begin_of_text in front and end_of_text behind where asked for.

        `allowed_special` names the special tokens that become their own id where `text` spells them, or is "all";
        everything else that looks like one is encoded as ordinary text. Raises `InputError` for anything but a str.
        """
        if not isinstance(text, str):
            raise InputError(f"The text to encode is a {type(text).__name__}: pass a str.")
        allowed = self._allowed(allowed_special)
        ids = [self.bos_id] if bos else []
        for piece in _cut(text):
            ids += self._bpe.encode(piece, allowed_special=allowed, disallowed_special=())
        return [*ids, self.eos_id] if eos else ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`, special tokens spelled out; bytes that are not UTF-8 become U+FFFD, as Python replaces them."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Bytes of `ids`, which may end in the middle of a character. Raises `InputError` for ids out of range."""
        try:
            ids = [operator.index(token_id) for token_id in ids]
        except TypeError:
            raise InputError("The ids to decode must be integers: pass a list of int.") from None
        wrong = next((token_id for token_id in ids if not 0 <= token_id < self.vocab_size), None)
        if wrong is not None:
            raise InputError(
                f"The id {wrong} lies outside the tokenizer's {self.vocab_size} ids: check that tokenizer and model "
                "belong together."
            )
        return self._bpe.decode_bytes(ids)

    def _allowed(self, allowed_special: str | Collection[str]) -> set[str]:
        if allowed_special == "all":
            return set(self.special_tokens)
        if isinstance(allowed_special, str):
            raise InputError(f"allowed_special is {allowed_special!r}: pass a collection of token names, or 'all'.")
        for name in allowed_special:
            self.special_id(name)
        return set(allowed_special)


def _cut(text: str) -> Iterator[str]:
    """The stretches of `text` that are encoded apart: 400000 characters at most, no run over 25000 (non-)spaces.

    60000 spaces are cut after 25000 and 50000. Runs are counted within a stretch, never across its end.
    """
    for start in range(0, len(text), MAX_CHARACTERS):
        stretch = text[start : start + MAX_CHARACTERS]
        begin = 0
        for run in _LONG_RUN.finditer(stretch):
            for end in range(run.start() + MAX_RUN, run.end(), MAX_RUN):
                yield stretch[begin:end]
                begin = end
        yield stretch[begin:]


class StreamDecoder:
    """Decodes one id at a time and never splits a character: a token may hold one or two of the bytes of "é" or "日".

    The pieces of all `push` calls and of `flush`, joined, are `tokenizer.decode(ids)`, for valid and broken UTF-8 alike.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The text that `token_id` completes; "" while the bytes of a character are pending."""
        return self._utf8.decode(self._tokenizer.decode_bytes([token_id]))

    def flush(self) -> str:
        """What is still pending at the end: U+FFFD for a broken character, else "". The decoder is then new again."""
        return self._utf8.decode(b"", final=True)
