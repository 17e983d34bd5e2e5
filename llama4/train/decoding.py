"""What the stages of the decoder share: its weights learn, and an answer's tokens are what is marked.

    loss = answers + b · balance        objective.py

The vision encoder stays as `see` or `gather` left it; the projection into the decoder and the decoder learn. A view costs
here a third of what it would with gradients through the encoder, and teaches the encoder six times less for its cost than it
did in `see`. With the learning rate that a new decoder needs, an encoder that learnt along lost a quarter of what it had. Only in
eight late stages does it learn along: in `together`, `discern` and `broaden` at half of rates that are already low, in `vary`,
`settle`, `follow`, `again` and `redraw` at the whole; in `scatter` it rests again.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from llama4.model import Llama4
from llama4.tokenizer import Tokenizer
from llama4.train import validate
from llama4.train.objective import Measured
from llama4.train.recipe import Plan, Recipe
from llama4.train.render import Renderer
from llama4.train.rows import Writer
from llama4.train.weights import Masters

VALIDATED = 100  # pictures a language, four times as many in English


class Decoding:
    """What the stages of the decoder share. `stream` keeps the batches of one apart from those of the others.

    `depends`: the recipe's numbers, aside from the stage's plan, that its batches and its loss follow from.
    """

    name: str
    stream: int
    depends: tuple[str, ...]

    def __init__(self, model: Llama4, tokenizer: Tokenizer, renderer: Renderer, recipe: Recipe) -> None:
        self.model, self.renderer, self.recipe = model, renderer, recipe
        self.plan: Plan = getattr(recipe, self.name)
        self.numbers = recipe.numbers(self.name, *self.depends)
        self.extra = nn.Module()
        model.vision.requires_grad_(self.plan.encoder > 0)
        self.masters = Masters(model)
        self.writer = Writer(tokenizer, model.config.vision.tokens_per_tile)
        self.pad_id = tokenizer.pad_id
        self.moe_layers = max(1, sum(spec.ffn == "moe" for spec in model.config.layers))

    def learn(self, measured: Measured, tokens: float, parts: int, weight: float = 1.0) -> dict[str, float]:
        """Add the gradient of one part to the bf16 weights'; returns its figures for the log.

        tokens: answer tokens of the whole step, each as often as it weighs. weight: of one of this part's.
        parts: of the step; their balances are averaged.
        """
        balance = measured.balance / self.moe_layers / parts
        (weight * measured.answers / tokens + self.recipe.balance_weight * balance).backward()
        return {
            "answers": float(measured.answers.detach()),
            "answer_tokens": measured.answer_tokens,
            "right_tokens": measured.right_tokens,
            **{f"busiest_{number}": share / parts for number, share in enumerate(measured.busiest)},
        }

    def summary(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Means over answer tokens and over steps."""
        steps, tokens = sums["steps"], sums["answer_tokens"]
        return {
            "answers": sums["answers"] / tokens,
            "right_tokens": sums["right_tokens"] / tokens,
            "norm": sums["norm"] / steps,
            **{name: sums[name] / steps for name in sums if name.startswith("busiest")},
        }

    def validate(self) -> dict[str, float]:
        """Exact names in every language, by the first artist to validate on."""
        return {
            f"{artist} {code}": share
            for artist in self.renderer.studio.validation
            for code, share in validate.table(
                self.model, self.renderer.studio.dataset, self.writer, artist, VALIDATED, self.pad_id
            ).items()
        }
