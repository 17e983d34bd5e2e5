"""The model as a whole: what it refuses and how it says so, its parameter counts at the released sizes, what its state holds,
that it copies, pickles, runs in bfloat16 and learns. Logits against the references: tests/parity/."""

from __future__ import annotations

import copy
import dataclasses
import io

import pytest
import torch
import torch.nn.functional as F
from small_models import NOPE_DENSE, ROPE_DENSE, VISION, assert_close, drawn_model, random_tokens, small_config
from torch import Tensor

from llama4 import Config, Llama4
from llama4.errors import InputError

PATCH = 60


def parameters(module: torch.nn.Module) -> int:
    """How many numbers a module's parameters hold."""
    return sum(parameter.numel() for parameter in module.parameters())


def active_text(model: Llama4) -> int:
    """Parameters that one token of text meets, embeddings included: one routed expert a MoE layer, no vision."""
    experts = [layer.ffn.experts for layer in model.decoder.layers if hasattr(layer.ffn, "experts")]
    idle = sum(parameters(e) // e.down.shape[0] * (e.down.shape[0] - 1) for e in experts)
    return parameters(model.decoder) - idle


def on_meta(config: Config) -> Llama4:
    """Shapes only."""
    with torch.device("meta"):
        return Llama4(config)


@pytest.mark.parametrize(
    ("name", "total", "active"), [("scout", 108_641_793_536, "17.17"), ("maverick", 401_583_781_376, "17.18")]
)
def test_counts_of_the_released_models(name: str, total: int, active: str) -> None:
    model = on_meta(getattr(Config, name)())
    assert parameters(model) == total
    assert (parameters(model.vision), parameters(model.fusion)) == (850_960_896, 20_971_520)
    assert f"{active_text(model) / 1e9:.2f}" == active


def test_behemoth_meets_the_published_counts_within_three_percent() -> None:
    model = on_meta(Config.behemoth())
    assert model.config.experts == 16
    assert active_text(model) == pytest.approx(288e9, rel=0.03)
    assert parameters(model) == pytest.approx(2e12, rel=0.03)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.tensor([[3, 61]]), "Token id 61 lies outside the vocabulary of 61"),
        (torch.tensor([[3, -1]]), "Token id -1 lies outside the vocabulary of 61"),
        (torch.tensor([3, 4]), r"torch.int64 tensor of shape \[2\]"),
        (torch.zeros(1, 2), "torch.float32 tensor"),
        (torch.zeros(1, 2, dtype=torch.bool), "torch.bool tensor"),
        (torch.zeros(1, 0, dtype=torch.int64), r"shape \[1, 0\]"),
        (torch.zeros(0, 3, dtype=torch.int64), r"shape \[0, 3\]"),
    ],
)
def test_tokens_that_cannot_be(tokens: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        drawn_model(small_config())(tokens)


@pytest.mark.parametrize(
    "lengths", [[1], [1, 2, 3], [1, 5], [-1, 2], [[1, 2], [1, 2]], [1.0, 2.0], [True, True]], ids=str
)
def test_lengths_that_cannot_be(lengths: list) -> None:
    with pytest.raises(InputError, match="pass one whole length from 0 to 4 for each of 2 rows"):
        drawn_model(small_config())(random_tokens(2, 4), lengths_B=torch.tensor(lengths))


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(1, 3, 12, 11),
        torch.zeros(3, 12, 12),
        torch.zeros(1, 1, 12, 12),
        torch.zeros(1, 3, 12, 12, dtype=torch.uint8),
    ],
    ids=lambda t: f"{t.dtype} {list(t.shape)}",
)
def test_images_that_cannot_be(images: Tensor) -> None:
    tokens_BS = torch.full((1, 4), PATCH)
    with pytest.raises(InputError, match=r"pass float tiles \[tiles, 3, 12, 12\]"):
        drawn_model(small_config(vision=True))(tokens_BS, images=images)


@pytest.mark.parametrize("filler", [-100, 61, PATCH])
def test_what_padding_holds_is_nobodys_business(filler: int) -> None:
    model, tokens_BS = drawn_model(small_config(vision=True)), random_tokens(2, 6) % PATCH
    wanted = model(tokens_BS[:1, :3])
    tokens_BS[0, 3:] = filler
    assert_close(model(tokens_BS, lengths_B=torch.tensor([3, 6]))[:1, :3], wanted, "row 0")
    assert_close(model(tokens_BS, lengths_B=[3, 6])[:1, :3], wanted, "row 0")  # a list is as good
    with pytest.raises(InputError, match=r"Token id|<\|patch\|> tokens"):
        model(tokens_BS, lengths_B=torch.tensor([4, 6]))


def test_images_to_a_text_model() -> None:
    with pytest.raises(InputError, match="no vision encoder"):
        drawn_model(small_config())(random_tokens(1, 4), images=torch.zeros(1, 3, 12, 12))


def test_logits_that_nobody_knows() -> None:
    with pytest.raises(InputError, match='ask for "all" or "last"'):
        drawn_model(small_config())(random_tokens(1, 4), logits="first")


def test_input_errors_are_value_errors() -> None:
    assert issubclass(InputError, ValueError)


def test_in_a_text_model_the_patch_id_is_a_token() -> None:
    logits = drawn_model(small_config())(torch.full((1, 3), PATCH))
    assert torch.isfinite(logits).all()


@torch.no_grad()
def test_int32_ids_give_the_same() -> None:
    model, tokens_BS = drawn_model(small_config()), random_tokens(2, 7)
    assert torch.equal(model(tokens_BS.int()), model(tokens_BS))


@torch.no_grad()
def test_last_is_the_last_of_all() -> None:
    model, tokens_BS = drawn_model(small_config()), random_tokens(3, 8)
    everything, last = model(tokens_BS), model(tokens_BS, logits="last")
    assert everything.shape == (3, 8, 61) and last.shape == (3, 1, 61)
    assert everything.dtype == last.dtype == torch.float32
    assert_close(last, everything[:, -1:], "last position")


@pytest.mark.parametrize("tied", [False, True])
def test_state_holds_weights_only(tied: bool) -> None:
    """Nothing computed is stored (RoPE tables, masks, caches), and a run adds nothing."""
    model = drawn_model(small_config(vision=True, tied_embeddings=tied))
    names = dict(model.named_parameters()).keys()
    with torch.no_grad():
        model(random_tokens(1, 9), cache=model.new_cache(1, 9))
    assert model.state_dict().keys() == names
    assert not list(model.buffers())
    assert ("decoder.head.weight" in names) == (not tied)


@torch.no_grad()
def test_tied_head_is_the_embedding() -> None:
    model = drawn_model(small_config(tied_embeddings=True))
    apart = drawn_model(small_config())
    apart.load_state_dict({**model.state_dict(), "decoder.head.weight": model.decoder.embedding.weight})
    tokens_BS = random_tokens(1, 6)
    assert torch.equal(model(tokens_BS), apart(tokens_BS))


@torch.no_grad()
def test_copies_and_pickles() -> None:
    model, tokens_BS = drawn_model(small_config(vision=True)), random_tokens(1, 9)
    expected = model(tokens_BS)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        assert torch.equal(twin(tokens_BS), expected)
        twin.decoder.norm.weight.zero_()
    assert torch.equal(model(tokens_BS), expected), "a copy shares weights with the original"


@torch.no_grad()
def test_runs_in_bfloat16_near_its_fp32_self() -> None:
    """Dense layers only: a near-tie of the router would send a token elsewhere."""
    config = small_config(vision=True, layers=(ROPE_DENSE, NOPE_DENSE, ROPE_DENSE))
    tokens_BS = random_tokens(2, 13)
    tokens_BS[0, 2:6] = PATCH
    images = torch.randn(1, 3, VISION.tile_side, VISION.tile_side, generator=torch.Generator().manual_seed(4))
    exact = drawn_model(config)(tokens_BS, images=images)
    model = drawn_model(config).bfloat16()
    found = model(tokens_BS, images=images)
    assert found.dtype == torch.float32
    assert (found - exact).norm() / exact.norm() < 0.03  # 8 bits: 0.4 % a rounding, some ten in a row
    cache = model.new_cache(2, 13)
    assert cache.layers[0].k_BTGK.dtype == torch.bfloat16
    steps = [model(tokens_BS[:, :7], images=images, cache=cache), model(tokens_BS[:, 7:], cache=cache)]
    assert (torch.cat(steps, dim=1) - exact).norm() / exact.norm() < 0.03


@torch.no_grad()
def test_batch_is_its_rows() -> None:
    model, tokens_BS = drawn_model(small_config()), random_tokens(5, 11)
    together = model(tokens_BS)
    for row in range(5):
        assert_close(model(tokens_BS[row : row + 1]), together[row : row + 1], f"row {row}")


@torch.no_grad()
def test_nothing_looks_ahead() -> None:
    """Changing token t moves the logits at t and after, and none before."""
    model, tokens_BS = drawn_model(small_config()), random_tokens(1, 13)
    before = model(tokens_BS)
    for at in (0, 4, 5, 12):
        changed = tokens_BS.clone()
        changed[0, at] = (changed[0, at] + 1) % 60
        moved = (model(changed) - before).abs().amax(-1)[0] > 1e-4
        assert not moved[:at].any() and moved[at]


def test_every_layer_of_the_table_is_built_as_it_says() -> None:
    config = small_config()
    for spec, layer in zip(config.layers, Llama4(config).decoder.layers, strict=True):
        assert hasattr(layer.ffn, "experts") == (spec.ffn == "moe")
        assert type(layer.attention.positions).__name__ == {"rope": "Rotary", "nope": "NoPosition"}[spec.position]
        assert type(layer.attention.reach).__name__ == {"chunk": "WithinChunk", "all": "Everything"}[spec.span]


def test_fresh_weights_are_drawn_and_norms_are_the_identity() -> None:
    torch.manual_seed(0)
    model = Llama4(small_config(vision=True))
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert torch.equal(parameter, torch.full_like(parameter, float(name.endswith("weight")))), name
        elif name.endswith("bias"):
            assert not parameter.any(), name
        else:
            assert 0.005 < parameter.std().item() < 0.04, name


def test_learns_by_heart() -> None:
    """Thirty steps of Adam on one batch: the loss falls to a tenth, and every parameter has moved."""
    torch.manual_seed(0)
    model = Llama4(dataclasses.replace(small_config(vision=True), layers=small_config().layers))
    tokens_BS = random_tokens(4, 16)
    tokens_BS[1, 5:9] = PATCH
    images = torch.randn(1, 3, VISION.tile_side, VISION.tile_side, generator=torch.Generator().manual_seed(4))
    start = copy.deepcopy(model.state_dict())
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=2e-2), []
    for _ in range(30):
        logits = model(tokens_BS[:, :-1], images=images)
        loss = F.cross_entropy(logits.flatten(0, 1), tokens_BS[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 10
    still = [name for name, weight in model.state_dict().items() if torch.equal(weight, start[name])]
    assert still == []
