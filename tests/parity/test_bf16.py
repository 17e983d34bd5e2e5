"""bfloat16: ours may lose no more than the reference loses itself, within the ratio of tolerances.py.

    error(x) = RMS(x - reference in float32) / RMS(reference in float32)          error(ours) <= 1.25 error(reference in bf16)

Near-ties between experts flip under rounding, and a flipped token says nothing about the code: so both bfloat16 runs take
their experts from the reference's float32 run. The scores stay each program's own. All programs start from the same weights,
rounded to bfloat16, so the error is that of the arithmetic.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import drawn_configs
import pytest
import torch
from compare import recorded
from pairs import HfPair, Pair, hf_pair, meta_pair, tiled_prompt
from tolerances import BF16_RATIO, BF16_REASON
from torch import Tensor, nn

from llama4.moe import MoE

SEEDS = drawn_configs.SEEDS


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("seed", SEEDS)
def test_against_transformers(seed: int, attn: str) -> None:
    pytest.importorskip("transformers")
    pair = _rounded(hf_pair(drawn_configs.hf_multimodal(seed), seed, attn))
    _assert_no_worse(pair, *_inputs(pair, seed))


@pytest.mark.parametrize("seed", SEEDS)
def test_against_meta(seed: int) -> None:
    """Without temperature tuning, with which Meta's code fails in bfloat16."""
    pytest.importorskip("llama_models")
    args = {**drawn_configs.meta(seed), "attn_temperature_tuning": False}
    pair = _rounded(meta_pair(args, seed))
    _assert_no_worse(pair, *_inputs(pair, seed))


def test_forced_routing_decides_where_tokens_go() -> None:
    """The forcing is real: with every token sent to expert 0, the logits are others."""
    pytest.importorskip("transformers")
    pair = hf_pair(drawn_configs.hf_text(0) | {"num_local_experts": 5, "moe_layers": [0, 1]}, seed=0)
    tokens_BS = drawn_configs.prompt(0, pair.config.vocab_size, pair.config.chunk)
    chosen = _chosen(pair, tokens_BS, None)
    assert len(chosen) == 2 and all(len(expert_N.unique()) > 1 for expert_N in chosen)
    free = pair.run_ours(tokens_BS)
    with _forced(pair.ours, chosen):
        same = pair.run_ours(tokens_BS)
    with _forced(pair.ours, [torch.zeros_like(expert_N) for expert_N in chosen]):
        other = pair.run_ours(tokens_BS)
    assert torch.equal(free, same) and (free - other).abs().max() > 0.1


def _inputs(pair: Pair, seed: int) -> tuple[Tensor, list[Tensor]]:
    tokens_BS = drawn_configs.prompt(seed, 90, pair.config.chunk, rows=2)
    return tiled_prompt(pair, tokens_BS, (2, 0), seed)


def _rounded(pair: Pair) -> Pair:
    """Weights rounded to bfloat16, still held in float32: the three runs start equal."""
    for model in (pair.ours, pair.reference):
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16().float()
    return pair


def _assert_no_worse(pair: Pair, tokens_BS: Tensor, images: list[Tensor]) -> None:
    images = [tiles.bfloat16().float() for tiles in images]
    chosen = _chosen(pair, tokens_BS, images)
    truth = pair.run_reference(tokens_BS, images)
    ours, reference = _in_bfloat16(pair.ours), _in_bfloat16(pair.reference)
    low = type(pair)(ours, reference, [])
    tiles = [row.bfloat16() for row in images]
    with _forced(ours, chosen):
        error = _error(low.run_ours(tokens_BS, tiles), truth)
    with _forced_reference(low, chosen):
        allowed = BF16_RATIO * _error(low.run_reference(tokens_BS, tiles), truth)
    assert error <= allowed, f"relative RMS error {error:.3g} over {allowed:.3g}: {BF16_REASON}"


def _in_bfloat16(model: nn.Module) -> nn.Module:
    """A copy with bfloat16 parameters. Its buffers stay: `.bfloat16()` would round transformers' RoPE frequencies as well."""
    model = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    return model


def _error(logits: Tensor, truth: Tensor) -> float:
    return float((logits.float() - truth).square().mean().sqrt() / truth.square().mean().sqrt())


def _chosen(pair: Pair, tokens_BS: Tensor, images: list[Tensor] | None) -> list[Tensor]:
    """Each MoE layer's experts `[N]` in the reference's float32 run."""
    layers = pair.text.layers if isinstance(pair, HfPair) else pair.reference.layers
    feeds = {str(i): layer.feed_forward for i, layer in enumerate(layers) if pair.config.layers[i].ffn == "moe"}
    with recorded({name: (feed, True) for name, feed in feeds.items()}) as seen:
        pair.run_reference(tokens_BS, images)
    weights = {name: _router_DE(feed) for name, feed in feeds.items()}
    return [(seen[name].flatten(0, 1) @ weights[name]).argmax(-1) for name in feeds]


def _router_DE(feed: nn.Module) -> Tensor:
    return feed.router_DE if hasattr(feed, "router_DE") else feed.router.weight.T


@contextmanager
def _forced(ours: nn.Module, chosen: list[Tensor]) -> Iterator[None]:
    """Ours: the experts are given, the score is the chosen expert's own."""
    moes = [layer.ffn for layer in ours.decoder.layers if isinstance(layer.ffn, MoE)]
    with ExitStack() as stack:
        for moe, expert_N in zip(moes, chosen, strict=True):
            stack.enter_context(mock.patch.object(moe, "route", _route(moe, expert_N)))
        yield


def _route(moe: MoE, expert_N: Tensor) -> Any:
    def route(x_ND: Tensor) -> tuple[Tensor, Tensor]:
        return expert_N, torch.sigmoid(moe.router(x_ND).gather(1, expert_N[:, None])[:, 0])

    return route


@contextmanager
def _forced_reference(pair: Pair, chosen: list[Tensor]) -> Iterator[None]:
    """The reference: both programs choose by torch.topk, once a MoE layer, in order; it answers with the given experts."""
    waiting = iter(chosen)

    def topk(logits_NE: Tensor, k: int, dim: int) -> tuple[Tensor, Tensor]:
        assert (k, dim) == (1, 1)
        expert_N1 = next(waiting)[:, None]
        return logits_NE.gather(1, expert_N1), expert_N1

    with mock.patch.object(torch, "topk", topk):
        yield
    assert next(waiting, None) is None, "the reference asked for fewer routings than there are MoE layers"
