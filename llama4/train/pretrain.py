"""Train the small model, from data to checkpoint:

    python -m llama4.train.emoji                       data/emoji     (three minutes, and a network)
    python -m llama4.train.pretrain                    runs/tiny      (sixteen and a half hours on two CPU cores)

    tokenizer  byte pairs of the names, keywords and questions                RUN/tokenizer.model
    see        the vision encoder learns which emoji a tile shows             RUN/see.pt
    words      the decoder learns its first words: English names              RUN/words.pt
    few        it learns to look, on eight emoji: lists, sides                RUN/few.pt
    speak      it learns all tasks in sixteen languages                       RUN/speak.pt
    gather     the encoder learns to say the same of all views of an emoji    RUN/gather.pt
    rehearse   the decoder learns all tasks once more                         RUN/rehearse.pt
    relate     the same, with more that begins at a name                      RUN/relate.pt
    together   the same and whether two are the same; the encoder too         RUN/together.pt
    discern    the same; more sides, rather what it missed                    RUN/discern.pt
    broaden    the same; more pictures, each asked about less often           RUN/broaden.pt
    vary       the same; more pictures again, in shifting colours             RUN/vary.pt
    settle     the same by one artist more, each in one language more         RUN/settle.pt
    scatter    from the mean of what those two left: tokens led astray        RUN/scatter.pt
    half-way   from that mean to what `scatter` left
    follow     from there: the same; the encoder too; then more strips        RUN/follow.pt
    half-way   from where it began to what `follow` left
    again      from there: the same, with as many strips from the start       RUN/again.pt
    redraw     from there too: the same; drawings redrawn part by part        RUN/redraw.pt
    mean       of what `follow`, `again` and `redraw` left
    export     Hugging Face's layout, bf16                                    RUN/model

`--until speak` exports what the fourth stage leaves, after two hours and a quarter, to RUN/model-speak; without it the same
command goes on from there. (So does `--until` any other stage: not what lies half-way.)
Ctrl-C ends the step that runs and saves; the same command goes on where the run stopped, bit for bit. It ends sooner or later
with the same weights, as long as torch is the same, on the same kind of processor, with as many threads.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from llama4.checkpoint import save_hf
from llama4.errors import InputError
from llama4.model import Llama4
from llama4.tokenizer import Tokenizer
from llama4.train import tokenizer as tokenizer_training
from llama4.train.averaging import average, halfway
from llama4.train.emoji.dataset import (
    DEFAULT_FOLDER,
    LEARNT_ARTISTS,
    REDRAWN,
    TRAIN_ARTISTS,
    VALIDATION_ARTIST,
    open_dataset,
)
from llama4.train.gather import Gather
from llama4.train.loop import Stage, train
from llama4.train.memory import keep_freed_memory, keep_kernels
from llama4.train.recipe import STAGES, Recipe, small_config
from llama4.train.render import Renderer, Studio
from llama4.train.scatter import Again, Follow, Redraw, Scatter
from llama4.train.see import See, WhichEmoji
from llama4.train.speak import Broaden, Discern, Few, Rehearse, Relate, Settle, Speak, Together, Vary, Words
from llama4.train.weights import draw

DEFAULT_RUN = Path("runs/tiny")


def run(recipe: Recipe, data: Path, folder: Path, until: str = STAGES[-1]) -> Path | None:
    """Train as the recipe says, up to the end of stage `until`; returns the checkpoint's folder, None when stopped before.

    It is `model`, or `model-speak` where `until` is `speak`: what an earlier stage leaves does not replace what the last one did.
    """
    dataset = open_dataset(data, need=(*LEARNT_ARTISTS, *REDRAWN.values()))
    tokenizer = make_tokenizer(data, folder / "tokenizer.model")
    model = Llama4(small_config(tokenizer))
    draw(model, recipe.seed)
    model.to(torch.bfloat16)
    torch.manual_seed(recipe.seed)
    which = WhichEmoji(model.config.vision.adapter_width, len(dataset.emoji))
    artists = (*TRAIN_ARTISTS, *([VALIDATION_ARTIST] if recipe.all_artists else []))
    validation = () if recipe.all_artists else (VALIDATION_ARTIST,)
    studio = Studio(dataset, artists, validation, model.config.vision, recipe.augmentation, recipe.many_tiles)
    renderer = Renderer(studio)
    stages: tuple[Callable[[], Stage], ...] = (
        lambda: See(model, which, dataset, renderer, recipe),
        lambda: Words(model, tokenizer, renderer, recipe),
        lambda: Few(model, tokenizer, renderer, recipe),
        lambda: Speak(model, tokenizer, renderer, recipe),
        lambda: Gather(model, dataset, renderer, recipe),
        lambda: Rehearse(model, tokenizer, renderer, recipe),
        lambda: Relate(model, tokenizer, renderer, recipe),
        lambda: Together(model, tokenizer, renderer, recipe),
        lambda: Discern(model, tokenizer, renderer, recipe),
        lambda: Broaden(model, tokenizer, renderer, recipe),
        lambda: Vary(model, tokenizer, renderer, recipe),
        lambda: Settle(model, tokenizer, renderer, recipe),
        lambda: Scatter(average(model, folder, recipe.averaged), tokenizer, renderer, recipe),
        lambda: Follow(between(model, folder, recipe, "scatter"), tokenizer, renderer, recipe),
        lambda: Again(between(model, folder, recipe, "scatter", "follow"), tokenizer, renderer, recipe),
        lambda: Redraw(between(model, folder, recipe, "scatter", "follow"), tokenizer, renderer, recipe),
    )
    # Made one after the other: a stage begins with the weights that the one before left, the last four between such.
    for name, make in zip(STAGES, stages, strict=True):
        if not train(make(), folder):
            return None
        if name == until:
            break
    if until == STAGES[-1]:
        average(model, folder, recipe.shipped)
    return export(model, tokenizer, folder / ("model" if until == STAGES[-1] else f"model-{until}"))


def between(model: Llama4, folder: Path, recipe: Recipe, *stages: str) -> Llama4:
    """From the mean that `scatter` began with, half-way to what each of these stages left, one after the other."""
    average(model, folder, recipe.averaged)
    for stage in stages:
        halfway(model, folder, stage)
    return model


def make_tokenizer(data: Path, path: Path) -> Tokenizer:
    """Train the tokenizer, or read the one that this run began with."""
    if not path.exists():
        tokenizer_training.make(data, path)
    return Tokenizer.from_file(path)


def export(model: Llama4, tokenizer: Tokenizer, folder: Path) -> Path:
    """Write the model and its tokenizer in Hugging Face's layout."""
    save_hf(model, folder)
    tokenizer.save(folder / "tokenizer.model")
    return folder


def main(arguments: list[str] | None = None) -> int:
    """The command. Exit code 2 for input that cannot be used, 130 when stopped before the end."""
    parser = argparse.ArgumentParser(prog="python -m llama4.train.pretrain", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="what llama4.train.emoji built")
    parser.add_argument("--into", type=Path, default=DEFAULT_RUN, help="the run's folder")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (as many as torch chooses)")
    parser.add_argument(
        "--until",
        choices=STAGES,
        default=STAGES[-1],
        help="the last stage to run, exported to INTO/model-STAGE (redraw, to INTO/model)",
    )
    parser.add_argument("--all-artists", action="store_true", help="learn from the validation artist too: the last run")
    chosen = parser.parse_args(arguments)
    keep_freed_memory()
    keep_kernels()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    try:
        recipe = replace(Recipe(), all_artists=chosen.all_artists)
        finished = run(recipe, chosen.data, chosen.into, chosen.until)
    except InputError as error:
        print(f"pretrain: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # outside the loop, or a second Ctrl-C: what was saved last stays
        finished = None
    if finished is None:
        print(f"Stopped; the state is in {chosen.into}. The same command goes on from there.", file=sys.stderr)
        return 130
    print(finished)
    return 0


if __name__ == "__main__":
    sys.exit(main())
