"""A decode step that is recorded once and replayed: the CUDA graph, and the plain call that it must equal.

    plain    model(tokens, cache=cache)            the host works out slots, masks and slices from the rows' lengths
    static   the same numbers from one tensor      [token; position; alive] of every row, int64, always at one address
    graph    the static step, recorded             what the device was told to do, repeated without the host

Decoding one token of Scout is a thousand small kernels and more, and the host has to tell the device of each. A CUDA graph is
told once. The price is that nothing about it may change: not an address, not a shape, not a number that the host has put in. So
positions are read from a tensor. The buffers of the cache stay where they are; up to which slot they are seen is a number on the
device, which our decoding kernel reads, and without the kernel all slots are read, behind a mask made there (masks.cached). Rows
that have ended go on, as rows that write nothing. When a buffer has to grow, which it does by doubling, the step is recorded
anew: twenty times at most for a million tokens. So it is when the model has got other weights, and whoever watches the model
through hooks, which a replay does not run, gets plain calls.

Worked example, two rows, the second over: inputs [[17, 0], [40, 0], [1, 0]]. Row 0 writes token 17 at position 40, sees 0 to 40.

The static step runs on a CPU too, launched one by one: that is how it is tested, traced as a graph would record it
(tests/test_graph.py). There the plain call is faster, since it reads only the slots that are filled, and is what `generate` uses.

Why the next token is chosen on the host: whether an answer goes on (stop strings, the caller who leaves) is decided there in any
case, one recording serves every way of sampling, and a seed draws the same tokens on a card as on a CPU. It costs a copy of the
logits, 0.8 MB a row for Scout.

Graphs are explained in https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs/.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from llama4 import ops
from llama4.cache import KVCache, StaticStep
from llama4.model import Llama4

Replay = Callable[[], object]
Record = Callable[[Callable[[], Tensor]], tuple[Replay, Tensor]]


class Feed(Protocol):
    """Feeds a batch its next tokens: `feed([17, None])` gives row 0 token 17 and nothing to row 1, which is over."""

    cache: KVCache

    def begin(self) -> None:
        """Said before the first token of an answer: the model may have changed since the last."""
        ...

    def __call__(self, tokens: Sequence[int | None]) -> Tensor:
        """Scores of what comes after them, float32 `[B, V]`; a row without a token has scores that mean nothing."""
        ...


class Plain:
    """The model's own forward call, one token a row."""

    def __init__(self, model: Llama4, cache: KVCache) -> None:
        self.model, self.cache = model, cache

    def begin(self) -> None:
        """Nothing is kept that could be out of date."""

    def __call__(self, tokens: Sequence[int | None]) -> Tensor:
        alive = [token is not None for token in tokens]
        tokens_B1 = torch.tensor([[token or 0] for token in tokens], device=self.cache.device)
        lengths_B = None if all(alive) else torch.tensor(alive, dtype=torch.int64)
        return self.model(tokens_B1, cache=self.cache, lengths_B=lengths_B, logits="last")[:, 0]


class Static:
    """The same by steps that never change: launched one by one, or recorded by `record` and replayed.

    A step that cannot be recorded, since one of its operators waits for the device, is told once, and from then on runs plainly.
    """

    def __init__(self, model: Llama4, cache: KVCache, record: Record | None = None) -> None:
        self.model, self.cache, self.record = model, cache, record
        rows = len(cache.lengths_B)
        self.inputs_3B = torch.zeros(3, rows, dtype=torch.int64, device=cache.device)
        self.recorded: tuple[Replay, Tensor] | None = None
        self.held = 0  # bytes of the buffers that were recorded
        self.stands = _standing(model)
        self.watched = False

    def begin(self) -> None:
        """Forget a recording of weights, or kernels, that are the model's no longer; see whether anybody watches."""
        stands = _standing(self.model)
        if stands != self.stands:
            self.recorded, self.held, self.stands = None, 0, stands
        self.watched = any(module._forward_hooks or module._forward_pre_hooks for module in self.model.modules())

    @torch.inference_mode()
    def __call__(self, tokens: Sequence[int | None]) -> Tensor:
        """Raises InputError, before anything is written, when the cache is full."""
        if self.watched:
            return Plain(self.model, self.cache)(tokens)
        plan = self.cache.plan(tuple(int(token is not None) for token in tokens), width=1)
        starts = [start if count else 0 for start, count in zip(plan.starts, plan.counts, strict=True)]
        self.cache.reserve(max(starts) + 1)  # a row that is over reads slot 0: behind its last one there may be none
        self.inputs_3B.copy_(torch.tensor([[token or 0 for token in tokens], starts, plan.counts]))
        logits_BV = self._run()
        if logits_BV is None:
            return Plain(self.model, self.cache)(tokens)
        self.cache.advance(plan)
        return logits_BV

    def step(self) -> Tensor:
        """One token a row, by what stands in `inputs_3B`. Runs as often as one likes: it writes to the same slots."""
        token_B, position_B, alive_B = self.inputs_3B
        step, decoder = StaticStep(position_B, alive_B > 0), self.model.decoder
        x_B1D = decoder.embedding(token_B[:, None]).masked_fill(~step.alive_B[:, None, None], 0.0)
        return decoder.logits(decoder(x_B1D, step, self.cache))[:, 0]

    def _run(self) -> Tensor | None:
        """Logits, or None where the step cannot be recorded. Those of a replay are overwritten by the next."""
        if self.record is None:
            return self.step()
        if self.held != self.cache.nbytes:
            self.recorded = None  # what the old one holds is free before the new one takes it
            self.held = self.cache.nbytes
            try:
                self.recorded = self.record(self.step)
            except RuntimeError as error:
                reason = str(error).split("\n")[0]
                warnings.warn(f"Decoding runs without a CUDA graph, slower: {reason}", stacklevel=4)
        if self.recorded is None:
            return None
        replay, logits_BV = self.recorded
        replay()
        return logits_BV


def capture(step: Callable[[], Tensor], device: torch.device) -> tuple[Replay, Tensor]:
    """Record `step` as a CUDA graph of `device`: what replays it, and the tensor that every replay writes its result to.

    Raises RuntimeError for a step that waits for the device.
    """
    with torch.cuda.device(device):  # streams belong to a card, and one of another card would record nothing
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        # Whatever is compiled, tuned or allocated but once is, before anything is recorded.
        with torch.cuda.stream(beside):
            step()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=beside):
            result = step()
    return graph.replay, result


def feed_for(model: Llama4, batch_size: int, max_tokens: int) -> Feed:
    """The way to decode on the model's device, with an empty cache: replayed on a card, plain elsewhere."""
    cache = model.new_cache(batch_size, max_tokens)
    if cache.device.type != "cuda":
        return Plain(model, cache)
    return Static(model, cache, partial(capture, device=cache.device))


def _standing(model: Llama4) -> tuple[object, ...]:
    """What a recording holds besides the cache: the address of every weight, and the kernels."""
    held = (*model.parameters(), *model.buffers())
    return ops.backend(), *(tensor.data_ptr() for tensor in held)
