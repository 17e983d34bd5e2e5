"""Pins Muon: the orthogonal factor against an SVD, one and two steps against the formula written out, and the layout of expert
stacks, whose matrices lie the other way round."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from llama4.train.optimiser import Muon, orthogonalise


def gaussian(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_spectrum(rows: int, columns: int, values: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    """A matrix of the given singular values, and its singular vectors."""
    u, _ = torch.linalg.qr(gaussian(rows, len(values), seed=2))
    v, _ = torch.linalg.qr(gaussian(columns, len(values), seed=3))
    return u @ torch.diag(torch.tensor(values)) @ v.mT, u, v


@pytest.mark.parametrize(("rows", "columns"), [(24, 24), (40, 9), (9, 40), (1, 17)])
def test_singular_values_come_near_one_and_directions_stay(rows: int, columns: int) -> None:
    """A spread of one to twenty, any overall size: five steps bring it to 0.6 … 1.3, as the polynomial does."""
    count = min(rows, columns)
    values = torch.linspace(1.0, 0.05 if count > 1 else 1.0, count).tolist()
    for size in (1e-4, 1.0, 300.0):
        g, u, v = with_spectrum(rows, columns, [size * value for value in values])
        o = orthogonalise(g)
        assert o.shape == g.shape and o.dtype == torch.float32
        stretched = torch.linalg.svdvals(o)
        assert stretched.min() > 0.6 and stretched.max() < 1.3
        within = u.mT @ o @ v
        off = within - torch.diag(within.diagonal())
        assert within.diagonal().min() > 0.55 and off.abs().max() < 0.1  # bf16 has 8 bits; five products of them


@pytest.mark.parametrize("shape", [(48, 16), (16, 48), (3, 20, 12)])
def test_it_is_near_the_orthogonal_factor_of_the_svd(shape: tuple[int, ...]) -> None:
    g = gaussian(*shape)
    u, _, vh = torch.linalg.svd(g, full_matrices=False)
    o, exact = orthogonalise(g), u @ vh
    cosine = (o * exact).sum((-2, -1)) / (o.norm(dim=(-2, -1)) * exact.norm(dim=(-2, -1)))
    assert cosine.min() > 0.97


def test_a_stack_is_its_matrices_one_by_one() -> None:
    stack = gaussian(5, 12, 20)
    stack[3] *= 1000
    for one, g in zip(orthogonalise(stack), stack, strict=True):
        assert (one - orthogonalise(g)).abs().max() < 0.02  # bf16 products batched or not


def test_a_gradient_of_nothing_gives_nothing() -> None:
    assert not orthogonalise(torch.zeros(4, 6)).any()


def updates(weight: Tensor, grads: list[Tensor], lr: float, momentum: float, decay: float) -> Tensor:
    """The weight after these gradients."""
    parameter = nn.Parameter(weight.clone())
    optimiser = Muon([parameter], lr, momentum, decay)
    for grad in grads:
        parameter.grad = grad.clone()
        optimiser.step()
    return parameter.detach()


@pytest.mark.parametrize(("rows", "columns", "longer"), [(24, 6, 2.0), (6, 24, 1.0), (8, 8, 1.0)])
def test_two_steps_are_the_formula(rows: int, columns: int, longer: float) -> None:
    lr, beta, decay = 0.1, 0.9, 0.3
    weight, first, second = (gaussian(rows, columns, seed=seed) for seed in (4, 5, 6))
    once = weight * (1 - lr * decay) - lr * longer * orthogonalise(first + beta * first)
    held = beta * first + second
    twice = once * (1 - lr * decay) - lr * longer * orthogonalise(second + beta * held)
    assert (updates(weight, [first], lr, beta, decay) - once).abs().max() < 1e-6
    assert (updates(weight, [first, second], lr, beta, decay) - twice).abs().max() < 2e-3  # a rounding may tip a bf16


def test_decay_alone_shrinks_the_weight() -> None:
    weight = gaussian(6, 9)
    assert (updates(weight, [torch.zeros(6, 9)], 0.1, 0.9, 0.5) - 0.95 * weight).abs().max() < 1e-6


@pytest.mark.parametrize(("out", "into"), [(30, 10), (10, 30)])
def test_an_expert_is_updated_as_the_same_map_lying_the_other_way(out: int, into: int) -> None:
    """`[E, in, out]` is the transpose of a linear layer's `[out, in]`: so must its update be, its longer steps included."""
    weight, grad = gaussian(out, into), gaussian(out, into, seed=7)
    linear = updates(weight, [grad], 0.1, 0.9, 0.2)
    stack = updates(weight.mT.repeat(3, 1, 1), [grad.mT.repeat(3, 1, 1)], 0.1, 0.9, 0.2)
    assert all((expert.mT - linear).abs().max() < 2e-3 for expert in stack)


def test_without_a_gradient_nothing_moves() -> None:
    still, moving = nn.Parameter(gaussian(4, 4)), nn.Parameter(gaussian(4, 4))
    before = still.detach().clone()
    optimiser = Muon([still, moving], 0.1, 0.9, 0.5)
    moving.grad = gaussian(4, 4, seed=8)
    optimiser.step()
    assert torch.equal(still, before) and still not in optimiser.state
