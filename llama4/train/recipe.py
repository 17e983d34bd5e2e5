"""Every number of the training run, in one place, and the configuration of the model that it makes.

    4 layers of width 192, RoPE, RoPE, RoPE, NoPE: one period of iRoPE       three see a chunk, the last everything
    8 experts of 128 and a shared one in every layer, as Scout has them
    64 px tiles, 8 px patches: 64 patches, shuffled to 16 tokens a tile
    a chunk of 384 positions: a picture of 17 tiles takes 291, and a conversation about two crosses into the next chunk

Sixteen stages, each called what it learns:

    see       the vision encoder alone learns which emoji a tile shows (see.py): a view costs a sixth of what it costs with a
              conversation around it, and an encoder needs hundreds of thousands
    words     the encoder rests, and the decoder learns its first words, the English name of one picture (speak.py)
    few       on eight emoji, to tell which of several pictures is meant, to list them, and on which side one is
    speak     all tasks in sixteen languages
    gather    the encoder learns to say the same of all views of an emoji (gather.py)
    rehearse  all tasks once more, behind the encoder that has gathered
    relate    the same with names to begin from: on which side a named picture is, and what a name is in another language
    together  the same and whether two are the same; the encoder learns along
    discern   the same with more sides: more pairs, asked about less often, and rather those that it missed
    broaden   the same with more single pictures, strips and pictures apart, asked about less often; artists by their shares
    vary      the same with more single pictures again, in shifting colours, by one artist more
    settle    the same by one artist more again, each picture in a language more
    scatter   the encoder rests; the decoder reads tokens that lie where another artist might have left them (scatter.py)
    follow    the same with more pictures, and later more strips of three; the encoder learns along
    again     the same once more, with as many strips from the start
    redraw    what `again` does, from where it began, and some of what is shown is redrawn part by part (emoji/redrawn.py)

`scatter` begins with the mean of the weights that the two before it have left, `follow` half-way from there to what `scatter`
leaves, `again` and `redraw` both half-way from that to what `follow` leaves, and what ships is the mean of what these last
three leave (averaging.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from llama4.config import Config, RopeScaling, Temperature, VisionConfig, irope_layers
from llama4.tokenizer import Tokenizer
from llama4.train.emoji.dataset import REDRAWN
from llama4.train.pictures import Augmentation
from llama4.train.tasks import Mixture, only

# In order.
STAGES = (
    *("see", "words", "few", "speak", "gather", "rehearse"),
    *("relate", "together", "discern", "broaden", "vary", "settle", "scatter", "follow", "again", "redraw"),
)


@dataclass(frozen=True)
class Plan:
    """One stage: how many steps of how many rows, and its learning rates, which rise, stay, and fall in a line.

    Rows are tiles in `see` and `gather`, else conversations; `few` has none, but trees.
    `tokens` is the most that a decoder's stage runs at once, padding included; a batch is cut into as many parts as that takes.
    `decay` is the share of the steps over which they fall, `floor` the share of the peak that they fall to.
    `encoder`: in a decoder's stage, the share of these rates at which the vision encoder learns along; at 0 it rests.
    """

    steps: int
    rows: int
    muon_lr: float
    adam_lr: float
    tokens: int = 0
    warmup: int = 100
    decay: float = 0.6
    floor: float = 0.0
    momentum: float = 0.95
    weight_decay: float = 0.05
    clip: float = 1.0
    encoder: float = 0.0
    evaluate_every: int = 500
    save_every: int = 250

    def rate(self, step: int) -> float:
        """The share of the peak learning rate at `step`: 1/warmup at step 0, `floor` at the end."""
        rising = min(1.0, (step + 1) / self.warmup)
        falling = min(1.0, (self.steps - step) / (self.steps * self.decay))
        return rising * (self.floor + (1 - self.floor) * falling)


@dataclass(frozen=True)
class Scene:
    """How the trunks of a tree are laid out, how often, and how many they are.

    "large": one emoji over `count` x `count` tiles and the whole once more. "row", "column": `count` emoji in one picture.
    "apart": `count` pictures. "side": two, and on which side is one of them. "same": two, and are they the same.
    `english`: the share of English among the questions about several. `few`: of a few emoji, see `Pool`, not of all.
    `stress`: how much a token of an answer weighs. `questions`: of each trunk, where not as many as the recipe says.
    """

    layout: Literal["large", "row", "column", "apart", "side", "same"]
    count: int
    weight: float
    trunks: int = 6
    english: float = 0.4
    few: bool = False
    stress: float = 1.0
    questions: int | None = None


@dataclass(frozen=True)
class Pool:
    """How many emoji are few: `first` in the stage `few` and when `speak` begins, then twice as many every `doubling` steps."""

    first: int
    doubling: int

    def size(self, step: int, emoji: int) -> int:
        """At `step` of `speak`, of `emoji` in all."""
        return min(emoji, int(self.first * 2.0 ** min(30.0, step / self.doubling)))


# One language first: 1000 steps of English brought the first token of a trained artist's names to 76 %, and 3000 steps of an
# earlier mixture of all languages to 20 %; it had sixteen times as many names to learn. English falls to a third when the other
# languages come and has to be learnt again with them; yet 300 steps of `speak` came further behind `words` than without it
# (a loss of 3.0, not 3.5).
FIRST_WORDS = only("name_one", english=1.0, mean_turns=1)

# Few emoji first. To list what a strip shows, or to say on which side the fox is, a decoder has to look from its place in a list,
# or from a name, at the right picture; and what it finds there are names that it does not know yet. Among 1585 emoji in sixteen
# languages it learnt to name one picture and neither of these: of three names of a strip the first was right 83 times in a
# hundred, the later ones 19; sides were guessed after 38,000 questions about all and nothing else, and after 60,000 about 24 of
# them among all other tasks. On eight, in English, with nothing else between, 300 steps teach all of it.
FEW = tuple(
    Scene(layout, count, weight, trunks=12, english=1.0, few=True)
    for layout, count, weight in (("row", 2, 1), ("row", 3, 1), ("apart", 2, 1), ("apart", 3, 1), ("side", 2, 3))
)

# 1585 names in sixteen languages are 25,000 facts. Conversations of their own say 200 a second, a tree 570 on quiet cores.
#
# An earlier recipe learnt names alone for 5000 steps, always behind one tile at one place, and all tasks after that for 2000: of
# strips and sides it learnt nothing. Begun where its names ended, with scenes and at a rate of 0.012, 200 steps brought what is
# right of the tokens behind a picture of ten tiles from 48 to 65 %, and took it from 90 to 73 % behind one tile. So all is
# learnt together, from the first step to the last.
#
# The rate was tried twice on names alone: at 0.015 the loss was 3.4 after 220 steps, at 0.006 it was 4.4. In conversations,
# begun from other weights, 0.02 was worse than 0.006. A guess, not tested: a batch must be large enough for what Muon's momentum
# remembers to hold a good part of the facts.
ALL_TASKS = {
    **{"name_one": 4, "name_many": 2, "left_right": 2, "same_different": 1, "nth": 2, "strip": 2, "frames": 1},
    **{"translate": 8, "keywords": 1.5, "category": 1.5, "no_picture": 2},
}

# Sides go from a name to a picture, where all else goes from a picture to a name, so they are asked only of names that are
# known well: of few at first.
SCENES = (
    *(Scene("large", 2, 3), Scene("large", 3, 3), Scene("large", 4, 2)),
    *(Scene("row", 2, 2), Scene("row", 3, 4), Scene("row", 4, 0.5), Scene("column", 2, 0.5), Scene("column", 3, 1)),
    *(Scene("apart", 2, 4), Scene("apart", 3, 3), Scene("side", 2, 8, trunks=12, english=0.8, few=True)),
)

# After 8600 steps sides of a trained artist were right 72 times in a hundred, and a name without its picture was never
# translated: both begin at a name, and nearly all else ends with one. A question about sides has one word to say, and a step has
# some 1800 tokens; four conversations hold one translation.
RELATED_SCENES = (
    *(Scene("large", 2, 3), Scene("large", 3, 3), Scene("large", 4, 3)),
    *(Scene("row", 2, 1), Scene("row", 3, 5), Scene("row", 4, 0.5), Scene("column", 2, 0.5), Scene("column", 3, 1)),
    *(Scene("apart", 2, 3), Scene("apart", 3, 3), Scene("side", 2, 13, trunks=12, english=0.85, stress=4.0)),
)

# `relate` lost "same or different", 70 of 100 before it and 55 after: of what a step asked about scenes one question was about
# sameness and 26 about sides. Now it is ten and 20, and the words of both weigh four times.
JOINT_SCENES = (
    *(Scene("large", 2, 3), Scene("large", 3, 3), Scene("large", 4, 4)),
    *(Scene("row", 2, 1), Scene("row", 3, 5), Scene("row", 4, 0.5), Scene("column", 2, 0.5), Scene("column", 3, 1)),
    *(Scene("apart", 2, 3), Scene("apart", 3, 3), Scene("side", 2, 11, trunks=12, english=0.85, stress=4.0)),
    Scene("same", 2, 5, trunks=24, english=0.7, stress=4.0, questions=3),
)
# Of 1585 English names, each asked four times on which side it is, of Noto's drawings, `together` left 63 in a hundred always
# right and 20 no more often than a guess; 76 % was right where a name has two tokens and 88 % where it has nine or more,
# which it shares with other names. 250 steps with sides as their only scene brought 83.4 % of these questions to 84.3 with 12
# pairs a step, each asked eight times, and to 86.2 with 36 pairs, each asked twice, in 1.27 and 1.57 s a step. So sides are
# now two scenes in five, of 36 pairs. To draw one of the two by what was missed added little in as many steps: 86.3 %, and of
# Fluent's drawings 87.1 instead of 86.4.
PAIRS = Scene("side", 2, 20, trunks=36, english=0.9, stress=4.0, questions=2)
DISCERNING_SCENES = tuple(PAIRS if scene.layout == "side" else scene for scene in JOINT_SCENES)
# What many pairs did for sides, more pictures do for names, strips and pictures apart: of Noto's strips of three `discern` left
# 77.5 % right and `broaden` 91, of three pictures the one asked for 85.5 and 95, and of fresh views of the artists 87.7 % and
# 93.5. Which of the changes here and in the shares below did how much was not measured. 48 pictures are named in four
# languages each, where 24 were in eight: a step has as many names, 48 of them English instead of 24, and 144 in the other
# languages instead of 168; the encoder has twice as many views. Strips of three and three pictures apart come more often, since
# of all that is asked they go wrong most often, and more in English, in which they are scored.
BROAD_SCENES = (
    *(Scene("large", 2, 3, trunks=12, questions=4), Scene("large", 3, 3), Scene("large", 4, 4)),
    *(Scene("row", 2, 1, trunks=20, english=0.7, questions=3), Scene("row", 3, 9, trunks=16, english=0.7, questions=3)),
    Scene("row", 4, 0.5, trunks=12, english=0.7, questions=3),
    *(Scene("column", 2, 0.5, trunks=20, questions=3), Scene("column", 3, 1, trunks=16, questions=3)),
    *(Scene("apart", 2, 3, trunks=24, questions=3), Scene("apart", 3, 5, trunks=16, english=0.6, questions=3)),
    *(PAIRS, Scene("same", 2, 4, trunks=24, english=0.7, stress=4.0, questions=3)),
)
# Lists of three seemed weak at their end. Of 200 threes of EmojiOne 1's drawings the weights half-way to `scatter` named the
# first, the second and the third in 70.5, 72.5 and 70.0 % alone, in 70.5, 72.5 and 65.5 in a strip, and in 71.5, 71.5 and 65.0 as
# frames of a video. So `follow` was stopped at step 635 and went on with these: more than half of the scenes have three emoji in
# a row or apart. 41 % are strips of three, where they were 17; of these a step has 24, where it had 16, each asked two questions
# instead of three, and more in English. But 200 are few. Of 200 other threes, counted when the stage had ended, those weights
# named 67.0, 69.0 and 66.0 % alone and 66.0, 67.0 and 68.5 in a strip. What ships names of all 400 threes 71.2, 69.5 and 71.8 %
# alone, and 72.0, 69.5 and 69.8 in a strip: a list is as good as its names.
LISTS = (
    Scene("row", 3, 36, trunks=24, english=0.8, questions=2),
    Scene("apart", 3, 12, trunks=20, english=0.8, questions=2),
)
LISTING_SCENES = (
    *LISTS,
    *(scene for scene in BROAD_SCENES if (scene.layout, scene.count) not in (("row", 3), ("apart", 3))),
)
# Who draws an emoji, of those who drew it. Of 300 fresh views of each artist `discern` misnamed in English
#     7 %   Fluent's in colour, and 7 in 3D
#    10 %   Fluent's flat ones, and Noto's 10
#    16 %   Fluent's in black and white, and FxEmojis' 16
#    20 %   EmojiOne's
# and Blob was not asked. Fluent's three with colours are one drawing in three manners, so each counts for half. Not everyone drew
# everything: of all 1585 emoji FxEmojis drew 858 and EmojiOne 1097. Of all views these shares make 17 % EmojiOne's, where equal
# ones made 9; FxEmojis' 10 of 7; the black and white 24 of 15; each of Fluent's with colours 8 of 15; and of Noto's and of Blob's
# as many as there were, 16 and 10. Streamline, from whom no stage before `vary` learns, drew 531 of them, 144 of these twice or
# more, and each drawing counts, most of them one in two or three skin colours: of these 531 one view in five is Streamline's, 7 %
# of all.
SHARES = {
    **{"fluent": 0.5, "fluent-3d": 0.5, "fluent-flat": 0.5, "fluent-high-contrast": 1.5},
    **{"emojione": 2.0, "fxemoji": 1.5, "noto": 1.0, "blob": 1.0, "streamline": 1.5},
}
# What is left is an artist whom nobody has shown. Before `vary` learnt from Streamline, it was one. Of 530 of its drawings, and
# of Noto's, the head of `gather` told apart, begun from the weights behind `broaden`, after 400 steps, one seed each,
#     50.6 %   and 95.1: as it was
#     49.1 %   and 93.9: random 3 x 3 filters over two views in five
#     52.6 %   and 94.1: a smooth field of colour over two views in five
# Two points are hardly more than their standard error, and that field lay on coloured grounds as well; here it is the drawing's
# alone. That 96 pictures in two languages, the encoder at the whole rate and Streamline help was not tried: they show more, and
# more that differs.
VARIED = Augmentation(tinged=0.4)
# `settle` learns from Noto as it was in 2017 as well, who drew 1273 of the emoji, most of them otherwise than today.
SETTLED_SHARES = {**SHARES, "noto-2017": 1.5}
# What is asked about is a drawing on white that fills its frame, and no stage before `scatter` showed any: turned, shrunk, bent
# and tinged they all were. The rule that told 79.7 % of EmojiOne 1's drawings apart when it knew the learnt artists' drawings as
# they are (Fisher's in scatter.py, Fluent's three with colours counted as one) told 76.1 % when it knew such views of them
# instead, and 78.9 when both; of OpenMoji's, 51.9, 51.8 and 53.6 %.
SCATTERED = replace(VARIED, untouched=0.5)
# `follow` counts Fluent's three with colours as one, as the rules of scatter.py do.
FOLLOWED_SHARES = {**SETTLED_SHARES, **dict.fromkeys(("fluent", "fluent-3d", "fluent-flat"), 1 / 3)}
# Of the 1585 emoji 411 were drawn by all seven artists whose drawings are redrawn, 490 by six, 247 by five and 372 by three; each
# drawing three times. By this share 38 views in a hundred are of what is redrawn, by emoji mostly 35 to 44.
REDRAWN_SHARES = {**FOLLOWED_SHARES, **dict.fromkeys(REDRAWN.values(), 0.3)}
TEXTS = {**dict.fromkeys(ALL_TASKS, 0.0), "translate": 10.0, "keywords": 1.0, "category": 1.0}


@dataclass(frozen=True)
class Recipe:
    """The whole run. `words` draws conversations from `first_words`; a step of `few` grows a tree of one of the
    `few_scenes`; `speak` draws from `mixture`, and a step of it grows two trees, one of `pictures` and one of the `scenes`.
    A trunk of a tree is asked `questions`; a picture is named in so many languages, English among them. From `relate` on the
    stages have scenes of their own, and a third tree, of `texts` conversations without a picture; `broaden` names
    `broad_pictures` in `broad_questions` languages each, and draws an artist of an emoji by the `shares`; `vary` names
    `varied_pictures` in `varied_questions` languages, and draws all as `varied` says; `settle` names `settled_pictures` in
    `settled_questions` languages, and draws artists by the `settled_shares`; `scatter` begins with the mean of what the stages
    `averaged` left, draws all as `scattered` says, leads the tokens of a share `astray` of the tiles astray, and leaves out up
    to the share `left_out` of them; `follow` does that too, names `followed_pictures` in `followed_questions` languages, draws
    artists by the `followed_shares`, and has `listing_scenes` from step `listing_from` on; `again` does that too, but has
    `listing_scenes` throughout, and so does `redraw`, by the `redrawn_shares`. What ships is the mean of what the stages
    `shipped` left.

    `memory`, `alike`: from `discern` on, of how many askings a running loss is, and what of the odds is alike for all, see
    missed.py.
    `pull`: what a loose view costs in `gather`. `many_tiles`: in conversations, the share of pictures of one emoji that are
    larger than a tile.
    """

    seed: int = 20250405  # the day Llama 4 was released
    see: Plan = Plan(steps=10_000, rows=64, muon_lr=0.01, adam_lr=1.5e-3)
    words: Plan = Plan(steps=1000, rows=64, tokens=2048, muon_lr=0.02, adam_lr=0.01, decay=0.3, evaluate_every=250)
    few: Plan = Plan(steps=300, rows=0, tokens=8192, muon_lr=0.007, adam_lr=0.0035, warmup=20, decay=0.2)
    speak: Plan = Plan(steps=5600, rows=4, tokens=8192, muon_lr=0.014, adam_lr=0.007, warmup=50, decay=0.85)
    gather: Plan = Plan(steps=2000, rows=64, muon_lr=0.005, adam_lr=7.5e-4, decay=0.9)
    rehearse: Plan = Plan(steps=3000, rows=4, tokens=8192, muon_lr=0.005, adam_lr=0.0025, warmup=50, decay=0.95)
    relate: Plan = Plan(steps=3200, rows=4, tokens=8192, muon_lr=0.005, adam_lr=0.0025, warmup=50, decay=0.95)
    together: Plan = Plan(
        steps=2500, rows=4, tokens=8192, muon_lr=0.004, adam_lr=0.002, warmup=50, decay=0.95, encoder=0.5
    )
    discern: Plan = Plan(
        steps=2200, rows=4, tokens=8192, muon_lr=0.004, adam_lr=0.002, warmup=50, decay=0.95, encoder=0.5
    )
    broaden: Plan = Plan(
        steps=2800, rows=4, tokens=8192, muon_lr=0.004, adam_lr=0.002, warmup=50, decay=0.95, encoder=0.5
    )
    vary: Plan = Plan(steps=2750, rows=4, tokens=8192, muon_lr=0.004, adam_lr=0.002, warmup=50, decay=0.95, encoder=1.0)
    settle: Plan = Plan(steps=2800, rows=4, tokens=8192, muon_lr=0.003, adam_lr=0.0015, warmup=50, encoder=1.0)
    scatter: Plan = Plan(steps=2600, rows=4, tokens=8192, muon_lr=0.003, adam_lr=0.0015, warmup=50, decay=0.95)
    follow: Plan = Plan(
        steps=1700, rows=4, tokens=8192, muon_lr=0.003, adam_lr=0.0015, warmup=50, decay=0.95, encoder=1.0
    )
    again: Plan = Plan(
        steps=1800, rows=4, tokens=8192, muon_lr=0.003, adam_lr=0.0015, warmup=50, decay=0.95, encoder=1.0
    )
    redraw: Plan = Plan(
        steps=1700, rows=4, tokens=8192, muon_lr=0.003, adam_lr=0.0015, warmup=50, decay=0.95, encoder=1.0
    )
    smoothing: float = 0.1
    pull: float = 2.0
    balance_weight: float = 0.01
    many_tiles: float = 0.03
    all_artists: bool = False  # learn from the artist to validate on as well
    augmentation: Augmentation = field(default_factory=Augmentation)
    first_words: Mixture = FIRST_WORDS
    questions: int = 8
    pictures: int = 24
    few_scenes: tuple[Scene, ...] = FEW
    scenes: tuple[Scene, ...] = SCENES
    pool: Pool = field(default_factory=lambda: Pool(first=8, doubling=350))
    mixture: Mixture = field(default_factory=lambda: Mixture(**ALL_TASKS, english=0.3, mean_turns=2))
    related_scenes: tuple[Scene, ...] = RELATED_SCENES
    joint_scenes: tuple[Scene, ...] = JOINT_SCENES
    discerning_scenes: tuple[Scene, ...] = DISCERNING_SCENES
    broad_scenes: tuple[Scene, ...] = BROAD_SCENES
    broad_pictures: int = 48
    broad_questions: int = 4
    varied: Augmentation = VARIED
    varied_pictures: int = 96
    varied_questions: int = 2
    shares: Mapping[str, float] = field(default_factory=lambda: dict(SHARES))
    settled_pictures: int = 72
    settled_questions: int = 3
    settled_shares: Mapping[str, float] = field(default_factory=lambda: dict(SETTLED_SHARES))
    averaged: tuple[str, ...] = ("vary", "settle")
    shipped: tuple[str, ...] = ("follow", "again", "redraw")
    scattered: Augmentation = SCATTERED
    astray: float = 0.8
    left_out: float = 0.5
    followed_pictures: int = 96
    followed_questions: int = 2
    listing_scenes: tuple[Scene, ...] = LISTING_SCENES
    listing_from: int = 635
    followed_shares: Mapping[str, float] = field(default_factory=lambda: dict(FOLLOWED_SHARES))
    redrawn_shares: Mapping[str, float] = field(default_factory=lambda: dict(REDRAWN_SHARES))
    memory: float = 3.0
    alike: float = 0.5
    texts: int = 48
    text_mixture: Mixture = field(default_factory=lambda: Mixture(**TEXTS, english=0.8, most_languages=2))

    def numbers(self, plan: str, *names: str) -> dict[str, str]:
        """What a stage depends on, as text: its plan, what all stages depend on, and `names`."""
        every = ("seed", "all_artists", "augmentation")
        own = {name: getattr(self, name) for name in (*every, *names)}
        return {name: repr(value) for name, value in (vars(getattr(self, plan)) | own).items()}


def small_config(tokenizer: Tokenizer) -> Config:
    """The model that ships in the package: 8 million parameters, 16 MB in bfloat16."""
    special = tokenizer.special_id
    return Config(
        vocab_size=tokenizer.vocab_size,
        width=192,
        layers=irope_layers(4, moe_every=1),
        heads=6,
        kv_heads=2,
        head_width=32,
        experts=8,
        expert_width=128,
        dense_width=256,
        chunk=384,
        qk_norm=True,
        rope_scaling=RopeScaling(),
        temperature=Temperature(),
        max_context=8192,
        vision=VisionConfig(
            tile_side=64, patch_side=8, width=192, layers=5, heads=3, mlp_width=768, shuffle=2, adapter_width=192
        ),
        patch_id=tokenizer.patch_id,
        image_start_id=special("<|image_start|>"),
        image_end_id=special("<|image_end|>"),
        bos_id=tokenizer.bos_id,
        stop_ids=tuple(tokenizer.stop_ids),
        pad_id=tokenizer.pad_id,
    )
