"""The small model's tokenizer: a BPE trained on what the model is to read and write.

    python -m llama4.train.tokenizer --data data/emoji --into llama4/assets/tiny/tokenizer.model

The corpus is the CLDR names of all emoji, alone and behind a space, as in a list; their keywords, which are more but asked
for less, at a tenth; and each wording and answer of `prompts.json`. Languages weigh what evens out their names: a
character of Hindi is three bytes and needs more merges than one of English, which with equal weights takes 4.7 tokens a
name to Hindi's 7.3. `WEIGHTS` brings the ratio of the longest to the shortest from 1.6 down to 1.25; it was found by training
four times, each time multiplying a language's weight by (its tokens a name / the mean)^1.5.

The file is the official format, a base64 token and its rank on each line, and the 2048 official special tokens follow the
ranks (`llama4/tokenizer.py`). Equal data give an equal file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from llama4.errors import InputError
from llama4.tokenizer import Tokenizer
from llama4.train.bpe import count_pieces, train
from llama4.train.emoji.dataset import DEFAULT_FOLDER, LANGUAGES, Emoji, open_dataset
from llama4.train.prompts import PROMPTS

RANKS = 3584
NAME, LISTED_NAME, KEYWORD, WORDING = 100, 50, 10, 400
WEIGHTS = {
    **{"en": 0.75, "ar": 1.15, "zh": 0.8, "fil": 0.95, "fr": 0.9, "de": 1.35, "hi": 2.4, "id": 0.8},
    **{"it": 0.9, "ja": 0.9, "ko": 1.05, "pt": 0.85, "ru": 1.35, "es": 0.9, "th": 1.1, "vi": 1.2},
}
_NOTHING = {"name": "", "language": "", "ordinal": ""}


def corpus(emoji: Sequence[Emoji]) -> Iterator[tuple[str, int]]:
    """Every text of the training data, and how often it counts."""
    for language, words in PROMPTS.items():
        weight = WEIGHTS[language]
        fixed = (words.left, words.right, words.same, words.different, words.no_picture, *words.positions)
        asked = (text.format_map(_NOTHING) for texts in words.questions.values() for text in texts)
        for text in (*asked, *fixed, *words.ordinals, *words.languages.values(), *words.categories.values()):
            yield text, round(WORDING * weight)
        for one in emoji:
            yield one.names[language], round(NAME * weight)
            yield f" {one.names[language]}", round(LISTED_NAME * weight)
            for keyword in one.keywords[language]:
                yield keyword, round(KEYWORD * weight)


def tokens_per_name(tokenizer: Tokenizer, emoji: Sequence[Emoji]) -> dict[str, float]:
    """Mean number of tokens of an emoji's name, by language."""
    return {
        language: sum(len(tokenizer.encode(one.names[language])) for one in emoji) / len(emoji)
        for language in LANGUAGES
    }


def make(data: Path, into: Path, ranks: int = RANKS) -> Tokenizer:
    """Train on the emoji of the folder `data`, write the `tokenizer.model` `into`, and give the tokenizer back.

    Raises `InputError` where the data are not whole, where they are too few for `ranks`, and where the file cannot be written.
    """
    emoji = open_dataset(data).emoji
    tokenizer = Tokenizer(train(count_pieces(corpus(emoji)), ranks))
    tokenizer.save(into)
    return tokenizer


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: train, write, and print how many tokens a name takes in each language."""
    parser = argparse.ArgumentParser(prog="python -m llama4.train.tokenizer", description=make.__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="the folder built by llama4.train.emoji")
    parser.add_argument("--into", type=Path, required=True, help="the tokenizer.model to write")
    parser.add_argument("--ranks", type=int, default=RANKS, help="bytes and merges together")
    chosen = parser.parse_args(arguments)
    try:
        tokenizer = make(chosen.data, chosen.into, chosen.ranks)
        means = tokens_per_name(tokenizer, open_dataset(chosen.data).emoji)
    except InputError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    print(f"{chosen.into}: {chosen.ranks} ranks, vocabulary {tokenizer.vocab_size}")
    print("tokens a name: " + ", ".join(f"{language} {mean:.1f}" for language, mean in means.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
