"""The key/value cache: what each layer remembers of the tokens before, and where the next ones go.

A global layer remembers every position: slot = position, a buffer that doubles up to `max_tokens`.
A chunked layer never looks past the start of its chunk, so one chunk is all it keeps: slot = position inside the chunk. The
first token of a new chunk overwrites slot 0, and what is left of the old chunk lies in higher slots, which no mask lets anyone
see. Worked example, chunk 4, after position 5: slots hold positions 4, 5, 2, 3; the query at 5 sees slots 0 and 1.

Scout at 10 M tokens, bf16, one row: 12 global layers * 10.5 M * 2 * 8 * 128 * 2 bytes = 515 GB, and the 36 chunked layers
1.2 GB together; without chunks they would need 1.5 TB.

The cache is an argument of the model's forward, never module state. Row lengths live on the host (a list of ints), so no call
waits for a device to learn where to write.

Two kinds of step say what a call adds. `Step` has any number of columns and its numbers on the host, which may then cut and slice
by them. `StaticStep` is one token a row with its numbers on the device: nothing on the host depends on them, so a recording of
one such call (graph.py) is right for every later one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from llama4.config import Config
from llama4.errors import InputError

T = TypeVar("T")


class Shared:
    """What follows from a step's numbers alone (angles, masks, slots) is the same in every layer of a kind: made once a call."""

    _shared: dict[Hashable, object]

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make()` returned when the first layer of this call asked for `key`."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]


@dataclass(frozen=True)
class Step(Shared):
    """One forward call: B rows of `width` columns; row b has `counts[b]` real tokens, from position `starts[b]` on."""

    starts: tuple[int, ...]
    counts: tuple[int, ...]
    width: int
    device: torch.device
    _shared: dict[Hashable, object] = field(default_factory=dict, compare=False, repr=False)

    @property
    def fresh(self) -> bool:
        """Every row begins at position 0: nothing is remembered, and positions are the columns themselves."""
        return not any(self.starts)

    @property
    def end(self) -> int:
        """One past the last position that any row holds after this call."""
        return max(start + count for start, count in zip(self.starts, self.counts, strict=True))

    @property
    def in_step(self) -> bool:
        """Every row begins at the same position and is full."""
        return len(set(self.starts)) == 1 and set(self.counts) == {self.width}

    @property
    def positions_BS(self) -> Tensor:
        """int64 `[B, S]`: each token's own position in its row, padding not counted."""
        starts_B = torch.tensor(self.starts, device=self.device)
        return starts_B[:, None] + torch.arange(self.width, device=self.device)

    @property
    def valid_BS(self) -> Tensor:
        """bool `[B, S]`: False on the right padding."""
        counts_B = torch.tensor(self.counts, device=self.device)
        return torch.arange(self.width, device=self.device) < counts_B[:, None]

    def columns(self, first: int, last: int) -> Step:
        """The part of this call that lies in columns `first` to `last - 1`."""
        counts = tuple(min(max(count - first, 0), last - first) for count in self.counts)
        starts = tuple(start + min(first, count) for start, count in zip(self.starts, self.counts, strict=True))
        return self.once(("columns", first, last), lambda: Step(starts, counts, last - first, self.device))

    def pieces(self, chunk: int) -> list[tuple[int, int]]:
        """Cut the columns wherever a row crosses into a new chunk: within a piece every row stays in one chunk."""
        cuts = {column for start in self.starts for column in range(-start % chunk, self.width, chunk)}
        edges = sorted(cuts | {0, self.width})
        return list(pairwise(edges))

    def kept(self, period: int) -> tuple[Tensor, Tensor, Tensor]:
        """Which tokens a buffer of `period` positions keeps: row, column and slot of each, int64 `[kept]`.

        Of each row's real tokens, those of the period that its last one lies in.
        """
        rows, columns, slots = [], [], []
        for row, (start, count) in enumerate(zip(self.starts, self.counts, strict=True)):
            end = start + count
            first = max(start, (end - 1) // period * period) if count else end
            rows += [row] * (end - first)
            columns += range(first - start, count)
            slots += range(first % period, first % period + end - first)
        return tuple(torch.tensor(index, dtype=torch.int64, device=self.device) for index in (rows, columns, slots))


@dataclass(frozen=True)
class StaticStep(Shared):
    """One token a row, at `position_B` (int64); a row that is not in `alive_B` (bool) adds nothing.

    Worked example, a chunk of 4 and buffers of 4 slots: rows at positions 2 and 5 write to slots 2 and 1, and see slots 0..2 and
    0..1. All of that is arithmetic on the device; its shapes are those of the buffers.
    """

    position_B: Tensor
    alive_B: Tensor
    _shared: dict[Hashable, object] = field(default_factory=dict, compare=False, repr=False)

    @property
    def device(self) -> torch.device:
        """Where its numbers are."""
        return self.position_B.device

    @property
    def positions_BS(self) -> Tensor:
        """int64 `[B, 1]`."""
        return self.position_B[:, None]


class LayerCache:
    """Keys and values of one layer: two buffers `[B, slots, G, K]` whose slot is the position modulo `period`."""

    def __init__(self, like: Tensor, batch_size: int, kv_heads: int, head_width: int, period: int, limit: int) -> None:
        self.period = period
        self.limit = min(period, limit)
        self.k_BTGK = like.new_zeros(batch_size, 0, kv_heads, head_width)
        self.v_BTGK = like.new_zeros(batch_size, 0, kv_heads, head_width)

    def append(self, k_BSGK: Tensor, v_BSGK: Tensor, step: Step) -> None:
        """Write the real tokens of this step that a buffer of one period keeps. No gradient flows through a cache."""
        self.reserve(step.end)
        rows, columns, slots = step.once(("kept", self.period), lambda: step.kept(self.period))
        self.k_BTGK[rows, slots] = k_BSGK.detach()[rows, columns]
        self.v_BTGK[rows, slots] = v_BSGK.detach()[rows, columns]

    def put(self, k_B1GK: Tensor, v_B1GK: Tensor, step: StaticStep) -> None:
        """Write the one token of each row that is alive, into buffers that have its slot already: they stay where they are."""
        rows, slots = step.once(("slot", self.period), lambda: self._slots(step))
        alive_B11 = step.alive_B[:, None, None]
        for buffer_BTGK, new_B1GK in ((self.k_BTGK, k_B1GK), (self.v_BTGK, v_B1GK)):
            buffer_BTGK[rows, slots] = torch.where(alive_B11, new_B1GK[:, 0], buffer_BTGK[rows, slots])

    def _slots(self, step: StaticStep) -> tuple[Tensor, Tensor]:
        return torch.arange(len(step.position_B), device=step.device), step.position_B % self.period

    def seen(self, slots: int) -> tuple[Tensor, Tensor]:
        """Keys and values `[B, slots, G, K]` of the first slots."""
        return self.k_BTGK[:, :slots], self.v_BTGK[:, :slots]

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` tokens a row: at least twice the room that was, up to the limit."""
        held, slots = self.k_BTGK.shape[1], min(tokens, self.limit)
        if slots <= held:
            return
        more = min(max(slots, 2 * held), self.limit) - held
        self.k_BTGK = _extend(self.k_BTGK, more)
        self.v_BTGK = _extend(self.v_BTGK, more)


class KVCache:
    """One `LayerCache` a layer, and how many tokens each row holds.

    Made by `Llama4.new_cache(batch_size, max_tokens)`; filled and advanced by `Llama4.forward(..., cache=cache)`.
    """

    def __init__(self, config: Config, batch_size: int, max_tokens: int, like: Tensor) -> None:
        """`like` gives dtype and device. Raises InputError when a size is not positive.

        `max_tokens` may exceed the published context: what a model was trained for is engine.py's concern.
        """
        if batch_size < 1 or max_tokens < 1:
            raise InputError(
                f"A cache of {batch_size} rows and {max_tokens} tokens holds nothing: ask for at least 1 and 1."
            )
        self.max_tokens = max_tokens
        self.device = like.device
        periods = [config.chunk if spec.span == "chunk" else max_tokens for spec in config.layers]
        shape = (batch_size, config.kv_heads, config.head_width)
        self.layers = [LayerCache(like, *shape, period=period, limit=max_tokens) for period in periods]
        self._lengths = [0] * batch_size

    @property
    def lengths_B(self) -> Tensor:
        """int64 `[B]`: tokens that each row holds, which is the position of its next one."""
        return torch.tensor(self._lengths, device=self.device)

    @property
    def nbytes(self) -> int:
        """Bytes that the buffers take now: global layers grow by doubling, chunked ones up to one chunk."""
        return sum(layer.k_BTGK.nbytes + layer.v_BTGK.nbytes for layer in self.layers)

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` tokens a row in every layer. Buffers that grow move: `nbytes` tells."""
        for layer in self.layers:
            layer.reserve(tokens)

    def reset(self) -> None:
        """Forget every token, keep the memory."""
        self._lengths = [0] * len(self._lengths)

    def plan(self, counts: tuple[int, ...], width: int) -> Step:
        """The step that appends `counts[b]` tokens to row b. Raises InputError, before anything is written, when it is full."""
        if len(counts) != len(self._lengths):
            raise InputError(
                f"The cache has {len(self._lengths)} rows and the tokens have {len(counts)}: make them equal."
            )
        step = Step(tuple(self._lengths), counts, width, self.device)
        if step.end > self.max_tokens:
            raise InputError(
                f"The cache holds {self.max_tokens} tokens a row and this call would need {step.end}: "
                "make it with a larger max_tokens."
            )
        return step

    def advance(self, step: Step) -> None:
        """Count the tokens of a finished step."""
        self._lengths = [start + count for start, count in zip(step.starts, step.counts, strict=True)]


def _extend(buffer_BTGK: Tensor, more: int) -> Tensor:
    batch, _, kv_heads, head_width = buffer_BTGK.shape
    with torch.inference_mode(False):  # what is made in that mode can be written to in no other
        return torch.cat((buffer_BTGK, buffer_BTGK.new_zeros(batch, more, kv_heads, head_width)), dim=1)
