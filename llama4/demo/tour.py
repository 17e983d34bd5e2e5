"""The tour: names in several languages, a strip, left or right, a large picture in tiles, the experts, the speed.

Which pictures are shown was fixed before there was a model to show them to. Whatever the model says is printed; a ✓ stands
behind an answer that equals the CLDR name (or names the right side), and the right answer behind any other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from llama4.demo.pictures import Shown, shown
from llama4.engine import decode, prefill
from llama4.errors import InputError
from llama4.evaluation.drawings import strip
from llama4.evaluation.routing import patch_experts
from llama4.evaluation.scoring import chosen, exact, listed
from llama4.evaluation.wordings import NAMING, SIDE, SIDES, STRIP
from llama4.generate import LLM, Images
from llama4.image import canvas
from llama4.train.emoji.dataset import LANGUAGES

NAMED = ("dog-face", "guitar", "rocket", "strawberry")
SPOKEN = ("en", "es", "de", "vi", "ru", "ar", "hi", "ja")
STRIP_OF = ("red-apple", "airplane", "cat-face")
PAIR = ("pizza", "bicycle")
LARGE = "sunflower"
ROUTED = "dog-face"
LARGE_SIDE = 2.5  # in tiles
SPEED_TOKENS = 128
MAX_NEW_TOKENS = 48
FIGURE = "llama4-demo.png"
Write = Callable[[str], object]


@dataclass(frozen=True)
class Answer:
    """What was asked, what the model said, what it should have said, and whether it did."""

    asked: str
    said: str
    expected: str
    right: bool


@dataclass(frozen=True)
class Tour:
    """All that was shown and said, for the figure. `named`: each picture with its answers by language."""

    parameters: int
    named: list[tuple[Shown, dict[str, Answer]]]
    strip: tuple[Image.Image, Answer]
    pair: tuple[list[Image.Image], Answer]
    large: tuple[Image.Image, Answer]
    routed: Image.Image
    experts: dict[int, torch.Tensor]


def check_folder(into: Path) -> None:
    """Raise InputError where a folder cannot be, before anything is loaded."""
    if into.exists() and not into.is_dir():
        raise InputError(f"{into} is a file where a folder was expected: name a folder for {FIGURE}.")


def run_command(llm: LLM, into: Path, write: Write | None = None) -> int:
    """Show everything, then draw it, where matplotlib is there to draw with."""
    say = write or (lambda text: print(text, end="", flush=True))
    if llm.config.vision is None:
        raise InputError("This model has no vision encoder, and the tour is about pictures: choose another.")
    tour = take(llm, say)
    from llama4.demo import figure

    if not figure.can_draw():
        say("\nFor the picture of this tour install matplotlib: pip install matplotlib.\n")
        return 0
    figure.draw(tour, llm.config.vision, into / FIGURE)
    say(f"\nThe tour as a picture: {into / FIGURE}\n")
    return 0


def take(llm: LLM, say: Write) -> Tour:
    """Every station, printed as it goes."""
    side = llm.config.vision.tile_side
    parameters = sum(weight.numel() for weight in llm.model.parameters())
    say(
        f"A Llama 4 of {parameters:,} parameters on {torch.get_num_threads()} threads looks at drawings of Twemoji's,\n"
    )
    say("an artist held out of the small model's training. ✓: exactly the name in Unicode's CLDR.\n")
    named = [(item, _name(llm, say, item)) for item in map(shown, NAMED)]

    items = [shown(name) for name in STRIP_OF]
    names = [item.names["en"] for item in items]
    wide = strip([item.picture.resize((side, side), Image.Resampling.LANCZOS) for item in items])
    say(f"\nThree drawings in one picture of {wide.width} x {wide.height} px. {STRIP}\n  ")
    row = _ask(llm, say, STRIP, [wide], ", ".join(names), lambda said: listed(said, names))

    first, second = (shown(name) for name in PAIR)
    text = SIDE.format(name=second.names["en"])
    say(f"\nTwo pictures, {first.names['en']} and {second.names['en']}. {text}\n  ")
    pictures = [first.picture, second.picture]
    which = _ask(llm, say, text, pictures, "right", lambda said: chosen(said, SIDES) == "right")

    item = shown(LARGE)
    large = item.picture.resize((round(LARGE_SIDE * side),) * 2, Image.Resampling.LANCZOS)
    rows, columns = canvas(large.width, large.height, side)
    tokens = (rows * columns + 1) * llm.config.vision.tokens_per_tile
    say(f"\nA picture of {large.width} x {large.height} px is cut into {rows} x {columns} tiles of {side} px, and the ")
    say(f"whole as one more: {tokens} patch tokens. {NAMING['en']}\n  ")
    big = _ask(llm, say, NAMING["en"], [large], item.names["en"])

    routed = shown(ROUTED)
    experts = patch_experts(llm, routed.picture)
    say(f"\nWhich of {llm.config.experts} experts takes which patch of the {routed.names['en']}, by MoE layer:\n")
    say(_grids(experts))
    _speed(llm, say, routed.picture)
    return Tour(parameters, named, (wide, row), (pictures, which), (large, big), routed.picture, experts)


def _name(llm: LLM, say: Write, item: Shown) -> dict[str, Answer]:
    """One picture in every language of the tour."""
    say(f"\nA picture ({item.names['en']}), and the question in {len(SPOKEN)} languages:\n")
    answers = {}
    for language in SPOKEN:
        say(f"  {LANGUAGES[language]:<11} {NAMING[language]}  ")
        answers[language] = _ask(llm, say, NAMING[language], [item.picture], item.names[language])
    return answers


def _ask(
    llm: LLM, say: Write, text: str, pictures: Images, expected: str, right: Callable[[str], bool] | None = None
) -> Answer:
    """Stream the answer, then say whether it is right: `expected` to the letter, or as `right` judges."""
    said = ""
    for piece in llm.stream(text, pictures, max_new_tokens=MAX_NEW_TOKENS):
        said += piece
        say(clean(piece))
    hit = right(said) if right else exact(said, expected)
    say("  ✓\n" if hit else f"  (right: {expected})\n")
    return Answer(text, clean(said).strip(), expected, hit)


def clean(text: str) -> str:
    """On one line, a list's lines with commas, and nothing that a terminal would obey: a model may say any bytes."""
    return "".join(letter if letter.isprintable() else " " for letter in text.replace("\n", ", "))


def _grids(experts: dict[int, torch.Tensor]) -> str:
    """The layers' grids side by side, an expert's number a patch."""
    width = max(2 * len(grid[0]) for grid in experts.values()) if experts else 0
    width = max(width, len("layer 10")) + 2
    lines = ["".join(f"layer {layer}".ljust(width) for layer in experts)]
    for rows in zip(*(grid.tolist() for grid in experts.values()), strict=True):
        lines.append("".join(" ".join(f"{expert:x}" for expert in row).ljust(width) for row in rows))
    return "".join(f"  {line.rstrip()}\n" for line in lines)


def _speed(llm: LLM, say: Write, picture: Image.Image) -> None:
    """Tokens a second, reading and writing, one row; the writing goes on past the end of the answer."""
    prompt = llm.encode(NAMING["en"], [picture])
    cache = llm.model.new_cache(1, len(prompt.ids) + SPEED_TOKENS)
    began = time.perf_counter()
    logits_BV = prefill(llm.model, cache, [prompt])
    read = time.perf_counter()
    count = sum(1 for _ in _endless(llm, cache, logits_BV))
    wrote = time.perf_counter()
    say(f"\nSpeed: {len(prompt.ids)} tokens read in {1000 * (read - began):.0f} ms, ")
    say(f"{count} written at {count / (wrote - read):.0f} tokens/s.\n")


def _endless(llm: LLM, cache: object, logits_BV: torch.Tensor) -> Iterator[list[int | None]]:
    return decode(llm.model, cache, logits_BV, SPEED_TOKENS, lambda row, logits_V: int(logits_V.argmax()))
