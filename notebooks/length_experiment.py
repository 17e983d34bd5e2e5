"""Length generalisation in the small: models trained on 64 tokens look for needles in up to 4096. Chapter 06 shows the results.

    python notebooks/length_experiment.py          # trains 18 models and tests them; writes data/length_experiment.json

The task is to recall. A key stands somewhere in a haystack of words with its value behind it; later the key comes again, and the
model must say the value:

    w w K3 v w w w w K1 u w … w K3 → v K1 → u

The models have two layers of width 64, built by the package and alike in everything but what `VARIANTS` says. The first layer
looks two pairs far (chunks of 4 tokens) and can tie a value to the key before it; the second sees everything and must find it.
Temperature is no part of the training. It is switched on afterwards, on the same weights, with the trained length as its floor.

Training, the same for all: lengths drawn from 32 to 64, 24 rows a step, Muon for the matrices and AdamW for embedding and
head, rates that fall linearly to 0. The loss is on the values of keys that came before, nowhere else. Every test has 8 needles
with different keys anywhere in the haystack and asks for all 8 in another order at the end. The rest of the haystack is words,
or, harder than anything in training, pairs of other keys. Rates and steps were chosen so that
the variant NoPE learns the trained lengths, by its loss on them, and serve all variants.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from llama4 import Config, Llama4
from llama4.config import LayerSpec, Temperature
from llama4.model import initialise
from llama4.train.optimiser import Muon

RESULTS = Path(__file__).resolve().parent / "data" / "length_experiment.json"
KEYS, WORDS, NEEDLES = 32, 32, 8  # ids 0 to 31 are keys, 32 to 63 are words; any word may be a value
TRAINED = 64  # tokens of the longest row in training
LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096)
HAYS = ("words", "pairs")  # what the haystack is made of
TEST_ROWS, TEST_SEED = 8, 1_000
ROWS, STEPS, MUON_RATE, ADAM_RATE = 24, 400, 0.015, 0.01
SCALES = (0.0, 0.1, 0.3)  # of the temperature; 0 is without, 0.1 is Llama 4's
NEAR_ROPE, FAR_ROPE = LayerSpec("rope", "chunk", "dense"), LayerSpec("rope", "all", "dense")
FAR_NOPE = LayerSpec("nope", "all", "dense")

# What is compared: the layers, theta, and how many seeds and steps. Without chunks a model learns the task more slowly.
VARIANTS: dict[str, tuple[tuple[LayerSpec, ...], float, int, int]] = {
    "NoPE": ((NEAR_ROPE, FAR_NOPE), 10_000.0, 5, STEPS),
    "RoPE, theta 10,000": ((NEAR_ROPE, FAR_ROPE), 10_000.0, 5, STEPS),
    "RoPE, theta 500,000": ((NEAR_ROPE, FAR_ROPE), 500_000.0, 5, STEPS),
    "RoPE, no chunks": ((FAR_ROPE, FAR_ROPE), 10_000.0, 3, 5 * STEPS),
}


def config(variant: str) -> Config:
    """The configuration of one variant, without temperature."""
    layers, theta, _, _ = VARIANTS[variant]
    return Config(
        vocab_size=KEYS + WORDS,
        width=64,
        layers=layers,
        heads=2,
        kv_heads=2,
        head_width=32,
        experts=0,
        expert_width=0,
        dense_width=64,
        chunk=4,
        qk_norm=False,  # heads this narrow could not be sharp with it: chapter 04
        rope_theta=theta,
    )


def training_rows(length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Ids int64 `[B, length]`, and where in them a value is due: bool `[B, length]`.

    Places of two tokens hold one of the row's 8 key-value pairs or two words; how often a pair, differs from row to row.
    """
    places = length // 2
    key_BN = torch.rand(ROWS, KEYS, generator=generator).argsort(1)[:, :NEEDLES]
    value_BN = KEYS + torch.randint(WORDS, (ROWS, NEEDLES), generator=generator)
    which_BN = torch.randint(NEEDLES, (ROWS, places), generator=generator)
    share_B1 = 0.2 + 0.8 * torch.rand(ROWS, 1, generator=generator)
    pair_BN = torch.rand(ROWS, places, generator=generator) < share_B1
    words = KEYS + torch.randint(WORDS, (ROWS, places, 2), generator=generator)
    pairs = torch.stack((key_BN.gather(1, which_BN), value_BN.gather(1, which_BN)), dim=-1)
    tokens_BS = torch.where(pair_BN[..., None], pairs, words).flatten(1)
    same = (which_BN[:, :, None] == which_BN[:, None, :]) & pair_BN[:, None, :]
    seen_BN = same.tril(-1).any(-1) & pair_BN
    due_BS = torch.stack((torch.zeros_like(seen_BN), seen_BN), dim=-1).flatten(1)
    return tokens_BS, due_BS


def test_rows(length: int, hay: str, rows: int = TEST_ROWS) -> Tensor:
    """Ids int64 `[rows, length]`: a haystack with 8 needles, and at the end 8 times a key with its value.

    hay: "words", or "pairs": the 24 keys that are not asked for, each time with another value, fill the haystack.
    """
    generator = torch.Generator().manual_seed(TEST_SEED + length)
    hay_length = length - 2 * NEEDLES
    tokens_BS = KEYS + torch.randint(WORDS, (rows, hay_length), generator=generator)
    shuffled_BN = torch.rand(rows, KEYS, generator=generator).argsort(1)
    key_BN = shuffled_BN[:, :NEEDLES]
    if hay == "pairs":
        which_BN = torch.randint(NEEDLES, KEYS, (rows, hay_length // 2), generator=generator)
        tokens_BS[:, ::2] = shuffled_BN.gather(1, which_BN)
    place_BN = 2 * torch.rand(rows, hay_length // 2, generator=generator).argsort(1)[:, :NEEDLES]
    tokens_BS.scatter_(1, place_BN, key_BN)
    value_BN = tokens_BS.gather(1, place_BN + 1)
    order_BN = torch.rand(rows, NEEDLES, generator=generator).argsort(1)
    asked = torch.stack((key_BN.gather(1, order_BN), value_BN.gather(1, order_BN)), dim=-1)
    return torch.cat((tokens_BS, asked.flatten(1)), dim=1)


def train(variant: str, seed: int, steps: int | None = None) -> tuple[Llama4, float]:
    """A trained model, and its mean loss over the last 20 steps. The seed draws weights and rows."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    steps = steps or VARIANTS[variant][3]
    model = Llama4(config(variant))
    initialise(model, model.config.width**-0.5)
    matrices = [weight for weight in model.decoder.layers.parameters() if weight.dim() == 2]
    tables = [model.decoder.embedding.weight, model.decoder.head.weight, *_norms(model)]
    optimisers = [
        Muon(matrices, lr=MUON_RATE, momentum=0.95, weight_decay=0.0),
        torch.optim.AdamW(tables, lr=ADAM_RATE, betas=(0.9, 0.99), weight_decay=0.0),
    ]
    losses = []
    for step in range(steps):
        for optimiser, rate in zip(optimisers, (MUON_RATE, ADAM_RATE), strict=True):
            optimiser.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 20) * (1 - step / steps)
        length = 2 * int(torch.randint(TRAINED // 4, TRAINED // 2 + 1, (), generator=generator))
        tokens_BS, due_BS = training_rows(length, generator)
        logits_BSV = model(tokens_BS[:, :-1])
        loss = F.cross_entropy(logits_BSV[due_BS[:, 1:]], tokens_BS[due_BS])
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
        losses.append(loss.item())
    return model.eval(), sum(losses[-20:]) / len(losses[-20:])


def with_temperature(model: Llama4, scale: float) -> Llama4:
    """The same weights, with a temperature whose floor is the trained length; scale 0 is without."""
    temperature = Temperature(floor=float(TRAINED), scale=scale) if scale else None
    other = Llama4(replace(model.config, temperature=temperature))
    other.load_state_dict(model.state_dict())
    return other.eval()


@torch.inference_mode()
def recalled(model: Llama4, length: int, hay: str, rows: int = TEST_ROWS) -> tuple[int, float]:
    """How many of `rows` x 8 values the model says exactly, 1 word of 32; and its mean loss on them, in nats."""
    tokens_BS = test_rows(length, hay, rows)
    due_BN = tokens_BS[:, -2 * NEEDLES + 1 :: 2]
    logits_BNV = torch.cat([model(row_1S)[:, -2 * NEEDLES :: 2] for row_1S in tokens_BS.split(1)])
    loss = F.cross_entropy(logits_BNV.flatten(0, 1), due_BN.flatten())
    return int((logits_BNV.argmax(-1) == due_BN).sum()), float(loss)


def run() -> dict:
    """Train and test everything, on one thread; a few minutes."""
    torch.set_num_threads(1)
    runs, seconds = [], 0.0
    for variant, (layers, _, seeds, steps) in VARIANTS.items():
        for seed in range(seeds):
            began = time.process_time()
            model, loss = train(variant, seed)
            seconds += time.process_time() - began
            for scale in SCALES if layers[-1] == FAR_NOPE else (0.0,):
                tested = with_temperature(model, scale)
                one = {"variant": variant, "seed": seed, "steps": steps, "trained_loss": round(loss, 4), "scale": scale}
                for hay in HAYS:
                    found = [recalled(tested, length, hay) for length in LENGTHS]
                    one[hay] = {"hits": [hits for hits, _ in found], "losses": [round(nats, 4) for _, nats in found]}
                runs.append(one)
                print(one, flush=True)
    return {
        "torch": torch.__version__,
        "trained_on": TRAINED,
        "lengths": LENGTHS,
        "answers": TEST_ROWS * NEEDLES,
        "training_cpu_seconds": round(seconds, 1),
        "runs": runs,
    }


def _norms(model: Llama4) -> list[Tensor]:
    return [weight for weight in model.decoder.parameters() if weight.dim() == 1]


if __name__ == "__main__":
    found = run()
    RESULTS.parent.mkdir(exist_ok=True)
    lines = ",\n".join("  " + json.dumps(one) for one in found.pop("runs"))
    RESULTS.write_text(json.dumps(found)[:-1] + ', "runs": [\n' + lines + "\n]}\n", encoding="utf-8")
