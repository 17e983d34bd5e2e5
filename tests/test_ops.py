"""The seam: which backend runs, how it is overridden, that a kernel package is called when it is chosen, and the eager
grouped matmul against a loop over rows."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from small_models import assert_close, drawn_model, random_tokens, small_config

from llama4 import ops
from llama4.errors import InputError


@pytest.fixture(autouse=True)
def _resolve_afresh() -> Iterator[None]:
    """The choice is made once a process: forget it before and after."""
    ops._resolve.cache_clear()
    yield
    ops._resolve.cache_clear()


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.Tensor, ...]]:
    """A stand-in `llama4_kernels` that records its calls and computes by the eager path."""
    calls: list[tuple[torch.Tensor, ...]] = []

    def grouped_matmul(x_ND: torch.Tensor, w_EDF: torch.Tensor, group_ends_E: torch.Tensor) -> torch.Tensor:
        calls.append((x_ND, w_EDF, group_ends_E))
        return ops.eager_grouped_matmul(x_ND, w_EDF, group_ends_E)

    module = types.ModuleType("llama4_kernels")
    module.grouped_matmul = grouped_matmul
    module.__spec__ = importlib.util.spec_from_loader("llama4_kernels", loader=None)
    monkeypatch.setitem(sys.modules, "llama4_kernels", module)
    return calls


@pytest.mark.parametrize("sizes", [[2, 0, 3], [0, 0, 4], [5], [0, 7, 0, 0, 1], [1, 1, 1]], ids=str)
@pytest.mark.parametrize("width", [6, 32], ids=["whole", "one row in slices"])
def test_eager_is_a_row_at_a_time(sizes: list[int], width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x_ND = torch.randn(sum(sizes), width, generator=generator).requires_grad_()
    w_EDF = torch.randn(len(sizes), width, 11, generator=generator).requires_grad_()
    owner_N = [expert for expert, size in enumerate(sizes) for _ in range(size)]
    found = ops.eager_grouped_matmul(x_ND, w_EDF, torch.tensor(sizes).cumsum(0))
    expected = torch.stack([x_ND[row].double() @ w_EDF[owner].double() for row, owner in enumerate(owner_N)])
    assert_close(found, expected, "grouped matmul")
    weight = torch.randn(found.shape, generator=generator)
    ours = torch.autograd.grad((found * weight).sum(), (x_ND, w_EDF))
    theirs = torch.autograd.grad((expected * weight).sum(), (x_ND, w_EDF))
    for name, mine, reference in zip(("x", "w"), ours, theirs, strict=True):
        assert_close(mine, reference, f"gradient of {name}")


@pytest.mark.parametrize("rows", [1, 2, 31, 32, 33, 70])
def test_rows_filled_up_in_bf16_change_nothing(rows: int) -> None:
    """Sums of 24 products in fp32, rounded once to bf16: half a unit in its last place, 2⁻⁹ of the value, and 2⁻⁸ leaves room."""
    generator = torch.Generator().manual_seed(rows)
    x_ND = torch.randn(rows + 3, 24, generator=generator).bfloat16().requires_grad_()
    w_EDF = torch.randn(2, 24, 11, generator=generator).bfloat16().requires_grad_()
    found = ops.eager_grouped_matmul(x_ND, w_EDF, torch.tensor([rows, rows + 3]))
    expected = torch.cat([x_ND[:rows].double() @ w_EDF[0].double(), x_ND[rows:].double() @ w_EDF[1].double()])
    assert found.shape == expected.shape and found.dtype == torch.bfloat16
    weight = torch.randn(expected.shape, generator=generator).bfloat16()
    ours = torch.autograd.grad((found * weight).sum(), (x_ND, w_EDF))
    theirs = torch.autograd.grad((expected * weight).sum(), (x_ND, w_EDF))
    for name, mine, reference in zip(("y", "x", "w"), (found, *ours), (expected, *theirs), strict=True):
        assert (mine.double() - reference.double()).abs().max() <= 2**-8 * reference.abs().max(), name


def test_no_rows_at_all() -> None:
    out = ops.eager_grouped_matmul(torch.empty(0, 6), torch.randn(3, 6, 11), torch.zeros(3, dtype=torch.int64))
    assert out.shape == (0, 11)


def test_unknown_backend_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"no backend 'cuda': choose one of eager, triton"), ops.use("cuda"):
        pass


def test_use_overrides_for_its_block_only() -> None:
    before = ops.backend()
    with ops.use("triton"):
        assert ops.backend() == "triton"
        with ops.use("eager"):
            assert ops.backend() == "eager"
        assert ops.backend() == "triton"
    assert ops.backend() == before
    with pytest.raises(RuntimeError), ops.use("triton"):
        raise RuntimeError
    assert ops.backend() == before


@pytest.mark.parametrize(
    ("package", "device", "expected"), [(False, True, "eager"), (True, False, "eager"), (True, True, "triton")]
)
def test_resolution_needs_the_package_and_a_device(
    monkeypatch: pytest.MonkeyPatch, package: bool, device: bool, expected: str
) -> None:
    real = importlib.util.find_spec
    spec = importlib.util.spec_from_loader("llama4_kernels", loader=None) if package else None
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: spec if name == "llama4_kernels" else real(name, *rest)
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device)
    assert ops.backend() == expected


def test_resolved_once(monkeypatch: pytest.MonkeyPatch, kernels: list) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert ops.backend() == "triton"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert ops.backend() == "triton"


@torch.no_grad()
def test_triton_calls_the_package_and_eager_does_not(kernels: list[tuple[torch.Tensor, ...]]) -> None:
    """One MoE layer: two grouped matmuls a forward, with sorted rows and running totals that end at N."""
    model, tokens_BS = drawn_model(small_config()), random_tokens(2, 7)
    with ops.use("eager"):
        expected = model(tokens_BS)
    assert kernels == []
    with ops.use("triton"):
        found = model(tokens_BS)
    assert torch.equal(found, expected)
    assert [(tuple(x.shape), tuple(w.shape)) for x, w, _ in kernels] == [
        ((14, 26), (3, 26, 36)),
        ((14, 18), (3, 18, 26)),
    ]
    for _, _, group_ends_E in kernels:
        ends = group_ends_E.tolist()
        assert group_ends_E.dtype == torch.int64 and ends == sorted(ends) and ends[-1] == 14


# One row in slices: leading dimensions of a decode step, of the shared expert, none; a weight that slices divide, one that
# they do not, one row a slice; no row at all; two rows.
@pytest.mark.parametrize("lead", [(1, 1), (1,), (), (0,), (2,), (1, 2)], ids=str)
@pytest.mark.parametrize("out", [16, 48, 17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_linear_in_slices_is_linear(lead: tuple[int, ...], out: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(*lead, 7, generator=generator).to(dtype).requires_grad_()
    w_FD = torch.randn(out, 7, generator=generator).to(dtype).requires_grad_()
    found, expected = ops.linear(x, w_FD), torch.nn.functional.linear(x, w_FD)
    assert found.shape == expected.shape and found.dtype == dtype
    # Seven products in another order in fp32, where the sum is taken in fp32 for bf16 too and rounded alike.
    assert torch.allclose(found, expected, atol=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(found.square().sum(), (x, w_FD)),
        torch.autograd.grad(expected.square().sum(), (x, w_FD)),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("kind", ["causal", "mask", "all"])
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_attention_written_out_is_torchs_fused_one(kind: str, kv_heads: int) -> None:
    """Forward and gradients, where a row sees little, much and everything; more keys than queries where there is a mask."""
    generator = torch.Generator().manual_seed(4)
    keys = 7 if kind == "causal" else 11
    q = torch.randn(3, 6, 7, 8, generator=generator, requires_grad=True)
    k, v = (torch.randn(3, kv_heads, keys, 8, generator=generator, requires_grad=True) for _ in range(2))
    mask = torch.rand(3, 1, 7, keys, generator=generator) < 0.5 if kind == "mask" else None
    if mask is not None:
        mask[..., 0] = True  # a query that sees nothing has no answer
    found = ops.plain_attention(q, k, v, mask, kind == "causal")
    expected = F.scaled_dot_product_attention(q, k, v, mask, is_causal=kind == "causal", enable_gqa=True)
    assert torch.allclose(found, expected, atol=1e-6)  # sums of 11 terms near 1, in another order
    weight = torch.randn(found.shape, generator=generator)
    for ours, theirs in zip(
        torch.autograd.grad(found, (q, k, v), weight), torch.autograd.grad(expected, (q, k, v), weight), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-5)
