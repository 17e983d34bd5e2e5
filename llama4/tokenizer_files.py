"""Reading the two tokenizer files of a Llama 4 checkpoint into one form: the rank of every byte string.

`tokenizer.model` (Meta) is tiktoken's text format, a base64 token and its rank on each line:

    wA== 0
    IQ== 13

`tokenizer.json` (Hugging Face) spells the same vocabulary in GPT-2's alphabet, in which each byte is one printable
character (a space is "Ġ"), and adds merges and special tokens. The merges are redundant where they are listed in
the order of the ids they make, as in all official files: tiktoken then joins the same pairs in the same order. That,
and everything else which would make the two disagree (another split pattern, a normaliser), is checked here.

Sources: tiktoken's `load_tiktoken_bpe`, transformers' `TikTokenConverter`, which wrote the official files. Unlike
Meta's loader, which skips a line it cannot read and thereby shifts every special id, a bad line is an error here.
"""

from __future__ import annotations

import binascii
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from llama4.errors import InputError
from llama4.special_tokens import OFFICIAL_NAMES, SPECIAL_TOKENS, is_placeholder

# o200k's way of cutting text into pieces, which BPE never merges across. In order: two kinds of word (each may take one
# leading space or mark, and an English contraction), up to three digits, punctuation, line ends, other white space.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LEAD, _CONTRACTION = r"[^\r\n\p{L}\p{N}]?", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
SPLIT_PATTERN = "|".join(
    [
        f"{_LEAD}{_UPPER}*{_LOWER}+{_CONTRACTION}",
        f"{_LEAD}{_UPPER}+{_LOWER}*{_CONTRACTION}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)

Ranks = dict[bytes, int]


def read_tokenizer(path: Path) -> tuple[Ranks, tuple[str, ...]]:
    """Read a `tokenizer.model`, a `tokenizer.json`, or a folder that holds one (the former first).

    Returns the ranks 0 … n-1 and the names of the 2048 special tokens n … n+2047. Raises `InputError` when the file is
    absent, is something else, or describes a tokenizer that is not Llama 4's.
    """
    file = _find(path)
    data = file.read_bytes()
    _refuse_stand_ins(file, data)
    if data.lstrip()[:1] == b"{":
        ranks, names = _read_json(file, data)
    else:
        ranks, names = _read_model(file, data), OFFICIAL_NAMES
    _check_ranks(file, ranks)
    return ranks, names


def _find(path: Path) -> Path:
    if path.is_dir():
        for name in ("tokenizer.model", "tokenizer.json"):
            if (path / name).is_file():
                return path / name
        raise InputError(
            f"The folder {path} has neither a tokenizer.model nor a tokenizer.json: copy one of them from the checkpoint."
        )
    if not path.is_file():
        raise InputError(
            f"There is no tokenizer file at {path}: give a tokenizer.model, a tokenizer.json or their folder."
        )
    return path


def _refuse_stand_ins(file: Path, data: bytes) -> None:
    """What a failed download leaves under the right name."""
    start = data[:512].lstrip().lower()
    if not start:
        raise InputError(f"The tokenizer file {file} is empty: download it again.")
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        raise InputError(f"The tokenizer file {file} is a web page, not a tokenizer: download the raw file instead.")
    if start.startswith(b"version https://git-lfs"):
        raise InputError(f"The tokenizer file {file} is a Git LFS pointer: fetch its content with `git lfs pull`.")


def _read_model(file: Path, data: bytes) -> Ranks:
    ranks: Ranks = {}
    seen = set()
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            key, value = binascii.a2b_base64(token, strict_mode=True), int(rank)
        except ValueError:
            raise InputError(
                f"Line {number} of {file} is not a base64 token and its rank: the file is damaged or is not a "
                "tokenizer.model, so download it again."
            ) from None
        if key in ranks or value in seen:
            raise InputError(
                f"Line {number} of {file} repeats a token or a rank of an earlier line: download it again."
            )
        ranks[key] = value
        seen.add(value)
    return ranks


def _check_ranks(file: Path, ranks: Ranks) -> None:
    missing = next((rank for rank, value in enumerate(sorted(ranks.values())) if rank != value), None)
    if missing is not None:
        raise InputError(f"The ranks of {file} leave out {missing}: the file is incomplete, so download it again.")
    byte = next((byte for byte in range(256) if bytes([byte]) not in ranks), None)
    if byte is not None:
        raise InputError(
            f"The tokenizer file {file} has no token for the single byte 0x{byte:02x}, so it cannot spell every text: "
            "download it again."
        )


def _read_json(file: Path, data: bytes) -> tuple[Ranks, tuple[str, ...]]:
    try:
        tree = json.loads(data)
        model, added = tree["model"], {token["content"]: int(token["id"]) for token in tree["added_tokens"]}
        vocabulary = {token: int(rank) for token, rank in model["vocab"].items() if token not in added}
        merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
        _check_pipeline(file, tree)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"The file {file} is not a complete byte-level BPE tokenizer.json: download it again, or use the "
            "checkpoint's tokenizer.model."
        ) from None
    ranks = _bytes_of(file, vocabulary)
    _check_merges(file, vocabulary, merges)
    return ranks, _special_names(file, added, len(ranks))


def byte_alphabet() -> dict[str, int]:
    """GPT-2's printable character for each of the 256 bytes: itself where it prints, else the next one from U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def _bytes_of(file: Path, vocabulary: dict[str, int]) -> Ranks:
    byte_of = byte_alphabet()
    ranks: Ranks = {}
    for token, rank in vocabulary.items():
        try:
            ranks[bytes(byte_of[character] for character in token)] = rank
        except KeyError:
            raise InputError(
                f"The token {token!r} of {file} is not written in the byte-level alphabet: this is not the tokenizer of "
                "a Llama 4 model."
            ) from None
    return ranks


def _check_pipeline(file: Path, tree: dict[str, Any]) -> None:
    """The split pattern and the absence of a normaliser, without which equal ranks would still give other ids."""
    steps = tree.get("pre_tokenizer") or {}
    patterns = [step["pattern"].get("Regex") for step in steps.get("pretokenizers", [steps]) if "pattern" in step]
    if tree["model"].get("type", "BPE") != "BPE" or patterns != [SPLIT_PATTERN] or tree.get("normalizer"):
        raise InputError(
            f"The file {file} normalises or splits text in another way than Llama 4: this is not its tokenizer, so take "
            "the tokenizer of a Llama 4 checkpoint."
        )


def _check_merges(file: Path, vocabulary: dict[str, int], merges: list[tuple[str, ...]]) -> None:
    made = [vocabulary.get("".join(pair), -1) for pair in merges]
    in_order = all(earlier <= later for earlier, later in pairwise(made))
    if not in_order or -1 in made or len(set(made)) < len(vocabulary) - 256:
        raise InputError(
            f"The merges of {file} do not follow the order of the ids they make, so it cannot be read as ranks: use the "
            "checkpoint's tokenizer.model."
        )


def _special_names(file: Path, added: dict[str, int], base: int) -> tuple[str, ...]:
    """Meta's names, with those of the file in slots that Meta leaves unassigned (fine-tuned models name them)."""
    names = list(OFFICIAL_NAMES)
    official = {name: number for number, name in enumerate(OFFICIAL_NAMES) if not is_placeholder(name)}
    for name, token_id in added.items():
        number = token_id - base
        if not 0 <= number < SPECIAL_TOKENS or official.get(name, number) != number:
            expected = f"{base + official[name]}" if name in official else f"{base} to {base + SPECIAL_TOKENS - 1}"
            raise InputError(
                f"The special token {name} has the id {token_id} in {file} where Llama 4 has {expected}: take the "
                "tokenizer that belongs to the checkpoint."
            )
        if name in official or is_placeholder(name):
            continue
        if not is_placeholder(OFFICIAL_NAMES[number]):
            raise InputError(
                f"The file {file} names id {token_id} {name} where Llama 4 has {OFFICIAL_NAMES[number]}: take the "
                "tokenizer that belongs to the checkpoint."
            )
        names[number] = name
    return tuple(names)
