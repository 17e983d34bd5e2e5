"""Every number of the training run, in one place, and the configuration of the model that it makes.

    4 layers of width 192, RoPE, RoPE, RoPE, NoPE: one period of iRoPE       three see a chunk, the last everything
    8 experts of 128 and a shared one in every layer, as Scout has them
    64 px tiles, 8 px patches: 64 patches, shuffled to 16 tokens a tile
    a chunk of 384 positions: a picture of 17 tiles takes 291, and a conversation about two crosses into the next chunk

Four stages. In the first the vision encoder alone learns which emoji a tile shows (see.py): a view costs a sixth of what it
costs with a conversation around it, and an encoder needs hundreds of thousands. Then the encoder rests. In the second the
decoder learns its first words, the English name of one picture (speak.py); in the third names in sixteen languages (names.py);
in the fourth all tasks (speak.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field

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


# One language first: 1000 steps of English brought the first token of a trained artist's names to 76 %, and 3000 steps of an
# earlier mixture of all languages to 20 %; it had sixteen times as many names to learn. English falls to a third when the other
# languages come and has to be learnt again with them: whether stage three does as well without stage two was not tried.
FIRST_WORDS = only("name_one", english=1.0, mean_turns=1)

# 1585 names in sixteen languages are 25,000 facts, and stage three says each some fifty times. Conversations of their own say 200
# a second, a tree 570 on quiet cores. After ten to twelve minutes either had about a fifth of the first tokens right. The tree
# was trained on, to two thirds; the conversations were not, and where they would have got to is not known.
#
# The rate was tried twice in stage three: at 0.015 the loss was 3.4 after 220 steps, at 0.006 it was 4.4. In conversations,
# begun from other weights, 0.02 was worse than 0.006. A guess, not tested: a batch must be large enough for what Muon's momentum
# remembers to hold a good part of the facts.
ALL_TASKS = {"name_one": 24, "name_many": 4, "left_right": 12, "same_different": 6, "nth": 10, "strip": 16, "frames": 4}


@dataclass(frozen=True)
class Recipe:
    """The whole run. Stage two draws from `first_words`, stage four from `mixture`.

    `questions`: about each picture of a tree, in as many languages. `..._at_last`: in stage four. `many_tiles`: the share of
    pictures of one emoji that are larger than a tile.
    """

    seed: int = 20250405  # the day Llama 4 was released
    see: Plan = Plan(steps=10_000, rows=64, muon_lr=0.01, adam_lr=1.5e-3)
    words: Plan = Plan(steps=1000, rows=64, tokens=2048, muon_lr=0.02, adam_lr=0.01, decay=0.3, evaluate_every=250)
    names: Plan = Plan(steps=5000, rows=32, tokens=8192, muon_lr=0.015, adam_lr=0.0075, decay=0.7, floor=0.2)
    speak: Plan = Plan(steps=2000, rows=48, tokens=4096, muon_lr=0.006, adam_lr=0.003, warmup=50, decay=0.9)
    smoothing: float = 0.1
    balance_weight: float = 0.01
    many_tiles: float = 0.03
    many_tiles_at_last: float = 0.1
    all_artists: bool = False  # learn from the artist to validate on as well
    augmentation: Augmentation = field(default_factory=Augmentation)
    first_words: Mixture = FIRST_WORDS
    questions: int = 8
    pictures_at_last: int = 16
    mixture: Mixture = field(default_factory=lambda: Mixture(**ALL_TASKS, english=0.3, mean_turns=2))

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
