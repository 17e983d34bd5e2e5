"""The model on the kernels, through `llama4/ops.py`: the eager model's logits and gradients, and training step by step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from kernel_machine import CUDA, DEVICE, KERNELS, NARROW
from small_models import NOPE_MOE, ROPE_DENSE, ROPE_MOE, drawn_model, random_tokens, small_config
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from llama4 import attention, ops
from llama4.cache import Step
from llama4.graph import Plain, Static, capture
from llama4.model import Llama4
from llama4.quant import quantise

# Two roundings more or less in each of four layers: some units in the last place of a logit, and of the largest gradient.
CLOSE = 0.06 if CUDA else 0.008


@pytest.fixture
def model() -> Llama4:
    """Three layers, two of them with experts, of widths that the kernels take."""
    config = small_config(width=32, expert_width=48, layers=(ROPE_MOE, NOPE_MOE, ROPE_DENSE))
    return drawn_model(config).to(DEVICE, NARROW)


def loss_of(model: Llama4, tokens_BS: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(tokens_BS)[:, :-1].flatten(0, 1), tokens_BS[:, 1:].flatten())


@pytest.mark.parametrize("backend", ops.BACKENDS)
def test_the_fused_layer_runs_on_its_backend_alone(
    model: Llama4, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    run = ops.moe_mlp
    monkeypatch.setattr(ops, "moe_mlp", lambda *given: ran.append("fused") or run(*given))
    with ops.use(backend), torch.no_grad():
        model(random_tokens(2, 9).to(DEVICE))
    assert len(ran) == (2 if backend == "triton" else 0)


def test_logits_and_gradients_are_the_eager_models(model: Llama4) -> None:
    tokens_BS = random_tokens(3, 29).to(DEVICE)
    found = {}
    for backend in ops.BACKENDS:
        model.zero_grad()
        with ops.use(backend):
            logits_BSV = model(tokens_BS)
            loss_of(model, tokens_BS).backward()
        found[backend] = {"logits": logits_BSV.detach()} | {
            n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
        }
    eager, triton = found["eager"], found["triton"]
    assert set(eager) == set(triton) and any("experts" in name for name in eager)
    for name, expected in eager.items():
        worst = float((triton[name].double() - expected.double()).abs().max())
        assert worst <= CLOSE * max(1e-3, float(expected.abs().max())), f"{name}: off by {worst}"


def test_it_trains_through_the_kernels(model: Llama4) -> None:
    """Ten steps on one batch: the loss falls, as it does in eager, by the same amount to a twentieth."""
    tokens_BS = random_tokens(2, 17).to(DEVICE)
    losses: dict[str, list[float]] = {}
    begun = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for backend in ops.BACKENDS:
        model.load_state_dict(begun)
        losses[backend] = []
        optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
        with ops.use(backend):
            for _ in range(10):
                loss = loss_of(model, tokens_BS)
                optimiser.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimiser.step()
                losses[backend].append(loss.item())
    fallen = {backend: of[0] - of[-1] for backend, of in losses.items()}
    assert fallen["eager"] > 0.1 and fallen["triton"] == pytest.approx(fallen["eager"], rel=0.05), losses


@torch.no_grad()
def test_the_int4_model_on_the_kernels_is_the_int4_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a layer's linear maps run from their bytes; a batch, then one token after the other from a cache."""
    config = small_config(width=64, expert_width=96, dense_width=64, heads=4, head_width=16)
    model = quantise(drawn_model(config).to(DEVICE, NARROW))
    ran: dict[str, int] = {"linear_int4": 0, "moe_mlp_int4": 0}
    for name in ran:
        run = getattr(ops, name)

        def counting(*given: object, name: str = name, run: Callable = run) -> torch.Tensor:
            ran[name] += 1
            return run(*given)

        monkeypatch.setattr(ops, name, counting)
    tokens_BS, found = random_tokens(2, 11).to(DEVICE), {}
    for backend in ops.BACKENDS:
        with ops.use(backend):
            cache = model.new_cache(2, 12)
            steps = [model(tokens_BS[:, n : n + 1], cache=cache) for n in range(11)]
            found[backend] = torch.cat([model(tokens_BS), torch.cat(steps, dim=1)])
        assert backend == "triton" or not any(ran.values())
    passes, layers, moe = 12, 3, 1
    assert ran == {"linear_int4": passes * (4 * layers + 3 * (layers - moe)), "moe_mlp_int4": passes * moe}
    worst = float((found["triton"] - found["eager"]).abs().max())
    assert worst <= CLOSE * float(found["eager"].abs().max())


@pytest.mark.parametrize("quantised", [False, True], ids=["bf16 layers", "int4 layers"])
@torch.inference_mode()
def test_the_static_step_on_the_kernels_is_the_plain_one_and_waits_for_nothing(quantised: bool) -> None:
    """On a GPU as a CUDA graph. Without one, tensors without values run through: no operator of ours asks for one."""
    layers = (ROPE_MOE, NOPE_MOE, ROPE_DENSE)
    config = small_config(width=64, expert_width=96, dense_width=64, heads=4, head_width=16, layers=layers)
    model = drawn_model(config).to(DEVICE, NARROW)
    model = quantise(model) if quantised else model
    with ops.use("triton"):
        plain = Plain(model, model.new_cache(2, 12))
        static = Static(model, model.new_cache(2, 12), capture if CUDA else None)
        for turn in range(7):  # over a chunk of 5, and buffers of 1, 2, 4 and 8 slots
            given = [turn + 3, None if turn == 4 else 2 * turn]
            expected_BV, found_BV = plain(given), static(given)
            alive = [row for row, token in enumerate(given) if token is not None]
            worst = float((found_BV - expected_BV)[alive].abs().max())
            assert worst <= CLOSE * float(expected_BV[alive].abs().max()), turn
        if not CUDA:
            with FakeTensorMode(allow_non_fake_inputs=True):
                assert static.step().shape == (2, config.vocab_size)


def test_int4_learns_nothing_and_says_so_by_running_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """With gradients on, the kernels, which have none, are left alone."""
    monkeypatch.setattr(ops, "linear_int4", lambda *_: pytest.fail("the kernel ran"))
    config = small_config(width=64, expert_width=96, dense_width=64, heads=4, head_width=16)
    model = quantise(drawn_model(config).to(DEVICE, NARROW))
    with ops.use("triton"):
        loss = model(random_tokens(1, 5).to(DEVICE)).square().mean()
    loss.backward()
    assert model.decoder.embedding.weight.grad.abs().sum() > 0


def attention_model() -> Llama4:
    """Chunks of five, a global layer between two chunked ones, heads of a width that the kernels take."""
    return drawn_model(small_config(width=32, heads=6, head_width=16)).to(DEVICE, NARROW)


def counted(monkeypatch: pytest.MonkeyPatch, *names: str) -> dict[str, int]:
    """How often each function of the seam ran."""
    ran = dict.fromkeys(names, 0)
    for name in names:
        run = getattr(ops, name)

        def counting(*given: object, name: str = name, run: Callable = run) -> object:
            ran[name] += 1
            return run(*given)

        monkeypatch.setattr(ops, name, counting)
    return ran


@torch.no_grad()
def test_rows_of_unequal_length_decode_on_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of 3 and 9 tokens, then eight tokens each, one by one, past the end of a chunk: the eager model's logits."""
    model, found = attention_model(), {}
    ran = counted(monkeypatch, "decode_attention", "rotate_and_norm", "rotate")
    tokens_BS, lengths_B = random_tokens(2, 17).to(DEVICE), torch.tensor([3, 9])
    for backend in ops.BACKENDS:
        with ops.use(backend):
            cache = model.new_cache(2, 17)
            steps = [model(tokens_BS[:, :9], cache=cache, lengths_B=lengths_B, logits="last")]
            steps += [model(tokens_BS[:, n : n + 1], cache=cache) for n in range(9, 17)]
            found[backend] = torch.cat(steps, dim=1)
        if backend == "eager":
            assert not any(ran.values())
    assert ran == {"decode_attention": 8 * 3, "rotate_and_norm": 9 * 2, "rotate": 0}
    worst = float((found["triton"] - found["eager"]).abs().max())
    assert worst <= CLOSE * float(found["eager"].abs().max())


@torch.no_grad()
def test_level_rows_keep_torchs_kernel_and_a_model_without_qk_norm_its_rotation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One length in all rows needs no mask, and without one torch has a fused kernel of its own. Without norm, as in Maverick."""
    model = drawn_model(small_config(width=32, heads=6, head_width=16, qk_norm=False)).to(DEVICE, NARROW)
    ran = counted(monkeypatch, "decode_attention", "rotate_and_norm", "rotate")
    tokens_BS, found = random_tokens(2, 7).to(DEVICE), {}
    for backend in ops.BACKENDS:
        with ops.use(backend):
            cache = model.new_cache(2, 7)
            found[backend] = torch.cat([model(tokens_BS[:, n : n + 1], cache=cache) for n in range(7)], dim=1)
    assert ran == {"decode_attention": 0, "rotate_and_norm": 0, "rotate": 7 * 2}
    worst = float((found["triton"] - found["eager"]).abs().max())
    assert worst <= CLOSE * float(found["eager"].abs().max())


def test_what_learns_keeps_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither kernel has a backward pass: with gradients on, they are left alone."""
    ran = counted(monkeypatch, "decode_attention", "rotate_and_norm")
    model = attention_model()
    with ops.use("triton"):
        model(random_tokens(1, 5).to(DEVICE)).square().mean().backward()
    assert not any(ran.values()) and model.decoder.layers[0].attention.q.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("width", [10, 256])
def test_heads_that_no_tile_holds_run_the_plain_way(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = counted(monkeypatch, "decode_attention", "rotate_and_norm")
    model = drawn_model(small_config(head_width=width)).to(DEVICE, NARROW)
    with ops.use("triton"), torch.no_grad():
        cache = model.new_cache(2, 4)
        model(random_tokens(2, 3).to(DEVICE), cache=cache, lengths_B=torch.tensor([1, 3]))
        model(random_tokens(2, 1).to(DEVICE), cache=cache)
    assert not any(ran.values())


class _Launches(TorchDispatchMode):
    """Counts the operators that compute something; those that give back a view launch nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: object, types: object, given: tuple = (), named: dict | None = None
    ) -> object:
        found = function(*given, **(named or {}))
        views = any(argument.alias_info for argument in function._schema.arguments)
        self.count += not views
        return found


def test_the_page_counts_the_operators_that_one_launch_replaces() -> None:
    """Queries and keys of one token, as a 16-bit model turns and norms them."""
    config = small_config(width=32, heads=6, head_width=16)
    positions = attention.Rotary(config, ROPE_MOE)
    q_BSHK, k_BSGK = (torch.randn(1, 1, heads, 16).to(torch.bfloat16) for heads in (6, 2))
    step = Step((3,), (1,), 1, torch.device("cpu"))
    with ops.use("eager"), torch.no_grad():
        positions(q_BSHK, k_BSGK, step)  # the angles are shared by all layers of a call
        with _Launches() as launches:
            positions(q_BSHK, k_BSGK, step)
    page = (KERNELS.parent / "docs" / "kernels" / "attention.md").read_text(encoding="utf-8")
    assert f"{launches.count} operators" in page
