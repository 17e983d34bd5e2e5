"""Who may look at whom: causal, chunked and cached visibility, as pure functions of positions.

    global layer (NoPE):   query i sees key j   iff  j <= i
    chunked layer (RoPE):  query i sees key j   iff  j <= i  and  i // chunk == j // chunk
    a cache of either:     query i sees slot t  iff  t <= i % period      period: the chunk, or more than any position

With a chunk of 4, position 5 sees 4 and 5, and position 8 sees itself alone: this is not a sliding window. The same holds in
decode, where Meta's code builds no mask at all and a chunked layer sees the whole cache (docs/divergences.md).

The long-context paths in attention.py never build `causal` or `chunked`: they cut a prompt along the chunks. The two are the
definition that the fast paths are tested against.
"""

from __future__ import annotations

import torch
from torch import Tensor


def chunk_start(positions: Tensor, chunk: int) -> Tensor:
    """First position of the chunk that each position lies in: 8191 -> 0, 8192 -> 8192."""
    return positions - positions % chunk


def causal(query_BS: Tensor, key_BT: Tensor) -> Tensor:
    """bool `[B, S, T]`: True where the key's position is not after the query's."""
    return key_BT[:, None, :] <= query_BS[:, :, None]


def chunked(query_BS: Tensor, key_BT: Tensor, chunk: int) -> Tensor:
    """bool `[B, S, T]`: causal, and both positions in one chunk."""
    same_chunk = chunk_start(query_BS, chunk)[:, :, None] == chunk_start(key_BT, chunk)[:, None, :]
    return causal(query_BS, key_BT) & same_chunk


def cached(query_BS: Tensor, slots: int, period: int) -> Tensor:
    """bool `[B, S, slots]`: True where a slot is no later in its period than the query.

    That is the whole rule where slot = position % period and the queries of a row lie in one period, whose keys are in their
    slots already: what a higher slot still holds of the period before is hidden.
    """
    return torch.arange(slots, device=query_BS.device) <= (query_BS % period)[:, :, None]
