"""Pins calibrated rounding: the moments that it counts, the order of its corrections, less error on the inputs it saw, the same
format; and the command that reads its prompts from a file."""

from __future__ import annotations

import json
import weakref
from itertools import chain
from pathlib import Path

import pytest
import torch
from small_models import drawn_model, random_tokens, small_config
from torch import Tensor

import llama4
from llama4.chat import Prompt
from llama4.cli import main
from llama4.config import Config
from llama4.errors import InputError
from llama4.generate import LLM
from llama4.layers import rms_norm
from llama4.model import Llama4
from llama4.quant import dequantise, pack, quantise
from llama4.quant.apply import packable
from llama4.quant.calibrated import DAMPING, calibrated, first_of, moment_bytes, pack_for, watched
from llama4.quant.int4 import LEAST, MOST, searched
from llama4.quant.prompts import answered, read_prompts


def small() -> Llama4:
    """Both kinds of layer, widths that groups divide."""
    return drawn_model(small_config(width=64, expert_width=32, dense_width=96, heads=4, head_width=16))


def prompts_of(*lengths: int) -> list[Prompt]:
    return [Prompt(random_tokens(1, length, seed=length)[0].tolist(), None) for length in lengths]


def moments(width: int, seed: int = 0) -> Tensor:
    """Of inputs that nearly agree with their neighbours, which is where correcting pays."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(400, width // 4, generator=generator).repeat_interleave(4, dim=1)
    x = common + 0.2 * torch.randn(400, width, generator=generator)
    return x.T @ x


def left_over(w: Tensor, packed: Tensor, h: Tensor) -> float:
    """tr((W - Ŵ) H (W - Ŵ)ᵀ)."""
    off = w.double() - packed.double()
    return float((off @ h.double() * off).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_without_correlations_it_rounds_plainly(dtype: torch.dtype) -> None:
    w = torch.randn(5, 96, generator=torch.Generator().manual_seed(1)).to(dtype)
    plain = pack(w, 32)
    for h in (torch.zeros(96, 96), 3 * torch.eye(96)):
        fitted = pack_for(w, h, 32)
        assert torch.equal(fitted.q, plain.q) and torch.equal(fitted.scale, plain.scale)


@pytest.mark.parametrize(("width", "group"), [(64, 64), (96, 32), (256, 128)])
def test_corrections_reach_every_later_column(width: int, group: int) -> None:
    """Column by column with the whole row corrected each time, by float64 and an inverse taken anew for what is left."""
    w, h = torch.randn(7, width, generator=torch.Generator().manual_seed(2)), moments(width)
    rows, damped = w.double().clone(), (h + DAMPING * h.diagonal().mean() * torch.eye(width)).double()
    expected = torch.empty_like(rows)
    for column in range(width):
        if column % group == 0:
            scale = searched(rows[:, None, column : column + group].float(), w.dtype)[:, 0].double()
        expected[:, column] = (rows[:, column] / scale).round().clamp(LEAST, MOST) * scale
        inverse = torch.linalg.inv(damped[column:, column:])
        off = (rows[:, column] - expected[:, column]) / inverse[0, 0]
        rows[:, column:] -= off[:, None] * inverse[0]
    found = dequantise(pack_for(w, h, group)).double()
    steps = scale.abs().max()
    assert (
        (found - expected).abs() > 0.5 * steps
    ).double().mean() < 0.01  # a tie that float32 rounds the other way moves others
    assert left_over(w, found, h) == pytest.approx(left_over(w, expected, h), rel=0.02)


def test_it_leaves_less_than_plain_rounding() -> None:
    for seed in range(3):
        w, h = torch.randn(16, 128, generator=torch.Generator().manual_seed(seed)), moments(128, seed)
        plain, fitted = (left_over(w, dequantise(packed), h) for packed in (pack(w, 32), pack_for(w, h, 32)))
        assert fitted < 0.6 * plain


@torch.no_grad()
def test_moments_are_of_what_each_layer_gets() -> None:
    """All prompts together, experts apart, scores on the input."""
    model, prompts = small(), prompts_of(9, 14)
    given: dict[str, list[Tensor]] = {}
    first, moe = model.decoder.layers[0], next(layer for layer in model.decoder.layers if hasattr(layer.ffn, "experts"))
    hook = moe.ffn.register_forward_pre_hook(lambda _, x: given.setdefault("moe", []).append(x[0].flatten(0, 1)))
    seen = watched(model, prompts, list(moment_bytes(model.config)))
    hook.remove()
    assert {name: h.nbytes for name, h in seen.items()} == moment_bytes(model.config)
    assert {first_of(name) for name in packable(model.config)} == set(seen)
    x_ND = torch.cat([model.decoder.embedding(torch.tensor(prompt.ids)) for prompt in prompts])
    x_ND = rms_norm(x_ND, model.config.norm_eps) * first.attention_norm.weight
    for name in "qkv":
        torch.testing.assert_close(
            seen[first_of(f"decoder.layers.0.attention.{name}.weight")], x_ND.T @ x_ND, rtol=1e-4, atol=1e-4
        )
    x_ND = torch.cat(given["moe"])
    expert_N, score_N = moe.ffn.route(x_ND)
    prefix = f"decoder.layers.{list(model.decoder.layers).index(moe)}.ffn.experts."
    for expert in range(model.config.experts):
        own = (x_ND * score_N[:, None])[expert_N == expert]
        gate, up = (own @ moe.ffn.experts.gate_up[expert]).chunk(2, dim=-1)
        hidden = torch.nn.functional.silu(gate) * up
        torch.testing.assert_close(seen[prefix + "gate_up"][expert], own.T @ own, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(seen[prefix + "down"][expert], hidden.T @ hidden, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_model_moves_less_on_what_it_was_calibrated_on() -> None:
    exact, prompts = small(), prompts_of(40, 60, 50)
    plain, fitted = quantise(small()), quantise(small(), pack=calibrated(small(), prompts))
    off = {"plain": 0.0, "fitted": 0.0}
    for prompt in prompts:
        tokens_BS = torch.tensor([prompt.ids])
        for name, model in (("plain", plain), ("fitted", fitted)):
            off[name] += float((model(tokens_BS) - exact(tokens_BS)).square().mean())
    assert off["fitted"] < 0.8 * off["plain"]


@torch.no_grad()
def test_little_memory_means_more_readings_and_the_same_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up and gate, q and k and v go together; a stretch is read once, and let go before the next is."""
    prompts, sizes, readings, held = prompts_of(9, 14), moment_bytes(small().config), [], []

    def counting(model: Llama4, given: list[Prompt], names: list[str]) -> dict[str, Tensor]:
        assert all(moment() is None for moment in held)
        readings.append(names)
        seen = watched(model, given, names)
        held[:] = [weakref.ref(moment) for moment in seen.values()]
        return seen

    monkeypatch.setattr("llama4.quant.calibrated.watched", counting)
    found = []
    for free in (None, 2 * max(sizes.values())):
        found.append(quantise(small(), pack=calibrated(small(), prompts, available=lambda _, free=free: free)))
    for name, tensor in found[0].state_dict().items():
        assert torch.equal(found[1].state_dict()[name], tensor), name
    assert readings[0] == list(sizes) and list(chain(*readings[1:])) == list(sizes) and len(readings) > 3
    with pytest.raises(InputError, match="Calibrating needs"):
        calibrated(small(), prompts, available=lambda _: 2 * max(sizes.values()) - 1)


def test_all_of_scout() -> None:
    """The 315 GB of the text."""
    assert round(sum(moment_bytes(Config.scout()).values()) / 1e9) == 315


def test_an_expert_that_no_token_reached_is_rounded_plainly() -> None:
    model = small()
    with torch.no_grad():
        for layer in model.decoder.layers:
            if hasattr(layer.ffn, "router"):
                layer.ffn.router.weight.zero_()  # all logits alike: the first expert takes every token
    fitted = quantise(model, pack=calibrated(model, prompts_of(20)))
    plain = quantise(small())
    moe = next(number for number, layer in enumerate(model.decoder.layers) if hasattr(layer.ffn, "router"))
    ours, theirs = (one.decoder.layers[moe].ffn.experts.down.packed.q for one in (fitted, plain))
    assert torch.equal(ours[1:], theirs[1:]) and not torch.equal(ours[0], theirs[0])


def test_what_cannot_be_calibrated_is_refused() -> None:
    with pytest.raises(InputError, match="at least one prompt"):
        calibrated(small(), [])
    with pytest.raises(InputError, match="in int4 already"):
        calibrated(quantise(small()), prompts_of(5))


def test_the_command_calibrates_on_a_file(tmp_path: Path) -> None:
    picture = Path(llama4.__file__).parent / "assets" / "pictures" / "dog-face.png"
    (tmp_path / "dog.png").write_bytes(picture.read_bytes())
    lines = [
        {"prompt": "What is this?", "images": ["dog.png"]},
        {"prompt": "Was ist das?", "images": ["dog.png"]},
        {"prompt": "Hi"},
    ]
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert main(["quantize", "tiny", "--into", str(tmp_path / "out"), "--prompts", str(file)]) == 0
    exact = llama4.load("tiny", device="cpu")
    prompts = answered(exact, read_prompts(exact, file))
    assert len(prompts) == 3 and exact.tokenizer.decode(prompts[0].ids).endswith("dog face")
    fitted = quantise(llama4.load("tiny", device="cpu").model, pack=calibrated(exact.model, prompts))
    found = llama4.load(tmp_path / "out", device="cpu").model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in fitted.state_dict().items())


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "is no JSON"),
        ("[]", "is not {"),
        ('{"prompt": 3}', "is not {"),
        ('{"prompt": "a", "images": "x.png"}', "is not {"),
        ('{"prompt": "a", "images": ["x.png"]}', "There is no image file"),
        (json.dumps({"prompt": "dog " * 20_000}), "tokens"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(
    line: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(f'{{"prompt": "a"}}\n{line}\n', encoding="utf-8")
    assert main(["quantize", "tiny", "--into", str(tmp_path / "out"), "--prompts", str(file)]) == 2
    said = capsys.readouterr().err
    assert "Line 2" in said and told in said and said.count("\n") == 1 and not (tmp_path / "out").exists()
    llm = llama4.load("tiny", device="cpu")
    assert isinstance(llm, LLM)
    with pytest.raises(InputError, match="no file of prompts"):
        read_prompts(llm, tmp_path / "none")
