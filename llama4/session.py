"""A conversation that goes on: what was said stays in the cache, and each turn reads only what is new.

    turn 1   begin_of_text, user's message, assistant's header    -> answer
    turn 2   <|eot|>, user's message, assistant's header          -> answer

The ids of the whole conversation are kept beside the cache, and `cache.lengths_B` says how many of them the model has read. So an
answer that is left half-way costs nothing: what was said of it stays said, ends with `<|eot|>`, and the next turn reads whatever
is unread. Only an exception inside a forward call, Ctrl-C among them, may leave the cache half written; it is then made anew, and
the next turn reads the conversation from its beginning.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from llama4 import chat
from llama4.cache import KVCache
from llama4.chat import Prompt
from llama4.engine import check_budget
from llama4.errors import InputError
from llama4.generate import LLM, Row
from llama4.graph import feed_for
from llama4.sampling import Sampling


class Session:
    """One conversation with `llm`; not for use from two threads at once."""

    def __init__(self, llm: LLM, system: str | None = None) -> None:
        self.llm, self.system = llm, system
        self.row: Row | None = None  # the answer that is streaming
        self.reset()

    def reset(self) -> None:
        """Forget the conversation; the system message, if there is one, stays."""
        self._close()
        self.ids: list[int] = []
        self.tiles: list[torch.Tensor] = []
        self._forget()

    def say(
        self,
        content: str | list[dict[str, Any]],
        max_new_tokens: int = 256,
        sampling: Sampling | None = None,
        seed: int | None = None,
    ) -> Iterator[str]:
        """Add a user message and stream the answer; an answer that still streams ends first, where it is.

        Raises InputError, before anything is added, for bad input and when the conversation no longer fits the context. An
        answer that would outgrow the context ends there.
        """
        check_budget(max_new_tokens)
        self._close()
        said = self._encode(content)
        length, context = len(self.ids) + len(said.ids), self.llm.config.max_context
        if length >= context:
            raise InputError(
                f"The conversation's {length} tokens leave no room in the context of {context}: begin a new one (/reset)."
            )
        tiles = self.tiles if said.tiles is None else [*self.tiles, said.tiles]
        row = Row(self.llm, self._unread([*self.ids, *said.ids], tiles), sampling or Sampling(), seed, ())
        self.ids, self.tiles, self.row = [*self.ids, *said.ids], tiles, row
        self._answer = self._stream(row, min(max_new_tokens, context - length))
        return self._answer

    def _encode(self, content: str | list[dict[str, Any]]) -> Prompt:
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if not self.ids and self.system:
            messages.insert(0, {"role": "system", "content": self.system})
        prompt = chat.encode(self.llm.tokenizer, messages, vision=self.llm.config.vision)
        return prompt if not self.ids else Prompt(prompt.ids[1:], prompt.tiles)  # begin_of_text only once

    def _stream(self, row: Row, budget: int) -> Iterator[str]:
        try:
            for pieces in self.llm.generate_rows([row], budget, self.feed):
                if pieces[0]:
                    yield pieces[0]
        except GeneratorExit:  # left between two forward calls: the cache is whole
            raise
        except BaseException:
            self._forget()
            raise
        finally:
            self._end(row)

    def _close(self) -> None:
        """End the answer that is still streaming, or that nobody has begun to read."""
        row = self.row
        if row is not None:
            self._answer.close()
            self._end(row)  # closing an answer that was never begun runs none of its code

    def _end(self, row: Row) -> None:
        """Write the answer into the conversation, once."""
        if self.row is row:
            self.ids += [*row.ids, self.llm.tokenizer.eot_id if row.ended_by is None else row.ended_by]
            self.row = None

    def _forget(self) -> None:
        self.feed = feed_for(self.llm.model, 1, self.llm.config.max_context)

    @property
    def cache(self) -> KVCache:
        """What the model has read of the conversation."""
        return self.feed.cache

    def _unread(self, ids: list[int], tiles: list[torch.Tensor]) -> Prompt:
        """What of the conversation the cache does not hold yet: never less than the last message."""
        read = int(self.cache.lengths_B[0])
        if not tiles:
            return Prompt(ids[read:], None)
        tiles_read = ids[:read].count(self.llm.config.patch_id) // self.llm.config.vision.tokens_per_tile
        unread = torch.cat(tiles)[tiles_read:]
        return Prompt(ids[read:], unread if len(unread) else None)
