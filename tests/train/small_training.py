"""A training run that takes seconds: thirteen emoji with made-up drawings, a tokenizer of 600 ranks, a model of width 32.

A drawing is a pattern of 4 x 4 coloured squares, another one for each emoji, opaque but for a rim and one half-transparent
square; each artist changes the colours a little. Tiles are 16 px and become four tokens.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from task_emoji import DATASET, EMOJI, ENTRIES

from llama4.config import Config, RopeScaling, Temperature, VisionConfig, irope_layers
from llama4.model import Llama4
from llama4.tokenizer import Tokenizer
from llama4.train.bpe import count_pieces, train
from llama4.train.data import Batches
from llama4.train.decoding import Decoding
from llama4.train.emoji.dataset import LAST_ARTIST, LATE_ARTIST, REDRAWN, Artist, Dataset
from llama4.train.gather import Gather
from llama4.train.pictures import Augmentation
from llama4.train.recipe import Plan, Pool, Recipe, Scene
from llama4.train.render import Renderer, Studio
from llama4.train.rows import Writer
from llama4.train.scatter import Again, Follow, Redraw, Scatter
from llama4.train.see import See, WhichEmoji
from llama4.train.speak import Broaden, Discern, Few, Rehearse, Relate, Settle, Speak, Together, Vary, Words
from llama4.train.tasks import Mixture
from llama4.train.weights import draw

TILE = 16
# Whose pictures there are: two that all stages learn from, two that the late ones do, two redrawn, one to validate on.
DRAWN = ("noto", "fluent", LATE_ARTIST, LAST_ARTIST, REDRAWN["noto"], REDRAWN[LATE_ARTIST], "blob")
VISION = VisionConfig(
    tile_side=TILE, patch_side=4, width=32, layers=2, heads=2, mlp_width=128, shuffle=2, adapter_width=24
)
NONE = Augmentation(
    **{"turn": 0, "smallest": 1, "largest": 1, "stretch": 0, "shear": 0, "shift": 0, "warp": 0, "hue": 0},
    **{"saturation": 0, "contrast": 0, "brightness": 0, "grey": 0, "coloured_ground": 0, "soften": 0, "noise": 0},
    rubbed_out=0,
)
SHORT = Plan(steps=6, rows=5, tokens=400, muon_lr=0.02, adam_lr=1e-3, warmup=2, evaluate_every=4, save_every=2)
RECIPE = Recipe(
    seed=7,
    **{"see": SHORT, "words": SHORT, "few": SHORT, "speak": SHORT, "gather": SHORT, "rehearse": SHORT},
    relate=SHORT,
    together=replace(SHORT, encoder=0.5),
    discern=replace(SHORT, encoder=0.5),
    broaden=replace(SHORT, encoder=0.5),
    vary=replace(SHORT, encoder=1.0),
    settle=replace(SHORT, encoder=1.0),
    scatter=SHORT,
    follow=replace(SHORT, encoder=1.0),
    again=replace(SHORT, encoder=1.0),
    redraw=replace(SHORT, encoder=1.0),
    **{"questions": 3, "pictures": 2, "many_tiles": 0.2, "texts": 4},
    few_scenes=tuple(Scene(layout, 2, 1, trunks=2, english=1.0, few=True) for layout in ("row", "apart", "side")),
    scenes=tuple(Scene(layout, 2, 1, trunks=2) for layout in ("large", "row", "apart", "side")),  # what fits its chunk
    related_scenes=(Scene("side", 2, 1, trunks=2, stress=3.0), Scene("apart", 2, 1, trunks=2)),
    joint_scenes=(Scene("same", 2, 1, trunks=2, stress=2.0, questions=2), Scene("row", 2, 1, trunks=2, english=1.0)),
    discerning_scenes=(Scene("side", 2, 1, trunks=2, english=1.0, stress=2.0, questions=2),),
    broad_scenes=(Scene("side", 2, 1, trunks=3, english=1.0, questions=2),),
    **{"broad_pictures": 4, "broad_questions": 2, "varied_pictures": 6, "varied_questions": 2},
    **{"settled_pictures": 5, "settled_questions": 3, "followed_pictures": 7, "followed_questions": 2},
    **{"listing_scenes": (Scene("row", 2, 1, trunks=2, english=1.0),), "listing_from": 3},
    text_mixture=replace(Recipe().text_mixture, english=1.0),  # what fits its chunk, too
    pool=Pool(first=4, doubling=2),
)


@cache
def small_tokenizer() -> Tokenizer:
    """Trained on the names; 344 merges."""
    return Tokenizer(train(count_pieces((name, 1) for one in EMOJI for name in one.names.values()), 600))


def small_config(tokenizer: Tokenizer) -> Config:
    """Four layers: RoPE dense, RoPE MoE, RoPE dense, NoPE MoE; a chunk that conversations cross."""
    return Config(
        vocab_size=tokenizer.vocab_size,
        width=32,
        layers=irope_layers(4, moe_every=2),
        heads=4,
        kv_heads=2,
        head_width=8,
        experts=4,
        expert_width=24,
        dense_width=40,
        chunk=128,
        qk_norm=True,
        rope_scaling=RopeScaling(),
        temperature=Temperature(),
        max_context=2000,
        vision=VISION,
        patch_id=tokenizer.patch_id,
        image_start_id=tokenizer.special_id("<|image_start|>"),
        image_end_id=tokenizer.special_id("<|image_end|>"),
        bos_id=tokenizer.bos_id,
        stop_ids=tuple(tokenizer.stop_ids),
        pad_id=tokenizer.pad_id,
    )


def small_model(seed: int = 3, dtype: torch.dtype = torch.float32) -> Llama4:
    """Drawn as the training draws it."""
    model = Llama4(small_config(small_tokenizer()))
    draw(model, seed)
    return model.to(dtype)


def drawings(style: int, side: int = 2 * TILE) -> np.ndarray:
    """uint8 `[13, side, side, 4]`: what the artist of a style draws."""
    pattern = np.random.default_rng(5).integers(0, 256, (len(EMOJI), 4, 4, 4))
    tint = np.random.default_rng((6, style)).integers(-25, 26, (len(EMOJI), 1, 1, 4))
    squares = (pattern + tint).clip(0, 255).astype(np.uint8)
    squares[..., 3] = 255
    squares[:, 1, 2, 3] = 128
    pictures = squares.repeat(side // 4, axis=1).repeat(side // 4, axis=2)
    rim = side // 16
    pictures[:, :rim], pictures[:, -rim:], pictures[:, :, :rim], pictures[:, :, -rim:] = 0, 0, 0, 0
    return pictures


def dataset(*artists: str) -> Dataset:
    """All draw everything; the last one in reverse order."""
    index = np.arange(len(EMOJI))
    drawn = {name: Artist(name, drawings(style), index) for style, name in enumerate(artists)}
    last = artists[-1]
    drawn[last] = Artist(last, drawn[last].pixels[::-1].copy(), index[::-1].copy())
    return Dataset(DATASET.emoji, drawn)


def studio(how: Augmentation = NONE, many_tiles: float = 0.0, data: Dataset | None = None) -> Studio:
    """Learns from noto and fluent, at last from streamline, noto-2017 and what is redrawn too; validates on blob."""
    data = data or dataset(*DRAWN)
    return Studio(data, ("noto", "fluent"), ("blob",), VISION, how, many_tiles)


def batches(renderer: Renderer, rows: int, tokens: int, seed: int = 7, mixture: Mixture | None = None) -> Batches:
    """Batches of the small tokenizer."""
    tokenizer = small_tokenizer()
    writer = Writer(tokenizer, VISION.tokens_per_tile)
    return Batches(renderer, writer, mixture or Mixture(), rows, tokens, tokenizer.pad_id, (seed, 2))


def see_stage(recipe: Recipe = RECIPE, renderer: Renderer | None = None) -> See:
    """`see` from its first weights, as `pretrain.run` begins it."""
    renderer = renderer or Renderer(studio(recipe.augmentation, recipe.many_tiles))
    model = small_model(recipe.seed, torch.bfloat16)
    torch.manual_seed(recipe.seed)
    return See(model, WhichEmoji(VISION.adapter_width, len(EMOJI)), renderer.studio.dataset, renderer, recipe)


def gather_stage(recipe: Recipe = RECIPE, after: See | None = None) -> Gather:
    """`gather`, straight after the first weights, or from a copy of what the given `see` has learnt."""
    model, renderer = small_model(recipe.seed, torch.bfloat16), Renderer(studio(recipe.augmentation))
    if after is not None:
        model.load_state_dict(after.model.state_dict())
    return Gather(model, renderer.studio.dataset, renderer, recipe)


def speak_stage(recipe: Recipe = RECIPE) -> Speak:
    """`speak`, straight after `see`."""
    after = see_stage(recipe)
    return Speak(after.model, small_tokenizer(), after.renderer, recipe)


def rehearse_stage(recipe: Recipe = RECIPE) -> Rehearse:
    """`rehearse`, straight after `see`."""
    after = see_stage(recipe)
    return Rehearse(after.model, small_tokenizer(), after.renderer, recipe)


def relate_stage(recipe: Recipe = RECIPE) -> Relate:
    """`relate`, straight after `see`."""
    after = see_stage(recipe)
    return Relate(after.model, small_tokenizer(), after.renderer, recipe)


def together_stage(recipe: Recipe = RECIPE) -> Together:
    """`together`, straight after `see`."""
    after = see_stage(recipe)
    return Together(after.model, small_tokenizer(), after.renderer, recipe)


def discern_stage(recipe: Recipe = RECIPE) -> Discern:
    """`discern`, straight after `see`."""
    after = see_stage(recipe)
    return Discern(after.model, small_tokenizer(), after.renderer, recipe)


def broaden_stage(recipe: Recipe = RECIPE) -> Broaden:
    """`broaden`, straight after `see`."""
    after = see_stage(recipe)
    return Broaden(after.model, small_tokenizer(), after.renderer, recipe)


def vary_stage(recipe: Recipe = RECIPE) -> Vary:
    """`vary`, straight after `see`."""
    after = see_stage(recipe)
    return Vary(after.model, small_tokenizer(), after.renderer, recipe)


def settle_stage(recipe: Recipe = RECIPE) -> Settle:
    """`settle`, straight after `see`."""
    after = see_stage(recipe)
    return Settle(after.model, small_tokenizer(), after.renderer, recipe)


def scatter_stage(recipe: Recipe = RECIPE) -> Scatter:
    """`scatter`, straight after `see`."""
    after = see_stage(recipe)
    return Scatter(after.model, small_tokenizer(), after.renderer, recipe)


def follow_stage(recipe: Recipe = RECIPE) -> Follow:
    """`follow`, straight after `see`."""
    after = see_stage(recipe)
    return Follow(after.model, small_tokenizer(), after.renderer, recipe)


def again_stage(recipe: Recipe = RECIPE) -> Again:
    """`again`, straight after `see`."""
    after = see_stage(recipe)
    return Again(after.model, small_tokenizer(), after.renderer, recipe)


def redraw_stage(recipe: Recipe = RECIPE) -> Redraw:
    """`redraw`, straight after `see`."""
    after = see_stage(recipe)
    return Redraw(after.model, small_tokenizer(), after.renderer, recipe)


def few_stage(recipe: Recipe = RECIPE) -> Few:
    """`few`, straight after `see`."""
    after = see_stage(recipe)
    return Few(after.model, small_tokenizer(), after.renderer, recipe)


def words_stage(recipe: Recipe = RECIPE, after: See | None = None) -> Words:
    """`words`, after the given `see`."""
    after = after or see_stage(recipe)
    return Words(after.model, small_tokenizer(), after.renderer, recipe)


def gradients_of(stage: Decoding) -> dict[str, torch.Tensor]:
    """Of the fp32 weights, where there are any."""
    return {name: weight.grad for name, weight in stage.masters.weights.items() if weight.grad is not None}


def assert_near(ours: dict[str, torch.Tensor], plain: dict[str, torch.Tensor]) -> None:
    """float32 sums in another order, through six layers."""
    assert set(ours) == set(plain)
    for name, expected in plain.items():
        assert (ours[name] - expected).abs().max() <= 5e-5 * max(1e-3, float(expected.abs().max())), name


def write_folder(folder: Path, artists: tuple[str, ...]) -> Path:
    """The made-up data as the build command leaves real data."""
    folder.mkdir(parents=True)
    (folder / "emoji.json").write_text(json.dumps(ENTRIES), encoding="utf-8")
    for name, artist in dataset(*artists).artists.items():
        (folder / name).mkdir()
        np.save(folder / name / "pixels.npy", artist.pixels)
        np.save(folder / name / "index.npy", artist.index.astype(np.int64))
    return folder
