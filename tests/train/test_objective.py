"""Pins the loss: the answers' cross entropy and its gradient are those of the model's plain forward call, padding counts nowhere,
and the balance term is 1 at balance, E at collapse, and pushes against the busiest expert."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small_training import batches, small_model, small_tokenizer, studio
from torch import Tensor

from llama4.model import Llama4
from llama4.moe import Router
from llama4.train.data import Part
from llama4.train.objective import Measured, balance_of, listening, measure
from llama4.train.pictures import Augmentation
from llama4.train.render import Renderer

# float32 sums of a few hundred terms, in another order: relative to the largest entry
CLOSE = 2e-5
Piece = tuple[Part, Tensor]  # and its tiles


def pieces() -> list[Piece]:
    """All parts of a batch: with one picture, with many tiles, with text alone."""
    renderer = Renderer(studio(Augmentation(), many_tiles=0.3))
    found: list[Piece] = []
    for rows, tokens in ((8, 700), (4, 1)):  # several rows a part, and one
        batch = batches(renderer, rows, tokens).batch(5)
        found += [(part, batch.tiles[part.tiles]) for part in batch.parts]
    assert any(len(set(part.counts)) > 1 for part, _ in found) and {0, 1} <= {len(tiles) for _, tiles in found}
    return found


def run(model: Llama4, piece: Piece) -> Measured:
    part, tiles = piece
    return measure(model, part, tiles)


def plain_logits(model: Llama4, piece: Piece) -> Tensor:
    """The public forward call, every position."""
    part, tiles = piece
    return model(part.tokens_BS, images=tiles if len(tiles) else None, lengths_B=torch.tensor(part.counts))


def plain_answers(model: Llama4, piece: Piece) -> Tensor:
    """The sum over answer tokens, one by one, from full logits."""
    part, _ = piece
    logits_BSV = plain_logits(model, piece)
    scores_BSV = logits_BSV - logits_BSV.logsumexp(-1, keepdim=True)
    terms = [
        -scores_BSV[row, column - 1, part.tokens_BS[row, column]]
        for row, count in enumerate(part.counts)
        for column in range(1, count)
        if part.answer_BS[row, column]
    ]
    return torch.stack(terms).sum()


def gradients(model: Llama4, loss: Callable[[], Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    loss().backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def assert_near(ours: dict[str, Tensor], plain: dict[str, Tensor]) -> None:
    assert set(ours) == set(plain)
    for name, expected in plain.items():
        assert (ours[name] - expected).abs().max() <= CLOSE * max(1e-3, float(expected.abs().max())), name


def test_answers_are_the_plain_cross_entropy_and_so_is_the_gradient() -> None:
    model = small_model()
    for piece in pieces():
        measured, expected = run(model, piece), plain_answers(model, piece)
        assert abs(float((measured.answers - expected).detach())) < CLOSE * float(expected.detach())
        assert measured.answer_tokens == int(piece[0].answer_BS.sum())
        plain = gradients(model, lambda piece=piece: plain_answers(model, piece))
        assert_near(gradients(model, lambda piece=piece: run(model, piece).answers), plain)
        silent = {name for name, gradient in plain.items() if not gradient.any()}
        assert not {name for name in silent if "experts" not in name and len(piece[1])}


def test_right_tokens_are_counted() -> None:
    """By a model that says one token always, and by one that says what comes."""
    model = small_model()
    for piece in pieces():
        part, _ = piece
        for _ in range(2):
            best_BS = plain_logits(model, piece).argmax(-1)
            right_BS = (best_BS[:, :-1] == part.tokens_BS[:, 1:]) & part.answer_BS[:, 1:]
            assert run(model, piece).right_tokens == int(right_BS.sum())
            with torch.no_grad():  # now the head says mostly what the part's answers hold
                for token in part.tokens_BS[part.answer_BS].unique():
                    model.decoder.head.weight[token] *= 3


@pytest.mark.parametrize("padding", [0, 5, "patch"])
def test_padding_changes_nothing(padding: int | str) -> None:
    model = small_model()
    part, tiles = next(piece for piece in pieces() if len(set(piece[0].counts)) > 1)
    filler = small_tokenizer().patch_id if padding == "patch" else padding
    real_BS = torch.arange(part.tokens_BS.shape[1]) < torch.tensor(part.counts)[:, None]
    other = replace(part, tokens_BS=part.tokens_BS.where(real_BS, torch.tensor(filler)))
    before, after = run(model, (part, tiles)), run(model, (other, tiles))
    assert torch.equal(before.answers, after.answers) and torch.equal(before.balance, after.balance)
    assert before.busiest == after.busiest and before.right_tokens == after.right_tokens
    ours, theirs = (gradients(model, lambda p=p: total(run(model, (p, tiles)))) for p in (part, other))
    assert_near(ours, theirs)
    assert not ours["decoder.embedding.weight"][small_tokenizer().pad_id].any()


def total(measured: Measured) -> Tensor:
    return measured.answers + measured.balance


def sure(choices: list[int], experts: int, strength: float = 60.0) -> Tensor:
    return strength * F.one_hot(torch.tensor(choices), experts).float()


def test_balance_is_one_at_balance_and_the_number_of_experts_at_collapse() -> None:
    real_BS = torch.ones(2, 6, dtype=torch.bool)
    even, busiest = balance_of([sure([0, 1, 2] * 4, 3)], real_BS)
    assert abs(float(even) - 1) < 1e-6 and busiest == [pytest.approx(1.0)]
    collapsed, busiest = balance_of([sure([1] * 12, 3)], real_BS)
    assert abs(float(collapsed) - 3) < 1e-6 and busiest == [pytest.approx(3.0)]
    both, busiest = balance_of([sure([0, 1, 2] * 4, 3), sure([1] * 12, 3)], real_BS)
    assert abs(float(both) - 4) < 1e-6 and len(busiest) == 2


def test_balance_leaves_padding_out() -> None:
    real_BS = torch.tensor([[True, True, True, False], [True, True, True, False]])
    logits_NE = sure([0, 1, 2, 0, 2, 1, 0, 0], 3)
    assert abs(float(balance_of([logits_NE], real_BS)[0]) - 1) < 1e-6
    assert float(balance_of([logits_NE], torch.ones_like(real_BS))[0]) > 1.1


def test_balance_counts_each_kind_of_token_for_itself() -> None:
    """All patches at one expert, all words at another: level over both together for two experts, collapsed for each."""
    patch_BS = torch.tensor([[True, True, False, False]])
    logits_NE = sure([0, 0, 1, 1], 2)
    together, busiest = balance_of([logits_NE], torch.ones_like(patch_BS))
    assert abs(float(together) - 1) < 1e-6 and busiest == [pytest.approx(1.0)]
    apart, busiest = balance_of([logits_NE], patch_BS, ~patch_BS)
    assert abs(float(apart) - 2) < 1e-6 and busiest == [pytest.approx(1.0)]
    without_patches, _ = balance_of([logits_NE], torch.zeros_like(patch_BS), ~patch_BS)
    assert abs(float(without_patches) - 2) < 1e-6


def test_balance_pushes_against_the_busiest_expert() -> None:
    logits_NE = torch.randn(40, 4, generator=torch.Generator().manual_seed(2))
    logits_NE[:, 2] += 1.5
    logits_NE.requires_grad_()
    balance_of([logits_NE], torch.ones(1, 40, dtype=torch.bool))[0].backward()
    assert (logits_NE.grad[:, 2] > 0).all() and logits_NE.grad.sum(0).argmax() == 2
    before = float(balance_of([logits_NE.detach()], torch.ones(1, 40, dtype=torch.bool))[0])
    pushed = logits_NE.detach() - 20 * logits_NE.grad
    assert float(balance_of([pushed], torch.ones(1, 40, dtype=torch.bool))[0]) < before


def test_the_model_is_heard_layer_by_layer_and_left_as_it_was() -> None:
    model, piece = small_model(), pieces()[0]
    routers = [module for module in model.modules() if isinstance(module, Router)]
    assert len(routers) == 2
    measured = run(model, piece)
    assert len(measured.busiest) == 2 and all(1 <= share <= 4 for share in measured.busiest)
    assert not any(router._forward_hooks for router in routers)
    with pytest.raises(ZeroDivisionError), listening(model) as heard:
        assert all(router._forward_hooks for router in routers)
        model(piece[0].tokens_BS[:, :3].clamp_max(9))
        assert [logits_NE.shape[-1] for logits_NE in heard] == [4, 4]
        raise ZeroDivisionError
    assert not any(router._forward_hooks for router in routers)


def test_the_balance_is_that_of_the_routers_own_choices() -> None:
    """Each layer's router asked again, over the real tokens alone."""
    model = small_model()
    part, tiles = next(piece for piece in pieces() if len(set(piece[0].counts)) > 1)
    read: list[Tensor] = []
    mixtures = [model.decoder.layers[layer].ffn for layer in (1, 3)]
    for ffn in mixtures:
        ffn.register_forward_hook(lambda _, given, __: read.append(given[0]))
    measured = run(model, (part, tiles))
    expected = 0.0
    patch_BS = part.tokens_BS == small_tokenizer().patch_id
    for ffn, x_BSD, busiest in zip(mixtures, read, measured.busiest, strict=True):
        logits_BSE = ffn.router(x_BSD).detach()
        real_NE = torch.cat([row[:count] for row, count in zip(logits_BSE, part.counts, strict=True)])
        is_patch_N = torch.cat([row[:count] for row, count in zip(patch_BS, part.counts, strict=True)])
        for kind_NE in (real_NE[is_patch_N], real_NE[~is_patch_N]):
            shares = [float((kind_NE.argmax(-1) == expert).float().mean()) for expert in range(4)]
            expected += 2 * sum(share * float(kind_NE.softmax(-1)[:, e].mean()) for e, share in enumerate(shares))
        assert busiest == pytest.approx(4 * float(real_NE.argmax(-1).bincount().max()) / len(real_NE), rel=1e-5)
    assert measured.balance.item() == pytest.approx(expected, rel=1e-5)
