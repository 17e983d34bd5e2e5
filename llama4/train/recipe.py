"""Every number of the training run, in one place, and the configuration of the model that it makes.

    4 layers of width 192, RoPE, RoPE, RoPE, NoPE: one period of iRoPE       three see a chunk, the last everything
    8 experts of 128 and a shared one in every layer, as Scout has them
    64 px tiles, 8 px patches: 64 patches, shuffled to 16 tokens a tile
    a chunk of 384 positions: a picture of 17 tiles takes 291, and a conversation about two crosses into the next chunk

Three stages. In the first the vision encoder alone learns which emoji a tile shows (see.py): a view costs a sixth of what it
costs with a conversation around it, and an encoder needs hundreds of thousands. Then the encoder rests. In the second the
decoder learns its first words, the English name of one picture, and in the third sixteen languages and all tasks (speak.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from llama4.config import Config, RopeScaling, Temperature, VisionConfig, irope_layers
from llama4.tokenizer import Tokenizer
from llama4.train.pictures import Augmentation
from llama4.train.tasks import Mixture, only


@dataclass(frozen=True)
class Plan:
    """One stage: how many steps of how many rows, and its learning rates, which rise, stay, and fall in a line.

    `tokens` is the most that a decoder's stage runs at once, padding included; a batch is cut into as many parts as that takes.
    `decay` is the share of the steps over which they fall, `floor` the share of the peak that they fall to.
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
    evaluate_every: int = 500
    save_every: int = 250

    def rate(self, step: int) -> float:
        """The share of the peak learning rate at `step`: 1/warmup at step 0, `floor` at the end."""
        rising = min(1.0, (step + 1) / self.warmup)
        falling = min(1.0, (self.steps - step) / (self.steps * self.decay))
        return rising * (self.floor + (1 - self.floor) * falling)


@dataclass(frozen=True)
class Lesson:
    """What stage three is asked until `until`, a share of its steps."""

    until: float
    mixture: Mixture


# One language first: after 1000 steps of it 70 % of a trained artist's pictures had their exact English name, where 3000
# steps of all languages at once had taught what names look like and hardly what pictures show. What a picture shows is then
# known, and a second language took 2.5 times fewer pictures than the first.
#
# 1585 names in sixteen languages are 25,000 strings all the same, and each must be said some dozens of times: mostly to a
# picture of its own, since in a list it can be told from the one before. A name in one language now comes back after some 350
# steps, not 25, and at the rates of the first words it is forgotten by then: at three tenths of them the loss fell three times
# as fast (from 2.27 to 1.74 in 175 steps), at an eighth more slowly again. Hence two stages, and two plans.
FIRST_WORDS = only("name_one", english=1.0, mean_turns=1)
ALL_LANGUAGES = replace(only("name_one", english=0.15, mean_turns=1.5), name_one=0.75, name_many=0.15, translate=0.1)


@dataclass(frozen=True)
class Recipe:
    """The whole run. Stage two draws from `first_words`, stage three from its lessons and then from `mixture`."""

    seed: int = 20250405  # the day Llama 4 was released
    see: Plan = Plan(steps=10_000, rows=64, muon_lr=0.01, adam_lr=1.5e-3)
    words: Plan = Plan(steps=1000, rows=64, tokens=2048, muon_lr=0.02, adam_lr=0.01, decay=0.3, evaluate_every=250)
    speak: Plan = Plan(steps=8000, rows=64, tokens=2048, muon_lr=0.006, adam_lr=0.003)
    smoothing: float = 0.1
    balance_weight: float = 0.01
    many_tiles: float = 0.03
    all_artists: bool = False  # learn from the artist to validate on as well
    augmentation: Augmentation = field(default_factory=Augmentation)
    first_words: Mixture = FIRST_WORDS
    lessons: tuple[Lesson, ...] = (Lesson(0.6, ALL_LANGUAGES),)
    mixture: Mixture = field(default_factory=lambda: Mixture(name_one=40, name_many=15, english=0.2, mean_turns=2))

    def numbers(self, plan: str, *names: str) -> dict[str, str]:
        """What a stage depends on, as text: its plan, what all stages depend on, and `names`."""
        every = ("seed", "all_artists", "augmentation")
        own = {name: getattr(self, name) for name in (*every, *names)}
        return {name: repr(value) for name, value in (vars(getattr(self, plan)) | own).items()}

    def mixture_at(self, step: int) -> Mixture:
        """What batch `step` of stage three is drawn from."""
        for lesson in self.lessons:
            if step < lesson.until * self.speak.steps:
                return lesson.mixture
        return self.mixture


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
